/**
 * An NBD client, written from the protocol and from nothing in src/: what the server says is judged
 * by it. Requests run concurrently over one connection; any reply order is accepted.
 *
 * `NbdSocket` is the raw line (send bytes, receive exactly n) for tests of the handshake and of bad
 * messages; `NbdClient` opens an export and reads, writes, flushes, trims and zeroes.
 */
import { once } from 'node:events';
import net from 'node:net';

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
  ACK: 1,
  SERVER: 2,
  INFO_REPLY: 3,
  ERR_UNSUP: 0x80000001,
  ERR_INVALID: 0x80000003,
  ERR_UNKNOWN: 0x80000006,
  ERR_TOO_BIG: 0x80000009,
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
  FAST_ZERO: 16,
} as const;

export const optionRequest = (option: number, payload: Uint8Array = Buffer.alloc(0)): Buffer =>
  Buffer.concat([Buffer.from('IHAVEOPT'), u32(option), u32(payload.length), payload]);

export const infoPayload = (name: string, types: readonly number[] = []): Buffer => {
  const bytes = Buffer.from(name);
  return Buffer.concat([u32(bytes.length), bytes, u16(types.length), ...types.map(u16)]);
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

export class NbdError extends Error {
  override name = 'NbdError';
  readonly errno: number;
  constructor(errno: number, what: string) {
    super(`${what}: error ${errno}`);
    this.errno = errno;
  }
}

interface Waiting {
  readonly what: string;
  readonly bytes: Buffer | undefined;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class NbdClient {
  readonly size: number;
  /** Transmission flags. */
  readonly flags: number;
  readonly #line: NbdSocket;
  readonly #waiting = new Map<bigint, Waiting>();
  #cookie = 0n;
  #failure: Error | undefined;
  readonly #receiving: Promise<void>;

  private constructor(line: NbdSocket, size: number, flags: number) {
    this.#line = line;
    this.size = size;
    this.flags = flags;
    this.#receiving = this.#receiveReplies();
  }

  /** Opens an export, the default one without a name. */
  static async connect(address: NbdAddress, exportName = ''): Promise<NbdClient> {
    const line = await NbdSocket.connect(address);
    try {
      await greet(line);
      const answers = await ask(line, NBD.GO, infoPayload(exportName));
      const last = answers.at(-1)!;
      if (last.type !== NBD.ACK) {
        throw new Error(`the server refuses ${exportName}: ${last.payload.toString()}`);
      }
      const facts = answers.find(
        ({ type, payload }) => type === NBD.INFO_REPLY && payload.readUInt16BE(0) === 0,
      );
      if (facts === undefined) throw new Error('the server did not tell the size');
      const { payload } = facts;
      return new NbdClient(line, Number(payload.readBigUInt64BE(2)), payload.readUInt16BE(10));
    } catch (error) {
      line.destroy();
      throw error;
    }
  }

  async read(offset: number | bigint, length: number, flags = 0): Promise<Buffer> {
    const bytes = Buffer.alloc(length);
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

  /** Any request, sensible or not. `into` takes the data of a good read. */
  request(
    command: number,
    offset: number | bigint,
    length: number,
    flags = 0,
    payload?: Uint8Array,
    into?: Buffer,
  ): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const cookie = this.#cookie++;
    return new Promise<void>((resolve, reject) => {
      const what = `command ${command} at ${offset}, ${length} bytes`;
      this.#waiting.set(cookie, { what, bytes: into, resolve, reject });
      const header = requestHeader(command, offset, length, flags, cookie);
      if (payload === undefined) this.#line.send(header);
      else this.#line.send(header, payload);
    });
  }

  /** Says goodbye and waits until the server has closed. */
  async disconnect(): Promise<void> {
    this.#line.send(requestHeader(NBD.DISC, 0, 0));
    await this.#receiving;
    this.#line.destroy();
  }

  /** Vanishes. */
  destroy(): void {
    this.#line.destroy();
  }

  async #receiveReplies(): Promise<void> {
    try {
      for (;;) {
        const head = await this.#line.receive(16);
        if (head.readUInt32BE(0) !== 0x67446698) throw new Error('no reply where one should be');
        const cookie = head.readBigUInt64BE(8);
        const waiting = this.#waiting.get(cookie);
        if (waiting === undefined) throw new Error(`a reply to nothing: ${cookie}`);
        this.#waiting.delete(cookie);
        const errno = head.readUInt32BE(4);
        if (errno !== 0) {
          waiting.reject(new NbdError(errno, waiting.what));
          continue;
        }
        if (waiting.bytes !== undefined) {
          waiting.bytes.set(await this.#line.receive(waiting.bytes.length));
        }
        waiting.resolve();
      }
    } catch (error) {
      this.#failure = error instanceof Error ? error : new Error(String(error));
      for (const { reject } of this.#waiting.values()) reject(this.#failure);
      this.#waiting.clear();
    }
  }
}
