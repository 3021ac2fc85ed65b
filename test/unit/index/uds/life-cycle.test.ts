/** The index against a model, through closes, crashes, rebuilds beside posts, and damage. */
import { describe, expect, it } from 'vitest';
import { makeIndexGeometry, type IndexGeometry } from '../../../../src/index/uds/index-geometry.ts';
import { openUdsIndex } from '../../../../src/index/uds/open-uds-index.ts';
import type { UdsIndex } from '../../../../src/index/uds/uds-index.ts';
import { MemoryStorage } from '../../../../src/storage/memory-storage.ts';
import type { Extent } from '../../../../src/storage/storage.ts';
import { columns, namesOf } from '../contract.ts';
import { random } from '../../format/support.ts';

const PAGE = 32768;
const BLOCK = 4096;
const DENSE = makeIndexGeometry({ recordPages: 2, chapters: 8, sparseChapters: 0 });
const SPARSE = makeIndexGeometry({ recordPages: 2, chapters: 12, sparseChapters: 8 });
const NONCE = new Uint8Array(8).fill(9);

function storageFor(geometry: IndexGeometry): MemoryStorage {
  return new MemoryStorage((geometry.totalBlocks + 1) * BLOCK);
}

function open(
  storage: MemoryStorage,
  { geometry = DENSE, isNew = false, cachePages = 16 } = {},
): Promise<UdsIndex> {
  const blocks = geometry.totalBlocks;
  const now = () => 1000;
  return openUdsIndex({
    storage,
    start: 1,
    blocks,
    geometry,
    nonce: NONCE,
    isNew,
    now,
    cachePages,
  });
}

/** Names of the numbers `first` … ; number n lies at block n + `shift`. */
function batch(first: number, count: number, shift: number) {
  const names = new Uint8Array(count * 16);
  const locations = columns(count);
  for (let i = 0; i < count; i++) {
    names.set(namesOf(1, first + i + 1), i * 16);
    locations.pbn[i] = first + i + shift;
    locations.state[i] = 1;
  }
  return { names, locations };
}

async function post(index: UdsIndex, first: number, count: number, shift = 1): Promise<void> {
  const { names, locations } = batch(first, count, shift);
  await index.update(names, count, locations);
}

/** How many names are found at `shift`, and how many elsewhere. */
async function ask(index: UdsIndex, first: number, count: number, shift = 1) {
  const { names, locations } = batch(first, count, shift);
  const advice = columns(count);
  await index.lookup(names, count, advice);
  const found = { right: 0, other: 0 };
  for (let i = 0; i < count; i++) {
    if (advice.pbn[i] === locations.pbn[i]) found.right++;
    else if (advice.pbn[i] !== 0) found.other++;
  }
  return found;
}

/** A crash after so many full chapters; the index is rebuilt from them. */
async function crashed(chapters: number, geometry = DENSE): Promise<MemoryStorage> {
  const storage = storageFor(geometry);
  const index = await open(storage, { geometry, isNew: true });
  await post(index, 0, chapters * geometry.recordsPerChapter + 10);
  await index.settled();
  return storage.clone();
}

describe('against a model', () => {
  it.each([1, 2, 3, 4, 5, 6])('seed %i', async (seed) => {
    const next = random(seed);
    const geometry = seed % 3 === 0 ? SPARSE : DENSE;
    const storage = storageFor(geometry);
    const at = new Map<number, number>();
    let index = await open(storage, { geometry, isNew: true, cachePages: 2 + next(30) });
    let newest = 0;
    for (let step = 0; step < 40; step++) {
      const count = 1 + next(900);
      const first = next(3) === 0 ? next(newest + 1) : newest;
      const shift = 1 + next(3) * 1_000_000;
      if (next(4) > 0) {
        await post(index, first, count, shift);
        for (let n = first; n < first + count; n++) at.set(n, n + shift);
        newest = Math.max(newest, first + count);
      } else {
        const from = next(newest + 1);
        const { names } = batch(from, 300, 0);
        const advice = columns(300);
        await index.lookup(names, 300, advice);
        for (let i = 0; i < 300; i++) {
          // What is known is the last that was said; old names may have been forgotten.
          if (advice.pbn[i] !== 0) expect(advice.pbn[i]).toBe(at.get(from + i));
        }
      }
      if (next(8) === 0) {
        await index.close();
        expect(index.warning).toBeNull();
        index = await open(storage, { geometry });
        expect(index.rebuildProgress).toBeNull();
      }
    }
    // The last two chapters are never forgotten.
    const recent = Math.min(newest, geometry.recordsPerChapter);
    const { names } = batch(newest - recent, recent, 0);
    const advice = columns(recent);
    await index.lookup(names, recent, advice);
    const known = advice.pbn.filter((pbn, i) => pbn === at.get(newest - recent + i)).length;
    expect(known).toBe(recent);
    await index.close();
  });
});

