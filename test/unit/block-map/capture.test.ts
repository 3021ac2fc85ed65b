/** What a checkpoint copies of the map is a copy, whatever happens to the pages meanwhile. */
import { expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { BlockMap } from '../../../src/block-map/block-map.ts';
import { isInitialized, entryPbn } from '../../../src/format/block-map-page.ts';
import { MemoryStorage } from '../../../src/storage/memory-storage.ts';

const NONCE = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
const ROOTS = 2;
const FIRST = 62;

async function makeMap(storage: MemoryStorage): Promise<BlockMap> {
  const map = new BlockMap({
    storage,
    nonce: NONCE,
    cachePages: 8,
    isDataBlock: (pbn) => pbn >= FIRST && pbn < 200,
    reserveFrames: () => Promise.resolve(),
  });
  await map.open(ROOTS);
  return map;
}

function allocator(): Parameters<BlockMap['load']>[1] & { taken: number; entries: number[][] } {
  let next = FIRST;
  const entries: number[][] = [];
  return {
    entries,
    get taken() {
      return next - FIRST;
    },
    allocate: () => next++,
    unallocate: () => void next--,
    reserve: () => Promise.resolve(),
    record: (parent, slot, pbn) => void entries.push([parent, slot, pbn]),
  };
}

test('a capture is a copy: later changes of the pages do not reach it', async () => {
  const storage = new MemoryStorage(300 * BLOCK_SIZE);
  const map = await makeMap(storage);
  await map.load([0], allocator());
  map.setEntry(map.find(0), 5, 100, 1);
  const capture = map.capture();
  const leaf = FIRST + 3;
  const image = capture.first.find(({ offset }) => offset === leaf * BLOCK_SIZE)!;
  expect(entryPbn(image.bytes, 5)).toBe(100);
  map.setEntry(map.find(0), 5, 150, 1);
  map.setEntry(map.find(0), 6, 151, 1);
  expect(entryPbn(image.bytes, 5)).toBe(100);
  expect(entryPbn(image.bytes, 6)).toBe(0);
  // What changed since is written next time.
  map.settle(capture);
  const next = map.capture();
  expect(next.first.map(({ offset }) => offset / BLOCK_SIZE)).toEqual([leaf]);
  expect(entryPbn(next.first[0]!.bytes, 5)).toBe(150);
});

test('a page read as uninitialized gets both images, first and second, in that order', async () => {
  const storage = new MemoryStorage(300 * BLOCK_SIZE);
  const first = await makeMap(storage);
  const tree = allocator();
  await first.load([0], tree);
  // Roots and interior pages as the checkpoint would leave them; the leaf only as its empty image.
  const capture = first.capture();
  await storage.write([...capture.first]);
  await storage.write([...capture.second]);
  const map = await makeMap(storage);
  await map.load([0]);
  expect(isInitialized(map.cache.bytes(map.find(0)))).toBe(false);
  map.setEntry(map.find(0), 7, 100, 1);
  const leaf = (FIRST + 3) * BLOCK_SIZE;
  const again = map.capture();
  expect(again.first.map(({ offset }) => offset)).toEqual([leaf]);
  expect(again.second.map(({ offset }) => offset)).toEqual([leaf]);
  expect(isInitialized(again.first[0]!.bytes)).toBe(false);
  expect(isInitialized(again.second[0]!.bytes)).toBe(true);
  expect(entryPbn(again.second[0]!.bytes, 7)).toBe(100);
  // The page in memory is still the uninitialized one until both are durable.
  expect(isInitialized(map.cache.bytes(map.find(0)))).toBe(false);
  map.settle(again);
  expect(isInitialized(map.cache.bytes(map.find(0)))).toBe(true);
  map.setEntry(map.find(0), 8, 101, 1);
  const once = map.capture();
  expect(once.first).toHaveLength(1);
  expect(once.second).toHaveLength(0);
});
