/**
 * The option phase of fixed newstyle NBD: from the greeting to the export that the client chose.
 *
 * Invariants:
 * - One option at a time, each answered before the next is read; an unknown one is skipped and
 *   refused, and the stream stays in step.
 * - A length is compared with its limit before anything of that size is kept.
 * - `undefined` means that the connection is over: the client left, broke the protocol, or spent its
 *   options. The caller closes the socket, and sets the deadline.
 * - What is negotiated (`Session`) is all that the transmission phase learns.
 */
import { findExport, type Export } from './export.ts';
import {
  encodeBlockSizeInfo,
  encodeExportInfo,
  encodeExportNameAnswer,
  encodeGreeting,
  encodeListing,
  encodeOptionReply,
  encodeTextInfo,
  HandshakeFlag,
  Info,
  MAX_STRING_BYTES,
  Option,
  OPTION_HEADER_SIZE,
  OptionReply,
  parseInfoRequest,
  parseName,
  parseOptionHeader,
  type OptionHeader,
} from './protocol.ts';

/** Payload that is kept; a longer one is skipped and refused. */
const MAX_OPTION_BYTES = 65_536;
/** Payload that is skipped; a longer one ends the connection. */
const MAX_SKIPPED_BYTES = 32 * 1024 * 1024;
const MAX_OPTIONS = 256;

/** The two directions of a connection, as the handshake needs them. */
export interface Channel {
  /** The next `length` bytes; `undefined` once the client is gone. */
  take(length: number): Promise<Buffer | undefined>;
  /** Drops the next `length` bytes. False once the client is gone. */
  skip(length: number): Promise<boolean>;
  /** Sends. Resolves when the client keeps up. */
  send(bytes: Uint8Array): Promise<void>;
}

/** What a client has negotiated. */
export interface Session {
  readonly export: Export;
}

/** What the server has for its clients. */
export interface Offer {
  readonly exports: readonly Export[];
  /** The server is about to stop: no export may be opened any more. */
  readonly stopping: boolean;
  /** Takes what a person should know. */
  readonly report: (message: string) => void;
}

/** Runs the option phase. */
export async function negotiate(channel: Channel, offer: Offer): Promise<Session | undefined> {
  await channel.send(encodeGreeting());
  const word = await channel.take(4);
  if (word === undefined) return undefined;
  const clientFlags = word.readUInt32BE(0);
  const known = HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes;
  if ((clientFlags & ~known) !== 0) return undefined;
  const padded = (clientFlags & HandshakeFlag.noZeroes) === 0;
  for (let count = 0; count < MAX_OPTIONS; count++) {
    const bytes = await channel.take(OPTION_HEADER_SIZE);
    const header = bytes === undefined ? undefined : parseOptionHeader(bytes);
    if (header === undefined || header.length > MAX_SKIPPED_BYTES) return undefined;
    if (header.length > MAX_OPTION_BYTES) {
      if (header.option === Option.exportName || !(await channel.skip(header.length))) {
        return undefined;
      }
      await refuse(channel, header.option, OptionReply.tooBig, 'the option is too long');
      continue;
    }
    const payload = await channel.take(header.length);
    if (payload === undefined) return undefined;
    const outcome = await answer(channel, offer, header, payload, padded);
    if (outcome === 'closed') return undefined;
    if (outcome !== 'next') return outcome;
  }
  return undefined;
}

async function answer(
  channel: Channel,
  offer: Offer,
  { option }: OptionHeader,
  payload: Buffer,
  padded: boolean,
): Promise<Session | 'next' | 'closed'> {
  switch (option) {
    case Option.exportName:
      return openByName(channel, offer, payload, padded);
    case Option.abort:
      await channel.send(encodeOptionReply(option, OptionReply.ack));
      return 'closed';
    case Option.list:
      await list(channel, offer, payload);
      return 'next';
    case Option.info:
    case Option.go:
      return describe(channel, offer, option, payload);
    default:
      await refuse(channel, option, OptionReply.unsupported, 'this server knows no such option');
      return 'next';
  }
}

/** `EXPORT_NAME` has no way to say no but to close the connection. */
async function openByName(
  channel: Channel,
  offer: Offer,
  payload: Buffer,
  padded: boolean,
): Promise<Session | 'closed'> {
  const name = parseName(payload);
  const found = name === undefined ? undefined : findExport(offer.exports, name);
  if (found === undefined || offer.stopping) return 'closed';
  await channel.send(encodeExportNameAnswer(found.device.size, found.flags, padded));
  return { export: found };
}

async function list(channel: Channel, offer: Offer, payload: Buffer): Promise<void> {
  const option = Option.list;
  if (payload.length > 0) {
    return refuse(channel, option, OptionReply.invalid, 'the list of exports takes no payload');
  }
  for (const { name, description } of offer.exports) {
    const listing = encodeListing(name, description);
    await channel.send(encodeOptionReply(option, OptionReply.server, listing));
  }
  await channel.send(encodeOptionReply(option, OptionReply.ack));
}

/** `INFO` and `GO`: the same facts; `GO` opens the export as well. */
async function describe(
  channel: Channel,
  offer: Offer,
  option: number,
  payload: Buffer,
): Promise<Session | 'next'> {
  const request = parseInfoRequest(payload);
  if (request === undefined) {
    await refuse(channel, option, OptionReply.invalid, 'the payload makes no sense');
    return 'next';
  }
  const found = findExport(offer.exports, request.name);
  if (found === undefined) {
    await refuse(channel, option, OptionReply.unknown, 'there is no such export');
    return 'next';
  }
  if (offer.stopping) {
    await refuse(channel, option, OptionReply.shutdown, 'the server is stopping');
    return 'next';
  }
  const items = [encodeExportInfo(found.device.size, found.flags), encodeBlockSizeInfo()];
  if (request.types.includes(Info.name)) items.push(encodeTextInfo(Info.name, found.name));
  if (request.types.includes(Info.description) && found.description !== '') {
    items.push(encodeTextInfo(Info.description, found.description));
  }
  const replies = items.map((item) => encodeOptionReply(option, OptionReply.info, item));
  replies.push(encodeOptionReply(option, OptionReply.ack));
  await channel.send(Buffer.concat(replies));
  return option === Option.go ? { export: found } : 'next';
}

async function refuse(
  channel: Channel,
  option: number,
  type: number,
  reason: string,
): Promise<void> {
  await channel.send(
    encodeOptionReply(option, type, Buffer.from(reason).subarray(0, MAX_STRING_BYTES)),
  );
}
