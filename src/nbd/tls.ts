/**
 * TLS of the server: which certificate or keys it has, and the handshake on a socket that has spoken
 * NBD in the clear so far.
 *
 * Node's own `tls.Server` does the handshake, one for each connection: only so can the secured socket
 * be told apart from others that are being secured at the same time. It also checks the client's
 * certificate where `ca` is given.
 */
import type { Socket } from 'node:net';
import tls from 'node:tls';
import { VdoError } from '../base/errors.ts';

const HANDSHAKE_MS = 10_000;
const PSK_HINT = 'uvdo';

export interface TlsOptions {
  /** PEM. */
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  /** PEM: clients must show a certificate that one of these signed. */
  readonly ca?: string | Buffer;
  /** Pre-shared keys by user name, instead of a certificate or beside it. */
  readonly psk?: ReadonlyMap<string, Buffer>;
  /** Take clients that do not start TLS as well. Only for sockets and loopback addresses. */
  readonly optional?: boolean;
}

export interface TlsServer {
  /** Speaks TLS on the socket from now on. Fails if the client does not, or shows no good certificate. */
  accept(plain: Socket): Promise<tls.TLSSocket>;
}

/** Checks certificate and keys. Fails with `InvalidArgument`. */
export function createTlsServer({ cert, key, ca, psk }: TlsOptions): TlsServer {
  if ((cert === undefined) !== (key === undefined)) {
    throw new VdoError(
      'InvalidArgument',
      'a TLS certificate needs its key, and a key its certificate',
    );
  }
  if (cert === undefined && psk === undefined) {
    throw new VdoError(
      'InvalidArgument',
      'TLS needs a certificate with its key, or pre-shared keys',
    );
  }
  const options: tls.TlsOptions = {
    minVersion: 'TLSv1.2',
    handshakeTimeout: HANDSHAKE_MS,
    ...(cert === undefined || key === undefined ? {} : { cert, key }),
    ...(ca === undefined ? {} : { ca, requestCert: true, rejectUnauthorized: true }),
    ...(psk === undefined ? {} : pskOptions(psk, cert === undefined)),
  };
  try {
    tls.createSecureContext(options);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new VdoError('InvalidArgument', `TLS cannot use these files: ${reason}`, {}, error);
  }
  return { accept: (plain) => accept(options, plain) };
}

function accept(options: tls.TlsOptions, plain: Socket): Promise<tls.TLSSocket> {
  return new Promise((resolve, reject) => {
    const server = tls.createServer(options, resolve);
    server.on('tlsClientError', reject);
    plain.once('close', () => reject(new Error('the client is gone')));
    server.emit('connection', plain);
  });
}

function pskOptions(keys: ReadonlyMap<string, Buffer>, only: boolean): tls.TlsOptions {
  return {
    pskIdentityHint: PSK_HINT,
    pskCallback: (_socket: tls.TLSSocket, identity: string) => keys.get(identity) ?? null,
    ciphers: only
      ? 'TLS_AES_128_GCM_SHA256:PSK'
      : `TLS_AES_128_GCM_SHA256:${tls.DEFAULT_CIPHERS}:PSK`,
  } as tls.TlsOptions;
}

/**
 * Keys from a file as GnuTLS' `psktool` writes it: a line `user:hex` for each. Fails with
 * `InvalidArgument`.
 */
export function parsePskFile(text: string, path: string): ReadonlyMap<string, Buffer> {
  const keys = new Map<string, Buffer>();
  for (const [i, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    const [, user, hex] = /^([^:]+):((?:[0-9a-fA-F]{2})+)\s*$/.exec(line) ?? [];
    if (user === undefined || hex === undefined) {
      throw new VdoError('InvalidArgument', `${path}, line ${i + 1}: not of the form user:hex`);
    }
    keys.set(user, Buffer.from(hex, 'hex'));
  }
  if (keys.size === 0) throw new VdoError('InvalidArgument', `${path} holds no keys`);
  return keys;
}
