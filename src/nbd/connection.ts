/**
 * One client, from its first byte to its last: owns the socket, feeds the handshake and then the
 * transmission, and ends the connection in order.
 *
 * Invariants:
 * - A client that has not opened an export within `handshakeMs` is cut off.
 * - Nothing that a client does or leaves undone throws out of here; the worst is the end of its own
 *   connection.
 * - The end is the same for everyone: replies are sent, the write side is closed, and what still
 *   arrives is dropped until the client closes too (closing with unread bytes would reset the
 *   connection and could take the last replies with it), `LINGER_MS` at most.
 * - Who takes no replies while others wait for the memory that they hold is cut off after `stallMs`.
 */
import type { Socket } from 'node:net';
import { Account, type Budget } from './budget.ts';
import type { BufferPool } from './buffer-pool.ts';
import { ByteQueue } from './byte-queue.ts';
import { negotiate, type Channel, type Offer, type Session } from './handshake.ts';
import { Output } from './output.ts';
import { receiveInto } from './receive.ts';
import type { TlsServer } from './tls.ts';
import { Transmission } from './transmission.ts';

/** How long a client may take, in milliseconds. */
export interface Deadlines {
  /** To open an export. */
  readonly handshakeMs: number;
  /** To take any part of its replies while others wait for the memory. */
  readonly stallMs: number;
}

export const DEADLINES: Deadlines = { handshakeMs: 30_000, stallMs: 10_000 };
const LINGER_MS = 2_000;
const KEEP_ALIVE_MS = 60_000;
/** Bytes a client may send ahead of the handshake. */
const MAX_AHEAD_BYTES = 65_536;
/**
 * What one client may hold of the server's memory, if it holds more than one request. More would make
 * nothing faster: it is what one job of the engine reads.
 */
const ACCOUNT_BYTES = 8 * 1024 * 1024;

/** What all connections of a server share. */
export interface Shared {
  readonly offer: Offer;
  readonly pool: BufferPool;
  readonly budget: Budget;
  /** One read of a socket at most; one buffer serves all of them. */
  readonly buffer: Buffer;
  readonly tls: TlsServer | undefined;
  readonly deadlines: Deadlines;
}

export class Connection {
  #socket: Socket;
  readonly #shared: Shared;
  readonly #account: Account;
  readonly #input = new ByteQueue();
  #transmission: Transmission | undefined;
  #output: Output | undefined;
  #exportName: string | undefined;
  /** Wakes whoever waits for bytes in the handshake. */
  #arrived: (() => void) | undefined;
  /** The client will send nothing more. */
  #inputEnded = false;
  #ending = false;
  #lingerTimer: NodeJS.Timeout | undefined;
  #socketClosed: () => void = () => undefined;
  /** Resolves when the socket is closed and nothing of this client is in flight. */
  readonly closed: Promise<void>;

  constructor(accepted: Socket, shared: Shared) {
    this.#shared = shared;
    this.#account = new Account(shared.budget, ACCOUNT_BYTES);
    const socket = receiveInto(shared.buffer, accepted, (bytes) => this.#receive(bytes));
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    this.#socket = socket;
    this.#watch(socket);
    const socketClosed = new Promise<void>((resolve) => (this.#socketClosed = resolve));
    let idle: () => void = () => undefined;
    const whenIdle = new Promise<void>((resolve) => (idle = resolve));
    this.closed = Promise.all([socketClosed, whenIdle]).then(() => this.#account.close());
    void this.#run(idle);
  }

  /** Refuses new requests, finishes those in flight, and closes. */
  async stop(): Promise<void> {
    if (this.#transmission === undefined) this.#end();
    else this.#transmission.stop();
    await this.closed;
  }

  /** Cuts the connection. */
  destroy(): void {
    this.#socket.destroy();
  }

  /** Whether an export is open. */
  get transmitting(): boolean {
    return this.#transmission !== undefined;
  }

  /** The export that was opened, if one was. */
  get exportName(): string | undefined {
    return this.#exportName;
  }

  /** Called every second or so: nobody may hold for nothing what others wait for. */
  sweep(nowMs: number): void {
    this.#transmission?.sweep(nowMs);
    const stalledMs = this.#output?.stalledMs(nowMs) ?? 0;
    if (stalledMs < this.#shared.deadlines.stallMs || !this.#shared.budget.isShort) return;
    this.#shared.offer.report('a client that takes no replies was cut off: others need the memory');
    this.destroy();
  }

  #watch(socket: Socket): void {
    socket.on('end', () => this.#endInput());
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      if (socket !== this.#socket) return;
      this.#endInput();
      clearTimeout(this.#lingerTimer);
      this.#socketClosed();
    });
  }

  async #run(idle: () => void): Promise<void> {
    const { offer, deadlines } = this.#shared;
    const deadline = setTimeout(() => this.#socket.destroy(), deadlines.handshakeMs);
    const session = await negotiate(this.#channel(), offer);
    clearTimeout(deadline);
    if (session === undefined || this.#ending) {
      this.#end();
      idle();
      return;
    }
    const transmission = this.#transmit(session, idle);
    this.#socket.resume();
    if (offer.stopping) transmission.stop();
    else transmission.receive();
    if (this.#inputEnded) transmission.finish();
  }

  #transmit(session: Session, idle: () => void): Transmission {
    const { pool, offer } = this.#shared;
    const account = this.#account;
    const socket = this.#socket;
    this.#exportName = session.export.name;
    const parts = { pool, account, form: session.form };
    const output = new Output(socket, parts, () => this.#transmission?.progress());
    this.#output = output;
    this.#transmission = new Transmission(
      { session, input: this.#input, output, pool, account },
      {
        report: offer.report,
        pause: () => socket.pause(),
        resume: () => socket.resume(),
        ended: () => {
          this.#end();
          idle();
        },
      },
    );
    return this.#transmission;
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
    const socket = this.#socket;
    socket.end();
    socket.resume();
    if (this.#inputEnded) socket.destroySoon();
    else socket.once('end', () => socket.destroySoon());
    this.#lingerTimer = setTimeout(() => socket.destroy(), LINGER_MS);
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
      secure: (bytes) => this.#secure(bytes),
    };
  }

  /** What was sent before the TLS handshake and is not part of it may be an attacker's: the end. */
  async #secure(bytes: Uint8Array): Promise<boolean> {
    const { tls, offer } = this.#shared;
    if (tls === undefined || this.#input.length > 0 || this.#ending) return false;
    const plain = this.#socket;
    plain.write(bytes);
    try {
      const secured = await tls.accept(plain);
      if (this.#ending || plain.destroyed) {
        secured.destroy();
        return false;
      }
      this.#socket = secured;
      this.#watch(secured);
      secured.on('data', (chunk: Buffer) => this.#receive(chunk));
      return true;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      offer.report(`a client failed to start TLS: ${reason}`);
      return false;
    }
  }
}
