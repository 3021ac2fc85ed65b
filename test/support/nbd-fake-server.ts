/**
 * An NBD server for trying clients on, written from the protocol and from nothing in src/: every form
 * of request and reply, any block sizes, replies in random order and pieces, and a disk with a cache
 * that a crash loses, sector by sector, as the seed has it. Hooks replace what it would say by
 * anything at all.
 */
import fs from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Random } from '../sim/random.ts';

export type Form = 'simple' | 'structured' | 'extended';

export interface FakeRequest {
  readonly command: number;
  readonly flags: number;
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
  readonly payload: Buffer;
}

export interface FakeOptions {
  readonly size?: number;
  readonly form?: Form;
  readonly minimumBlock?: number;
  readonly maximumPayload?: number;
  /** Transmission flags; default: flush, FUA, trim, zeroes. */
  readonly flags?: number;
  /** False: only EXPORT_NAME. */
  readonly go?: boolean;
  /** False: not even fixed newstyle. */
  readonly fixed?: boolean;
  readonly allocation?: boolean;
  /** Replies come late, out of order, and reads in pieces. */
  readonly random?: Random;
  readonly exportName?: string;
}

const SECTOR = 512;
export const FLAGS = { has: 1, readOnly: 2, flush: 4, fua: 8, trim: 32, zeroes: 64 } as const;
const DEFAULT_FLAGS = FLAGS.has | FLAGS.flush | FLAGS.fua | FLAGS.trim | FLAGS.zeroes;

export const numbers = (
  ...parts: readonly (readonly [bits: 16 | 32 | 64, value: number | bigint])[]
): Buffer =>
  // prettier-ignore
  Buffer.concat(
    parts.map(([bits, value]) => {
      const bytes = Buffer.alloc(bits / 8);
      if (bits === 16) bytes.writeUInt16BE(Number(value));
      else if (bits === 32) bytes.writeUInt32BE(Number(value));
      else bytes.writeBigUInt64BE(BigInt(value));
      return bytes;
    }),
  );

export const optionReply = (option: number, type: number, payload: Buffer = Buffer.alloc(0)): Buffer => // prettier-ignore
  Buffer.concat([numbers([64, 0x0003e889045565a9n], [32, option], [32, type], [32, payload.length]), payload]); // prettier-ignore

export const simpleReply = (cookie: bigint, errno = 0): Buffer =>
  numbers([32, 0x67446698], [32, errno], [64, cookie]);

/** Whether all bytes are zero; there is at least one. */
const isZero = (bytes: Buffer): boolean =>
  bytes[0] === 0 && bytes.subarray(1).equals(bytes.subarray(0, -1));

export class FakeServer {
  readonly socket: string;
  readonly options: FakeOptions;
  /** What the disk holds for sure, and what a reader sees. */
  readonly stable: Buffer;
  readonly cache: Buffer;
  readonly counts = { connections: 0, reads: 0, writes: 0, flushes: 0, zeroes: 0, trims: 0 };
  largestPayload = 0;
  /** Says something else in answer to an option; undefined: the usual. */
  onOption: ((option: number, payload: Buffer) => Buffer | undefined) | undefined;
  /** Says something else in answer to a request; an empty buffer is silence. */
  onRequest: ((request: FakeRequest) => Buffer | undefined) | undefined;
  greeting: Buffer | undefined;
  #dirty: { start: number; end: number }[] = [];
  readonly #directory: string;
  #server: net.Server | undefined;
  readonly #sockets = new Set<net.Socket>();
  #epoch = 0;

  private constructor(options: FakeOptions) {
    this.options = options;
    const size = options.size ?? 1 << 20;
    this.stable = Buffer.alloc(size);
    this.cache = Buffer.alloc(size);
    this.#directory = fs.mkdtempSync(join(tmpdir(), 'uvdo-fake-'));
    this.socket = join(this.#directory, 's');
  }

  static async start(options: FakeOptions = {}): Promise<FakeServer> {
    const server = new FakeServer(options);
    await server.listen();
    return server;
  }

  get uri(): string {
    return `nbd+unix:///${encodeURIComponent(this.options.exportName ?? '')}?socket=${this.socket}`;
  }

  async listen(): Promise<void> {
    const server = net.createServer((socket) => {
      this.counts.connections++;
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => this.#sockets.delete(socket));
      void this.#serve(socket).catch(() => socket.destroy());
    });
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(this.socket, resolve));
  }

  /** Takes no more connections. */
  async unlisten(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    const closed = new Promise((resolve) => server.close(resolve));
    this.disconnect();
    await closed;
  }

