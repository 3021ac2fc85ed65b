/**
 * The payload of one request while it arrives: a write's goes to the device in pieces, a block
 * status' is collected, that of a refused request is dropped.
 *
 * What the device answers at once goes to it straight from the socket's buffer, in whole blocks.
 *
 * Invariants:
 * - Pieces end at multiples of `MAX_PIECE_BYTES` of the device. NBD promises nothing for a write that
 *   is not answered, so a part of it may reach the device.
 * - What the device takes later is copied once, from the socket's buffer into a pooled one; nobody
 *   touches that until the device is done with it.
 * - A client holds one piece at most for bytes that have not come. It is small until the client has
 *   filled one, and again once a piece took too long (`spill`): who stops in the middle, or sends
 *   byte by byte, holds next to nothing.
 */
import type { Account } from './budget.ts';
import type { BufferPool } from './buffer-pool.ts';
import type { ByteQueue } from './byte-queue.ts';
import type { Commands } from './commands.ts';
import type { Request } from './messages.ts';
import { Command, Errno, PREFERRED_BLOCK_BYTES } from './protocol.ts';
import type { Refusal } from './request-rules.ts';

const MAX_PIECE_BYTES = 1 << 20;
const SMALL_PIECE_BYTES = 1 << 16;
/** A piece that is not full after this time goes as it is. */
const PIECE_MS = 2_000;
/** A block status may list this many contexts, unknown ones among them. */
const MAX_STATUS_BYTES = 4096;

const LONG_PAYLOAD: Refusal = { errno: Errno.invalid, text: 'the payload is too long' };

/** What arrivals of one client have in common. */
export interface ArrivalParts {
  readonly account: Account;
  readonly input: ByteQueue;
  readonly pool: BufferPool;
  readonly commands: Commands;
  /** Bytes of the next piece at most. */
  pieceLimit: number;
}

export function arrivalParts(parts: Omit<ArrivalParts, 'pieceLimit'>): ArrivalParts {
  return { ...parts, pieceLimit: SMALL_PIECE_BYTES };
}

export class Arrival {
  readonly #parts: ArrivalParts;
  readonly #request: Request;
  readonly #cost: number;
  /** Set: the payload is dropped, and this is the answer. */
  #refusal: Refusal | undefined;
  /** Of the pieces; the first counts. */
  #errno = 0;
  #remaining: number;
  /** Whether the device has taken everything at once so far. */
  #isDirect: boolean;
  #status: Buffer | undefined;
  #piece: Buffer | undefined;
  #pieceBytes = 0;
  #filledBytes = 0;
  #pieceMs = 0;
  /** Pieces that the device has not answered. */
  #pieces = 0;

  /** `cost` has been taken from the account. */
  constructor(parts: ArrivalParts, request: Request, refusal: Refusal | undefined, cost: number) {
    this.#parts = parts;
    this.#request = request;
    this.#refusal = refusal;
    this.#remaining = request.payload;
    this.#cost = cost;
    this.#isDirect = parts.commands.writesNow(request);
    if (refusal !== undefined || request.command === Command.write) return;
    if (request.payload > MAX_STATUS_BYTES) {
      this.#refusal = LONG_PAYLOAD;
    } else this.#status = Buffer.alloc(request.payload);
  }

