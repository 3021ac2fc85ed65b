/**
 * The transmission phase of one client: requests in, device calls, replies out. Requests run
 * concurrently and are answered in the order in which they end.
 *
 * Invariants:
 * - Every request that was read gets one reply, its payload having been consumed first, so that the
 *   stream stays in step whatever the request says.
 * - Memory is bounded: requests are read only while those in flight, their bytes and the replies
 *   that the client has not taken leave room (`MAX_REQUESTS`, `MAX_BYTES`). One request is always
 *   let in, however large it legally is.
 * - A large write reaches the device in pieces as it arrives, each whole blocks of the device, so a
 *   client that stops in the middle holds one piece. NBD promises nothing for a write not answered.
 * - A payload is copied once, from the socket's buffer into a pooled one; nobody touches that until
 *   the device is done with it.
 * - Which reply a command gets is decided in `#succeed`, `#fail` and `#read` alone: other reply forms
 *   belong there.
 */
import { errnoOf } from '../base/errors.ts';
import type { BlockDevice, WriteOptions } from '../device/block-device.ts';
import type { BufferPool } from './buffer-pool.ts';
import type { ByteQueue } from './byte-queue.ts';
import type { Session } from './handshake.ts';
import type { Output } from './output.ts';
import {
  Command,
  CommandFlag,
  Errno,
  MAX_PAYLOAD_BYTES,
  MAX_SERVED_BYTES,
  parseRequest,
  REQUEST_SIZE,
  SIMPLE_REPLY_SIZE,
  type Request,
} from './protocol.ts';
import { refusalOf } from './request-rules.ts';

const MAX_REQUESTS = 1024;
const MAX_BYTES = MAX_PAYLOAD_BYTES;
/** What a request costs beside its bytes. */
const REQUEST_COST = 256;
/** A payload is taken in pieces, which end at multiples of this on the device. */
const PIECE_BYTES = 1 << 20;

const FUA: WriteOptions = { fua: true };
const NO_FUA: WriteOptions = {};

/** What the transmission asks of its connection. */
export interface TransmissionHooks {
  /** Stop, or go on, reading the socket. */
  pause(): void;
  resume(): void;
  /** Nothing is in flight and nothing will be read any more. Called once. */
  ended(): void;
  /** Takes a line about a device that failed. */
  report(message: string): void;
}

/** A write whose payload is arriving. */
interface Arrival {
  readonly request: Request;
  /** Bytes not yet received. */
  remaining: number;
  /** Not zero: the payload is dropped, and this is the answer. */
  errno: number;
  piece: Buffer | undefined;
  pieceBytes: number;
  filledBytes: number;
  /** Pieces that the device has not answered. */
  pieces: number;
}

export class Transmission {
  readonly #device: BlockDevice;
  readonly #session: Session;
  readonly #input: ByteQueue;
  readonly #output: Output;
  readonly #pool: BufferPool;
  readonly #hooks: TransmissionHooks;
  /** A request that was read and waits for room. */
  #next: Request | undefined;
  #arrival: Arrival | undefined;
  /** Device calls in flight. */
  #calls = 0;
  #bytes = 0;
  #paused = false;
  #state: 'open' | 'stopping' | 'finishing' | 'ended' = 'open';

  constructor(
    session: Session,
    input: ByteQueue,
    output: Output,
    pool: BufferPool,
    hooks: TransmissionHooks,
  ) {
    this.#session = session;
    this.#device = session.export.device;
    this.#input = input;
    this.#output = output;
    this.#pool = pool;
    this.#hooks = hooks;
  }

