/**
 * Messages of the transmission phase: requests as the server reads them, replies as it writes them,
 * in the three forms that can be negotiated.
 *
 * - `simple`: compact requests of 28 bytes, simple replies.
 * - `structured`: compact requests; reads, block status and errors are answered in chunks.
 * - `extended`: requests of 32 bytes with 64-bit lengths; every reply is an extended chunk.
 *
 * A cookie stays two 32-bit halves: it is only echoed. So are an offset's, which extended chunks echo.
 */
import {
  Chunk,
  CHUNK_DONE,
  Command,
  CommandFlag,
  EXTENDED_CHUNK_SIZE,
  EXTENDED_REPLY_MAGIC,
  EXTENDED_REQUEST_MAGIC,
  EXTENDED_REQUEST_SIZE,
  MAX_STRING_BYTES,
  readU64,
  REQUEST_MAGIC,
  REQUEST_SIZE,
  SIMPLE_REPLY_MAGIC,
  SIMPLE_REPLY_SIZE,
  STRUCTURED_CHUNK_SIZE,
  STRUCTURED_REPLY_MAGIC,
  writeU64,
} from './protocol.ts';

export type Form = 'simple' | 'structured' | 'extended';

export interface Request {
  readonly flags: number;
  readonly command: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offsetHigh: number;
  readonly offsetLow: number;
  readonly offset: number;
  /** Bytes of the device that it is about. */
  readonly length: number;
  /** Bytes that follow it. */
  readonly payload: number;
}

export function requestSize(form: Form): number {
  return form === 'extended' ? EXTENDED_REQUEST_SIZE : REQUEST_SIZE;
}

/** The request of `requestSize` bytes at `at`, or `undefined` if the magic is wrong. */
export function parseRequest(form: Form, bytes: Buffer, at: number): Request | undefined {
  const extended = form === 'extended';
  if (bytes.readUInt32BE(at) !== (extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)) {
    return undefined;
  }
  const flags = bytes.readUInt16BE(at + 4);
  const command = bytes.readUInt16BE(at + 6);
  const length = extended ? readU64(bytes, at + 24) : bytes.readUInt32BE(at + 24);
  // A write has a payload even without the flag that extended headers want for it: QEMU omits it.
  const follows =
    command === Command.write || (extended && (flags & CommandFlag.payloadLength) !== 0);
  return {
    flags,
    command,
    cookieHigh: bytes.readUInt32BE(at + 8),
    cookieLow: bytes.readUInt32BE(at + 12),
    offsetHigh: bytes.readUInt32BE(at + 16),
    offsetLow: bytes.readUInt32BE(at + 20),
    offset: readU64(bytes, at + 16),
    length,
    payload: follows ? length : 0,
  };
}

/** What a `BLOCK_STATUS` with a payload asks for. */
export interface StatusPayload {
  readonly length: number;
  readonly ids: readonly number[];
}

/** The payload of a `BLOCK_STATUS`, or `undefined` if it makes no sense. */
export function parseStatusPayload(bytes: Buffer): StatusPayload | undefined {
  if (bytes.length < 12 || bytes.length % 4 !== 0) return undefined;
  const count = (bytes.length - 8) / 4;
  const ids = Array.from({ length: count }, (_, i) => bytes.readUInt32BE(8 + 4 * i));
  return { length: readU64(bytes, 0), ids };
}

/** Bytes in front of the data of a good read. */
export function dataHeaderSize(form: Form): number {
  if (form === 'simple') return SIMPLE_REPLY_SIZE;
  return 8 + (form === 'structured' ? STRUCTURED_CHUNK_SIZE : EXTENDED_CHUNK_SIZE);
}

/** Writes the header of a good read's data at `at`: `dataHeaderSize` bytes. */
export function encodeDataHeader(form: Form, bytes: Buffer, at: number, request: Request): void {
  if (form === 'simple') return encodeSimpleReply(bytes, at, request, 0);
  const start = encodeChunk(form, bytes, at, request, Chunk.data, 8 + request.length);
  bytes.writeUInt32BE(request.offsetHigh, start);
  bytes.writeUInt32BE(request.offsetLow, start + 4);
}

/** Writes the 16 bytes of a simple reply. Data of a good read follows them. */
export function encodeSimpleReply(
  bytes: Buffer,
  at: number,
  request: Request,
  errno: number,
): void {
  bytes.writeUInt32BE(SIMPLE_REPLY_MAGIC, at);
  bytes.writeUInt32BE(errno, at + 4);
  bytes.writeUInt32BE(request.cookieHigh, at + 8);
  bytes.writeUInt32BE(request.cookieLow, at + 12);
}

