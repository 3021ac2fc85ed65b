/**
 * Replies on their way to one client. Small ones are copied together and sent once a turn of the
 * event loop has made all of its replies (or, while the socket is busy, once it is not); large ones
 * are sent from the buffer they were read into.
 *
 * Invariants:
 * - The bytes of one reply lie together; between replies there is no order.
 * - What a request cost the client's account is given back when the socket has taken its reply. There
 *   is no limit here: who takes requests takes their cost first.
 * - Buffers go back to the pool when the socket is done with them, also after a failure.
 */
import type { Duplex } from 'node:stream';
import type { Account } from './budget.ts';
import type { BufferPool } from './buffer-pool.ts';
import {
  dataHeaderSize,
  encodeDataHeader,
  encodeFailure,
  encodeHole,
  encodeStatus,
  encodeSuccess,
  successSize,
  type Form,
  type Request,
  type StatusRuns,
} from './messages.ts';

/** Where the data of a read begins in its buffer: aligned, with room for any header before it. */
export const DATA_AT = 64;

const BATCH_BYTES = 65_536;
/** Copying a reply up to this size costs less than one more buffer for the socket. */
const MAX_COPIED_BYTES = 16_384;

export class Output {
  readonly #socket: Duplex;
  readonly #pool: BufferPool;
  readonly #account: Account;
  readonly #form: Form;
  /** Called when the socket has taken bytes. */
  readonly #progress: () => void;
  #batch: Buffer | undefined;
  #batchBytes = 0;
  #batchCost = 0;
  #sentBytes = 0;
  #scheduled = false;
  /** When the socket last took something, or had nothing to take. */
  #progressMs = 0;

  constructor(
    socket: Duplex,
    { pool, account, form }: { pool: BufferPool; account: Account; form: Form },
    progress: () => void,
  ) {
    this.#socket = socket;
    this.#pool = pool;
    this.#account = account;
    this.#form = form;
    this.#progress = progress;
  }

  /** Milliseconds for which the client has taken nothing of what waits for it. */
  stalledMs(nowMs: number): number {
    return this.#sentBytes === 0 ? 0 : nowMs - this.#progressMs;
  }

  /** The reply to a good request that has nothing to tell. */
  succeed(request: Request, cost: number): void {
    const at = this.#reserve(successSize(this.#form, request), cost);
    encodeSuccess(this.#form, this.#batch!, at, request);
  }

  fail(request: Request, errno: number, text: string, cost: number): void {
    this.#append(encodeFailure(this.#form, request, errno, text), cost);
  }

  /**
   * The reply to a good read: `buffer`, from the pool, has the data at `DATA_AT`. It belongs to the
   * output from now on.
   */
  data(request: Request, buffer: Buffer, cost: number): void {
    const header = dataHeaderSize(this.#form);
    const start = DATA_AT - header;
    encodeDataHeader(this.#form, buffer, start, request);
    const size = header + request.length;
    if (size > MAX_COPIED_BYTES) return this.#send(buffer, start, size, cost);
    const at = this.#reserve(size, cost);
    buffer.copy(this.#batch!, at, start, start + size);
    this.#pool.give(buffer);
  }

  /** The reply to a good read of zeros; not in the simple form. */
  hole(request: Request, cost: number): void {
    this.#append(encodeHole(this.#form, request), cost);
  }

  status(request: Request, contexts: readonly StatusRuns[], cost: number): void {
    this.#append(encodeStatus(this.#form, request, contexts), cost);
  }

  /** Sends what has come together. */
  flush(): void {
    if (this.#batch === undefined || this.#batchBytes === 0) return;
    const batch = this.#batch;
    const size = this.#batchBytes;
    const cost = this.#batchCost;
    this.#batch = undefined;
    this.#batchBytes = 0;
    this.#batchCost = 0;
    this.#send(batch, 0, size, cost);
  }

  #append(bytes: Buffer, cost: number): void {
    if (bytes.length > BATCH_BYTES) return this.#send(bytes, 0, bytes.length, cost);
    const at = this.#reserve(bytes.length, cost);
    bytes.copy(this.#batch!, at);
  }

  /** Where in the batch `size` bytes are kept free. */
  #reserve(size: number, cost: number): number {
    if (this.#batchBytes + size > BATCH_BYTES) this.flush();
    this.#batch ??= this.#pool.take(BATCH_BYTES);
    const at = this.#batchBytes;
    this.#batchBytes += size;
    this.#batchCost += cost;
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

  #send(buffer: Buffer, start: number, size: number, cost: number): void {
    if (this.#sentBytes === 0) this.#progressMs = performance.now();
    this.#sentBytes += size;
    this.#socket.write(buffer.subarray(start, start + size), () => {
      this.#sentBytes -= size;
      this.#progressMs = performance.now();
      this.#pool.give(buffer);
      this.#account.give(cost);
      if (this.#sentBytes === 0) this.flush();
      this.#progress();
    });
  }
}