  /** Takes what has come. `more`: the rest must come first; `room`: memory must be free first. */
  advance(): 'done' | 'more' | 'room' {
    const { input, commands } = this.#parts;
    while (this.#remaining > 0) {
      if (input.length === 0) return 'more';
      if (this.#refusal !== undefined || this.#errno !== 0) {
        this.drop();
        this.#remaining -= input.skip(this.#remaining);
      } else if (this.#status !== undefined) {
        this.#remaining -= input.moveTo(this.#status, this.#status.length - this.#remaining);
      } else if (!this.#writeNow() && !this.#fillPiece()) return 'room';
    }
    if (this.#refusal !== undefined) commands.refuse(this.#request, this.#refusal, this.#cost);
    else if (this.#status !== undefined) {
      commands.runStatus(this.#request, this.#status, this.#cost);
    } else if (this.#pieces === 0) commands.answer(this.#request, this.#errno, this.#cost);
    return 'done';
  }

  /** Gives up the piece that is arriving. */
  drop(): void {
    if (this.#piece === undefined) return;
    this.#parts.account.give(this.#pieceBytes);
    this.#parts.pool.give(this.#piece);
    this.#piece = undefined;
  }

  /** Sends a piece that takes too long on its way as it is. */
  spill(nowMs: number): void {
    if (this.#piece === undefined || nowMs - this.#pieceMs < PIECE_MS) return;
    this.#parts.pieceLimit = SMALL_PIECE_BYTES;
    if (this.#filledBytes === 0) return this.drop();
    this.#parts.account.give(this.#pieceBytes - this.#filledBytes);
    this.#pieceBytes = this.#filledBytes;
    void this.#sendPiece(this.#piece);
  }

  /** Hands whole blocks, or the rest, to the device. False where it takes nothing now. */
  #writeNow(): boolean {
    if (!this.#isDirect || this.#piece !== undefined) return false;
    const { input, commands } = this.#parts;
    const at = this.#at;
    let wanted = Math.min(input.lying, this.#remaining);
    if (wanted < this.#remaining) wanted -= (at + wanted) % PREFERRED_BLOCK_BYTES;
    if (wanted <= 0) return false;
    const taken = commands.writeNow(at, input.peek(wanted));
    input.skip(taken);
    this.#remaining -= taken;
    this.#isDirect = taken === wanted;
    return taken > 0;
  }

  /** Where the next byte to arrive goes on the device. */
  get #at(): number {
    const { offset, length } = this.#request;
    return offset + length - this.#remaining;
  }

  #fillPiece(): boolean {
    const { account, pool, input } = this.#parts;
    if (this.#piece === undefined) {
      const size = this.#nextPieceBytes();
      if (!account.take(size)) return false;
      this.#piece = pool.take(size);
      this.#pieceBytes = size;
      this.#filledBytes = 0;
      this.#pieceMs = performance.now();
    }
    const moved = input.moveTo(this.#piece.subarray(0, this.#pieceBytes), this.#filledBytes);
    this.#filledBytes += moved;
    this.#remaining -= moved;
    if (this.#filledBytes < this.#pieceBytes) return true;
    if (this.#isDirect && this.#writePieceNow(this.#piece)) return true;
    if (!this.#isDirect) this.#parts.pieceLimit = MAX_PIECE_BYTES;
    void this.#sendPiece(this.#piece);
    return true;
  }

  /** Hands a block that came in parts to the device. */
  #writePieceNow(piece: Buffer): boolean {
    const size = this.#pieceBytes;
    const bytes = piece.subarray(0, size);
    this.#isDirect = this.#parts.commands.writeNow(this.#at - size, bytes) === size;
    if (this.#isDirect) this.drop();
    return this.#isDirect;
  }

  #nextPieceBytes(): number {
    const at = this.#at;
    const limit = this.#isDirect ? PREFERRED_BLOCK_BYTES : this.#parts.pieceLimit;
    return Math.min(this.#remaining, limit - (at % limit));
  }

  async #sendPiece(buffer: Buffer): Promise<void> {
    const { account, commands } = this.#parts;
    const size = this.#pieceBytes;
    const offset = this.#at - size;
    this.#piece = undefined;
    this.#pieces++;
    const errno = await commands.writePiece(this.#request, offset, buffer, size);
    if (this.#errno === 0) this.#errno = errno;
    this.#pieces--;
    account.give(size);
    if (this.#pieces === 0 && this.#remaining === 0) {
      commands.answer(this.#request, this.#errno, this.#cost);
    }
    commands.endPiece();
  }
}