/** Writes the header of a chunk; returns where its payload of `length` bytes begins. */
function encodeChunk(
  form: Form,
  bytes: Buffer,
  at: number,
  request: Request,
  type: number,
  length: number,
  isLast = true,
): number {
  const extended = form === 'extended';
  bytes.writeUInt32BE(extended ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC, at);
  bytes.writeUInt16BE(isLast ? CHUNK_DONE : 0, at + 4);
  bytes.writeUInt16BE(type, at + 6);
  bytes.writeUInt32BE(request.cookieHigh, at + 8);
  bytes.writeUInt32BE(request.cookieLow, at + 12);
  if (!extended) {
    bytes.writeUInt32BE(length, at + 16);
    return at + STRUCTURED_CHUNK_SIZE;
  }
  bytes.writeUInt32BE(request.offsetHigh, at + 16);
  bytes.writeUInt32BE(request.offsetLow, at + 20);
  writeU64(bytes, at + 24, length);
  return at + EXTENDED_CHUNK_SIZE;
}

function chunkSize(form: Form): number {
  return form === 'extended' ? EXTENDED_CHUNK_SIZE : STRUCTURED_CHUNK_SIZE;
}

/** Whether a reply must be a chunk: with structured replies, that of a read must, whatever it says. */
function isChunked(form: Form, { command }: Request): boolean {
  return form === 'extended' || (form === 'structured' && command === Command.read);
}

/** Bytes of the reply to a good request that has nothing to tell. */
export function successSize(form: Form, request: Request): number {
  return isChunked(form, request) ? chunkSize(form) : SIMPLE_REPLY_SIZE;
}

export function encodeSuccess(form: Form, bytes: Buffer, at: number, request: Request): void {
  if (isChunked(form, request)) encodeChunk(form, bytes, at, request, Chunk.none, 0);
  else encodeSimpleReply(bytes, at, request, 0);
}

/** The reply to a request that failed; `text` is for people, and simple replies have no room for it. */
export function encodeFailure(form: Form, request: Request, errno: number, text: string): Buffer {
  if (form === 'simple') {
    const bytes = Buffer.alloc(SIMPLE_REPLY_SIZE);
    encodeSimpleReply(bytes, 0, request, errno);
    return bytes;
  }
  const message = Buffer.from(text).subarray(0, MAX_STRING_BYTES);
  const bytes = Buffer.alloc(chunkSize(form) + 6 + message.length);
  const at = encodeChunk(form, bytes, 0, request, Chunk.error, 6 + message.length);
  bytes.writeUInt32BE(errno, at);
  bytes.writeUInt16BE(message.length, at + 4);
  message.copy(bytes, at + 6);
  return bytes;
}

/** The reply to a good read of nothing but zeros; structured and extended only. */
export function encodeHole(form: Form, request: Request): Buffer {
  const bytes = Buffer.alloc(chunkSize(form) + 12);
  const at = encodeChunk(form, bytes, 0, request, Chunk.hole, 12);
  bytes.writeUInt32BE(request.offsetHigh, at);
  bytes.writeUInt32BE(request.offsetLow, at + 4);
  bytes.writeUInt32BE(request.length, at + 8);
  return bytes;
}

/** One context's answer to `BLOCK_STATUS`: runs of bytes, and the flags of each. */
export interface StatusRuns {
  readonly id: number;
  readonly lengths: readonly number[];
  readonly flags: readonly number[];
}

/** The reply to a good `BLOCK_STATUS`: a chunk a context. */
export function encodeStatus(
  form: Form,
  request: Request,
  contexts: readonly StatusRuns[],
): Buffer {
  const extended = form === 'extended';
  const chunks = contexts.map(({ id, lengths, flags }, i) => {
    const size = extended ? 8 + 16 * lengths.length : 4 + 8 * lengths.length;
    const bytes = Buffer.alloc(chunkSize(form) + size);
    const type = extended ? Chunk.blockStatusExtended : Chunk.blockStatus;
    let at = encodeChunk(form, bytes, 0, request, type, size, i === contexts.length - 1);
    at = bytes.writeUInt32BE(id, at);
    if (extended) at = bytes.writeUInt32BE(lengths.length, at);
    for (let run = 0; run < lengths.length; run++) {
      if (extended) {
        writeU64(bytes, at, lengths[run]!);
        writeU64(bytes, at + 8, flags[run]!);
        at += 16;
      } else {
        at = bytes.writeUInt32BE(lengths[run]!, at);
        at = bytes.writeUInt32BE(flags[run]!, at);
      }
    }
    return bytes;
  });
  return Buffer.concat(chunks);
}