  /** Cuts every connection; the disk keeps its cache. */
  disconnect(): void {
    this.#epoch++;
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Power loss: every connection is cut, and of each sector written since the last flush some are lost. */
  crash(random: Random): void {
    this.disconnect();
    for (const { start, end } of this.#dirty) {
      for (let at = start - (start % SECTOR); at < end; at += SECTOR) {
        const keep = random.chance(0.5);
        const [from, to] = keep ? [this.cache, this.stable] : [this.stable, this.cache];
        from.copy(to, at, at, Math.min(at + SECTOR, to.length));
      }
    }
    this.#dirty = [];
  }

  /** Sends bytes to everyone, one at a time. */
  async dribble(bytes: Buffer): Promise<void> {
    for (let i = 0; i < bytes.length; i++) {
      for (const socket of this.#sockets) socket.write(bytes.subarray(i, i + 1));
      await new Promise(setImmediate);
    }
  }

  async stop(): Promise<void> {
    await this.unlisten();
    fs.rmSync(this.#directory, { recursive: true, force: true });
  }

  async #serve(socket: net.Socket): Promise<void> {
    const take = taker(socket);
    const { fixed = true, go = true } = this.options;
    const hello = numbers(
      [64, 0x4e42444d41474943n],
      [64, 0x49484156454f5054n],
      [16, fixed ? 3 : 2],
    );
    socket.write(this.greeting ?? hello);
    await take(4);
    let form: Form = 'simple';
    for (;;) {
      const head = await take(16);
      const option = head.readUInt32BE(8);
      const payload = await take(head.readUInt32BE(12));
      const said = this.onOption?.(option, payload);
      if (said !== undefined) {
        socket.write(said);
        continue;
      }
      if (option === 1) {
        if (payload.toString() !== (this.options.exportName ?? '')) return void socket.destroy();
        socket.write(this.#facts());
        break;
      }
      if (!fixed) return void socket.destroy();
      if (option === 8 && this.options.form !== 'simple' && this.options.form !== undefined) {
        form = 'structured';
        socket.write(optionReply(option, 1));
      } else if (option === 11 && this.options.form === 'extended') {
        form = 'extended';
        socket.write(optionReply(option, 1));
      } else if (option === 10 && this.options.allocation !== false && form !== 'simple') {
        socket.write(
          optionReply(option, 4, Buffer.concat([numbers([32, 7]), Buffer.from('base:allocation')])),
        );
        socket.write(optionReply(option, 1));
      } else if (option === 7 && go) {
        const name = payload.toString('utf8', 4, 4 + payload.readUInt32BE(0));
        if (name !== (this.options.exportName ?? '')) {
          socket.write(optionReply(option, 0x80000006));
          continue;
        }
        socket.write(optionReply(option, 3, Buffer.concat([numbers([16, 0]), this.#facts()])));
        const { minimumBlock = 1, maximumPayload = 32 << 20 } = this.options;
        socket.write(
          optionReply(option, 3, numbers([16, 3], [32, minimumBlock], [32, Math.max(4096, minimumBlock)], [32, maximumPayload])), // prettier-ignore
        );
        socket.write(optionReply(option, 1));
        break;
      } else if (option === 3) {
        const name = Buffer.from(this.options.exportName ?? '');
        socket.write(optionReply(option, 2, Buffer.concat([numbers([32, name.length]), name])));
        socket.write(optionReply(option, 1));
      } else socket.write(optionReply(option, 0x80000001));
    }
    await this.#transmit(socket, take, form);
  }

  #facts(): Buffer {
    return numbers([64, this.cache.length], [16, this.options.flags ?? DEFAULT_FLAGS]);
  }

  async #transmit(socket: net.Socket, take: Take, form: Form): Promise<void> {
    const { random } = this.options;
    const epoch = this.#epoch;
    for (;;) {
      const head = await take(form === 'extended' ? 32 : 28);
      const magic = form === 'extended' ? 0x21e41c71 : 0x25609513;
      if (head.readUInt32BE(0) !== magic) throw new Error('not a request');
      const flags = head.readUInt16BE(4);
      const command = head.readUInt16BE(6);
      const length = form === 'extended' ? Number(head.readBigUInt64BE(24)) : head.readUInt32BE(24);
      const offset = Number(head.readBigUInt64BE(16));
      const carries = form === 'extended' ? (flags & 32) !== 0 : command === 1;
      const payload = carries ? await take(length) : Buffer.alloc(0);
      if (command === 2) return void socket.end();
      const request = { command, flags, cookie: head.readBigUInt64BE(8), offset, length, payload };
      if (command < 2) this.largestPayload = Math.max(this.largestPayload, length);
      const answer = (): void => {
        if (epoch !== this.#epoch || socket.destroyed) return;
        socket.write(this.onRequest?.(request) ?? this.#answer(request, form));
      };
      if (random === undefined) answer();
      else {
        const turns = random.below(4);
        void (async () => {
          for (let i = 0; i < turns; i++) await new Promise(setImmediate);
          answer();
        })();
      }
    }
  }

  #answer(request: FakeRequest, form: Form): Buffer {
    const { command, offset, length, payload, cookie, flags } = request;
    const { minimumBlock = 1, maximumPayload = 32 << 20 } = this.options;
    const aligned = offset % minimumBlock === 0 && length % minimumBlock === 0;
    const inside = offset + length <= this.cache.length;
    const readOnly = ((this.options.flags ?? DEFAULT_FLAGS) & FLAGS.readOnly) !== 0;
    const changes = command === 1 || command === 4 || command === 6;
    let errno = 0;
    if (!aligned || (command < 2 && length > maximumPayload)) errno = 22;
    else if (!inside) errno = command === 1 || command === 6 ? 28 : 22;
    else if (changes && readOnly) errno = 1;
    if (errno !== 0) return this.error(request, form, errno, 'the fake refuses');
    if (command === 0) {
      this.counts.reads++;
      return this.#readReply(request, form);
    }
    if (command === 7) return this.#status(request, form);
    if (command === 1) {
      this.counts.writes++;
      payload.copy(this.cache, offset);
    } else if (command === 6) {
      this.counts.zeroes++;
      this.cache.fill(0, offset, offset + length);
    } else if (command === 4) {
      this.counts.trims++;
      this.cache.fill(0, offset, offset + length);
    } else if (command === 3) {
      this.counts.flushes++;
      for (const { start, end } of this.#dirty) this.cache.copy(this.stable, start, start, end);
      this.#dirty = [];
    } else return this.error(request, form, 22, 'no such command');
    if (changes && (flags & 1) !== 0) this.cache.copy(this.stable, offset, offset, offset + length);
    else if (changes) this.#dirty.push({ start: offset, end: offset + length });
    return form === 'extended' ? this.chunk(request, form, 0, 1) : simpleReply(cookie);
  }

  /** A chunk of a structured or extended reply. */
  chunk(
    request: FakeRequest,
    form: Form,
    type: number,
    flags: number,
    payload: Buffer = Buffer.alloc(0),
  ): Buffer {
    // prettier-ignore
    const head =
      form === 'extended'
        ? numbers([32, 0x6e8a278c], [16, flags], [16, type], [64, request.cookie], [64, request.offset], [64, payload.length]) // prettier-ignore
        : numbers([32, 0x668e33ef], [16, flags], [16, type], [64, request.cookie], [32, payload.length]); // prettier-ignore
    return Buffer.concat([head, payload]);
  }

  error(request: FakeRequest, form: Form, errno: number, text: string): Buffer {
    if (form === 'simple') return simpleReply(request.cookie, errno);
    const words = Buffer.from(text);
    return this.chunk(request, form, 0x8001, 1, Buffer.concat([numbers([32, errno], [16, words.length]), words])); // prettier-ignore
  }

  #readReply(request: FakeRequest, form: Form): Buffer {
    const { offset, length, cookie } = request;
    const data = this.cache.subarray(offset, offset + length);
    if (form === 'simple') return Buffer.concat([simpleReply(cookie), data]);
    const { random } = this.options;
    const pieces: Buffer[] = [];
    for (let at = 0; at < length;) {
      const left = length - at;
      const size = random === undefined ? left : Math.min(left, 1 + random.below(Math.ceil(length / 3))); // prettier-ignore
      const part = data.subarray(at, at + size);
      const place = numbers([64, offset + at]);
      pieces.push(
        isZero(part)
          ? this.chunk(request, form, 2, 0, Buffer.concat([place, numbers([32, size])]))
          : this.chunk(request, form, 1, 0, Buffer.concat([place, part])),
      );
      at += size;
    }
    if (random?.chance(0.5) === true) pieces.reverse();
    return Buffer.concat([...pieces, this.chunk(request, form, 0, 1)]);
  }

  /** Blocks of 4096 bytes, or of the minimum size, that are zero are holes; at most ten extents. */
  #status(request: FakeRequest, form: Form): Buffer {
    const { offset, length } = request;
    const step = Math.max(4096, this.options.minimumBlock ?? 1);
    const runs: { length: number; flags: number }[] = [];
    for (let at = offset; at < offset + length && runs.length < 10;) {
      const end = Math.min(offset + length, at - (at % step) + step);
      const flags = isZero(this.cache.subarray(at, end)) ? 3 : 0;
      const last = runs.at(-1);
      if (last?.flags === flags) last.length += end - at;
      else runs.push({ length: end - at, flags });
      at = end;
    }
    const bits = form === 'extended' ? 64 : 32;
    const body = runs.map((run) => numbers([bits, run.length], [bits, run.flags]));
    const head = form === 'extended' ? numbers([32, 7], [32, runs.length]) : numbers([32, 7]);
    return this.chunk(
      request,
      form,
      form === 'extended' ? 6 : 5,
      1,
      Buffer.concat([head, ...body]),
    );
  }
}

type Take = (length: number) => Promise<Buffer>;

/** Takes bytes off a socket in the numbers asked for; never comes back from one that has ended. */
function taker(socket: net.Socket): Take {
  let held: Buffer = Buffer.alloc(0);
  let wake: (() => void) | undefined;
  socket.on('data', (chunk: Buffer) => {
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    wake?.();
  });
  return async (length) => {
    while (held.length < length) await new Promise<void>((resolve) => (wake = resolve));
    const bytes = held.subarray(0, length);
    held = held.subarray(length);
    return bytes;
  };
}
