/**
 * Where a server listens: a Unix socket, a TCP address, or descriptors that somebody else opened.
 * Checks that the address makes sense, takes over a socket that a killed server left behind, and
 * spells the address as an NBD URI.
 */
import fs from 'node:fs';
import net from 'node:net';
import { VdoError } from '../base/errors.ts';
import { DEFAULT_PORT } from './protocol.ts';

const DEFAULT_HOST = '127.0.0.1';

/** Where to listen: a Unix socket, or else an address (127.0.0.1:10809 by default), or descriptors. */
export interface ListenOptions {
  readonly socket?: string;
  readonly host?: string;
  /** 0 picks a free one. */
  readonly port?: number;
  /** Sockets that listen already, as systemd hands them over. */
  readonly fds?: readonly number[];
}

export type ServerAddress =
  { readonly socket: string } | { readonly host: string; readonly port: number };

/** Whether the address belongs to this machine alone. */
export function isLoopback(host: string): boolean {
  if (host === 'localhost' || host === '::1') return true;
  return net.isIPv4(host) && host.startsWith('127.');
}

/** Fails with `InvalidArgument` for an address that makes no sense, or that others reach without TLS. */
export function checkAddress(options: ListenOptions, secured: boolean): void {
  const { socket, host, port, fds } = options;
  const isAddress = host !== undefined || port !== undefined;
  if ([socket !== undefined, isAddress, fds !== undefined].filter(Boolean).length > 1) {
    throw new VdoError('InvalidArgument', 'serve on a socket or on a host and port, not on both');
  }
  if (socket !== undefined && process.platform !== 'win32' && Buffer.byteLength(socket) > 107) {
    throw new VdoError('InvalidArgument', `the path of a socket is at most 107 bytes: ${socket}`);
  }
  if (host !== undefined) checkReach(host, secured);
  if (port !== undefined && (!Number.isInteger(port) || port < 0 || port > 65_535)) {
    throw new VdoError('InvalidArgument', `there is no port ${port}`);
  }
}

function checkReach(host: string, secured: boolean): void {
  if (secured || isLoopback(host)) return;
  throw new VdoError(
    'InvalidArgument',
    `${host} is not loopback: without TLS anyone who reaches it could read and write the volume; ` +
      'give --tls-cert and --tls-key, or serve on 127.0.0.1 or a Unix socket and tunnel it (ssh -L)',
  );
}

/**
 * Makes servers listen: one, or one a descriptor. Fails with `Busy` if another server has the address,
 * `InvalidArgument` for a descriptor that others reach without TLS, `Io` otherwise.
 */
export async function listenOn(
  options: ListenOptions,
  secured: boolean,
  accept: (socket: net.Socket) => void,
): Promise<{ servers: net.Server[]; addresses: ServerAddress[] }> {
  const create = (): net.Server =>
    net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, accept);
  const servers: net.Server[] = [];
  const addresses: ServerAddress[] = [];
  try {
    for (const fd of options.fds ?? [undefined]) {
      const server = create();
      servers.push(server);
      if (fd === undefined) await listen(server, options);
      else await listenOnFd(server, fd);
      server.on('error', () => undefined);
      const address = addressOf(server, options.socket);
      if (fd !== undefined && 'host' in address) checkReach(address.host, secured);
      addresses.push(address);
    }
  } catch (error) {
    for (const server of servers) server.close();
    throw error;
  }
  return { servers, addresses };
}

async function listenOnFd(server: net.Server, fd: number): Promise<void> {
  try {
    await listening(server, { fd });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new VdoError('Io', `cannot listen on descriptor ${fd}: ${reason}`, { fd }, error);
  }
}

async function listen(server: net.Server, options: ListenOptions): Promise<void> {
  const { socket, host = DEFAULT_HOST, port = DEFAULT_PORT } = options;
  const once = (): Promise<void> =>
    listening(server, socket === undefined ? { host, port } : { path: socket });
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

function listening(
  server: net.Server,
  options: net.ListenOptions & { fd?: number },
): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ ...options, exclusive: true }, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** Whether the path is a socket that a killed server left behind. Anything else is never removed. */
export async function isStale(path: string): Promise<boolean> {
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

function addressOf(server: net.Server, socket: string | undefined): ServerAddress {
  if (socket !== undefined) return { socket };
  const address = server.address();
  if (typeof address === 'string') return { socket: address };
  // Of a Unix socket that was handed over Node may not know the path.
  if (address === null || address.port === undefined) return { socket: '' };
  return { host: address.address, port: address.port };
}

/** The NBD URI of an export. */
export function uriOf(address: ServerAddress, exportName: string, secured: boolean): string {
  const name = encodeURIComponent(exportName);
  const scheme = secured ? 'nbds' : 'nbd';
  if ('socket' in address) {
    const path = encodeURIComponent(address.socket).replaceAll('%2F', '/');
    return `${scheme}+unix:///${name}?socket=${path}`;
  }
  const host = net.isIPv6(address.host) ? `[${address.host}]` : address.host;
  return `${scheme}://${host}:${address.port}/${name}`;
}
