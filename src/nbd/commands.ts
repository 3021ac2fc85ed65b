/**
 * What one client's requests do: device calls, and the reply to each when it ends. Requests run at the
 * same time and are answered in the order in which they end.
 *
 * A request's cost, taken from the client's account before it comes here, is given back with its
 * reply. Errors never leave: they are replies, and what is not the client's doing is reported too.
 */
import { isZero } from '../base/bytes.ts';
import { errnoOf } from '../base/errors.ts';
import type { WriteOptions } from '../device/block-device.ts';
import type { BufferPool } from './buffer-pool.ts';
import type { Session } from './handshake.ts';
import { parseStatusPayload, type Request } from './messages.ts';
import { runsOf, wantMapping } from './meta-context.ts';
import { DATA_AT, type Output } from './output.ts';
import { Command, CommandFlag, Errno, PREFERRED_BLOCK_BYTES } from './protocol.ts';
import type { Refusal } from './request-rules.ts';

/** What a request costs beside its bytes. */
const REQUEST_COST = 256;
/** Runs of one block status reply at most, and what they cost on their way. */
const MAX_STATUS_RUNS = 8192;
const STATUS_COST = 1 << 20;
/** A `CACHE` is a hint: of its range so much is read, in pieces of this size. */
const MAX_CACHE_BYTES = 32 << 20;
const CACHE_PIECE_BYTES = 1 << 18;

/** Larger reads take their turn: what they take is long against what a turn costs. */
const MAX_NOW_BYTES = PREFERRED_BLOCK_BYTES;

const FUA: WriteOptions = { fua: true };
const NO_FUA: WriteOptions = {};
const BAD_PAYLOAD: Refusal = { errno: Errno.invalid, text: 'the payload makes no sense' };

const TEXT_OF_ERRNO: ReadonlyMap<number, string> = new Map<number, string>([
  [Errno.io, 'the device failed'],
  [Errno.noSpace, 'no space is left'],
  [Errno.shutdown, 'the server is stopping'],
]);

export interface CommandHooks {
  /** A device call has ended. */
  called(): void;
  /** Takes a line about a device that failed. */
  report(message: string): void;
}

export class Commands {
  readonly #session: Session;
  readonly #output: Output;
  readonly #pool: BufferPool;
  readonly #hooks: CommandHooks;
  #calls = 0;

  constructor(session: Session, output: Output, pool: BufferPool, hooks: CommandHooks) {
    this.#session = session;
    this.#output = output;
    this.#pool = pool;
    this.#hooks = hooks;
  }

  /** Device calls in flight. */
  get calls(): number {
    return this.#calls;
  }

  /** Runs a request that is in order. Of a write only the payload remains to be answered. */
  run(request: Request, cost: number): void {
    const { command, length } = request;
    if (length === 0 && command !== Command.flush) this.#output.succeed(request, cost);
    else if (command === Command.read) {
      if (length > MAX_NOW_BYTES || !this.#readNow(request, cost)) void this.#read(request, cost);
    } else if (command === Command.blockStatus) {
      void this.#status(request, request.length, this.#session.contexts, cost);
    } else void this.#change(request, cost);
  }

  refuse(request: Request, { errno, text }: Refusal, cost: number): void {
    this.#output.fail(request, errno, text, cost);
  }

  /** Answers a write whose pieces have all ended. */
  answer(request: Request, errno: number, cost: number): void {
    if (errno === 0) this.#output.succeed(request, cost);
    else this.#output.fail(request, errno, textOf(errno), cost);
  }

  /** Runs a block status whose range and contexts come in `payload`. */
  runStatus(request: Request, payload: Buffer, cost: number): void {
    const { contexts, export: exported } = this.#session;
    const asked = parseStatusPayload(payload);
    const isKnown =
      asked !== undefined &&
      asked.ids.length > 0 &&
      asked.ids.every((id, i) => contexts.includes(id) && asked.ids.indexOf(id) === i);
    const isInside = asked !== undefined && request.offset + asked.length <= exported.device.size;
    if (!isKnown || !isInside || asked.length === 0) this.refuse(request, BAD_PAYLOAD, cost);
    else void this.#status(request, asked.length, asked.ids, cost);
  }

  /** Whether `writeNow` may take anything of a write. */
  writesNow(request: Request): boolean {
    return this.#session.export.device.writeNow !== undefined && !isFua(request);
  }

  /** Writes what the device answers at once, from the first byte on; returns how many bytes. */
  writeNow(offset: number, bytes: Buffer): number {
    return this.#session.export.device.writeNow?.(offset, bytes) ?? 0;
  }

  /**
   * Writes one piece; resolves to an error number. The buffer goes back to the pool. The caller then
   * calls `endPiece`: until that the piece counts as in flight.
   */
  async writePiece(
    request: Request,
    offset: number,
    buffer: Buffer,
    size: number,
  ): Promise<number> {
    this.#calls++;
    try {
      await this.#session.export.device.write(offset, buffer.subarray(0, size), optionsOf(request));
      return 0;
    } catch (error) {
      return this.#errnoOf(request, error);
    } finally {
      this.#pool.give(buffer);
    }
  }

  /** What a piece's end led to is done. */
  endPiece(): void {
    this.#called();
  }

  /** Whether a small read could be answered without waiting. */
  #readNow(request: Request, cost: number): boolean {
    const { offset, length } = request;
    const { device } = this.#session.export;
    if (device.readNow === undefined) return false;
    const buffer = this.#pool.take(DATA_AT + length);
    const bytes = buffer.subarray(DATA_AT, DATA_AT + length);
    if (!device.readNow(offset, bytes)) {
      this.#pool.give(buffer);
      return false;
    }
    this.#answerRead(request, buffer, bytes, cost);
    return true;
  }

