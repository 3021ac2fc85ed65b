/**
 * Opens an export: greeting, TLS where the URI asks for it, then as much as the server can do:
 * extended headers, else structured replies; `base:allocation`; `GO`, else `EXPORT_NAME`.
 */
import {
  EXPORT_NAME_PADDING,
  GREETING_SIZE,
  HandshakeFlag,
  Info,
  NBD_MAGIC_HIGH,
  NBD_MAGIC_LOW,
  Option,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  OptionReply,
  readU64,
  TransmissionFlag,
} from '../nbd/protocol.ts';
import { ConnectionError, printable, violation } from './connection-error.ts';
import type { Line } from './line.ts';
import { ask, encodeOption, encodeString, type Answer } from './options.ts';
import { tlsOptionsOf } from './tls.ts';
import type { NbdUri } from './uri.ts';

/** What server and client have agreed on. */
export interface Terms {
  /** Shape of requests and replies: NBD's compact ones with simple or structured replies, or extended. */
  readonly form: 'simple' | 'structured' | 'extended';
  /** Bytes, whole minimum blocks. */
  readonly size: number;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canFua: boolean;
  readonly canTrim: boolean;
  readonly canZero: boolean;
  /** What offsets and lengths are multiples of; a power of two. */
  readonly minimumBlock: number;
  /** Bytes that one read or write moves at most; whole minimum blocks. */
  readonly maximumPayload: number;
  /** Id of `base:allocation`, where the server tells about allocation. */
  readonly allocationContext: number | undefined;
}

const DEFAULT_MAXIMUM_PAYLOAD = 32 * 1024 * 1024;
const MAX_MINIMUM_BLOCK = 65_536;
/** Names in a complaint that there is no such export. */
const LISTED_NAMES = 10;
const ALLOCATION = 'base:allocation';

/** Runs the option phase; then the line is in transmission. Fails with a `ConnectionError`. */
export async function negotiate(line: Line, uri: NbdUri): Promise<Terms> {
  const flags = await greet(line);
  const fixed = (flags & HandshakeFlag.fixedNewstyle) !== 0;
  const padded = (flags & HandshakeFlag.noZeroes) === 0;
  if (!fixed) {
    // Such a server knows one option, and closes on any other.
    if (uri.tls !== undefined) throw refused(uri, 'the server is too old for TLS');
    return exportName(line, uri, padded);
  }
  if (uri.tls !== undefined) {
    const answer = await ask(line, Option.startTls);
    if (answer.type !== OptionReply.ack) throw refusedBy(uri, 'TLS', answer);
    await line.startTls(tlsOptionsOf(uri));
  }
  let form: Terms['form'] = 'simple';
  if (await accepts(line, uri, Option.extendedHeaders)) form = 'extended';
  else if (await accepts(line, uri, Option.structuredReply)) form = 'structured';
  const context = form === 'simple' ? undefined : await selectAllocation(line, uri);
  const answer = await ask(line, Option.go, goPayload(uri.exportName));
  if (answer.type === OptionReply.ack) return termsOf(form, context, factsOf(answer));
  if (answer.type === OptionReply.unsupported && form !== 'extended') {
    return { ...(await exportName(line, uri, padded)), form, allocationContext: context };
  }
  const name = JSON.stringify(uri.exportName);
  if (answer.type !== OptionReply.unknown) throw refusedBy(uri, `export ${name}`, answer);
  throw refused(uri, `the server has no export ${name}${await others(line)}`);
}

/** Reads the greeting, answers it, and returns its flags. */
async function greet(line: Line): Promise<number> {
  const greeting = await line.take(GREETING_SIZE);
  if (
    greeting.readUInt32BE(0) !== NBD_MAGIC_HIGH ||
    greeting.readUInt32BE(4) !== NBD_MAGIC_LOW ||
    greeting.readUInt32BE(8) !== OPTION_MAGIC_HIGH ||
    greeting.readUInt32BE(12) !== OPTION_MAGIC_LOW
  ) {
    throw violation('its greeting is not that of an NBD server of our days');
  }
  const flags = greeting.readUInt16BE(16);
  const answer = Buffer.alloc(4);
  answer.writeUInt32BE(flags & (HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes));
  line.write(answer);
  return flags;
}

/** Whether the server goes along with an option that it need not know. */
async function accepts(line: Line, uri: NbdUri, option: number): Promise<boolean> {
  const answer = await ask(line, option);
  if (answer.type === TLS_REQUIRED) throw refusedBy(uri, 'anything', answer);
  return answer.type === OptionReply.ack;
}

async function selectAllocation(
  line: Line,
  { exportName: name }: NbdUri,
): Promise<number | undefined> {
  const one = Buffer.alloc(4);
  one.writeUInt32BE(1);
  const payload = Buffer.concat([encodeString(name), one, encodeString(ALLOCATION)]);
  const { type, replies } = await ask(line, Option.setMetaContext, payload);
  if (type !== OptionReply.ack) return undefined;
  const selected = replies.find(
    (reply) =>
      reply.type === OptionReply.metaContext && reply.payload.toString('utf8', 4) === ALLOCATION,
  );
  return selected?.payload.readUInt32BE(0);
}

