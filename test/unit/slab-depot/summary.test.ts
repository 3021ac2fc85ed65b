/** The slab summary: combined from the zones of the last run, written to all, then kept in copy 0. */
import { expect, test } from 'vitest';
import { BLOCK_SIZE, SLAB_SUMMARY_BLOCKS } from '../../../src/base/constants.ts';
import { readSummaryEntry, setSummaryEntry } from '../../../src/format/slab-summary.ts';
import { SlabSummary } from '../../../src/slab-depot/summary.ts';
import { MemoryStorage } from '../../../src/storage/memory-storage.ts';

const ZONE = 4 * BLOCK_SIZE;
const ORIGIN = 3 * BLOCK_SIZE;

const entry = (tailOffset: number) => ({
  tailOffset,
  fullnessHint: 9,
  loadCounts: true,
  dirty: false,
});

/** Every copy of zone z says tail offset 100 + z for every slab. */
function zonedStorage(): MemoryStorage {
  const storage = new MemoryStorage(ORIGIN + SLAB_SUMMARY_BLOCKS * BLOCK_SIZE);
  for (let zone = 0; zone < 16; zone++) {
    const table = new Uint8Array(ZONE);
    for (let slab = 0; slab < 8192; slab++) setSummaryEntry(table, slab, entry(100 + zone));
    storage.writeSync([{ offset: ORIGIN + zone * ZONE, bytes: table }]);
  }
  return storage;
}

test.for([0, 1, 2, 3, 16])('slab n comes from copy n mod %i zones', async (zones) => {
  const summary = new SlabSummary(ORIGIN);
  await summary.load(zonedStorage(), zones);
  for (const slab of [0, 1, 2, 5, 17, 8191]) {
    expect(summary.get(slab)).toEqual(entry(100 + (slab % Math.max(1, zones))));
  }
});

test('all copies are alike after an open, and nothing is left to write', async () => {
  const storage = zonedStorage();
  const summary = new SlabSummary(ORIGIN);
  await summary.load(storage, 3);
  summary.set(4, entry(7));
  const extents = summary.allCopies();
  expect(extents.map(({ offset, bytes }) => [offset, bytes.length])).toEqual([[ORIGIN, 16 * ZONE]]);
  for (let zone = 0; zone < 16; zone++) {
    const copy = extents[0]!.bytes.subarray(zone * ZONE, (zone + 1) * ZONE);
    expect(readSummaryEntry(copy, 4)).toEqual(entry(7));
    expect(readSummaryEntry(copy, 5)).toEqual(entry(102));
  }
  expect(summary.takeDirty()).toEqual([]);
});

test('afterwards the changed blocks of copy 0 are written, as copies', () => {
  const summary = new SlabSummary(ORIGIN);
  summary.set(0, entry(1));
  summary.set(2047, entry(2));
  summary.set(2048, entry(3));
  const extents = summary.takeDirty();
  expect(extents.map(({ offset }) => (offset - ORIGIN) / BLOCK_SIZE)).toEqual([0, 1]);
  summary.set(0, entry(200));
  expect(readSummaryEntry(extents[0]!.bytes, 0)).toEqual(entry(1));
  expect(summary.takeDirty()).toHaveLength(1);
  expect(summary.takeDirty()).toEqual([]);
});

test('of a new volume every slab is free and never used', () => {
  const summary = new SlabSummary(ORIGIN);
  summary.reset(62);
  const fresh = { tailOffset: 0, fullnessHint: 62, loadCounts: false, dirty: false };
  expect(summary.get(0)).toEqual(fresh);
  expect(summary.get(8191)).toEqual(fresh);
});
