/**
 * Serves a plain file over NBD as it is: the server of `uvdo serve` and its `Storage`, no volume between. What the
 * engine costs is the difference. `node dist/bench/pass-through.js FILE SOCKET`; ends on SIGTERM.
 */
import { once } from 'node:events';
import type { BlockDevice } from '../src/device/block-device.ts';
import { serve } from '../src/nbd/server.ts';
import { openFileStorage } from '../src/storage/file-storage.ts';
import type { Storage } from '../src/storage/storage.ts';

function passThrough(storage: Storage): BlockDevice {
  const zero = (offset: number, length: number): Promise<void> =>
    storage.write([{ offset, bytes: new Uint8Array(length) }]);
  return {
    size: storage.size,
    readOnly: storage.readOnly,
    async read(offset, length, into = new Uint8Array(length)) {
      const bytes = into.subarray(0, length);
      await storage.read([{ offset, bytes }]);
      return bytes;
    },
    write: (offset, bytes) => storage.write([{ offset, bytes }]),
    discard: zero,
    writeZeroes: zero,
    flush: () => storage.flush(),
    extents: (offset, length) => Promise.resolve([{ offset, length, kind: 'data' }]),
    close: () => storage.close(),
  };
}

const [path, socket] = process.argv.slice(2);
const storage = await openFileStorage(path!);
const server = await serve([{ name: '', volume: passThrough(storage) }], { socket: socket! });
await once(process, 'SIGTERM');
await server.close();
await storage.close();
