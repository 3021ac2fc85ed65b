import { FakeServer, type FakeOptions } from '../../support/nbd-fake-server.ts';
import { storageContract } from '../../contract/storage.ts';
import { openNbdStorage } from '../../../src/nbd-client/nbd-storage.ts';
import { serve, type NbdServer } from '../../../src/nbd/server.ts';
import { MemoryDevice } from '../../support/memory-device.ts';
import { Random } from '../../sim/random.ts';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { mkdtempSync, rmSync } from 'node:fs';

const servers: [name: string, options: FakeOptions][] = [
  ['structured replies in pieces and random order', { form: 'structured', random: new Random(4) }],
  ['extended headers, blocks of 4096 bytes, 64 KiB at once', { form: 'extended', minimumBlock: 4096, maximumPayload: 65_536, random: new Random(5) }], // prettier-ignore
];

for (const [name, options] of servers) {
  let server: FakeServer;
  storageContract(`NbdStorage with ${name}`, {
    async create(size) {
      server = await FakeServer.start({ ...options, size });
      return openNbdStorage(server.uri);
    },
    reopenReadOnly: () => openNbdStorage(server.uri, { readOnly: true }),
    dispose: () => server.stop(),
  });
}

{
  let server: NbdServer;
  let directory: string;
  storageContract('NbdStorage on our own server', {
    async create(size) {
      directory = mkdtempSync(join(tmpdir(), 'uvdo-contract-'));
      const volume = new MemoryDevice(size, { random: new Random(6) });
      server = await serve([{ name: 'disk', volume }], { socket: join(directory, 's') });
      return openNbdStorage(server.uri('disk'));
    },
    reopenReadOnly: () => openNbdStorage(server.uri(), { readOnly: true }),
    async dispose() {
      await server.close();
      rmSync(directory, { recursive: true });
    },
  });
}