describe('a rebuild', () => {
  it('serves what it knows, takes posts, and keeps the newer of two locations', async () => {
    const storage = await crashed(6);
    const index = await open(storage);
    expect(index.rebuildProgress).toEqual({ chaptersDone: 0, chapters: 6 });
    // Posted before the old chapters that hold the same names are replayed.
    await post(index, 0, 700, 5_000_000);
    expect((await ask(index, 0, 700, 5_000_000)).right).toBe(700);
    expect(index.statistics().chaptersToReplay).toBeGreaterThan(0);
    await index.settled();
    expect(index.statistics().chaptersToReplay).toBe(0);
    expect((await ask(index, 0, 700, 5_000_000)).right).toBe(700);
    expect((await ask(index, 700, 11_000)).right).toBe(11_000);
    await index.close();
    expect(index.warning).toBeNull();
    const again = await open(storage);
    expect(again.rebuildProgress).toBeNull();
    expect((await ask(again, 0, 700, 5_000_000)).right).toBe(700);
  });

  it('closes no chapter before it ends: what exceeds the open one is dropped', async () => {
    const storage = await crashed(6);
    const index = await open(storage);
    const records = DENSE.recordsPerChapter;
    await post(index, 50_000, records + 500);
    expect(index.chapters).toEqual({ newest: 6, oldest: 0 });
    await index.settled();
    expect(index.chapters.newest).toBe(7);
    expect((await ask(index, 50_000, records + 500)).right).toBe(records);
    expect(index.statistics().entriesDiscarded).toBeGreaterThanOrEqual(500);
    await index.close();
    expect(index.warning).toBeNull();
  });

  it('that is interrupted saves nothing, and begins again', async () => {
    const storage = await crashed(6);
    const index = await open(storage);
    await index.close();
    const again = await open(storage);
    expect(again.rebuildProgress).not.toBeNull();
    await again.settled();
    expect((await ask(again, 0, 12_000)).right).toBe(12_000);
  });

  it('of a ring that has wrapped finds its seam', async () => {
    for (const chapters of [7, 8, 9, 12, 16]) {
      const storage = await crashed(chapters);
      const index = await open(storage);
      await index.settled();
      const oldest = Math.max(0, chapters - 7);
      expect(index.chapters).toEqual({ newest: chapters, oldest });
      const { recordsPerChapter } = DENSE;
      const known = (chapters - oldest) * recordsPerChapter;
      expect((await ask(index, oldest * recordsPerChapter, known)).right).toBe(known);
      await index.close();
    }
  });

  it('leaves out a damaged chapter and says so', async () => {
    const storage = await crashed(6);
    const chapter = 3;
    const offset = (3 + 8 * (1 + chapter * DENSE.pagesPerChapter)) * BLOCK;
    storage.writeSync([{ offset: offset + 30, bytes: new Uint8Array(100).fill(0x77) }]);
    const index = await open(storage);
    await index.settled();
    expect(index.warning?.message).toMatch(/^1 chapter/);
    const { recordsPerChapter } = DENSE;
    expect((await ask(index, 3 * recordsPerChapter, recordsPerChapter)).right).toBe(0);
    expect((await ask(index, 4 * recordsPerChapter, recordsPerChapter)).right).toBe(
      recordsPerChapter,
    );
    await index.close();
  });
});

