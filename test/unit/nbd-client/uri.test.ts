import { describe, expect, it } from 'vitest';
import { VdoError } from '../../../src/base/errors.ts';
import { canonicalUri, isNbdUri, parseNbdUri } from '../../../src/nbd-client/uri.ts';

describe('an NBD URI', () => {
  it.each([
    ['nbd://host', { host: 'host', port: 10809 }, ''],
    ['nbd://host/', { host: 'host', port: 10809 }, ''],
    ['NBD://Host:99/a/b', { host: 'host', port: 99 }, 'a/b'],
    ['nbd:///disk', { host: 'localhost', port: 10809 }, 'disk'],
    ['nbd://host//absolute', { host: 'host', port: 10809 }, '/absolute'],
    ['nbd://[::1]:5/x%20y%C3%A4', { host: '::1', port: 5 }, 'x yä'],
    ['nbd+unix:///?socket=/run/s', { path: '/run/s' }, ''],
    ['nbd+unix:///disk?socket=/run/a+b%3F', { path: '/run/a+b?' }, 'disk'],
  ])('%s', (text, address, exportName) => {
    expect(isNbdUri(text)).toBe(true);
    expect(parseNbdUri(text)).toEqual({ text, address, exportName });
  });

  it('asks for TLS in its scheme, and how in its parameters', () => {
    expect(parseNbdUri('nbds://host/x').tls).toEqual({ verifyPeer: true });
    const uri = 'nbds://ann@host/x?tls-hostname=vm&tls-certificates=/etc/pki&tls-verify-peer=false';
    expect(parseNbdUri(uri).tls).toEqual({
      user: 'ann',
      hostname: 'vm',
      certificates: '/etc/pki',
      verifyPeer: false,
    });
    expect(parseNbdUri('nbds+unix:///x?socket=s&tls-psk-file=k').tls).toEqual({
      verifyPeer: true,
      pskFile: 'k',
    });
  });

  it.each([
    ['nbd:/host', /not an NBD URI/],
    ['nbd://ho st:1x/', /not a host and a port/],
    ['nbd://host:0/', /no port 0/],
    ['nbd://host:65536/', /no port/],
    ['nbd://host/%zz', /not well encoded/],
    ['nbd://host/%00', /no export can have this name/],
    [`nbd://host/${'x'.repeat(4097)}`, /no export can have this name/],
    ['nbd://host/x?socket=/s', /belongs to nbd\+unix/],
    ['nbd+unix:///x', /add \?socket=PATH/],
    ['nbd+unix://host/x?socket=/s', /has no host/],
    ['nbd+vsock://3/x', /'vsock' is no way/],
    ['nbds://host/x?tls-verfy-peer=true', /'tls-verfy-peer' is not known/],
    ['nbds://host/x?tls-verify-peer=maybe', /true or false/],
    ['nbds://host/x?tls-type=psk', /goes with tls-psk-file/],
    ['nbds://host/x?tls-type=ssh', /x509 or psk/],
    ['nbd://host/x?tls-certificates=/p', /belong to nbds/],
    ['nbd://ann@host/x', /belong to nbds/],
  ])('%s is refused', (text, words) => {
    expect(() => parseNbdUri(text)).toThrow(VdoError);
    expect(() => parseNbdUri(text)).toThrow(words);
  });

  it('is no path, and a path is none', () => {
    for (const text of ['nbd', './nbd:x', '/dev/nbd0', 'nbd:old', 'nbdx://y', '-']) {
      expect(isNbdUri(text)).toBe(false);
    }
  });

  it('means the same export as other spellings of it', () => {
    const canonical = (text: string): string => canonicalUri(parseNbdUri(text));
    expect(canonical('nbd://localhost:10809/x')).toBe(canonical('nbd://127.0.0.1/%78'));
    expect(canonical('nbds://host/x')).toBe(canonical('nbd://host/x'));
    expect(canonical('nbd+unix:///x?socket=/tmp/../tmp')).toBe(
      canonical('nbd+unix:///x?socket=/tmp'),
    );
    expect(canonical('nbd://host/x')).not.toBe(canonical('nbd://host/y'));
  });
});
