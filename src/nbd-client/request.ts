/**
 * A request to a server: what is sent, and what of its reply has arrived. One object a request, for
 * runs of neighbouring extents, and none a block.
 */
import {
  Command,
  CommandFlag,
  EXTENDED_REQUEST_MAGIC,
  EXTENDED_REQUEST_SIZE,
  REQUEST_MAGIC,
  REQUEST_SIZE,
  writeU64,
} from '../nbd/protocol.ts';
import type { VdoError } from '../base/errors.ts';
import type { Terms } from './negotiate.ts';

/** Who is told when a request has ended, which it does once. */
export interface Owner {
  ended(request: Request, error: VdoError | undefined): void;
}

/** Runs of bytes and the flags of each, from the request's offset on. */
export interface StatusRuns {
  readonly lengths: number[];
  readonly flags: number[];
}

/** Disjoint pieces of one read that may be outstanding between arrived ones; a guard. */
const MAX_GAPS = 1024;

export class Request {
  readonly command: number;
  readonly flags: number;
  readonly offset: number;
  /** Bytes of the export that it is about. */
  readonly length: number;
  /** What a write sends; where a read puts the data. Together `length` bytes for these two. */
  readonly buffers: readonly Uint8Array[];
  readonly owner: Owner;
  /** How often a connection broke under it. */
  attempts = 0;
  /** Of a flush: the last change that it covers (`ReplayLog.mark`). */
  mark = 0;
  /** The reply so far: an error number, the server's words about it, and the block status. */
  errno = 0;
  text = '';
  status: StatusRuns | undefined;
  /** Parts of a read that have arrived: starts and ends, rising, within the request. */
  #arrived: number[] = [];

  constructor(
    command: number,
    offset: number,
    length: number,
    buffers: readonly Uint8Array[],
    owner: Owner,
    flags = 0,
  ) {
    this.command = command;
    this.offset = offset;
    this.length = length;
    this.buffers = buffers;
    this.owner = owner;
    this.flags = flags;
  }

  /** Bytes that travel, in either direction. */
  get payload(): number {
    return this.command === Command.read || this.command === Command.write ? this.length : 0;
  }

  /** Whether it changes what the export holds. */
  get isChange(): boolean {
    return this.command === Command.write || this.command === Command.writeZeroes || this.command === Command.trim; // prettier-ignore
  }

  /** Forgets what has arrived: it is about to be sent (again). */
  begin(): void {
    this.errno = 0;
    this.text = '';
    this.status = undefined;
    this.#arrived = [];
  }

  /** Notes that bytes [start, end) of it arrive. False if they lie outside, or came before. */
  arrive(start: number, end: number): boolean {
    if (start < 0 || start >= end || end > this.length) return false;
    const ends = this.#arrived;
    let at = 0;
    while (at < ends.length && ends[at + 1]! < start) at += 2;
    // `at` is the first part that ends at or behind `start`.
    if (at === ends.length) ends.push(start, end);
    else if (ends[at + 1] === start) {
      const next = ends[at + 2];
      if (next !== undefined && next < end) return false;
      ends[at + 1] = end;
      if (next === end) ends.splice(at + 1, 2);
    } else if (ends[at]! > end) ends.splice(at, 0, start, end);
    else if (ends[at] === end) ends[at] = start;
    else return false;
    return ends.length <= 2 * MAX_GAPS;
  }

  /** Whether a read has all of its data. */
  get isComplete(): boolean {
    return this.#arrived.length === 2 && this.#arrived[0] === 0 && this.#arrived[1] === this.length;
  }
}

/** The header; the payload of a write follows it on the line. */
export function encodeRequest(form: Terms['form'], request: Request, cookie: number): Buffer {
  const { command, flags, offset, length } = request;
  const extended = form === 'extended';
  const bytes = Buffer.allocUnsafe(extended ? EXTENDED_REQUEST_SIZE : REQUEST_SIZE);
  const carries = extended && command === Command.write ? CommandFlag.payloadLength : 0;
  bytes.writeUInt32BE(extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(flags | carries, 4);
  bytes.writeUInt16BE(command, 6);
  writeU64(bytes, 8, cookie);
  writeU64(bytes, 16, offset);
  if (extended) writeU64(bytes, 24, length);
  else bytes.writeUInt32BE(length, 24);
  return bytes;
}