describe('damage', () => {
  async function saved(): Promise<MemoryStorage> {
    const storage = storageFor(DENSE);
    const index = await open(storage, { isNew: true });
    await post(index, 0, 2 * DENSE.recordsPerChapter + 10);
    await index.close();
    return storage;
  }
  const spoil = (storage: MemoryStorage, block: number, at = 0): void =>
    storage.writeSync([{ offset: block * BLOCK + at, bytes: new Uint8Array(16).fill(0xee) }]);

  it('of super block or configuration gives a fresh index and a message', async () => {
    for (const block of [1, 2]) {
      const storage = await saved();
      spoil(storage, block, block === 1 ? 200 : 12);
      const index = await open(storage);
      expect(index.warning?.message).toMatch(/starts over with an empty index$/);
      expect(index.statistics().entriesIndexed).toBe(0);
      await post(index, 0, 100);
      await index.close();
      const again = await open(storage);
      expect(again.warning).toBeNull();
      expect((await ask(again, 0, 100)).right).toBe(100);
    }
  });

  it('of a region of zeros needs no message', async () => {
    const storage = await saved();
    storage.writeSync([{ offset: BLOCK, bytes: new Uint8Array(BLOCK) }]);
    const index = await open(storage);
    expect(index.warning).toBeNull();
    await index.close();
  });

  it('of a save costs a rebuild', async () => {
    const storage = await saved();
    const save = 3 + DENSE.volumeBlocks;
    // The page map of the save.
    spoil(storage, save + 1);
    const index = await open(storage);
    expect(index.rebuildProgress).not.toBeNull();
    await index.settled();
    expect((await ask(index, 0, 2 * DENSE.recordsPerChapter)).right).toBe(
      2 * DENSE.recordsPerChapter,
    );
    await index.close();
  });

  it('of a chapter that the save names is told, and nothing is saved: the next start rebuilds', async () => {
    const storage = await saved();
    const offset = (3 + 8 * (1 + DENSE.pagesPerChapter)) * BLOCK;
    storage.writeSync([{ offset, bytes: new Uint8Array(PAGE) }]);
    const index = await open(storage);
    expect((await ask(index, 0, 2 * DENSE.recordsPerChapter)).right).toBe(DENSE.recordsPerChapter);
    expect(index.warning?.message).toMatch(/^chapter 1: /);
    await index.close();
    const again = await open(storage);
    expect(again.rebuildProgress).not.toBeNull();
    await again.settled();
    await again.close();
  });

  it('of another version is left alone', async () => {
    const storage = await saved();
    const version = 24 + 7 * 24 + 72;
    storage.writeSync([{ offset: BLOCK + version, bytes: Uint8Array.of(8) }]);
    await expect(open(storage)).rejects.toMatchObject({ code: 'UnsupportedVersion' });
  });

  it('of a device that fails to read or write ends the use of the index, with a message', async () => {
    const storage = await saved();
    let broken = false;
    const read = storage.read.bind(storage);
    storage.read = (extents: readonly Extent[]) =>
      broken ? Promise.reject(new Error('unreadable')) : read(extents);
    const index = await open(storage);
    broken = true;
    expect((await ask(index, 0, 100)).right).toBe(0);
    expect(index.warning?.message).toMatch(/^reading the index failed/);
    broken = false;
    expect((await ask(index, 0, 100)).right).toBe(0);
    await index.close();
    // The save is as true as before.
    const again = await open(storage);
    expect((await ask(again, 0, 100)).right).toBe(100);
  });
});

describe('a sparse index', () => {
  it('forgets all but hooks outside its window, and learns a chapter again from a hook', async () => {
    const storage = storageFor(SPARSE);
    const index = await open(storage, { geometry: SPARSE, isNew: true });
    const { recordsPerChapter } = SPARSE;
    await post(index, 0, 8 * recordsPerChapter);
    await index.settled();
    const { names } = batch(0, recordsPerChapter, 1);
    const hooks: number[] = [];
    const others: number[] = [];
    for (let i = 0; i < recordsPerChapter; i++) {
      const isHook = ((names[i * 16 + 14]! << 8) | names[i * 16 + 15]!) % 32 === 0;
      (isHook ? hooks : others).push(i);
    }
    const askAll = async (numbers: readonly number[]): Promise<number> => {
      let right = 0;
      for (const number of numbers) right += (await ask(index, number, 1)).right;
      return right;
    };
    expect(await askAll(others.slice(0, 100))).toBe(0);
    expect(await askAll(hooks.slice(0, 1))).toBe(1);
    expect(await askAll(others.slice(0, 200))).toBe(200);
    // What was found is in the open chapter now.
    expect(await askAll(others.slice(0, 200))).toBe(200);
    await index.close();
    expect(index.warning).toBeNull();
  });
});
