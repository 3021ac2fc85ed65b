/**
 * The NBD protocol's numbers and messages: constants, parsers of what a client sends, encoders of
 * what a server answers. Everything is big-endian and packed. Parsers take exactly the bytes of one
 * message and judge their form; nobody here reads from a socket.
 *
 * A 64-bit offset is an exact number up to 2^53 − 1 and `Infinity` above: no device is that large,
 * so it is out of range like any other. A cookie stays two 32-bit halves: it is only echoed.
 */

export const NBD_MAGIC_HIGH = 0x4e42444d;
export const NBD_MAGIC_LOW = 0x41474943;
export const OPTION_MAGIC_HIGH = 0x49484156;
export const OPTION_MAGIC_LOW = 0x454f5054;
const OPTION_REPLY_MAGIC_HIGH = 0x0003e889;
const OPTION_REPLY_MAGIC_LOW = 0x045565a9;
export const REQUEST_MAGIC = 0x25609513;
const SIMPLE_REPLY_MAGIC = 0x67446698;

export const DEFAULT_PORT = 10809;
export const OPTION_HEADER_SIZE = 16;
export const REQUEST_SIZE = 28;
export const SIMPLE_REPLY_SIZE = 16;
/** Zeros after the answer to `EXPORT_NAME`, unless the client declines them. */
export const EXPORT_NAME_PADDING = 124;

/** Bytes of a name or text at most, in both directions. */
export const MAX_STRING_BYTES = 4096;
/** Bytes of a read or write at most, as advertised. */
export const MAX_PAYLOAD_BYTES = 32 * 1024 * 1024;
/** What is served all the same: libnbd sends as much, whatever a server advertises. */
export const MAX_SERVED_BYTES = 2 * MAX_PAYLOAD_BYTES;
export const MINIMUM_BLOCK_BYTES = 1;
export const PREFERRED_BLOCK_BYTES = 4096;

export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

export const OptionReply = {
  ack: 1,
  server: 2,
  info: 3,
  unsupported: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  unknown: 0x80000006,
  shutdown: 0x80000007,
  tooBig: 0x80000009,
} as const;

export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const TransmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  canMultiConn: 1 << 8,
  sendFastZero: 1 << 11,
} as const;

export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  writeZeroes: 6,
} as const;

export const CommandFlag = { fua: 1, noHole: 2, fastZero: 16 } as const;

/** Error numbers that exist on the wire. */
export const Errno = {
  perm: 1,
  io: 5,
  invalid: 22,
  noSpace: 28,
  notSupported: 95,
  shutdown: 108,
} as const;

const TWO_32 = 2 ** 32;

export function readU64(bytes: Buffer, at: number): number {
  const high = bytes.readUInt32BE(at);
  return high >= 0x200000 ? Infinity : high * TWO_32 + bytes.readUInt32BE(at + 4);
}

export function writeU64(bytes: Buffer, at: number, value: number): void {
  bytes.writeUInt32BE(Math.floor(value / TWO_32), at);
  bytes.writeUInt32BE(value % TWO_32, at + 4);
}

// Handshake

/** The server's first 18 bytes. */
export function encodeGreeting(): Buffer {
  const bytes = Buffer.alloc(18);
  bytes.writeUInt32BE(NBD_MAGIC_HIGH, 0);
  bytes.writeUInt32BE(NBD_MAGIC_LOW, 4);
  bytes.writeUInt32BE(OPTION_MAGIC_HIGH, 8);
  bytes.writeUInt32BE(OPTION_MAGIC_LOW, 12);
  bytes.writeUInt16BE(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes, 16);
  return bytes;
}

export interface OptionHeader {
  readonly option: number;
  /** Bytes of the payload that follows. */
  readonly length: number;
}

/** The header, or `undefined` for bytes that begin no option. */
export function parseOptionHeader(bytes: Buffer): OptionHeader | undefined {
  const right =
    bytes.readUInt32BE(0) === OPTION_MAGIC_HIGH && bytes.readUInt32BE(4) === OPTION_MAGIC_LOW;
  return right ? { option: bytes.readUInt32BE(8), length: bytes.readUInt32BE(12) } : undefined;
}

