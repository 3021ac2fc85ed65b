import { MemoryStorage } from '../../../src/storage/memory-storage.ts';
import { storageContract } from '../../contract/storage.ts';

for (const chunkBytes of [512, 65_536]) {
  let storage = new MemoryStorage(0);
  storageContract(`MemoryStorage in chunks of ${chunkBytes} bytes`, {
    async create(size) {
      storage = new MemoryStorage(size, { chunkBytes });
      return storage;
    },
    async reopenReadOnly() {
      return storage.clone({ readOnly: true });
    },
  });
}