  /** Takes what has arrived, as far as there is room for it. */
  receive(): void {
    while (this.#state === 'open' || this.#state === 'stopping') {
      if (this.#arrival !== undefined) {
        if (!this.#continueArrival(this.#arrival)) break;
        continue;
      }
      if (this.#next === undefined) {
        if (this.#input.length < REQUEST_SIZE) {
          this.#setPaused(false);
          break;
        }
        const request = parseRequest(this.#input.take(REQUEST_SIZE));
        if (request === undefined) return this.finish();
        this.#next = request;
      }
      if (!this.#begin(this.#next)) break;
      this.#next = undefined;
    }
    this.#endWhenIdle();
  }

  /** The socket has taken replies: there may be room again. */
  progress(): void {
    if (this.#paused) this.receive();
  }

  /** Nothing more will arrive, or should: what is in flight still ends. */
  finish(): void {
    if (this.#state === 'ended') return;
    this.#state = 'finishing';
    this.#dropPiece();
    this.#endWhenIdle();
  }

  /** The server stops: requests from now on are refused. Ends when nothing is in flight. */
  stop(): void {
    if (this.#state !== 'open') return;
    this.#state = 'stopping';
    this.receive();
  }

  /** Begins a request. False if it must wait for room or for its payload. */
  #begin(request: Request): boolean {
    const { command, length } = request;
    if (command === Command.disconnect) {
      this.finish();
      return true;
    }
    const stopping = this.#state === 'stopping';
    const errno = stopping ? Errno.shutdown : refusalOf(request, this.#session.export);
    if (command === Command.write) {
      // No client means this: the connection ends rather than swallow it.
      if (length > MAX_SERVED_BYTES) {
        this.finish();
        return true;
      }
      if (length > 0) return this.#beginArrival(request, errno);
    }
    if (!this.#hasRoom(command === Command.read && errno === 0 ? length : 0)) return false;
    if (errno !== 0) this.#output.reply(request, errno);
    else if (length === 0 && command !== Command.flush) this.#succeed(request);
    else if (command === Command.read) void this.#read(request);
    else void this.#change(request);
    return true;
  }

  #beginArrival(request: Request, errno: number): boolean {
    if (!this.#hasRoom(0)) return false;
    this.#arrival = {
      request,
      remaining: request.length,
      errno,
      piece: undefined,
      pieceBytes: 0,
      filledBytes: 0,
      pieces: 0,
    };
    return true;
  }

  /** Takes what has come of the payload. False if more must come, or room is missing. */
  #continueArrival(arrival: Arrival): boolean {
    const { request } = arrival;
    while (arrival.remaining > 0) {
      if (arrival.errno !== 0) {
        this.#dropPiece();
        arrival.remaining -= this.#input.skip(arrival.remaining);
      } else {
        if (arrival.piece === undefined) {
          const offset = request.offset + request.length - arrival.remaining;
          const size = Math.min(arrival.remaining, PIECE_BYTES - (offset % PIECE_BYTES));
          if (!this.#hasRoom(size)) return false;
          this.#bytes += size;
          arrival.piece = this.#pool.take(size);
          arrival.pieceBytes = size;
          arrival.filledBytes = 0;
        }
        const piece = arrival.piece.subarray(0, arrival.pieceBytes);
        const moved = this.#input.moveTo(piece, arrival.filledBytes);
        arrival.filledBytes += moved;
        arrival.remaining -= moved;
        if (arrival.filledBytes === arrival.pieceBytes) void this.#writePiece(arrival, piece);
      }
      if (arrival.remaining > 0 && this.#input.length === 0) {
        this.#setPaused(false);
        return false;
      }
    }
    this.#arrival = undefined;
    if (arrival.pieces === 0) this.#answer(request, arrival.errno);
    return true;
  }

  /** Gives up the piece that is arriving. */
  #dropPiece(): void {
    const arrival = this.#arrival;
    if (arrival?.piece === undefined) return;
    this.#bytes -= arrival.pieceBytes;
    this.#pool.give(arrival.piece);
    arrival.piece = undefined;
  }

  async #writePiece(arrival: Arrival, bytes: Buffer): Promise<void> {
    const { request } = arrival;
    const buffer = arrival.piece!;
    const offset = request.offset + request.length - arrival.remaining - bytes.length;
    arrival.piece = undefined;
    arrival.pieces++;
    this.#calls++;
    try {
      await this.#device.write(offset, bytes, optionsOf(request));
    } catch (error) {
      const errno = this.#errnoOf(request, error);
      if (arrival.errno === 0) arrival.errno = errno;
    }
    this.#pool.give(buffer);
    arrival.pieces--;
    if (arrival.pieces === 0 && arrival !== this.#arrival && arrival.remaining === 0) {
      this.#answer(request, arrival.errno);
    }
    this.#called(bytes.length);
  }

  async #read(request: Request): Promise<void> {
    const { offset, length } = request;
    const cost = length + REQUEST_COST;
    this.#calls++;
    this.#bytes += cost;
    const buffer = this.#pool.take(SIMPLE_REPLY_SIZE + length);
    try {
      const end = SIMPLE_REPLY_SIZE + length;
      await this.#device.read(offset, length, buffer.subarray(SIMPLE_REPLY_SIZE, end));
      this.#output.replyData(request, buffer);
    } catch (error) {
      this.#pool.give(buffer);
      this.#fail(request, this.#errnoOf(request, error));
    }
    this.#called(cost);
  }

  /** Everything that moves no data: flush, trim, zero. */
  async #change(request: Request): Promise<void> {
    const { command, offset, length } = request;
    this.#calls++;
    this.#bytes += REQUEST_COST;
    try {
      if (command === Command.flush) {
        if (!this.#session.export.readOnly) await this.#device.flush();
      } else if (command === Command.trim) {
        await this.#device.discard(offset, length, optionsOf(request));
      } else {
        await this.#device.writeZeroes(offset, length, optionsOf(request));
      }
      this.#succeed(request);
    } catch (error) {
      this.#fail(request, this.#errnoOf(request, error));
    }
    this.#called(REQUEST_COST);
  }

  #succeed(request: Request): void {
    this.#output.reply(request, 0);
  }

  #fail(request: Request, errno: number): void {
    this.#output.reply(request, errno);
  }

  /** The device's error as a number; what is not the client's doing is reported as well. */
  #errnoOf(request: Request, error: unknown): number {
    const errno = errnoOf(error);
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

  #answer(request: Request, errno: number): void {
    if (errno === 0) this.#succeed(request);
    else this.#fail(request, errno);
  }

  /** A device call has ended. */
  #called(bytes: number): void {
    this.#calls--;
    this.#bytes -= bytes;
    if (this.#paused) this.receive();
    else this.#endWhenIdle();
  }

  /** Whether `bytes` more may be held; if not, the socket rests until a call or a reply ends. */
  #hasRoom(bytes: number): boolean {
    const held = this.#bytes + this.#output.pendingBytes;
    const room = (held === 0 || held + bytes <= MAX_BYTES) && this.#calls < MAX_REQUESTS;
    this.#setPaused(!room);
    return room;
  }

  #setPaused(paused: boolean): void {
    if (paused === this.#paused) return;
    this.#paused = paused;
    if (paused) this.#hooks.pause();
    else this.#hooks.resume();
  }

  #endWhenIdle(): void {
    if (this.#calls > 0 || (this.#state !== 'stopping' && this.#state !== 'finishing')) return;
    this.#state = 'ended';
    this.#dropPiece();
    this.#output.flush();
    this.#hooks.ended();
  }
}

function optionsOf(request: Request): WriteOptions {
  return (request.flags & CommandFlag.fua) === 0 ? NO_FUA : FUA;
}
