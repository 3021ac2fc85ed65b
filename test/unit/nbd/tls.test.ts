import tls from 'node:tls';
import { describe, expect, it } from 'vitest';
import { serve } from '../../../src/nbd/server.ts';
import { createTlsServer, parsePskFile, type TlsOptions } from '../../../src/nbd/tls.ts';
import { codeOf } from '../../contract/storage.ts';
import { CA, CLIENT, SERVER, STRANGER } from '../../support/certificates.ts';
import { MemoryDevice } from '../../support/memory-device.ts';
import {
  ask,
  greet,
  infoPayload,
  NBD,
  NbdClient,
  NbdSocket,
  optionRequest,
  receiveOptionReply,
} from '../../support/nbd-client.ts';
import { World } from './support.ts';

const MiB = 1 << 20;
const KEY = Buffer.from('00112233445566778899aabbccddeeff', 'hex');

describe('an NBD server with TLS', () => {
  const world = World.each();
  const reports: string[] = [];
  const start = async (options: TlsOptions): Promise<MemoryDevice> => {
    reports.length = 0;
    world.current = new World();
    const volume = new MemoryDevice(4 * MiB);
    await world.current.serve([{ name: 'disk', volume }], reports, { tls: options });
    return volume;
  };
  /** A line on which TLS is spoken. */
  const secured = async (options: tls.ConnectionOptions): Promise<NbdSocket> => {
    const line = await world.current.line();
    await greet(line);
    await ask(line, NBD.STRUCTURED_REPLY).catch(() => undefined);
    expect((await ask(line, NBD.STARTTLS))[0]!.type).toBe(NBD.ACK);
    return line.secure(options);
  };
  const trust = { ca: CA, host: 'localhost' } as const;

  it('speaks nothing else where it is required', async () => {
    await start(SERVER);
    const line = await world.current.line();
    await greet(line);
    for (const option of [NBD.LIST, NBD.STRUCTURED_REPLY, NBD.EXTENDED_HEADERS, 99]) {
      expect((await ask(line, option))[0]!.type).toBe(NBD.ERR_TLS_REQD);
    }
    expect((await ask(line, NBD.GO, infoPayload('disk')))[0]!.type).toBe(NBD.ERR_TLS_REQD);
    expect((await ask(line, NBD.ABORT))[0]!.type).toBe(NBD.ACK);
    const old = await world.current.line();
    await greet(old);
    old.send(optionRequest(NBD.EXPORT_NAME, Buffer.from('disk')));
    expect((await old.untilClosed()).length).toBe(0);
  });

  it('serves through it, and forgets what was agreed before', async () => {
    const device = await start({ ...SERVER, optional: true });
    const line = await secured(trust);
    expect((await ask(line, NBD.LIST_META_CONTEXT))[0]!.type).toBe(NBD.ERR_INVALID);
    expect((await ask(line, NBD.STARTTLS))[0]!.type).toBe(NBD.ERR_INVALID);
    const client = await NbdClient.open(line, 'disk', { form: 'extended' });
    const bytes = Buffer.alloc(3 * MiB, 'through the tunnel ');
    await client.write(12_345, bytes);
    expect((await client.read(12_345, bytes.length)).equals(bytes)).toBe(true);
    expect(Buffer.from(device.bytes.subarray(12_345, 12_345 + bytes.length)).equals(bytes)).toBe(
      true,
    );
    await client.disconnect();
    expect((await world.current.client('disk')).size).toBe(4 * MiB);
  });

  it('takes only clients whose certificate its CA signed, where it has one', async () => {
    await start({ ...SERVER, ca: CA });
    const client = await NbdClient.open(await secured({ ...trust, ...CLIENT }), 'disk');
    await client.write(0, Buffer.from('signed'));
    for (const options of [trust, { ...trust, ...STRANGER }]) {
      const stranger = await secured(options);
      await expect(ask(stranger, NBD.LIST)).rejects.toThrow();
    }
    expect(reports).toHaveLength(2);
    expect(reports[0]).toContain('failed to start TLS');
    expect((await client.read(0, 6)).toString()).toBe('signed');
  });

  it('speaks with pre-shared keys, TLS 1.2 and 1.3', async () => {
    await start({ psk: new Map([['alice', KEY]]) });
    const psk = (identity: string, key: Buffer, version: tls.SecureVersion) => ({
      pskCallback: () => ({ identity, psk: key }),
      ciphers: 'PSK:TLS_AES_128_GCM_SHA256',
      minVersion: version,
      maxVersion: version,
      checkServerIdentity: () => undefined,
    });
    for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
      const client = await NbdClient.open(await secured(psk('alice', KEY, version)), 'disk');
      await client.write(0, Buffer.from(version));
      for (const wrong of [psk('bob', KEY, version), psk('alice', Buffer.alloc(16), version)]) {
        await expect(secured(wrong).then((line) => ask(line, NBD.LIST))).rejects.toThrow();
      }
    }
  });

  it('hangs up on bytes that were smuggled in before the handshake', async () => {
    await start(SERVER);
    const line = await world.current.line();
    await greet(line);
    line.send(optionRequest(NBD.STARTTLS), optionRequest(NBD.LIST));
    expect((await line.untilClosed()).length).toBe(0);
  });

  it('hangs up on a client that does not speak it, or goes away', async () => {
    await start(SERVER);
    for (const junk of [Buffer.from('GET / HTTP/1.0\r\n\r\n'), undefined]) {
      const line = await world.current.line();
      await greet(line);
      line.send(optionRequest(NBD.STARTTLS));
      expect((await receiveOptionReply(line)).type).toBe(NBD.ACK);
      if (junk === undefined) line.destroy();
      else {
        line.send(junk);
        await line.untilClosed();
      }
    }
    const good = await NbdClient.open(await secured(trust), 'disk');
    expect(good.size).toBe(4 * MiB);
  });

  it('is needed beyond this machine, and cannot be optional there', async () => {
    const exports = [{ name: 'a', volume: new MemoryDevice(MiB) }];
    const far = { host: '0.0.0.0', port: 0 };
    expect(await codeOf(serve(exports, { ...far, tls: { ...SERVER, optional: true } }))).toBe(
      'InvalidArgument',
    );
    const server = await serve(exports, { ...far, tls: SERVER });
    expect(server.uri('a')).toMatch(/^nbds:\/\/0\.0\.0\.0:\d+\/a$/);
    await server.close();
  });

  it('wants certificate and key, or keys, that make sense', () => {
    const bad: TlsOptions[] = [
      {},
      { cert: SERVER.cert },
      { key: SERVER.key },
      { cert: SERVER.cert, key: CLIENT.key },
      { cert: 'x', key: 'y' },
    ];
    for (const options of bad) {
      expect(() => createTlsServer(options)).toThrow(
        expect.objectContaining({ code: 'InvalidArgument' }),
      );
    }
    const keys = parsePskFile('alice:00112233\n\nbob:ff\n', 'keys');
    expect([...keys.keys()]).toEqual(['alice', 'bob']);
    for (const text of ['', 'alice', 'alice:0', 'alice:zz', ':00']) {
      expect(() => parsePskFile(text, 'keys')).toThrow('keys');
    }
  });
});
