/** The options of `uvdo serve` that say where and how it listens. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { VdoError } from '../../src/base/errors.ts';
import { checkOptions, type ServeOptions } from '../../src/nbd/server.ts';
import { createTlsServer, parsePskFile, type TlsOptions } from '../../src/nbd/tls.ts';
import { wrapError } from '../../src/storage/open-file.ts';
import { wrongUsage, type Arguments, type Option } from './args.ts';

/** systemd hands sockets over from this descriptor on. */
const FIRST_FD = 3;
const MAX_FDS = 64;

export const LISTEN_OPTIONS: Readonly<Record<string, Option>> = {
  socket: { value: 'PATH', help: 'listen on a Unix socket' },
  host: { value: 'H', help: 'listen on this address; default 127.0.0.1; others need TLS' },
  port: { value: 'N', help: 'and this port; default 10809, 0 picks a free one' },
  'tls-cert': { value: 'F', help: 'speak TLS with this certificate (PEM); required of clients' },
  'tls-key': { value: 'F', help: 'and its private key' },
  'tls-ca': { value: 'F', help: 'take only clients whose certificate one of these CAs signed' },
  'tls-psk': { value: 'F', help: 'take clients with pre-shared keys: lines user:hex (psktool)' },
  'tls-optional': { help: 'take clients that do not start TLS as well; not beyond this machine' },
  memory: { value: 'SIZE', help: 'for requests in flight, of all clients; default 128M' },
};

/** Where and how to listen. Fails with `InvalidArgument`, or `Io` for a file that cannot be read. */
export function listenOptionsOf(args: Arguments): ServeOptions {
  const [socket, host, port] = [args.text('socket'), args.text('host'), args.number('port')];
  if (socket !== undefined && (host !== undefined || port !== undefined)) {
    throw wrongUsage('give either --socket or --host and --port');
  }
  const fds = inheritedSockets();
  if (fds !== undefined && (socket ?? host ?? port) !== undefined) {
    throw wrongUsage('the sockets come from the service manager: give no --socket, --host, --port');
  }
  const tls = tlsOf(args);
  const memoryBytes = args.size('memory');
  const options: ServeOptions = {
    ...(socket === undefined ? {} : { socket }),
    ...(host === undefined ? {} : { host }),
    ...(port === undefined ? {} : { port }),
    ...(fds === undefined ? {} : { fds }),
    ...(tls === undefined ? {} : { tls }),
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
  };
  checkOptions(options);
  return options;
}

function tlsOf(args: Arguments): TlsOptions | undefined {
  const read = (name: string): { text: string; path: string } | undefined => {
    const path = args.text(name);
    if (path === undefined) return undefined;
    try {
      return { text: readFileSync(path, 'utf8'), path };
    } catch (error) {
      throw wrapError('read', path, error);
    }
  };
  const [cert, key, ca, psk] = ['tls-cert', 'tls-key', 'tls-ca', 'tls-psk'].map(read);
  if ((cert ?? key ?? ca ?? psk) === undefined) {
    if (args.flag('tls-optional'))
      throw wrongUsage('--tls-optional: give --tls-cert and --tls-key');
    return undefined;
  }
  const options: TlsOptions = {
    ...(cert === undefined ? {} : { cert: cert.text }),
    ...(key === undefined ? {} : { key: key.text }),
    ...(ca === undefined ? {} : { ca: ca.text }),
    ...(psk === undefined ? {} : { psk: parsePskFile(psk.text, psk.path) }),
    optional: args.flag('tls-optional'),
  };
  createTlsServer(options);
  return options;
}

/**
 * The listening sockets that a service manager passed to this very process (LISTEN_PID, LISTEN_FDS),
 * which children do not inherit from here on.
 */
function inheritedSockets(): readonly number[] | undefined {
  const { LISTEN_PID: pid, LISTEN_FDS: count } = process.env;
  if (pid !== String(process.pid) || count === undefined) return undefined;
  const sockets = Number(count);
  if (!Number.isInteger(sockets) || sockets < 1 || sockets > MAX_FDS) {
    throw new VdoError('InvalidArgument', `LISTEN_FDS=${count}: no number of sockets`);
  }
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete process.env[name];
  return Array.from({ length: sockets }, (_, i) => FIRST_FD + i);
}

/** Writes this process' number to a file; returns what removes it again. */
export function writePidFile(path: string | undefined): () => void {
  if (path === undefined) return () => undefined;
  const text = `${process.pid}\n`;
  try {
    writeFileSync(path, text);
  } catch (error) {
    throw wrapError('write', path, error);
  }
  return () => {
    try {
      // Another server may have taken its place.
      if (readFileSync(path, 'utf8') === text) rmSync(path);
    } catch {
      // Gone already: somebody has tidied up.
    }
  };
}
