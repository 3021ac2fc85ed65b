/**
 * Replies on their way to one client. Small ones are copied together and sent once a turn of the
 * event loop has made all of its replies (or, while the socket is busy, once it is not); large ones
 * are sent from the buffer they were read into.
 *
 * Invariants:
 * - The bytes of one reply lie together; between replies there is no order.
 * - `pendingBytes` counts everything that the socket has not taken. It grows without limit here: who
 *   takes requests looks at it first.
 * - Buffers go back to the pool when the socket is done with them, also after a failure.
 */
import type { Duplex } from 'node:stream';
import type { BufferPool } from './buffer-pool.ts';
import { encodeSimpleReply, SIMPLE_REPLY_SIZE, type Request } from './protocol.ts';

const BATCH_BYTES = 65_536;
/** Copying a reply up to this size costs less than one more buffer for the socket. */
const MAX_COPIED_BYTES = 16_384;

export class Output {
  readonly #socket: Duplex;
  readonly #pool: BufferPool;
  /** Called when the socket has taken bytes. */
  readonly #progress: () => void;
  #batch: Buffer | undefined;
  #batchBytes = 0;
  #sentBytes = 0;
  #scheduled = false;

  constructor(socket: Duplex, pool: BufferPool, progress: () => void) {
    this.#socket = socket;
    this.#pool = pool;
    this.#progress = progress;
  }

  get pendingBytes(): number {
    return this.#batchBytes + this.#sentBytes;
  }

  /** A reply without data. */
  reply(request: Request, errno: number): void {
    const at = this.#reserve(SIMPLE_REPLY_SIZE);
    encodeSimpleReply(this.#batch!, at, request, errno);
  }

  /**
   * The reply to a good read: `buffer`, from the pool, has room for the header, then the data. It
   * belongs to the output from now on.
   */
  replyData(request: Request, buffer: Buffer): void {
    encodeSimpleReply(buffer, 0, request, 0);
    const size = SIMPLE_REPLY_SIZE + request.length;
    if (size > MAX_COPIED_BYTES) return this.#send(buffer, size);
    const at = this.#reserve(size);
    buffer.copy(this.#batch!, at, 0, size);
    this.#pool.give(buffer);
  }

  /** Sends what has come together. */
  flush(): void {
    if (this.#batch === undefined || this.#batchBytes === 0) return;
    const batch = this.#batch;
    const size = this.#batchBytes;
    this.#batch = undefined;
    this.#batchBytes = 0;
    this.#send(batch, size);
  }

  /** Where in the batch `size` bytes are kept free. */
  #reserve(size: number): number {
    if (this.#batchBytes + size > BATCH_BYTES) this.flush();
    this.#batch ??= this.#pool.take(BATCH_BYTES);
    const at = this.#batchBytes;
    this.#batchBytes += size;
    if (!this.#scheduled && this.#sentBytes === 0) {
      this.#scheduled = true;
      // After all promises that are settled now have run: their replies travel together.
      process.nextTick(() => {
        this.#scheduled = false;
        this.flush();
      });
    }
    return at;
  }

  #send(buffer: Buffer, size: number): void {
    this.#sentBytes += size;
    this.#socket.write(buffer.subarray(0, size), () => {
      this.#sentBytes -= size;
      this.#pool.give(buffer);
      if (this.#sentBytes === 0) this.flush();
      this.#progress();
    });
  }
}
