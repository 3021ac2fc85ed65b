/**
 * NBD URIs: `nbd://host[:port]/export`, `nbd+unix:///export?socket=PATH`, and `nbds://…`,
 * `nbds+unix://…` for TLS. docs/NBD.md lists the parameters.
 *
 * A parameter that is not known is refused: one that asks for security must not get lost in silence.
 */
import fs from 'node:fs';
import net from 'node:net';
import { VdoError } from '../base/errors.ts';
import { DEFAULT_PORT, MAX_STRING_BYTES } from '../nbd/protocol.ts';

export type NbdAddress =
  { readonly path: string } | { readonly host: string; readonly port: number };

/** How a client proves who it is and what it demands of the server. */
export interface NbdTls {
  /** The name that the server's certificate must carry; default: the host. */
  readonly hostname?: string;
  /** A folder with `ca-cert.pem`, and perhaps `client-cert.pem` and `client-key.pem`. */
  readonly certificates?: string;
  /** A file of lines `user:hexadecimal key`; then no certificates are used. */
  readonly pskFile?: string;
  /** The line of that file. */
  readonly user?: string;
  readonly verifyPeer: boolean;
}

export interface NbdUri {
  /** As it was given, for messages. */
  readonly text: string;
  readonly address: NbdAddress;
  readonly exportName: string;
  /** Absent: in the clear. */
  readonly tls?: NbdTls;
}

/** Whether the text means a server, not a file. */
export function isNbdUri(text: string): boolean {
  return /^nbds?(?:\+[a-z0-9.-]*)?:/i.test(text) && text.includes('://');
}

/** Fails with `InvalidArgument`, and says what is wrong with the text. */
export function parseNbdUri(text: string): NbdUri {
  const bad = (why: string): VdoError =>
    new VdoError('InvalidArgument', `${text}: ${why}`, { uri: text });
  const parts = /^(nbds?)(\+[^:]*)?:\/\/([^/?#]*)(\/[^?#]*)?(?:\?([^#]*))?$/i.exec(text);
  if (parts === null) throw bad('not an NBD URI, which is nbd://host:port/export');
  const [, scheme = '', transport = '', authority = '', path = '', query = ''] = parts;
  const decode = (part: string): string => {
    try {
      return decodeURIComponent(part);
    } catch {
      throw bad(`'${part}' is not well encoded`);
    }
  };
  const exportName = decode(path.slice(1));
  if (Buffer.byteLength(exportName) > MAX_STRING_BYTES || exportName.includes('\0')) {
    throw bad(`no export can have this name`);
  }
  const parameters = parametersOf(query, decode, bad);
  const secure = scheme.toLowerCase() === 'nbds';
  const at = authority.lastIndexOf('@');
  const user = at < 0 ? undefined : decode(authority.slice(0, at));
  const tls = tlsOf(parameters, user);
  const asked = Object.keys(tls).length > 1 || !tls.verifyPeer;
  if (!secure && asked) throw bad('TLS parameters, or a user, belong to nbds:// only');
  const address = addressOf(transport.toLowerCase(), authority.slice(at + 1), parameters, bad);
  return { text, address, exportName, ...(secure ? { tls } : {}) };
}

const PARAMETERS = [
  'socket',
  'tls-type',
  'tls-hostname',
  'tls-certificates',
  'tls-verify-peer',
  'tls-psk-file',
];

/** By hand: in a form a `+` is a space, in a URI it is itself. */
function parametersOf(
  query: string,
  decode: (part: string) => string,
  bad: (why: string) => VdoError,
): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const pair of query.split('&')) {
    if (pair === '') continue;
    const [name = '', ...rest] = pair.split('=');
    const key = decode(name);
    if (!PARAMETERS.includes(key)) throw bad(`the parameter '${key}' is not known`);
    found.set(key, decode(rest.join('=')));
  }
  const type = found.get('tls-type');
  if (type !== undefined && type !== 'x509' && type !== 'psk') {
    throw bad(`tls-type is x509 or psk, not '${type}'`);
  }
  const verify = found.get('tls-verify-peer');
  if (verify !== undefined && !/^(?:true|false|1|0)$/.test(verify)) {
    throw bad(`tls-verify-peer is true or false, not '${verify}'`);
  }
  const psk = found.has('tls-psk-file');
  if ((type === 'psk' && !psk) || (type === 'x509' && psk)) {
    throw bad('tls-type=psk goes with tls-psk-file');
  }
  return found;
}

function tlsOf(parameters: ReadonlyMap<string, string>, user: string | undefined): NbdTls {
  const hostname = parameters.get('tls-hostname');
  const certificates = parameters.get('tls-certificates');
  const pskFile = parameters.get('tls-psk-file');
  return {
    verifyPeer: !/^(?:false|0)$/.test(parameters.get('tls-verify-peer') ?? 'true'),
    ...(hostname === undefined ? {} : { hostname }),
    ...(certificates === undefined ? {} : { certificates }),
    ...(pskFile === undefined ? {} : { pskFile }),
    ...(user === undefined ? {} : { user }),
  };
}

function addressOf(
  transport: string,
  authority: string,
  parameters: ReadonlyMap<string, string>,
  bad: (why: string) => VdoError,
): NbdAddress {
  const socket = parameters.get('socket');
  if (transport === '+unix') {
    if (authority !== '') throw bad('a Unix socket has no host: write nbd+unix:///export?socket=PATH'); // prettier-ignore
    if (socket === undefined || socket === '') throw bad('which socket? add ?socket=PATH');
    return { path: socket };
  }
  if (transport !== '') throw bad(`'${transport.slice(1)}' is no way to reach a server here`);
  if (socket !== undefined) throw bad('a socket belongs to nbd+unix://');
  const parts = /^(\[[0-9a-f:.%]+\]|[^:[\]]*)(?::(\d*))?$/i.exec(authority);
  if (parts === null) throw bad(`'${authority}' is not a host and a port`);
  const [, host = '', digits = ''] = parts;
  const port = digits === '' ? DEFAULT_PORT : Number(digits);
  if (port < 1 || port > 65_535) throw bad(`there is no port ${digits}`);
  const name = host.startsWith('[') ? host.slice(1, -1) : host;
  return { host: name === '' ? 'localhost' : name.toLowerCase(), port };
}

/** One text for all spellings of an export that can be told to be the same. */
export function canonicalUri({ address, exportName }: NbdUri): string {
  if ('path' in address) {
    let path = address.path;
    try {
      path = fs.realpathSync(path);
    } catch {
      // It is not there, or not a path of this system: then its spelling is all there is.
    }
    return `unix:${path}:${exportName}`;
  }
  const loopback = address.host === 'localhost' || address.host === '::1';
  const host = loopback || /^127\./.test(address.host) ? '127.0.0.1' : address.host;
  return `tcp:${net.isIPv6(host) ? `[${host}]` : host}:${address.port}:${exportName}`;
}
