/**
 * The NBD protocol's numbers. Everything on the wire is big-endian and packed. Messages of the option
 * phase are in `option-messages.ts`, those of the transmission phase in `messages.ts`.
 *
 * A 64-bit offset or length is an exact number up to 2^53 − 1 and `Infinity` above: no device is that
 * large, so it is out of range like any other.
 */

export const NBD_MAGIC_HIGH = 0x4e42444d;
export const NBD_MAGIC_LOW = 0x41474943;
export const OPTION_MAGIC_HIGH = 0x49484156;
export const OPTION_MAGIC_LOW = 0x454f5054;
export const OPTION_REPLY_MAGIC_HIGH = 0x0003e889;
export const OPTION_REPLY_MAGIC_LOW = 0x045565a9;
export const REQUEST_MAGIC = 0x25609513;
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

export const DEFAULT_PORT = 10809;
export const OPTION_HEADER_SIZE = 16;
export const REQUEST_SIZE = 28;
export const EXTENDED_REQUEST_SIZE = 32;
export const SIMPLE_REPLY_SIZE = 16;
export const STRUCTURED_CHUNK_SIZE = 20;
export const EXTENDED_CHUNK_SIZE = 32;
export const OPTION_REPLY_SIZE = 20;
export const GREETING_SIZE = 18;
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
  metaContext: 4,
  unsupported: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  tlsRequired: 0x80000005,
  unknown: 0x80000006,
  shutdown: 0x80000007,
  tooBig: 0x80000009,
  extendedHeadersRequired: 0x8000000a,
} as const;

export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const TransmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendCache: 1 << 10,
  sendFastZero: 1 << 11,
  blockStatusPayload: 1 << 12,
} as const;

export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const CommandFlag = {
  fua: 1 << 0,
  noHole: 1 << 1,
  df: 1 << 2,
  reqOne: 1 << 3,
  fastZero: 1 << 4,
  payloadLength: 1 << 5,
} as const;

/** Types of a structured or extended reply chunk. */
export const Chunk = {
  none: 0,
  data: 1,
  hole: 2,
  blockStatus: 5,
  blockStatusExtended: 6,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;

/** Flag of the last chunk of a reply. */
export const CHUNK_DONE = 1;

/** Flags of `base:allocation`. */
export const Allocation = { hole: 1, zero: 2 } as const;

/** Error numbers that exist on the wire. */
export const Errno = {
  perm: 1,
  io: 5,
  invalid: 22,
  noSpace: 28,
  overflow: 75,
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
