/** A layer of memory over a storage: writes shadow what lies below and never reach it. */
import { expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { MemoryStorage } from '../../../src/storage/memory-storage.ts';
import { OverlayStorage } from '../../../src/storage/overlay-storage.ts';

const filled = (value: number, blocks = 1): Uint8Array =>
  new Uint8Array(blocks * BLOCK_SIZE).fill(value);

test('reads of any range see the layer where it has blocks, else what is below', async () => {
  const below = new MemoryStorage(8 * BLOCK_SIZE);
  below.writeSync([{ offset: 0, bytes: filled(1, 8) }]);
  const overlay = new OverlayStorage(new MemoryStorage(0));
  expect(overlay.size).toBe(0);
  const storage = new OverlayStorage(below.clone({ readOnly: true }));
  expect([storage.size, storage.readOnly]).toEqual([8 * BLOCK_SIZE, false]);
  const bytes = filled(2, 2);
  await storage.write([{ offset: 3 * BLOCK_SIZE, bytes }]);
  // The layer keeps a copy.
  bytes.fill(9);
  await storage.flush();
  expect(storage.blocks).toBe(2);
  const [all, part] = [filled(0, 8), new Uint8Array(BLOCK_SIZE)];
  await storage.read([
    { offset: 0, bytes: all },
    { offset: 2.5 * BLOCK_SIZE, bytes: part },
  ]);
  const kinds = Array.from({ length: 8 }, (_, i) => all[i * BLOCK_SIZE + 7]);
  expect(kinds).toEqual([1, 1, 1, 2, 2, 1, 1, 1]);
  expect([part[0], part[BLOCK_SIZE / 2 - 1], part[BLOCK_SIZE / 2]]).toEqual([1, 1, 2]);
  below.readSync([{ offset: 0, bytes: all }]);
  expect(all.every((byte) => byte === 1)).toBe(true);
  await storage.close();
});

test('only whole blocks are written', async () => {
  const storage = new OverlayStorage(new MemoryStorage(BLOCK_SIZE));
  expect(() => storage.write([{ offset: 512, bytes: filled(1) }])).toThrow('whole blocks');
});
