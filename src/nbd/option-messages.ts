/**
 * Messages of the option phase: parsers of what a client sends, encoders of what a server answers.
 * Parsers take exactly the bytes of one message and judge their form; nobody here reads from a socket.
 */
import {
  EXPORT_NAME_PADDING,
  HandshakeFlag,
  Info,
  MAX_PAYLOAD_BYTES,
  MAX_STRING_BYTES,
  MINIMUM_BLOCK_BYTES,
  NBD_MAGIC_HIGH,
  NBD_MAGIC_LOW,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  OPTION_REPLY_MAGIC_HIGH,
  OPTION_REPLY_MAGIC_LOW,
  PREFERRED_BLOCK_BYTES,
  writeU64,
} from './protocol.ts';

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

/** Payload of a `metaContext` reply. */
export function encodeMetaContext(id: number, name: string): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(id);
  return Buffer.concat([head, Buffer.from(name)]);
}

export interface MetaContextRequest {
  readonly name: string;
  readonly queries: readonly string[];
}

/**
 * Payload of `LIST_META_CONTEXT` and `SET_META_CONTEXT`, or `undefined` if its lengths do not add up
 * or a string is bad.
 */
export function parseMetaContextRequest(bytes: Buffer): MetaContextRequest | undefined {
  let at = 0;
  const text = (): string | undefined => {
    if (bytes.length - at < 4) return undefined;
    const length = bytes.readUInt32BE(at);
    at += 4;
    if (length > bytes.length - at) return undefined;
    at += length;
    return parseName(bytes.subarray(at - length, at));
  };
  const name = text();
  if (name === undefined || bytes.length - at < 4) return undefined;
  const count = bytes.readUInt32BE(at);
  at += 4;
  const queries: string[] = [];
  for (let i = 0; i < count; i++) {
    const query = text();
    if (query === undefined) return undefined;
    queries.push(query);
  }
  return at === bytes.length ? { name, queries } : undefined;
}