function goPayload(name: string): Buffer {
  const types = Buffer.alloc(4);
  types.writeUInt16BE(1, 0);
  types.writeUInt16BE(Info.blockSize, 2);
  return Buffer.concat([encodeString(name), types]);
}

interface Facts {
  readonly size: number;
  readonly flags: number;
  readonly minimumBlock: number;
  readonly maximumPayload: number;
}

function factsOf({ replies }: Answer): Facts {
  let facts: Pick<Facts, 'size' | 'flags'> | undefined;
  let minimumBlock = 1;
  let maximumPayload = DEFAULT_MAXIMUM_PAYLOAD;
  for (const { type, payload } of replies) {
    if (type !== OptionReply.info || payload.length < 2) continue;
    const kind = payload.readUInt16BE(0);
    if (kind === Info.export) {
      if (payload.length !== 12) throw violation('a malformed description of the export');
      facts = { size: readU64(payload, 2), flags: payload.readUInt16BE(10) };
    } else if (kind === Info.blockSize) {
      if (payload.length !== 14) throw violation('malformed block sizes');
      minimumBlock = payload.readUInt32BE(2);
      maximumPayload = payload.readUInt32BE(10);
    }
  }
  if (facts === undefined) throw violation('it opens an export without telling its size');
  return { ...facts, minimumBlock, maximumPayload };
}

function termsOf(form: Terms['form'], allocationContext: number | undefined, facts: Facts): Terms {
  const { minimumBlock } = facts;
  const power = minimumBlock >= 1 && (minimumBlock & (minimumBlock - 1)) === 0;
  if (!power || minimumBlock > MAX_MINIMUM_BLOCK || facts.maximumPayload < minimumBlock) {
    throw violation(`blocks of ${minimumBlock} bytes, at most ${facts.maximumPayload} at once`);
  }
  if (!Number.isFinite(facts.size)) throw violation('an export of more than 2^53 bytes');
  const whole = (bytes: number): number => bytes - (bytes % minimumBlock);
  const has = (flag: number): boolean => (flags & flag) !== 0;
  const flags = (facts.flags & TransmissionFlag.hasFlags) === 0 ? 0 : facts.flags;
  return {
    form,
    allocationContext,
    minimumBlock,
    maximumPayload: whole(facts.maximumPayload),
    size: whole(facts.size),
    readOnly: has(TransmissionFlag.readOnly),
    canFlush: has(TransmissionFlag.sendFlush),
    canFua: has(TransmissionFlag.sendFua),
    canTrim: has(TransmissionFlag.sendTrim),
    canZero: has(TransmissionFlag.sendWriteZeroes),
  };
}

/** The old way: the server's only answer to a bad name is to close. */
async function exportName(line: Line, uri: NbdUri, padded: boolean): Promise<Terms> {
  line.write(encodeOption(Option.exportName, Buffer.from(uri.exportName)));
  const answer = await line.take(10).catch((error: unknown) => {
    if (!(error instanceof ConnectionError)) throw error;
    const name = JSON.stringify(uri.exportName);
    const what = `${uri.text}: the server did not open the export ${name}: ${error.message}`;
    throw new ConnectionError(error.fault === 'broken' ? 'refused' : error.fault, what, error);
  });
  if (padded) await line.take(EXPORT_NAME_PADDING);
  return termsOf('simple', undefined, {
    size: readU64(answer, 0),
    flags: answer.readUInt16BE(8),
    minimumBlock: 1,
    maximumPayload: DEFAULT_MAXIMUM_PAYLOAD,
  });
}

/** The names that the server does have, as the end of a sentence. */
async function others(line: Line): Promise<string> {
  const { type, replies } = await ask(line, Option.list);
  if (type !== OptionReply.ack) return '';
  const names = replies.flatMap(({ type: kind, payload }) => {
    if (kind !== OptionReply.server || payload.length < 4) return [];
    const length = payload.readUInt32BE(0);
    return length > payload.length - 4 ? [] : [printable(payload.subarray(4, 4 + length))];
  });
  if (names.length === 0) return '';
  const shown = names.slice(0, LISTED_NAMES).map((name) => JSON.stringify(name));
  return `, but ${shown.join(', ')}${names.length > LISTED_NAMES ? ' and others' : ''}`;
}

const TLS_REQUIRED: number = OptionReply.tlsRequired;

const REFUSALS: Readonly<Record<number, string>> = {
  0x80000001: 'it does not know how',
  0x80000002: 'its configuration forbids it',
  0x80000003: 'it finds the request malformed',
  0x80000004: 'its platform cannot',
  [OptionReply.tlsRequired]: 'it demands TLS: use nbds://',
  0x80000006: 'it does not have it',
  0x80000007: 'it is stopping',
  0x80000008: 'it demands a block size',
  0x80000009: 'the request is too big for it',
};

function refusedBy(uri: NbdUri, what: string, { type, text }: Answer): ConnectionError {
  const why = REFUSALS[type] ?? `error 0x${type.toString(16)}`;
  const said = text === '' ? '' : ` (it says: ${text})`;
  return refused(uri, `the server refuses ${what}: ${why}${said}`);
}

function refused({ text }: NbdUri, why: string): ConnectionError {
  return new ConnectionError('refused', `${text}: ${why}`);
}
