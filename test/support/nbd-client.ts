/**
 * An NBD client, written from the protocol and from nothing in src/: what the server says is judged
 * by it. Requests run concurrently over one connection; any reply order is accepted.
 *
 * `NbdSocket` is the raw line (send bytes, receive exactly n) for tests of the handshake and of bad
 * messages; `NbdClient` opens an export and reads, writes, flushes, trims and zeroes.
 */
import { once } from 'node:events';
import net from 'node:net';
import tls from 'node:tls';

export type NbdAddress =
  { readonly socket: string } | { readonly host: string; readonly port: number };

/** A connection that hands out bytes in the numbers asked for. */
export class NbdSocket {
  readonly socket: net.Socket;
  #chunks: Buffer[] = [];
  #length = 0;
  #ended = false;
  #wake: (() => void) | undefined;

  private constructor(socket: net.Socket) {
    this.socket = socket;
    const end = (): void => {
      this.#ended = true;
      this.#wake?.();
    };
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#length += chunk.length;
      this.#wake?.();
    });
    socket.on('error', end);
    socket.on('end', end);
    socket.on('close', end);
  }

  static async connect(address: NbdAddress): Promise<NbdSocket> {
    const socket =
      'socket' in address
        ? net.connect({ path: address.socket })
        : net.connect({ host: address.host, port: address.port });
    socket.setNoDelay(true);
    await once(socket, 'connect');
    return new NbdSocket(socket);
  }

  /** The same line with TLS on it; this object is of no use any more. */
  async secure(options: tls.ConnectionOptions): Promise<NbdSocket> {
    this.socket.removeAllListeners('data');
    const secured = tls.connect({ ...options, socket: this.socket });
    await new Promise<void>((resolve, reject) => {
      secured.once('secureConnect', resolve);
      secured.once('error', reject);
      secured.once('close', () => reject(new Error('the server closed')));
    });
    return new NbdSocket(secured);
  }

  send(...parts: readonly Uint8Array[]): void {
    this.socket.cork();
    for (const part of parts) this.socket.write(part);
    this.socket.uncork();
  }

  /** Exactly `length` bytes. Throws if the server closes before. */
  async receive(length: number): Promise<Buffer> {
    while (this.#length < length) {
      if (this.#ended)
        throw new Error(`the server closed after ${this.#length} of ${length} bytes`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const all = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    this.#chunks = all.length > length ? [all.subarray(length)] : [];
    this.#length = all.length - length;
    return all.subarray(0, length);
  }

  /** Bytes that came and nobody asked for, once the server has closed. */
  async untilClosed(): Promise<Buffer> {
    while (!this.#ended) await new Promise<void>((resolve) => (this.#wake = resolve));
    return Buffer.concat(this.#chunks);
  }

  destroy(): void {
    this.socket.destroy();
  }
}

const u16 = (value: number): Buffer => {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
};
const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
};
const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
};

export const NBD = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  INFO: 6,
  GO: 7,
  STARTTLS: 5,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
  ACK: 1,
  SERVER: 2,
  INFO_REPLY: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_TOO_BIG: 0x80000009,
  ERR_EXT_HEADER_REQD: 0x8000000a,
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
  FUA: 1,
  NO_HOLE: 2,
  DF: 4,
  REQ_ONE: 8,
  FAST_ZERO: 16,
  PAYLOAD_LEN: 32,
} as const;

export const optionRequest = (option: number, payload: Uint8Array = Buffer.alloc(0)): Buffer =>
  Buffer.concat([Buffer.from('IHAVEOPT'), u32(option), u32(payload.length), payload]);

export const infoPayload = (name: string, types: readonly number[] = []): Buffer => {
  const bytes = Buffer.from(name);
  return Buffer.concat([u32(bytes.length), bytes, u16(types.length), ...types.map(u16)]);
};

export const metaContextPayload = (name: string, queries: readonly string[] = []): Buffer => {
  const text = (value: string): Buffer => {
    const bytes = Buffer.from(value);
    return Buffer.concat([u32(bytes.length), bytes]);
  };
  return Buffer.concat([text(name), u32(queries.length), ...queries.map(text)]);
};

export interface OptionAnswer {
  readonly option: number;
  readonly type: number;
  readonly payload: Buffer;
}

export async function receiveOptionReply(line: NbdSocket): Promise<OptionAnswer> {
  const head = await line.receive(20);
  if (head.readBigUInt64BE(0) !== 0x0003e889045565a9n) throw new Error('no option reply');
  const payload = await line.receive(head.readUInt32BE(16));
  return { option: head.readUInt32BE(8), type: head.readUInt32BE(12), payload };
}

/** Reads the greeting and answers it. */
export async function greet(line: NbdSocket, clientFlags = 3): Promise<number> {
  const greeting = await line.receive(18);
  if (greeting.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw new Error('no NBD server');
  line.send(u32(clientFlags));
  return greeting.readUInt16BE(16);
}

/** Sends an option and collects its replies up to the final one (ACK or an error). */
export async function ask(
  line: NbdSocket,
  option: number,
  payload?: Uint8Array,
): Promise<OptionAnswer[]> {
  line.send(optionRequest(option, payload));
  const answers: OptionAnswer[] = [];
  for (;;) {
    const answer = await receiveOptionReply(line);
    answers.push(answer);
    if (answer.type === NBD.ACK || answer.type >= 0x80000000) return answers;
  }
}

export const requestHeader = (
  command: number,
  offset: number | bigint,
  length: number,
  flags = 0,
  cookie: number | bigint = 0,
): Buffer =>
  Buffer.concat([u32(0x25609513), u16(flags), u16(command), u64(cookie), u64(offset), u32(length)]);

/** With 64-bit lengths. */
export const extendedHeader = (
  command: number,
  offset: number | bigint,
  length: number | bigint,
  flags = 0,
  cookie: number | bigint = 0,
): Buffer =>
  Buffer.concat([u32(0x21e41c71), u16(flags), u16(command), u64(cookie), u64(offset), u64(length)]);

export type Form = 'simple' | 'structured' | 'extended';

export class NbdError extends Error {
  override name = 'NbdError';
  readonly errno: number;
  constructor(errno: number, what: string) {
    super(`${what}: error ${errno}`);
    this.errno = errno;
  }
}

/** What a reply brought. */
export interface Reply {
  errno: number;
  /** Types of its chunks, in order; empty for a simple reply. */
  readonly chunks: number[];
  /** Block status: runs of each context. */
  readonly runs: Map<number, [length: number, flags: number][]>;
  text: string;
}

interface Waiting {
  readonly what: string;
  readonly command: number;
  readonly offset: bigint;
  readonly bytes: Buffer | undefined;
  readonly reply: Reply;
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: Error) => void;
}

export interface ConnectOptions {
  readonly form?: Form;
  readonly contexts?: readonly string[];
}

export class NbdClient {
  readonly size: number;
  /** Transmission flags. */
  readonly flags: number;
  /** Ids of the contexts that the server selected, by name. */
  readonly contexts: ReadonlyMap<string, number>;
  readonly form: Form;
  readonly #line: NbdSocket;
  readonly #waiting = new Map<bigint, Waiting>();
  #cookie = 0n;
  #failure: Error | undefined;
  readonly #receiving: Promise<void>;

  private constructor(
    line: NbdSocket,
    facts: Buffer,
    form: Form,
    contexts: ReadonlyMap<string, number>,
  ) {
    this.#line = line;
    this.size = Number(facts.readBigUInt64BE(2));
    this.flags = facts.readUInt16BE(10);
    this.form = form;
    this.contexts = contexts;
    this.#receiving = this.#receiveReplies();
  }

  /** Opens an export, the default one without a name. */
  static async connect(
    address: NbdAddress,
    exportName = '',
    { form = 'simple', contexts = [] }: ConnectOptions = {},
  ): Promise<NbdClient> {
    const line = await NbdSocket.connect(address);
    try {
      await greet(line);
      return await NbdClient.open(line, exportName, { form, contexts });
    } catch (error) {
      line.destroy();
      throw error;
    }
  }

  /** Opens an export on a line that has been greeted. */
  static async open(
    line: NbdSocket,
    exportName: string,
    { form = 'simple', contexts = [] }: ConnectOptions = {},
  ): Promise<NbdClient> {
    if (form === 'structured') await ask(line, NBD.STRUCTURED_REPLY);
    if (form === 'extended') await ask(line, NBD.EXTENDED_HEADERS);
    const ids = new Map<string, number>();
    if (contexts.length > 0) {
      const payload = metaContextPayload(exportName, contexts);
      for (const { type, payload: bytes } of await ask(line, NBD.SET_META_CONTEXT, payload)) {
        if (type === NBD.META_CONTEXT) ids.set(bytes.toString('utf8', 4), bytes.readUInt32BE(0));
      }
    }
    const answers = await ask(line, NBD.GO, infoPayload(exportName));
    const last = answers.at(-1)!;
    if (last.type !== NBD.ACK) {
      throw new Error(`the server refuses ${exportName}: ${last.payload.toString()}`);
    }
    const facts = answers.find(
      ({ type, payload }) => type === NBD.INFO_REPLY && payload.readUInt16BE(0) === 0,
    );
    if (facts === undefined) throw new Error('the server did not tell the size');
    return new NbdClient(line, facts.payload, form, ids);
  }

  async read(offset: number | bigint, length: number, flags = 0): Promise<Buffer> {
    const bytes = Buffer.alloc(length, this.form === 'simple' ? 0 : 0xa5);
    await this.request(NBD.READ, offset, length, flags, undefined, bytes);
    return bytes;
  }

  async write(
    offset: number | bigint,
    bytes: Uint8Array,
    options: { readonly fua?: boolean } = {},
  ): Promise<void> {
    const flags = options.fua === true ? NBD.FUA : 0;
    await this.request(NBD.WRITE, offset, bytes.length, flags, bytes);
  }

  async flush(): Promise<void> {
    await this.request(NBD.FLUSH, 0, 0);
  }

  async trim(offset: number | bigint, length: number, flags = 0): Promise<void> {
    await this.request(NBD.TRIM, offset, length, flags);
  }

  async zero(offset: number | bigint, length: number, flags = 0): Promise<void> {
    await this.request(NBD.WRITE_ZEROES, offset, length, flags);
  }

  /** Runs of one context, which must have been selected. */
  async status(
    offset: number | bigint,
    length: number,
    context = 'base:allocation',
    flags = 0,
  ): Promise<[length: number, flags: number][]> {
    const { runs } = await this.request(NBD.BLOCK_STATUS, offset, length, flags);
    return runs.get(this.contexts.get(context)!)!;
  }

  /**
   * Any request, sensible or not. `into` takes the data of a good read. A payload with extended
   * headers sets its flag; of anything but a write, `length` is then not sent.
   */
  request(
    command: number,
    offset: number | bigint,
    length: number,
    flags = 0,
    payload?: Uint8Array,
    into?: Buffer,
  ): Promise<Reply> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const cookie = this.#cookie++;
    return new Promise<Reply>((resolve, reject) => {
      const what = `command ${command} at ${offset}, ${length} bytes`;
      const reply: Reply = { errno: 0, chunks: [], runs: new Map(), text: '' };
      const at = BigInt(offset);
      const waiting = { what, command, offset: at, bytes: into, reply, resolve, reject };
      this.#waiting.set(cookie, waiting);
      const header =
        this.form === 'extended'
          ? extendedHeader(
              command,
              offset,
              payload?.length ?? length,
              flags | (payload === undefined ? 0 : NBD.PAYLOAD_LEN),
              cookie,
            )
          : requestHeader(command, offset, length, flags, cookie);
      if (payload === undefined) this.#line.send(header);
      else this.#line.send(header, payload);
    });
  }

  /** Says goodbye and waits until the server has closed. */
  async disconnect(): Promise<void> {
    const header = this.form === 'extended' ? extendedHeader : requestHeader;
    this.#line.send(header(NBD.DISC, 0, 0));
    await this.#receiving;
    this.#line.destroy();
  }

  /** Vanishes. */
  destroy(): void {
    this.#line.destroy();
  }

  async #receiveReplies(): Promise<void> {
    try {
      for (;;) await this.#receiveMessage();
    } catch (error) {
      this.#failure = error instanceof Error ? error : new Error(String(error));
      for (const { reject } of this.#waiting.values()) reject(this.#failure);
      this.#waiting.clear();
    }
  }

  #waitingFor(cookie: bigint): Waiting {
    const waiting = this.#waiting.get(cookie);
    if (waiting === undefined) throw new Error(`a reply to nothing: ${cookie}`);
    return waiting;
  }

  #end(cookie: bigint, waiting: Waiting): void {
    this.#waiting.delete(cookie);
    const { reply, what } = waiting;
    if (reply.errno === 0) waiting.resolve(reply);
    else waiting.reject(new NbdError(reply.errno, `${what}: ${reply.text}`));
  }

  async #receiveMessage(): Promise<void> {
    const magic = (await this.#line.receive(4)).readUInt32BE(0);
    if (magic === 0x67446698 && this.form !== 'extended') {
      const head = await this.#line.receive(12);
      const cookie = head.readBigUInt64BE(4);
      const waiting = this.#waitingFor(cookie);
      if (this.form === 'structured' && [NBD.READ, NBD.BLOCK_STATUS].includes(waiting.command as 0))
        throw new Error('a simple reply where a chunk must be');
      waiting.reply.errno = head.readUInt32BE(0);
      if (waiting.reply.errno === 0 && waiting.bytes !== undefined) {
        waiting.bytes.set(await this.#line.receive(waiting.bytes.length));
      }
      this.#end(cookie, waiting);
    } else if (magic === 0x668e33ef && this.form === 'structured') {
      const head = await this.#line.receive(16);
      await this.#receiveChunk(head, head.readUInt32BE(12));
    } else if (magic === 0x6e8a278c && this.form === 'extended') {
      const head = await this.#line.receive(28);
      await this.#receiveChunk(head, Number(head.readBigUInt64BE(20)));
    } else throw new Error(`no reply where one should be: ${magic.toString(16)}`);
  }

  async #receiveChunk(head: Buffer, length: number): Promise<void> {
    const [flags, type] = [head.readUInt16BE(0), head.readUInt16BE(2)];
    const cookie = head.readBigUInt64BE(4);
    const waiting = this.#waitingFor(cookie);
    if (this.form === 'extended' && head.readBigUInt64BE(12) !== waiting.offset)
      throw new Error('a chunk of another offset');
    const payload = await this.#line.receive(length);
    const { reply } = waiting;
    reply.chunks.push(type);
    this.#takeChunk(type, payload, waiting);
    if ((flags & ~1) !== 0) throw new Error(`unknown chunk flags ${flags}`);
    if ((flags & 1) === 1) this.#end(cookie, waiting);
  }

  #takeChunk(type: number, payload: Buffer, { reply, bytes, offset }: Waiting): void {
    if (type === 0) return;
    if (type === 1) {
      payload.copy(bytes!, Number(payload.readBigUInt64BE(0) - offset), 8);
    } else if (type === 2) {
      const at = Number(payload.readBigUInt64BE(0) - offset);
      bytes!.fill(0, at, at + payload.readUInt32BE(8));
    } else if (type === 5 || type === 6) {
      const runs: [number, number][] = [];
      const [start, step] = type === 5 ? [4, 8] : [8, 16];
      for (let at = start; at < payload.length; at += step) {
        runs.push(
          type === 5
            ? [payload.readUInt32BE(at), payload.readUInt32BE(at + 4)]
            : [Number(payload.readBigUInt64BE(at)), Number(payload.readBigUInt64BE(at + 8))],
        );
      }
      if (type === 6 && payload.readUInt32BE(4) !== runs.length) throw new Error('wrong count');
      reply.runs.set(payload.readUInt32BE(0), runs);
    } else if (type === 0x8001) {
      reply.errno = payload.readUInt32BE(0);
      reply.text = payload.toString('utf8', 6);
      if (payload.readUInt16BE(4) !== payload.length - 6) throw new Error('a text of wrong length');
    } else throw new Error(`a chunk of type ${type}`);
  }
}
