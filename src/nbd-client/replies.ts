/**
 * Reads replies in the three forms that can be negotiated, and puts the data of reads where it
 * belongs. Everything that a server says is checked: cookie, length, place, repetition.
 *
 * - A reply to a request that is not in flight, a chunk of the wrong size, data outside of its request
 *   or sent twice, an incomplete read: each is a violation, after which the stream means nothing.
 * - Memory is bounded whatever a server claims: headers and texts of a few KiB, and one block status
 *   chunk of at most 2^20 extents, which is kept only if somebody asked for one.
 */
import {
  Chunk,
  CHUNK_DONE,
  Command,
  EXTENDED_CHUNK_SIZE,
  EXTENDED_REPLY_MAGIC,
  MAX_STRING_BYTES,
  readU64,
  SIMPLE_REPLY_MAGIC,
  SIMPLE_REPLY_SIZE,
  STRUCTURED_CHUNK_SIZE,
  STRUCTURED_REPLY_MAGIC,
} from '../nbd/protocol.ts';
import { printable, violation } from './connection-error.ts';
import type { Terms } from './negotiate.ts';
import type { Request } from './request.ts';

const MAX_EXTENTS = 1 << 20;
/** Bytes of data still to come that are worth a read of the socket of their own. */
const MIN_DIRECT_BYTES = 32 * 1024;
/** Any chunk whose type has this bit is an error. */
const ERROR_BIT = 0x8000;
const HEAD_BYTES = 64;

export interface ReplySink {
  /** The request in flight with this cookie. */
  find(cookie: number): Request | undefined;
  /** Its reply is complete: the request holds error number, words and status. */
  replied(cookie: number, request: Request): void;
}

/** What the next bytes are: a header, the fixed fields of a chunk, data of a read, or a chunk's body. */
type Phase = 'header' | 'fields' | 'data' | 'body';

export class ReplyReader {
  readonly #form: Terms['form'];
  readonly #context: number | undefined;
  readonly #sink: ReplySink;
  #phase: Phase = 'header';
  readonly #head = Buffer.alloc(HEAD_BYTES);
  /** Where bytes of this phase are collected (`#head`, or a body), how many, of how many. */
  #into: Buffer = this.#head;
  #filled = 0;
  #needed = SIMPLE_REPLY_SIZE;
  /** The message being read. */
  #cookie = 0;
  #request: Request | undefined;
  #type: number = Chunk.none;
  #isLast = true;
  #length = 0;
  /** Data: where it goes next within the request's buffers, and how much is to come. */
  #buffer = 0;
  #at = 0;
  #left = 0;

  constructor({ form, allocationContext }: Terms, sink: ReplySink) {
    this.#form = form;
    this.#context = allocationContext;
    this.#sink = sink;
  }

