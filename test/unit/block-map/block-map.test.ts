/** Leaves and the trees above them: made as writes need them, found again, and never half made. */
import { beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { BlockMap, type TreeAllocator } from '../../../src/block-map/block-map.ts';
import { slotAt } from '../../../src/block-map/forest.ts';
import {
  entryPbn,
  formatPage,
  isInitialized,
  setEntry,
} from '../../../src/format/block-map-page.ts';
import { MemoryStorage } from '../../../src/storage/memory-storage.ts';
import { noise, WatchedStorage } from '../../support/volumes.ts';

const NONCE = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
const ROOTS = 2;
const FIRST = 62;

let storage: WatchedStorage;
let reservedFrames: number[];
beforeEach(() => {
  storage = new WatchedStorage(new MemoryStorage(2000 * BLOCK_SIZE));
  reservedFrames = [];
});

async function openMap(cachePages = 16): Promise<BlockMap> {
  const map = new BlockMap({
    storage,
    nonce: NONCE,
    cachePages,
    isDataBlock: (pbn) => pbn >= FIRST && pbn < 2000,
    reserveFrames: async (frames) => void reservedFrames.push(frames),
  });
  await map.open(ROOTS);
  return map;
}

/** Gives out blocks from 62 on, `space` in all; remembers what was journaled. */
class Allocator implements TreeAllocator {
  readonly entries: (readonly [parent: number, slot: number, pbn: number])[] = [];
  readonly free: number[];
  reserved = 0;

  constructor(space = 1000, first = FIRST) {
    this.free = Array.from({ length: space }, (_, i) => first + i).reverse();
  }

  allocate(): number {
    return this.free.pop() ?? 0;
  }

  unallocate(pbn: number): void {
    this.free.push(pbn);
  }

  reserve(pages: number): Promise<void> {
    this.reserved += pages;
    return Promise.resolve();
  }

  record(parent: number, slot: number, pbn: number): void {
    this.entries.push([parent, slot, pbn]);
  }
}

/** Writes everything that differs from the disk, as a checkpoint does. */
async function save(map: BlockMap): Promise<void> {
  const capture = map.capture();
  await storage.write(capture.first);
  await storage.write(capture.second);
  map.settle(capture);
}

describe('the way to a page', () => {
  test('is its index among the pages of its root, in base 812', () => {
    const page = 7 + 60 * (5 + 812 * (6 + 812 * (8 + 812 * 9)));
    expect([1, 2, 3, 4].map((height) => slotAt(page, height))).toEqual([5, 6, 8, 9]);
  });
});

describe('a write under an empty root', () => {
  test('makes four pages from the top down, each named by the one above', async () => {
    const map = await openMap();
    const tree = new Allocator();
    expect(map.missingPages(7)).toBe(4);
    await map.load([7], tree);
    expect(tree.entries).toEqual([
      [ROOTS + 7, 0, 62],
      [62, 0, 63],
      [63, 0, 64],
      [64, 0, 65],
    ]);
    expect(tree.reserved).toBe(4);
    expect(map.missingPages(7)).toBe(0);
    expect(map.find(7)).toBeGreaterThanOrEqual(0);
    expect(map.interiorPages).toBe(3);
  });

  test('a neighbour under the same node needs one more, in the same step or later', async () => {
    const map = await openMap();
    const tree = new Allocator();
    await map.load([7, 67], tree);
    expect(tree.entries.slice(4)).toEqual([[64, 1, 66]]);
    expect(map.missingPages(127)).toBe(1);
    await map.load([127], tree);
    expect(tree.entries.slice(5)).toEqual([[64, 2, 67]]);
  });

  test('a page far away shares what it can', async () => {
    const map = await openMap();
    const tree = new Allocator();
    // Same root; another height-1 node, another height-2 node, another height-3 node.
    const spans = [60 * 812, 60 * 812 ** 2, 60 * 812 ** 3];
    await map.load([7], tree);
    const missing = spans.map((span) => map.missingPages(7 + span));
    expect(missing).toEqual([2, 3, 4]);
    await map.load(
      spans.map((span) => 7 + span),
      tree,
    );
    // prettier-ignore
    expect(tree.entries.map(([parent]) => parent)).toEqual([
      ROOTS + 7, 62, 63, 64,
      63, 66,
      62, 68, 69,
      ROOTS + 7, 71, 72, 73,
    ]);
  });

  test('writes their empty images first, over whatever lay there', async () => {
    const map = await openMap();
    formatPage(storage.block(FIRST + 3), NONCE, 999, true);
    storage.scribble(FIRST + 3, noise(1));
    const tree = new Allocator();
    const order: string[] = [];
    storage.before = ({ kind }) => void order.push(kind);
    tree.record = () => void order.push('entry');
    await map.load([7], tree);
    expect(order).toEqual(['write', 'entry', 'entry', 'entry', 'entry']);
    for (let pbn = FIRST; pbn < FIRST + 4; pbn++) {
      expect(isInitialized(storage.block(pbn))).toBe(false);
      expect(entryPbn(storage.block(pbn), 0)).toBe(0);
    }
  });

  test('that fails to write them journals nothing', async () => {
    const map = await openMap();
    const tree = new Allocator();
    storage.before = ({ kind }) => {
      if (kind === 'write') throw new Error('no');
    };
    await expect(map.load([7], tree)).rejects.toThrow('no');
    expect(tree.entries).toEqual([]);
    expect(map.find(7)).toBe(-1);
  });
});

describe('without space', () => {
  test.for([0, 1, 2, 3])('for more than %i of four pages nothing is taken', async (space) => {
    const map = await openMap();
    const tree = new Allocator(space);
    await map.load([7], tree);
    expect(tree.free).toHaveLength(space);
    expect(tree.entries).toEqual([]);
    expect(map.find(7)).toBe(-1);
    expect(map.missingPages(7)).toBe(4);
  });

  test('the pages before the one that does not fit are made', async () => {
    const map = await openMap();
    const tree = new Allocator(6);
    await map.load([7, 67, 8], tree);
    expect(map.find(7)).toBeGreaterThanOrEqual(0);
    expect(map.find(67)).toBeGreaterThanOrEqual(0);
    expect(map.find(8)).toBe(-1);
    expect(tree.free).toHaveLength(1);
  });
});

describe('a load', () => {
  test('without an allocator leaves what does not exist absent', async () => {
    const map = await openMap();
    await map.load([1, 2, 3]);
    expect([1, 2, 3].map((page) => map.find(page))).toEqual([-1, -1, -1]);
  });

  test('finds in another run what a checkpoint saved, level by level', async () => {
    const first = await openMap();
    await first.load([7, 8, 67], new Allocator());
    first.setEntry(first.find(67), 811, 1500, 9);
    await save(first);
    const map = await openMap();
    await map.load([67, 8, 9]);
    const frame = map.find(67);
    expect([map.pbnAt(frame, 811), map.stateAt(frame, 811)]).toEqual([1500, 9]);
    expect(map.pbnAt(map.find(8), 0)).toBe(0);
    expect(map.find(9)).toBe(-1);
    expect(map.pagesLoaded).toBe(2);
    await map.load([67]);
    expect(map.pagesLoaded).toBe(2);
  });

  test('reserves frames for what is absent, and not where all is resident', async () => {
    const map = await openMap();
    await map.load([7], new Allocator());
    expect(reservedFrames).toEqual([1]);
    await map.load([7]);
    expect(reservedFrames).toEqual([1]);
  });

  test('that meets a bad page fails, and forgets what it had begun to load', async () => {
    const first = await openMap();
    await first.load([7, 8], new Allocator());
    first.setEntry(first.find(7), 0, 1500, 1);
    first.setEntry(first.find(8), 0, 1501, 1);
    await save(first);
    const page = storage.block(FIRST + 3);
    formatPage(page, NONCE, 999, true);
    storage.scribble(FIRST + 3, page);
    const map = await openMap();
    await expect(map.load([7, 8])).rejects.toMatchObject({ code: 'Corrupt', where: { pbn: 65 } });
    expect(map.find(7)).toBe(-1);
    await map.load([8]);
    expect(map.pbnAt(map.find(8), 0)).toBe(1501);
  });

  test('that meets an interior entry that is no page fails with BadMapping', async () => {
    const map = await openMap();
    await map.load([7], new Allocator());
    await save(map);
    for (const [pbn, state] of [
      [5, 1],
      [1900, 3],
      [0, 1],
      [5000, 1],
    ] as const) {
      const root = storage.block(ROOTS + 7);
      setEntry(root, 0, pbn, state);
      storage.scribble(ROOTS + 7, root);
      const again = await openMap();
      await expect(again.load([7])).rejects.toMatchObject({ code: 'BadMapping' });
      expect(() => again.missingPages(7)).toThrow('names block');
    }
  });
});

describe('the next leaf', () => {
  test('is found over any distance, new ones too', async () => {
    const map = await openMap();
    const tree = new Allocator();
    expect(await map.nextLeaf(0, 10_000_000)).toBe(10_000_000);
    const far = 60 * 812 * 700 + 11;
    await map.load([far], tree);
    expect(await map.nextLeaf(0, 10 ** 8)).toBe(far);
    expect(await map.nextLeaf(far, far + 1)).toBe(far);
    expect(await map.nextLeaf(far + 1, 10 ** 8)).toBe(10 ** 8);
    await map.load([3], tree);
    expect(await map.nextLeaf(0, 10 ** 8)).toBe(3);
    await map.load([63], tree);
    expect(await map.nextLeaf(4, 10 ** 8)).toBe(63);
    expect(await map.nextLeaf(4, 60)).toBe(60);
    expect(await map.nextLeaf(9, 9)).toBe(9);
  });
});

describe('mappings', () => {
  test('can be followed if they are zeros, or name a data block in a state that fits', async () => {
    const map = await openMap();
    const good = [
      [0, 0],
      [0, 1],
      [62, 1],
      [1999, 15],
    ] as const;
    const bad = [
      [62, 0],
      [0, 2],
      [61, 1],
      [2000, 1],
      [2 ** 36 - 1, 3],
    ] as const;
    expect(good.map(([pbn, state]) => map.isValid(pbn, state))).toEqual(good.map(() => true));
    expect(bad.map(([pbn, state]) => map.isValid(pbn, state))).toEqual(bad.map(() => false));
  });
});
