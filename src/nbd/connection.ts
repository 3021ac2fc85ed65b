/**
 * One client, from its first byte to its last: owns the socket, feeds the handshake and then the
 * transmission, and ends the connection in order.
 *
 * Invariants:
 * - A client that has not opened an export within `HANDSHAKE_MS` is cut off.
 * - Nothing that a client does or leaves undone throws out of here; the worst is the end of its own
 *   connection.
 * - The end is the same for everyone: replies are sent, the write side is closed, and what still
 *   arrives is dropped until the client closes too (closing with unread bytes would reset the
 *   connection and could take the last replies with it), `LINGER_MS` at most.
 */
import type { Socket } from 'node:net';
import type { BufferPool } from './buffer-pool.ts';
import { ByteQueue } from './byte-queue.ts';
import { negotiate, type Channel, type Offer } from './handshake.ts';
import { Output } from './output.ts';
import { receiveInto } from './receive.ts';
import { Transmission } from './transmission.ts';

const HANDSHAKE_MS = 30_000;
const LINGER_MS = 2_000;
const KEEP_ALIVE_MS = 60_000;
/** Bytes a client may send ahead of the handshake. */
const MAX_AHEAD_BYTES = 1 << 20;

export class Connection {
  readonly #socket: Socket;
  readonly #pool: BufferPool;
  readonly #input = new ByteQueue();
  #transmission: Transmission | undefined;
  /** Wakes whoever waits for bytes in the handshake. */
  #arrived: (() => void) | undefined;
  /** The client will send nothing more. */
  #inputEnded = false;
  #ending = false;
  #lingerTimer: NodeJS.Timeout | undefined;
  /** Resolves when the socket is closed and nothing of this client is in flight. */
  readonly closed: Promise<void>;

  constructor(accepted: Socket, offer: Offer, pool: BufferPool, buffer: Buffer) {
    const socket = receiveInto(buffer, accepted, (bytes) => this.#receive(bytes));
    this.#socket = socket;
    this.#pool = pool;
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    socket.on('end', () => this.#endInput());
    socket.on('error', () => socket.destroy());
    const socketClosed = new Promise<void>((resolve) => {
      socket.on('close', () => {
        this.#endInput();
        clearTimeout(this.#lingerTimer);
        resolve();
      });
    });
    let idle: () => void = () => undefined;
    const whenIdle = new Promise<void>((resolve) => (idle = resolve));
    this.closed = Promise.all([socketClosed, whenIdle]).then(() => undefined);
    void this.#run(offer, idle);
  }

  /** Refuses new requests, finishes those in flight, and closes. */
  async stop(): Promise<void> {
    if (this.#transmission === undefined) this.#end();
    else this.#transmission.stop();
    await this.closed;
  }

  /** Whether an export is open. */
  get transmitting(): boolean {
    return this.#transmission !== undefined;
  }

  async #run(offer: Offer, idle: () => void): Promise<void> {
    const deadline = setTimeout(() => this.#socket.destroy(), HANDSHAKE_MS);
    const session = await negotiate(this.#channel(), offer);
    clearTimeout(deadline);
    if (session === undefined || this.#ending) {
      this.#end();
      idle();
      return;
    }
    const output = new Output(this.#socket, this.#pool, () => this.#transmission?.progress());
    this.#transmission = new Transmission(session, this.#input, output, this.#pool, {
      report: offer.report,
      pause: () => this.#socket.pause(),
      resume: () => this.#socket.resume(),
      ended: () => {
        this.#end();
        idle();
      },
    });
    this.#socket.resume();
    if (offer.stopping) this.#transmission.stop();
    else this.#transmission.receive();
    if (this.#inputEnded) this.#transmission.finish();
  }

  #receive(chunk: Buffer): void {
    if (this.#ending) return;
    this.#input.push(chunk);
    if (this.#transmission !== undefined) this.#transmission.receive();
    else {
      if (this.#input.length > MAX_AHEAD_BYTES) this.#socket.pause();
      this.#arrived?.();
    }
    this.#input.keep();
  }

  /** The client has closed its side, or is gone: requests that it sent before still run. */
  #endInput(): void {
    if (this.#inputEnded) return;
    this.#inputEnded = true;
    this.#arrived?.();
    this.#transmission?.finish();
  }

  #end(): void {
    if (this.#ending) return;
    this.#ending = true;
    this.#arrived?.();
    this.#socket.end();
    this.#socket.resume();
    if (this.#inputEnded) this.#socket.destroySoon();
    else this.#socket.once('end', () => this.#socket.destroySoon());
    this.#lingerTimer = setTimeout(() => this.#socket.destroy(), LINGER_MS);
  }

  #channel(): Channel {
    const more = async (): Promise<boolean> => {
      if (this.#inputEnded || this.#ending) return false;
      this.#socket.resume();
      await new Promise<void>((resolve) => (this.#arrived = resolve));
      this.#arrived = undefined;
      return true;
    };
    return {
      take: async (length) => {
        while (this.#input.length < length) if (!(await more())) return undefined;
        return this.#input.take(length);
      },
      skip: async (length) => {
        for (let left = length; ;) {
          left -= this.#input.skip(left);
          if (left === 0) return true;
          if (!(await more())) return false;
        }
      },
      send: async (bytes) => {
        if (this.#ending || this.#socket.destroyed) return;
        await new Promise<void>((resolve) => this.#socket.write(bytes, () => resolve()));
      },
    };
  }
}
