/**
 * The NBD server: gives every client a connection, shares memory among them, and stops without losing
 * what was acknowledged.
 *
 * Invariants:
 * - What all clients together make it hold is bounded (`memoryBytes`).
 * - Beyond this machine nothing but TLS is spoken.
 * - Clients that have opened an export are safe from those who only connect: of the latter
 *   `MAX_HANDSHAKES` are heard at a time, and one too many takes the place of the oldest.
 */
import type { Socket } from 'node:net';
import { VdoError } from '../base/errors.ts';
import { Budget } from './budget.ts';
import { BufferPool } from './buffer-pool.ts';
import { Connection, DEADLINES, type Deadlines, type Shared } from './connection.ts';
import { makeExports, type ExportOptions } from './export.ts';
import type { Offer } from './handshake.ts';
import {
  checkAddress,
  isLoopback,
  listenOn,
  uriOf,
  type ListenOptions,
  type ServerAddress,
} from './listen.ts';
import { MAX_SERVED_BYTES } from './protocol.ts';
import { createTlsServer, type TlsOptions } from './tls.ts';

const MAX_CONNECTIONS = 512;
const MAX_HANDSHAKES = 128;
const RECEIVE_BYTES = 256 * 1024;
/** Idle buffers that all connections share. */
const POOL_BYTES = 32 * 1024 * 1024;
const DEFAULT_MEMORY_BYTES = 128 * 1024 * 1024;
/** The largest request must fit. */
export const MIN_MEMORY_BYTES = MAX_SERVED_BYTES + 8 * 1024 * 1024;
const SWEEP_MS = 1000;

export interface ServeOptions extends ListenOptions {
  /** Speak TLS: always, unless it says that it is optional. */
  readonly tls?: TlsOptions;
  /** Bytes of requests in flight and of replies not taken, of all clients. Default 128 MiB. */
  readonly memoryBytes?: number;
  /** How long clients may take: see docs/NBD.md. */
  readonly deadlines?: Partial<Deadlines>;
  /** Told what failed on a device, in one line. */
  readonly report?: (message: string) => void;
  /** Told when clients come and go, in one line. */
  readonly trace?: (message: string) => void;
  /** Called when the last client that had an export open has left. */
  readonly onIdle?: () => void;
}

export interface NbdServer {
  readonly address: ServerAddress;
  /** Clients that are connected. */
  readonly clients: number;
  /** Bytes that clients hold now, at most so far, and may hold. */
  readonly memory: { readonly used: number; readonly most: number; readonly limit: number };
  /** The NBD URI of an export; of the default one without a name. */
  uri(exportName?: string): string;
  /**
   * Takes no more clients and requests, finishes those in flight, flushes every volume. The volumes
   * stay open. Fails if a flush does.
   */
  close(): Promise<void>;
}

/**
 * Serves the exports; the first is the default one. Fails with `InvalidArgument` for names, addresses
 * or certificates that make no sense, `Busy` if another server has the address, `Io` otherwise.
 */
