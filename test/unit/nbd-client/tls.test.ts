import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openNbdStorage, type NbdStorage } from '../../../src/nbd-client/nbd-storage.ts';
import { serve, type NbdServer, type ServeOptions } from '../../../src/nbd/server.ts';
import { CA, CLIENT, SERVER, STRANGER } from '../../support/certificates.ts';
import { MemoryDevice } from '../../support/memory-device.ts';

const MiB = 1 << 20;
const HEX = '00112233445566778899aabbccddeeff';

describe('an NBD client with TLS', () => {
  let folder: string;
  let server: NbdServer;
  let storage: NbdStorage | undefined;
  const device = new MemoryDevice(4 * MiB);
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'uvdo-tls-'));
  });
  afterEach(async () => {
    await storage?.close();
    storage = undefined;
    await server.close();
    rmSync(folder, { recursive: true });
  });

  const start = async (tls: ServeOptions['tls']): Promise<void> => {
    const options = tls === undefined ? {} : { tls };
    const exports = [{ name: 'disk', volume: device }];
    server = await serve(exports, { host: '127.0.0.1', port: 0, ...options });
  };
  /** A folder of certificates. */
  const pki = (name: string, files: Readonly<Record<string, string>>): string => {
    const path = join(folder, name);
    mkdirSync(path);
    for (const [file, text] of Object.entries(files)) writeFileSync(join(path, file), text);
    return path;
  };
  const uri = (query: string, user = ''): string => {
    const { port } = server.address as { port: number };
    return `nbds://${user}127.0.0.1:${port}/disk?${query}`;
  };
  const open = async (query: string, user = ''): Promise<NbdStorage> =>
    (storage = await openNbdStorage(uri(query, user), { openMs: 20_000 }));

  /** Large and small data both ways. */
  const works = async (one: NbdStorage, fill: number): Promise<void> => {
    const bytes = new Uint8Array(3 * MiB).fill(fill);
    await one.write([{ offset: 12_345, bytes }]);
    await one.flush();
    const back = new Uint8Array(3 * MiB);
    await one.read([{ offset: 12_345, bytes: back }]);
    expect(back.every((byte) => byte === fill)).toBe(true);
  };

  it('trusts the authority it is told', async () => {
    await start(SERVER);
    const one = await open(`tls-certificates=${pki('ca', { 'ca-cert.pem': CA })}`);
    await works(one, 5);
  });

  it('shows who it is', async () => {
    await start({ ...SERVER, ca: CA });
    const mine = {
      'ca-cert.pem': CA,
      'client-cert.pem': CLIENT.cert,
      'client-key.pem': CLIENT.key,
    };
    await works(await open(`tls-certificates=${pki('mine', mine)}`), 6);
    const nobody = pki('nobody', { 'ca-cert.pem': CA });
    await expect(openNbdStorage(uri(`tls-certificates=${nobody}`))).rejects.toThrow(/127\.0\.0\.1/);
    const stranger = { ...mine, 'client-cert.pem': STRANGER.cert, 'client-key.pem': STRANGER.key };
    await expect(
      openNbdStorage(uri(`tls-certificates=${pki('stranger', stranger)}`)),
    ).rejects.toMatchObject({ code: 'Io' });
  });

  it('trusts nobody else, unless told to', async () => {
    await start(SERVER);
    await expect(openNbdStorage(uri(''))).rejects.toThrow(/certificate/);
    const ca = pki('ca', { 'ca-cert.pem': CA });
    await expect(
      openNbdStorage(uri(`tls-certificates=${ca}&tls-hostname=elsewhere`)),
    ).rejects.toThrow(/elsewhere/);
    await works(await open('tls-verify-peer=false'), 7);
  });

  it('with a key that both know', async () => {
    await start({ psk: new Map([['ann', Buffer.from(HEX, 'hex')]]) });
    const file = join(folder, 'keys');
    writeFileSync(file, `bob:${HEX.replace('0', '9')}\nann:${HEX}\n`);
    await works(await open(`tls-psk-file=${file}`, 'ann@'), 8);
    await expect(openNbdStorage(uri(`tls-psk-file=${file}`, 'bob@'))).rejects.toMatchObject({
      code: 'Io',
    });
    await expect(openNbdStorage(uri(`tls-psk-file=${file}`, 'eve@'))).rejects.toThrow(
      /no line for the user 'eve'/,
    );
  });

  it('says what is missing', async () => {
    await start(undefined);
    await expect(openNbdStorage(uri(''))).rejects.toThrow(/refuses TLS/);
    await server.close();
    await start(SERVER);
    await expect(openNbdStorage(uri('').replace('nbds', 'nbd'))).rejects.toThrow(/use nbds/);
    await expect(openNbdStorage(uri('tls-certificates=/nowhere'))).rejects.toMatchObject({
      code: 'InvalidArgument',
    });
  });
});
