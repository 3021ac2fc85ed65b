/**
 * TLS as a client: certificates from a folder in libnbd's and GnuTLS's layout, the system's own
 * authorities without one, or a key that both sides know.
 */
import fs from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import type { ConnectionOptions } from 'node:tls';
import { VdoError } from '../base/errors.ts';
import type { NbdUri } from './uri.ts';

const MIN_VERSION = 'TLSv1.2';

/**
 * What `tls.connect` needs for this URI, which must ask for TLS. Fails with `InvalidArgument` for files
 * that cannot be read or hold no key.
 */
export function tlsOptionsOf({ address, tls, text }: NbdUri): ConnectionOptions {
  if (tls === undefined) throw new VdoError('InvalidArgument', `${text} does not ask for TLS`);
  if (tls.pskFile !== undefined) return pskOptions(tls.pskFile, tls.user);
  const host = tls.hostname ?? ('path' in address ? 'localhost' : address.host);
  const options: ConnectionOptions = {
    // What the certificate must say; the server is told only names, as TLS has it.
    host,
    ...(net.isIP(host) === 0 ? { servername: host } : {}),
    rejectUnauthorized: tls.verifyPeer,
    minVersion: MIN_VERSION,
  };
  if (tls.certificates === undefined) return options;
  const file = (name: string): string => join(tls.certificates!, name);
  if (!fs.existsSync(tls.certificates)) throw unreadable(tls.certificates, 'there is no such folder'); // prettier-ignore
  if (fs.existsSync(file('ca-cert.pem'))) options.ca = contents(file('ca-cert.pem'));
  if (fs.existsSync(file('client-cert.pem'))) {
    options.cert = contents(file('client-cert.pem'));
    options.key = contents(file('client-key.pem'));
  }
  return options;
}

/** Node offers keys known to both sides with TLS 1.2 ciphers only. */
function pskOptions(path: string, user: string | undefined): ConnectionOptions {
  const lines = contents(path).toString('utf8').split('\n');
  const wanted = user ?? process.env['USER'] ?? 'qemu';
  const line = lines.find((one) => one.startsWith(`${wanted}:`));
  if (line === undefined) throw unreadable(path, `it has no line for the user '${wanted}'`);
  const hex = line.slice(wanted.length + 1).trim();
  if (!/^(?:[0-9a-f]{2})+$/i.test(hex)) throw unreadable(path, `the key of '${wanted}' is not hexadecimal`); // prettier-ignore
  return {
    minVersion: MIN_VERSION,
    maxVersion: 'TLSv1.2',
    ciphers: 'PSK:@SECLEVEL=0',
    checkServerIdentity: () => undefined,
    pskCallback: () => ({ psk: Buffer.from(hex, 'hex'), identity: wanted }),
  };
}

function contents(path: string): Buffer {
  try {
    return fs.readFileSync(path);
  } catch (error) {
    throw unreadable(path, error instanceof Error ? error.message : String(error), error);
  }
}

function unreadable(path: string, why: string, cause?: unknown): VdoError {
  return new VdoError('InvalidArgument', `cannot use ${path} for TLS: ${why}`, { path }, cause);
}
