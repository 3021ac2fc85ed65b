/**
 * The NBD server: listens on a Unix socket or a loopback port, gives every client a connection, and
 * stops without losing what was acknowledged.
 *
 * The protocol is spoken in the clear, so that beyond this machine anybody could read and write the
 * exports: addresses that are not loopback are refused.
 */
import fs from 'node:fs';
import net from 'node:net';
import { VdoError } from '../base/errors.ts';
import { BufferPool } from './buffer-pool.ts';
import { Connection } from './connection.ts';
import { makeExports, type ExportOptions } from './export.ts';
import type { Offer } from './handshake.ts';
import { DEFAULT_PORT } from './protocol.ts';

const DEFAULT_HOST = '127.0.0.1';
const MAX_CONNECTIONS = 256;
/** One read of a socket at most; one buffer serves all of them. */
const RECEIVE_BYTES = 256 * 1024;
/** Idle buffers that all connections share. */
const POOL_BYTES = 32 * 1024 * 1024;

/** Where to listen: a Unix socket, or else a loopback address (127.0.0.1:10809 by default). */
export interface ServeOptions {
  readonly socket?: string;
  readonly host?: string;
  /** 0 picks a free one. */
  readonly port?: number;
  /** Told what failed on a device, in one line. */
  readonly report?: (message: string) => void;
}

export type ServerAddress =
  { readonly socket: string } | { readonly host: string; readonly port: number };

export interface NbdServer {
  readonly address: ServerAddress;
  /** Clients that are connected. */
  readonly clients: number;
  /** The NBD URI of an export; of the default one without a name. */
  uri(exportName?: string): string;
  /**
   * Takes no more clients and requests, finishes those in flight, flushes every volume. The volumes
   * stay open. Fails if a flush does.
   */
  close(): Promise<void>;
}

/**
 * Serves the exports; the first is the default one. Fails with `InvalidArgument` for names or
 * addresses that make no sense, `Busy` if another server has the address, `Io` otherwise.
 */
export async function serve(
  exports: readonly ExportOptions[],
  options: ServeOptions = {},
): Promise<NbdServer> {
  checkAddress(options);
  const offered = makeExports(exports);
  const pool = new BufferPool(POOL_BYTES);
  const connections = new Set<Connection>();
  let stopping = false;
  const offer: Offer = {
    exports: offered,
    get stopping() {
      return stopping;
    },
    report: options.report ?? (() => undefined),
  };
  const buffer = Buffer.allocUnsafeSlow(RECEIVE_BYTES);
  const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    if (connections.size >= MAX_CONNECTIONS || stopping) return void socket.destroy();
    const connection = new Connection(socket, offer, pool, buffer);
    connections.add(connection);
    void connection.closed.then(() => connections.delete(connection));
  });
  await listen(server, options);
  server.on('error', () => undefined);
  const address = addressOf(server, options);
  let closing: Promise<void> | undefined;

  const close = async (): Promise<void> => {
    const stopped = new Promise<void>((resolve) => server.close(() => resolve()));
    stopping = true;
    const open = [...connections];
    await Promise.all(open.filter(({ transmitting }) => transmitting).map((one) => one.stop()));
    const devices = new Set(offered.filter((one) => !one.readOnly).map((one) => one.device));
    const flushed = await Promise.allSettled([...devices].map((device) => device.flush()));
    await Promise.all([...connections].map((one) => one.stop()));
    await stopped;
    for (const result of flushed) if (result.status === 'rejected') throw result.reason;
  };

  return {
    address,
    get clients() {
      return connections.size;
    },
    uri: (exportName = '') => uriOf(address, exportName),
    close: () => (closing ??= close()),
  };
}

/** Whether the address belongs to this machine alone. */
export function isLoopback(host: string): boolean {
  if (host === 'localhost' || host === '::1') return true;
  return net.isIPv4(host) && host.startsWith('127.');
}

/** Fails with `InvalidArgument` for an address that makes no sense, or that others can reach. */
export function checkAddress({ socket, host, port }: ServeOptions): void {
  if (socket !== undefined) {
    if (host !== undefined || port !== undefined) {
      throw new VdoError('InvalidArgument', 'serve on a socket or on a host and port, not on both');
    }
    if (process.platform !== 'win32' && Buffer.byteLength(socket) > 107) {
      throw new VdoError('InvalidArgument', `the path of a socket is at most 107 bytes: ${socket}`);
    }
    return;
  }
  if (host !== undefined && !isLoopback(host)) {
    throw new VdoError(
      'InvalidArgument',
      `${host} is not loopback: without TLS anyone who reaches it could read and write the volume; ` +
        'serve on 127.0.0.1 or a Unix socket and tunnel it (ssh -L)',
    );
  }
  if (port !== undefined && (!Number.isInteger(port) || port < 0 || port > 65_535)) {
    throw new VdoError('InvalidArgument', `there is no port ${port}`);
  }
}

async function listen(server: net.Server, options: ServeOptions): Promise<void> {
  const { socket, host = DEFAULT_HOST, port = DEFAULT_PORT } = options;
  const once = (): Promise<void> =>
    new Promise((resolve, reject) => {
      server.once('error', reject);
      const ready = (): void => {
        server.off('error', reject);
        resolve();
      };
      if (socket === undefined) server.listen({ host, port, exclusive: true }, ready);
      else server.listen({ path: socket, exclusive: true }, ready);
    });
  const where = socket ?? `${host}:${port}`;
  try {
    await once();
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code !== 'EADDRINUSE') {
      const reason = error instanceof Error ? error.message : String(error);
      throw new VdoError('Io', `cannot listen on ${where}: ${reason}`, { address: where }, error);
    }
    if (socket === undefined || !(await isStale(socket))) {
      throw new VdoError('Busy', `${where} is in use by another server`, { address: where }, error);
    }
    fs.unlinkSync(socket);
    await once();
  }
}

/** Whether the path is a socket that a killed server left behind. Anything else is never removed. */
async function isStale(path: string): Promise<boolean> {
  if (fs.statSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return false;
  return new Promise((resolve) => {
    const probe = net.connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
}

function addressOf(server: net.Server, { socket }: ServeOptions): ServerAddress {
  if (socket !== undefined) return { socket };
  const address = server.address();
  if (address === null || typeof address === 'string') throw new VdoError('Io', 'no address');
  return { host: address.address, port: address.port };
}

function uriOf(address: ServerAddress, exportName: string): string {
  const name = encodeURIComponent(exportName);
  if ('socket' in address) {
    return `nbd+unix:///${name}?socket=${encodeURIComponent(address.socket).replaceAll('%2F', '/')}`;
  }
  const host = net.isIPv6(address.host) ? `[${address.host}]` : address.host;
  return `nbd://${host}:${address.port}/${name}`;
}