export async function serve(
  exports: readonly ExportOptions[],
  options: ServeOptions = {},
): Promise<NbdServer> {
  const { tls, memoryBytes = DEFAULT_MEMORY_BYTES } = options;
  checkOptions(options);
  const offered = makeExports(exports);
  let stopping = false;
  const offer: Offer = {
    exports: offered,
    tls: tls === undefined ? 'none' : tls.optional === true ? 'allow' : 'require',
    get stopping() {
      return stopping;
    },
    report: options.report ?? (() => undefined),
  };
  const budget = new Budget(memoryBytes);
  const clients = new Clients(
    {
      offer,
      budget,
      pool: new BufferPool(POOL_BYTES),
      buffer: Buffer.allocUnsafeSlow(RECEIVE_BYTES),
      tls: tls === undefined ? undefined : createTlsServer(tls),
      deadlines: { ...DEADLINES, ...options.deadlines },
    },
    options,
  );
  const secured = tls !== undefined;
  const { servers, addresses } = await listenOn(
    options,
    secured && tls.optional !== true,
    (socket) => (stopping ? socket.destroy() : clients.accept(socket)),
  );
  let closing: Promise<void> | undefined;

  const close = async (): Promise<void> => {
    const stopped = servers.map((one) => new Promise((resolve) => one.close(resolve)));
    stopping = true;
    await clients.stop((one) => one.transmitting);
    const devices = new Set(offered.filter((one) => !one.readOnly).map((one) => one.device));
    const flushed = await Promise.allSettled([...devices].map((device) => device.flush()));
    await clients.stop(() => true);
    await Promise.all(stopped);
    for (const result of flushed) if (result.status === 'rejected') throw result.reason;
  };

  return {
    address: addresses[0]!,
    get clients() {
      return clients.count;
    },
    get memory() {
      return { used: budget.usedBytes, most: budget.mostBytes, limit: budget.limitBytes };
    },
    uri: (exportName = '') => uriOf(addresses[0]!, exportName, secured && tls.optional !== true),
    close: () => (closing ??= close()),
  };
}

/** Fails with `InvalidArgument` for options that make no sense or would be unsafe. */
export function checkOptions({ tls, memoryBytes, ...address }: ServeOptions): void {
  checkAddress(address, tls !== undefined);
  if (tls?.optional === true && address.host !== undefined && !isLoopback(address.host)) {
    throw new VdoError('InvalidArgument', `on ${address.host} TLS cannot be optional`);
  }
  if (memoryBytes !== undefined && !(memoryBytes >= MIN_MEMORY_BYTES)) {
    throw new VdoError(
      'InvalidArgument',
      `${memoryBytes} bytes of memory are too few: the largest request needs ${MIN_MEMORY_BYTES}`,
    );
  }
}

/** The connections of a server, and the timer that looks after them while there are any. */
class Clients {
  readonly #shared: Shared;
  readonly #hooks: Pick<ServeOptions, 'trace' | 'onIdle'>;
  readonly #open = new Set<Connection>();
  /** Those of them that have no export yet, oldest first. */
  readonly #handshaking = new Set<Connection>();
  #timer: NodeJS.Timeout | undefined;

  constructor(shared: Shared, hooks: Pick<ServeOptions, 'trace' | 'onIdle'>) {
    this.#shared = shared;
    this.#hooks = hooks;
  }

  get count(): number {
    return this.#open.size;
  }

  accept(socket: Socket): void {
    for (const one of this.#handshaking) if (one.transmitting) this.#handshaking.delete(one);
    if (this.#open.size - this.#handshaking.size >= MAX_CONNECTIONS) return void socket.destroy();
    if (this.#handshaking.size >= MAX_HANDSHAKES) {
      const [oldest] = this.#handshaking;
      this.#handshaking.delete(oldest!);
      oldest!.destroy();
    }
    const connection = new Connection(socket, this.#shared);
    this.#open.add(connection);
    this.#handshaking.add(connection);
    this.#timer ??= setInterval(() => this.#sweep(), SWEEP_MS).unref();
    this.#hooks.trace?.(`a client came: ${this.#open.size} are here`);
    void connection.closed.then(() => this.#leave(connection));
  }

  async stop(which: (one: Connection) => boolean): Promise<void> {
    await Promise.all([...this.#open].filter(which).map((one) => one.stop()));
  }

  #leave(connection: Connection): void {
    this.#open.delete(connection);
    this.#handshaking.delete(connection);
    if (this.#open.size === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
    const had = connection.exportName;
    const what = had === undefined ? 'without opening an export' : `of ${JSON.stringify(had)}`;
    this.#hooks.trace?.(`a client ${what} left: ${this.#open.size} are here`);
    if (had !== undefined && ![...this.#open].some((one) => one.transmitting)) {
      this.#hooks.onIdle?.();
    }
  }

  #sweep(): void {
    if (this.#shared.budget.usedBytes === 0) return;
    const nowMs = performance.now();
    for (const connection of this.#open) connection.sweep(nowMs);
  }
}