  async #read(request: Request, cost: number): Promise<void> {
    const { offset, length } = request;
    this.#calls++;
    const buffer = this.#pool.take(DATA_AT + length);
    try {
      const bytes = buffer.subarray(DATA_AT, DATA_AT + length);
      await this.#session.export.device.read(offset, length, bytes);
      this.#answerRead(request, buffer, bytes, cost);
    } catch (error) {
      this.#pool.give(buffer);
      this.#fail(request, error, cost);
    }
    this.#called();
  }

  #answerRead(request: Request, buffer: Buffer, bytes: Buffer, cost: number): void {
    if (this.#takesHole(request) && isZero(bytes)) {
      this.#pool.give(buffer);
      this.#output.hole(request, cost);
    } else this.#output.data(request, buffer, cost);
  }

  /** Whether zeros may be told instead of sent. */
  #takesHole({ flags, length }: Request): boolean {
    const { form } = this.#session;
    return form !== 'simple' && length >= PREFERRED_BLOCK_BYTES && (flags & CommandFlag.df) === 0;
  }

  async #status(
    request: Request,
    length: number,
    ids: readonly number[],
    cost: number,
  ): Promise<void> {
    this.#calls++;
    try {
      const one = (request.flags & CommandFlag.reqOne) !== 0;
      const limit = one ? 1 : MAX_STATUS_RUNS;
      const extents = await this.#session.export.device.extents(request.offset, length, {
        maxExtents: limit,
        mapping: wantMapping(ids),
      });
      this.#output.status(
        request,
        ids.map((id) => runsOf(id, extents, limit)),
        cost,
      );
    } catch (error) {
      this.#fail(request, error, cost);
    }
    this.#called();
  }

  /** Everything that moves no data: flush, trim, zero, cache. */
  async #change(request: Request, cost: number): Promise<void> {
    const { command, offset, length } = request;
    const { device, readOnly } = this.#session.export;
    this.#calls++;
    try {
      if (command === Command.flush) {
        if (!readOnly) await device.flush();
      } else if (command === Command.trim) {
        await device.discard(offset, length, optionsOf(request));
      } else if (command === Command.cache) {
        await this.#cache(offset, Math.min(length, MAX_CACHE_BYTES));
      } else {
        await device.writeZeroes(offset, length, optionsOf(request));
      }
      this.#output.succeed(request, cost);
    } catch (error) {
      this.#fail(request, error, cost);
    }
    this.#called();
  }

  /** Reads, so that what is below has it at hand; failures will be told to whoever wants the data. */
  async #cache(offset: number, length: number): Promise<void> {
    const buffer = this.#pool.take(CACHE_PIECE_BYTES);
    try {
      for (let at = 0; at < length; at += CACHE_PIECE_BYTES) {
        const size = Math.min(CACHE_PIECE_BYTES, length - at);
        await this.#session.export.device.read(offset + at, size, buffer.subarray(0, size));
      }
    } finally {
      this.#pool.give(buffer);
    }
  }

  #fail(request: Request, error: unknown, cost: number): void {
    const errno = this.#errnoOf(request, error);
    this.#output.fail(request, errno, textOf(errno), cost);
  }

  /** The device's error as a number; what is not the client's doing is reported as well. */
  #errnoOf(request: Request, error: unknown): number {
    let errno = errnoOf(error);
    // Only an export that says so beforehand is read-only; a device that became it has failed.
    if (errno === Errno.perm) errno = Errno.io;
    if (errno === Errno.io) {
      const { command, offset, length } = request;
      const what = error instanceof Error ? error.message : String(error);
      const { name } = this.#session.export;
      this.#hooks.report(
        `export ${JSON.stringify(name)}: command ${command} at ${offset}, length ${length}: ${what}`,
      );
    }
    return errno;
  }

  #called(): void {
    this.#calls--;
    this.#hooks.called();
  }
}

/** What a request takes from the account of its client. A write's pieces pay for themselves. */
export function costOf({ command, length }: Request): number {
  if (command === Command.read) return REQUEST_COST + length;
  if (command === Command.blockStatus) return REQUEST_COST + STATUS_COST;
  if (command === Command.cache) return REQUEST_COST + CACHE_PIECE_BYTES;
  return REQUEST_COST;
}

/** What a refusal takes. */
export const REFUSAL_COST = REQUEST_COST;

function isFua({ flags }: Request): boolean {
  return (flags & CommandFlag.fua) !== 0;
}

function optionsOf(request: Request): WriteOptions {
  return isFua(request) ? FUA : NO_FUA;
}

function textOf(errno: number): string {
  return TEXT_OF_ERRNO.get(errno) ?? 'the request cannot be served';
}
