import { describe, expect, it } from 'vitest';
import { makeIndexGeometry } from '../../../../src/index/uds/index-geometry.ts';
import { openUdsIndex } from '../../../../src/index/uds/open-uds-index.ts';
import type { UdsIndex } from '../../../../src/index/uds/uds-index.ts';
import { MemoryStorage } from '../../../../src/storage/memory-storage.ts';
import { columns, hashIndexContract, locationsOf, namesOf } from '../contract.ts';

const GEOMETRY = makeIndexGeometry({ recordPages: 2, chapters: 8, sparseChapters: 0 });
const RECORDS = GEOMETRY.recordsPerChapter;
const NONCE = new Uint8Array(8).fill(9);

const storageFor = (geometry = GEOMETRY) => new MemoryStorage((geometry.totalBlocks + 1) * 4096);

function open(storage: MemoryStorage, isNew = false): Promise<UdsIndex> {
  return openUdsIndex({
    storage,
    start: 1,
    blocks: GEOMETRY.totalBlocks,
    geometry: GEOMETRY,
    nonce: NONCE,
    isNew,
    now: () => 1000,
  });
}

hashIndexContract('uds', () => open(storageFor(), true), { remembers: true });

/** What so many names of a seed are told to be: names `first` … of it. */
async function post(index: UdsIndex, seed: number, count: number): Promise<void> {
  await index.update(namesOf(count, seed), count, locationsOf(count, seed + 1000));
}

/** How many of the names posted with this seed are found where they lie. */
async function found(index: UdsIndex, seed: number, count: number): Promise<number> {
  const advice = columns(count);
  await index.lookup(namesOf(count, seed), count, advice);
  const expected = locationsOf(count, seed + 1000);
  let right = 0;
  for (let i = 0; i < count; i++) {
    if (advice.pbn[i] === expected.pbn[i] && advice.state[i] === expected.state[i]) right++;
  }
  return right;
}

describe('chapters', () => {
  it('are closed when they are full, and found on disk', async () => {
    const index = await open(storageFor(), true);
    await post(index, 1, 3 * RECORDS + 100);
    await index.settled();
    expect(index.chapters).toEqual({ newest: 3, oldest: 0 });
    expect(await found(index, 1, 3 * RECORDS + 100)).toBe(3 * RECORDS + 100);
    await index.close();
    expect(index.warning).toBeNull();
  });

  it('beyond the window are forgotten, and those in use are kept', async () => {
    const index = await open(storageFor(), true);
    await post(index, 1, RECORDS);
    await index.settled();
    for (let seed = 2; seed < 12; seed++) {
      await post(index, seed, RECORDS - 100);
      await index.settled();
      expect(await found(index, 1, 100)).toBe(100);
      await index.settled();
    }
    expect(await found(index, 1, RECORDS)).toBeLessThan(200);
    expect(await found(index, 11, RECORDS - 100)).toBe(RECORDS - 100);
    expect(await found(index, 3, RECORDS - 100)).toBe(0);
    await index.close();
  });
});

describe('a clean close', () => {
  it('is loaded as it was', async () => {
    const storage = storageFor();
    let index = await open(storage, true);
    const count = 2 * RECORDS + 300;
    await post(index, 1, count);
    await index.close();
    for (let life = 2; life < 6; life++) {
      index = await open(storage);
      expect(index.rebuildProgress).toBeNull();
      expect(await found(index, 1, count)).toBe(count);
      await index.settled();
      await index.close();
      expect(index.warning).toBeNull();
    }
  });

  it('of an empty index too', async () => {
    const storage = storageFor();
    await (await open(storage, true)).close();
    const index = await open(storage);
    expect(index.chapters).toEqual({ newest: 0, oldest: 0 });
    expect(index.warning).toBeNull();
    await index.close();
  });
});

describe('after a crash', () => {
  it('before a chapter is closed the save is loaded again', async () => {
    const storage = storageFor();
    let index = await open(storage, true);
    await post(index, 1, RECORDS + 500);
    await index.close();
    index = await open(storage);
    await post(index, 2, 100);
    const crashed = storage.clone();
    index = await open(crashed);
    expect(index.rebuildProgress).toBeNull();
    expect(await found(index, 1, RECORDS + 500)).toBe(RECORDS + 500);
    expect(await found(index, 2, 100)).toBe(0);
  });

  it('after that it is rebuilt from the chapters', async () => {
    const storage = storageFor();
    let index = await open(storage, true);
    await post(index, 1, RECORDS + 500);
    await index.close();
    index = await open(storage);
    await post(index, 2, 3 * RECORDS);
    await index.settled();
    const crashed = storage.clone();
    index = await open(crashed);
    expect(index.rebuildProgress).not.toBeNull();
    await index.settled();
    expect(index.rebuildProgress).toBeNull();
    expect(index.chapters).toEqual({ newest: 4, oldest: 0 });
    expect(await found(index, 1, RECORDS + 500)).toBe(RECORDS + 500);
    expect(await found(index, 2, 3 * RECORDS)).toBe(3 * RECORDS - 500);
    await index.close();
    expect((await open(crashed)).rebuildProgress).toBeNull();
  });
});
