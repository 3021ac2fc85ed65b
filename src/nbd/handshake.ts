/**
 * The option phase of fixed newstyle NBD: from the greeting to the export that the client chose.
 *
 * Invariants:
 * - One option at a time, each answered before the next is read; an unknown one is skipped and
 *   refused, and the stream stays in step.
 * - A length is compared with its limit before anything of that size is kept.
 * - `undefined` means that the connection is over: the client left, broke the protocol, or spent its
 *   options. The caller closes the socket, and sets the deadline.
 * - What is negotiated (`Session`) is all that the transmission phase learns. Starting TLS forgets
 *   everything that came before it, and takes no byte that was sent before it as part of it.
 */
import { findExport, flagsOf, type Export } from './export.ts';
import type { Form } from './messages.ts';
import { findContexts } from './meta-context.ts';
import {
  encodeBlockSizeInfo,
  encodeExportInfo,
  encodeExportNameAnswer,
  encodeGreeting,
  encodeListing,
  encodeMetaContext,
  encodeOptionReply,
  encodeTextInfo,
  parseInfoRequest,
  parseMetaContextRequest,
  parseName,
  parseOptionHeader,
} from './option-messages.ts';
import {
  HandshakeFlag,
  Info,
  MAX_STRING_BYTES,
  Option,
  OPTION_HEADER_SIZE,
  OptionReply,
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
  /**
   * Sends `bytes` in the clear and speaks TLS from then on. False if that fails, or if the client has
   * sent anything ahead of it.
   */
  secure(bytes: Uint8Array): Promise<boolean>;
}

/** What a client has negotiated. */
export interface Session {
  readonly export: Export;
  readonly form: Form;
  /** Ids of the metadata contexts that it selected. */
  readonly contexts: readonly number[];
}

/** What the server has for its clients. */
export interface Offer {
  readonly exports: readonly Export[];
  /** `require`: nothing but TLS is spoken. */
  readonly tls: 'none' | 'allow' | 'require';
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
  const negotiation = new Negotiation(channel, offer, padded);
  for (let count = 0; count < MAX_OPTIONS; count++) {
    const bytes = await channel.take(OPTION_HEADER_SIZE);
    const header = bytes === undefined ? undefined : parseOptionHeader(bytes);
    if (header === undefined || header.length > MAX_SKIPPED_BYTES) return undefined;
    if (header.length > MAX_OPTION_BYTES) {
      if (header.option === Option.exportName || !(await channel.skip(header.length))) {
        return undefined;
      }
      await negotiation.refuse(header.option, OptionReply.tooBig, 'the option is too long');
      continue;
    }
    const payload = await channel.take(header.length);
    if (payload === undefined) return undefined;
    const outcome = await negotiation.answer(header.option, payload);
    if (outcome === 'closed') return undefined;
    if (outcome !== 'next') return outcome;
  }
  return undefined;
}

type Outcome = Session | 'next' | 'closed';

/** Options that must come without a payload. */
const BARE: readonly number[] = [
  Option.list,
  Option.startTls,
  Option.structuredReply,
  Option.extendedHeaders,
];

/** What has been agreed so far, and the answer to the next option. */
class Negotiation {
  readonly #channel: Channel;
  readonly #offer: Offer;
  readonly #padded: boolean;
  #secured = false;
  #form: Form = 'simple';
  #selected: { readonly export: Export; readonly ids: readonly number[] } | undefined;

  constructor(channel: Channel, offer: Offer, padded: boolean) {
    this.#channel = channel;
    this.#offer = offer;
    this.#padded = padded;
  }

  async answer(option: number, payload: Buffer): Promise<Outcome> {
    if (option === Option.abort) {
      await this.#reply(option, OptionReply.ack);
      return 'closed';
    }
    if (this.#offer.tls === 'require' && !this.#secured && option !== Option.startTls) {
      if (option === Option.exportName) return 'closed';
      return this.refuse(option, OptionReply.tlsRequired, 'this server speaks TLS only');
    }
    if (BARE.includes(option) && payload.length > 0) {
      return this.refuse(option, OptionReply.invalid, 'the option takes no payload');
    }
    switch (option) {
      case Option.exportName:
        return this.#openByName(payload);
      case Option.list:
        return this.#list();
      case Option.startTls:
        return this.#startTls();
      case Option.info:
      case Option.go:
        return this.#describe(option, payload);
      case Option.structuredReply:
      case Option.extendedHeaders:
        return this.#chooseForm(option);
      case Option.listMetaContext:
      case Option.setMetaContext:
        return this.#contexts(option, payload);
      default:
        return this.refuse(option, OptionReply.unsupported, 'this server knows no such option');
    }
  }

