/** Indexes of converted volumes: parts elsewhere than their numbers say, one chapter out of the order. */
import { describe, expect, it, test } from 'vitest';
import { setU64 } from '../../../../src/base/bytes.ts';
import { CHAPTER_PAGE_SIZE, RECORD_SIZE } from '../../../../src/format/chapter-page.ts';
import { buildChapterIndex } from '../../../../src/index/uds/chapter-index.ts';
import { findChapters, pageOffset } from '../../../../src/index/uds/chapter-scan.ts';
import { makeIndexGeometry, physicalChapter } from '../../../../src/index/uds/index-geometry.ts';
import { readRegion, type IndexRegion } from '../../../../src/index/uds/index-region.ts';
import { openUdsIndex } from '../../../../src/index/uds/open-uds-index.ts';
import type { UdsIndex } from '../../../../src/index/uds/uds-index.ts';
import { MemoryStorage } from '../../../../src/storage/memory-storage.ts';
import { writeConvertedIndex } from '../../../support/converted-index.ts';
import { random, randomBytes } from '../../format/support.ts';
import { columns, namesOf } from '../contract.ts';

const GEOMETRY = makeIndexGeometry({ recordPages: 2, chapters: 23, sparseChapters: 0 });
const NONCE = new Uint8Array(8).fill(9);
const START = 20;
const OFFSETS = { volumeOffset: 24, startOffset: 16 };
const { recordsPerChapter } = GEOMETRY;

async function converted(virtual: number, physical: number): Promise<MemoryStorage> {
  const storage = new MemoryStorage((GEOMETRY.totalBlocks + START) * 4096);
  const place = { storage, geometry: GEOMETRY, start: START, nonce: NONCE };
  await writeConvertedIndex({ ...place, ...OFFSETS, remapping: { virtual, physical } });
  return storage;
}

function regionOf(storage: MemoryStorage): Promise<IndexRegion> {
  return readRegion({ storage, geometry: GEOMETRY, start: START, nonce: NONCE });
}

/** Writes index pages of chapters `first` … `last`, each over what lies in its slot. */
async function write(region: IndexRegion, first: number, last: number): Promise<void> {
  const records = randomBytes(random(3), recordsPerChapter * RECORD_SIZE);
  const contents = { chapter: 0, records, count: recordsPerChapter };
  const { pages } = buildChapterIndex(region.geometry, region.volumeNonce, contents);
  for (let chapter = first; chapter <= last; chapter++) {
    for (let at = 0; at < pages.length; at += CHAPTER_PAGE_SIZE) setU64(pages, at + 8, chapter);
    const slot = physicalChapter(region.geometry, chapter);
    await region.storage.write([{ offset: pageOffset(region, slot, 0), bytes: pages }]);
  }
}

// With 1023 chapters, dm-vdo replays the like of these; test/interop/index-converted.test.ts asks it.
describe('the chapters on disk are found round the one that was moved', () => {
  test.each([
    ['it is the oldest and behind the others', 100, 7, 100, 107, 100, 108],
    ['before its slot is reached', 100, 7, 100, 105, 100, 106],
    ['beyond its slot', 100, 7, 100, 110, 100, 111],
    ['it is lost', 100, 7, 101, 118, 101, 119],
    ['the ring is full', 100, 7, 100, 122, 101, 123],
    ['it is forgotten, but still there', 100, 7, 100, 123, 102, 124],
    ['all in front of it are overwritten', 100, 7, 100, 129, 108, 130],
    ['it is overwritten', 100, 7, 100, 130, 109, 131],
    ['long after', 100, 7, 100, 900, 879, 901],
    ['it was moved to where it would be', 5, 0, 5, 5, 5, 6],
  ])('%s', async (_, virtual, physical, first, last, oldest, newest) => {
    const region = await regionOf(await converted(virtual, physical));
    await write(region, first, last);
    expect(await findChapters(region)).toEqual({ oldest, newest });
  });
});

async function ask(index: UdsIndex, first: number, count: number): Promise<number> {
  const advice = columns(count);
  const names = new Uint8Array(count * 16);
  for (let i = 0; i < count; i++) names.set(namesOf(1, first + i + 1), i * 16);
  await index.lookup(names, count, advice);
  return advice.pbn.filter((pbn, i) => pbn === first + i + 1).length;
}

it('is used, saved in its place, loaded and rebuilt', async () => {
  const storage = await converted(0, 3);
  const open = (device: MemoryStorage): Promise<UdsIndex> =>
    openUdsIndex({
      storage: device,
      start: START,
      blocks: GEOMETRY.totalBlocks,
      geometry: GEOMETRY,
      nonce: NONCE,
      isNew: false,
    });
  const before = storage.clone();
  const index = await open(storage);
  const count = 30 * recordsPerChapter + 100;
  const locations = columns(count);
  const names = new Uint8Array(count * 16);
  for (let i = 0; i < count; i++) {
    names.set(namesOf(1, i + 1), i * 16);
    locations.pbn[i] = i + 1;
    locations.state[i] = 1;
  }
  await index.update(names, count, locations);
  await index.settled();
  expect(index.chapters).toEqual({ newest: 30, oldest: 8 });
  const crashed = storage.clone();
  await index.close();
  const loaded = await open(storage);
  expect([loaded.rebuildProgress, loaded.warning]).toEqual([null, null]);
  expect(await ask(loaded, 0, count)).toBe(22 * recordsPerChapter + 100);
  await loaded.close();
  const rebuilt = await open(crashed);
  expect(rebuilt.rebuildProgress).not.toBeNull();
  await rebuilt.settled();
  expect(rebuilt.chapters).toEqual({ newest: 30, oldest: 8 });
  expect(await ask(rebuilt, 0, count)).toBe(22 * recordsPerChapter);
  await rebuilt.close();
  // The labels are as they were.
  const labels = (device: MemoryStorage): Promise<Uint8Array> => {
    const bytes = new Uint8Array(2 * 4096);
    return device.read([{ offset: START * 4096, bytes }]).then(() => bytes);
  };
  expect(await labels(storage)).toEqual(await labels(before));
  const region = await regionOf(storage);
  expect(region.saveStarts[0]).toBe(START + 2 + GEOMETRY.volumeBlocks);
});