export function encodeOptionReply(
  option: number,
  type: number,
  payload: Uint8Array = new Uint8Array(0),
): Buffer {
  const bytes = Buffer.alloc(20 + payload.length);
  bytes.writeUInt32BE(OPTION_REPLY_MAGIC_HIGH, 0);
  bytes.writeUInt32BE(OPTION_REPLY_MAGIC_LOW, 4);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(payload.length, 16);
  bytes.set(payload, 20);
  return bytes;
}

/** Payload of a `server` reply: one line of the export list. */
export function encodeListing(name: string, description: string): Buffer {
  const nameBytes = Buffer.from(name);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(nameBytes.length);
  return Buffer.concat([length, nameBytes, Buffer.from(description)]);
}

/** A name as the client sent it, or `undefined` if it is too long, no UTF-8, or holds a NUL. */
export function parseName(bytes: Buffer): string | undefined {
  if (bytes.length > MAX_STRING_BYTES || bytes.includes(0)) return undefined;
  const name = bytes.toString('utf8');
  return Buffer.from(name).equals(bytes) ? name : undefined;
}

export interface InfoRequest {
  readonly name: string;
  readonly types: readonly number[];
}

/** Payload of `INFO` and `GO`, or `undefined` if its lengths do not add up or the name is bad. */
export function parseInfoRequest(bytes: Buffer): InfoRequest | undefined {
  if (bytes.length < 6) return undefined;
  const nameLength = bytes.readUInt32BE(0);
  if (nameLength > bytes.length - 6) return undefined;
  const count = bytes.readUInt16BE(4 + nameLength);
  if (bytes.length !== 6 + nameLength + 2 * count) return undefined;
  const name = parseName(bytes.subarray(4, 4 + nameLength));
  if (name === undefined) return undefined;
  const types = Array.from({ length: count }, (_, i) => bytes.readUInt16BE(6 + nameLength + 2 * i));
  return { name, types };
}

/** Payloads of `info` replies. */
export function encodeExportInfo(size: number, flags: number): Buffer {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt16BE(Info.export, 0);
  writeU64(bytes, 2, size);
  bytes.writeUInt16BE(flags, 10);
  return bytes;
}

export function encodeTextInfo(type: number, text: string): Buffer {
  const head = Buffer.alloc(2);
  head.writeUInt16BE(type, 0);
  return Buffer.concat([head, Buffer.from(text)]);
}

export function encodeBlockSizeInfo(): Buffer {
  const bytes = Buffer.alloc(14);
  bytes.writeUInt16BE(Info.blockSize, 0);
  bytes.writeUInt32BE(MINIMUM_BLOCK_BYTES, 2);
  bytes.writeUInt32BE(PREFERRED_BLOCK_BYTES, 6);
  bytes.writeUInt32BE(MAX_PAYLOAD_BYTES, 10);
  return bytes;
}

/** The answer to `EXPORT_NAME`, which is no option reply. */
export function encodeExportNameAnswer(size: number, flags: number, padded: boolean): Buffer {
  const bytes = Buffer.alloc(10 + (padded ? EXPORT_NAME_PADDING : 0));
  writeU64(bytes, 0, size);
  bytes.writeUInt16BE(flags, 8);
  return bytes;
}

// Transmission

export interface Request {
  readonly flags: number;
  readonly command: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offset: number;
  readonly length: number;
}

/** The 28 bytes of a compact request, or `undefined` if the magic is wrong. */
export function parseRequest(bytes: Buffer): Request | undefined {
  if (bytes.readUInt32BE(0) !== REQUEST_MAGIC) return undefined;
  return {
    flags: bytes.readUInt16BE(4),
    command: bytes.readUInt16BE(6),
    cookieHigh: bytes.readUInt32BE(8),
    cookieLow: bytes.readUInt32BE(12),
    offset: readU64(bytes, 16),
    length: bytes.readUInt32BE(24),
  };
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