  async refuse(option: number, type: number, reason: string): Promise<'next'> {
    return this.#reply(option, type, Buffer.from(reason).subarray(0, MAX_STRING_BYTES));
  }

  async #reply(option: number, type: number, payload?: Uint8Array): Promise<'next'> {
    await this.#channel.send(encodeOptionReply(option, type, payload));
    return 'next';
  }

  #session(opened: Export): Session {
    const contexts = this.#selected?.export === opened ? this.#selected.ids : [];
    return { export: opened, form: this.#form, contexts };
  }

  #flagsOf(opened: Export): number {
    const { form, contexts } = this.#session(opened);
    return flagsOf(opened, form, contexts.length > 0);
  }

  /** `EXPORT_NAME` has no way to say no but to close the connection. */
  async #openByName(payload: Buffer): Promise<Outcome> {
    const name = parseName(payload);
    const found = name === undefined ? undefined : findExport(this.#offer.exports, name);
    if (found === undefined || this.#offer.stopping || this.#form === 'extended') return 'closed';
    const { size } = found.device;
    await this.#channel.send(encodeExportNameAnswer(size, this.#flagsOf(found), this.#padded));
    return this.#session(found);
  }

  async #list(): Promise<Outcome> {
    for (const { name, description } of this.#offer.exports) {
      await this.#reply(Option.list, OptionReply.server, encodeListing(name, description));
    }
    return this.#reply(Option.list, OptionReply.ack);
  }

  async #startTls(): Promise<Outcome> {
    const option = Option.startTls;
    if (this.#secured) return this.refuse(option, OptionReply.invalid, 'TLS is spoken already');
    if (this.#offer.tls === 'none') {
      return this.refuse(option, OptionReply.policy, 'this server has no certificate');
    }
    if (!(await this.#channel.secure(encodeOptionReply(option, OptionReply.ack)))) return 'closed';
    this.#secured = true;
    this.#form = 'simple';
    this.#selected = undefined;
    return 'next';
  }

  async #chooseForm(option: number): Promise<Outcome> {
    const extended = this.#form === 'extended';
    if (option === Option.structuredReply) {
      if (extended) {
        const reason = 'extended headers are on already';
        return this.refuse(option, OptionReply.extendedHeadersRequired, reason);
      }
      this.#form = 'structured';
    } else {
      if (extended) {
        return this.refuse(option, OptionReply.invalid, 'extended headers are on already');
      }
      this.#form = 'extended';
    }
    return this.#reply(option, OptionReply.ack);
  }

  async #contexts(option: number, payload: Buffer): Promise<Outcome> {
    const setting = option === Option.setMetaContext;
    if (setting) this.#selected = undefined;
    if (this.#form === 'simple') {
      return this.refuse(option, OptionReply.invalid, 'negotiate structured replies first');
    }
    const request = parseMetaContextRequest(payload);
    if (request === undefined) {
      return this.refuse(option, OptionReply.invalid, 'the payload makes no sense');
    }
    const found = findExport(this.#offer.exports, request.name);
    if (found === undefined) {
      return this.refuse(option, OptionReply.unknown, 'there is no such export');
    }
    const contexts = findContexts(request.queries, !setting);
    for (const { id, name } of contexts) {
      const bytes = encodeMetaContext(setting ? id : 0, name);
      await this.#reply(option, OptionReply.metaContext, bytes);
    }
    if (setting) this.#selected = { export: found, ids: contexts.map(({ id }) => id) };
    return this.#reply(option, OptionReply.ack);
  }

  /** `INFO` and `GO`: the same facts; `GO` opens the export as well. */
  async #describe(option: number, payload: Buffer): Promise<Outcome> {
    const request = parseInfoRequest(payload);
    if (request === undefined) {
      return this.refuse(option, OptionReply.invalid, 'the payload makes no sense');
    }
    const found = findExport(this.#offer.exports, request.name);
    if (found === undefined) {
      return this.refuse(option, OptionReply.unknown, 'there is no such export');
    }
    if (this.#offer.stopping) {
      return this.refuse(option, OptionReply.shutdown, 'the server is stopping');
    }
    const items = [encodeExportInfo(found.device.size, this.#flagsOf(found))];
    items.push(encodeBlockSizeInfo());
    if (request.types.includes(Info.name)) items.push(encodeTextInfo(Info.name, found.name));
    if (request.types.includes(Info.description) && found.description !== '') {
      items.push(encodeTextInfo(Info.description, found.description));
    }
    const replies = items.map((item) => encodeOptionReply(option, OptionReply.info, item));
    replies.push(encodeOptionReply(option, OptionReply.ack));
    await this.#channel.send(Buffer.concat(replies));
    return option === Option.go ? this.#session(found) : 'next';
  }
}