  /** Takes bytes as they come. Throws a `ConnectionError`. */
  receive(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length) {
      if (this.#phase === 'data') {
        const target = this.#target();
        const part = Math.min(target.length, bytes.length - at);
        target.set(part === bytes.length ? bytes : bytes.subarray(at, at + part));
        at += part;
        this.received(part);
        continue;
      }
      const part = Math.min(this.#needed - this.#filled, bytes.length - at);
      this.#into.set(bytes.subarray(at, at + part), this.#filled);
      this.#filled += part;
      at += part;
      if (this.#filled === this.#needed) this.#complete();
    }
  }

  /** Where data goes that is long enough to be read on its own. */
  target(): Uint8Array | undefined {
    if (this.#phase !== 'data' || this.#left < MIN_DIRECT_BYTES) return undefined;
    const target = this.#target();
    return target.length < MIN_DIRECT_BYTES ? undefined : target;
  }

  /** So many bytes of data have been put into the target. */
  received(length: number): void {
    this.#at += length;
    this.#left -= length;
    const buffer = this.#request!.buffers[this.#buffer]!;
    if (this.#at === buffer.length) {
      this.#buffer++;
      this.#at = 0;
    }
    if (this.#left === 0) this.#endChunk();
  }

  #target(): Uint8Array {
    const buffer = this.#request!.buffers[this.#buffer]!;
    const end = Math.min(buffer.length, this.#at + this.#left);
    return this.#at === 0 && end === buffer.length ? buffer : buffer.subarray(this.#at, end);
  }

  #expect(phase: Phase, needed: number, into = this.#head): void {
    this.#phase = phase;
    this.#into = into;
    this.#filled = 0;
    this.#needed = needed;
  }

  /** All bytes of a header, of fixed fields, or of a body are there. */
  #complete(): void {
    if (this.#phase === 'header') this.#header();
    else if (this.#phase === 'fields') this.#fields();
    else {
      this.#body(this.#into);
      this.#endChunk();
    }
  }

  #header(): void {
    const head = this.#head;
    const magic = head.readUInt32BE(0);
    if (magic === SIMPLE_REPLY_MAGIC && this.#form !== 'extended') return this.#simple();
    const structured = this.#form === 'structured' && magic === STRUCTURED_REPLY_MAGIC;
    const extended = this.#form === 'extended' && magic === EXTENDED_REPLY_MAGIC;
    if (!structured && !extended) throw violation('no reply where one should be');
    const size = extended ? EXTENDED_CHUNK_SIZE : STRUCTURED_CHUNK_SIZE;
    if (this.#filled < size) {
      this.#needed = size;
      return;
    }
    this.#isLast = (head.readUInt16BE(4) & CHUNK_DONE) !== 0;
    this.#type = head.readUInt16BE(6);
    this.#find(readU64(head, 8));
    this.#length = extended ? readU64(head, 24) : head.readUInt32BE(16);
    if (extended && readU64(head, 16) !== this.#request!.offset) {
      throw violation('a reply that is about another offset than its request');
    }
    this.#chunk();
  }

  #simple(): void {
    this.#find(readU64(this.#head, 8));
    const request = this.#request!;
    const errno = this.#head.readUInt32BE(4);
    this.#isLast = true;
    if (this.#form === 'structured' && request.command === Command.read) {
      throw violation('a simple reply to a read, after structured replies were agreed on');
    }
    if (errno !== 0) {
      request.errno = errno;
      return this.#endChunk();
    }
    if (request.command === Command.blockStatus) throw violation('a block status without a chunk');
    if (request.command === Command.read) this.#beginData(0, request.length);
    else this.#endChunk();
  }

  #find(cookie: number): void {
    this.#cookie = cookie;
    this.#request = this.#sink.find(cookie);
    if (this.#request === undefined) throw violation('a reply to a request that is not in flight');
  }

  /** Knows the header of a chunk; says what of it comes next. */
  #chunk(): void {
    const { command } = this.#request!;
    const length = this.#length;
    const type = this.#type;
    if (type === Chunk.none) {
      if (length !== 0 || !this.#isLast) throw violation('an empty chunk that is not the last');
      this.#endChunk();
    } else if ((type & ERROR_BIT) !== 0) {
      if (length < 6 || length > MAX_STRING_BYTES + 64) throw violation('a malformed error');
      this.#expect('body', length, Buffer.alloc(length));
    } else if (type === Chunk.data && command === Command.read) {
      if (length < 9) throw violation('an empty piece of data');
      if (length - 8 > this.#request!.length) throw violation('data outside of its read');
      this.#expect('fields', 8);
    } else if (type === Chunk.hole && command === Command.read) {
      if (length !== 12) throw violation('a malformed hole');
      this.#expect('fields', 12);
    } else if (command === Command.blockStatus && this.#isStatus(type)) {
      const [fixed, each] = this.#form === 'extended' ? [8, 16] : [4, 8];
      const count = (length - fixed) / each;
      if (!Number.isInteger(count) || count < 1 || count > MAX_EXTENTS) {
        throw violation('a malformed block status');
      }
      this.#expect('body', length, Buffer.allocUnsafe(length));
    } else throw violation(`a chunk of type ${type} in reply to command ${command}`);
  }

  #isStatus(type: number): boolean {
    return type === (this.#form === 'extended' ? Chunk.blockStatusExtended : Chunk.blockStatus);
  }

  #fields(): void {
    const request = this.#request!;
    const start = readU64(this.#head, 0) - request.offset;
    if (this.#type === Chunk.data) return this.#beginData(start, this.#length - 8);
    const length = this.#head.readUInt32BE(8);
    this.#place(start, length);
    let from = start;
    let left = length;
    for (const buffer of request.buffers) {
      if (from >= buffer.length) {
        from -= buffer.length;
        continue;
      }
      const end = Math.min(buffer.length, from + left);
      buffer.fill(0, from, end);
      left -= end - from;
      from = 0;
      if (left === 0) break;
    }
    this.#endChunk();
  }

  #beginData(start: number, length: number): void {
    this.#place(start, length);
    const { buffers } = this.#request!;
    this.#buffer = 0;
    this.#at = start;
    while (this.#at >= buffers[this.#buffer]!.length) this.#at -= buffers[this.#buffer++]!.length;
    this.#left = length;
    this.#phase = 'data';
  }

  #place(start: number, length: number): void {
    if (!this.#request!.arrive(start, start + length)) {
      throw violation('data outside of its read, sent twice, or in too many pieces');
    }
  }

  #body(bytes: Buffer): void {
    const request = this.#request!;
    if ((this.#type & ERROR_BIT) !== 0) {
      const length = bytes.readUInt16BE(4);
      const errno = bytes.readUInt32BE(0);
      if (errno === 0 || length > bytes.length - 6) throw violation('a malformed error');
      if (request.errno === 0) {
        request.errno = errno;
        request.text = printable(bytes.subarray(6, 6 + length));
      }
      return;
    }
    if (bytes.readUInt32BE(0) !== this.#context) return;
    const extended = this.#form === 'extended';
    const [fixed, each] = extended ? [8, 16] : [4, 8];
    const count = (bytes.length - fixed) / each;
    if (extended && bytes.readUInt32BE(4) !== count) throw violation('a malformed block status');
    if (request.status !== undefined) throw violation('a block status sent twice');
    const lengths: number[] = [];
    const flags: number[] = [];
    for (let i = 0; i < count; i++) {
      const at = fixed + i * each;
      const length = extended ? readU64(bytes, at) : bytes.readUInt32BE(at);
      if (length === 0) throw violation('an extent of no bytes');
      lengths.push(length);
      flags.push(extended ? readU64(bytes, at + 8) : bytes.readUInt32BE(at + 4));
    }
    request.status = { lengths, flags };
  }

  #endChunk(): void {
    this.#expect('header', SIMPLE_REPLY_SIZE);
    if (!this.#isLast) return;
    const request = this.#request!;
    if (request.errno === 0) {
      if (request.command === Command.read && !request.isComplete) {
        throw violation('an incomplete read');
      }
      if (request.command === Command.blockStatus && request.status === undefined) {
        throw violation('a block status that tells nothing');
      }
    }
    this.#request = undefined;
    this.#sink.replied(this.#cookie, request);
  }
}
