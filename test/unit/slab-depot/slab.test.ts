/** Reference counts of one slab: transitions, what is dirty, and what reaches the disk. */
import { describe, expect, test } from 'vitest';
import { COUNTS_PER_BLOCK } from '../../../src/base/constants.ts';
import { decodeReferenceBlock, readCommitPoint } from '../../../src/format/reference-block.ts';
import { SlabJournal } from '../../../src/slab-depot/slab-journal.ts';
import { Slab } from '../../../src/slab-depot/slab.ts';

const NONCE = new Uint8Array(8);
const DATA = 2 * COUNTS_PER_BLOCK + 100;

function makeSlab(loaded = true): Slab {
  const journal = new SlabJournal(NONCE, 16, 5);
  const shape = { dataBlocks: DATA, referenceBlocks: 3 };
  return new Slab({ number: 0, start: 1000, ...shape, journal, loaded });
}

/** A change with its journal entry, as the depot makes them. */
let index = 0;
function log(slab: Slab, sbn: number, increment: boolean): void {
  slab.journal.append(sbn, increment, false, 1, index++);
}

/** The counts as a checkpoint writes them, by reference block. */
function written(slab: Slab): Map<number, { counts: Uint8Array; bytes: Uint8Array }> {
  const blocks = new Map<number, { counts: Uint8Array; bytes: Uint8Array }>();
  slab.takeDirty((block, bytes) => {
    const counts = new Uint8Array(Math.min(COUNTS_PER_BLOCK, DATA - block * COUNTS_PER_BLOCK));
    decodeReferenceBlock(bytes, counts, 0);
    blocks.set(block, { counts, bytes });
  });
  return blocks;
}

describe('transitions', () => {
  test('free → reserved → 1 → 2 → 1 → reserved → free', () => {
    const slab = makeSlab();
    const seen = [slab.countOf(7)];
    const steps = [
      () => slab.reserve(7),
      () => slab.increment(7),
      () => slab.increment(7),
      () => expect(slab.decrement(7)).toBe(false),
      () => expect(slab.decrement(7)).toBe(true),
      () => slab.release(7),
    ];
    for (const step of steps) {
      step();
      seen.push(slab.countOf(7));
    }
    expect(seen).toEqual([0, 255, 1, 2, 1, 255, 0]);
    expect(slab.free).toBe(DATA);
    expect(slab.opened).toBe(true);
  });

  test('a block takes 254 references and not one more', () => {
    const slab = makeSlab();
    for (let i = 0; i < 254; i++) slab.increment(0);
    expect(slab.countOf(0)).toBe(254);
    expect(() => slab.increment(0)).toThrow('254');
  });

  test('a tree page takes a reserved block and has 254 at once', () => {
    const slab = makeSlab();
    expect(() => slab.incrementBlockMap(3)).toThrow('reserved');
    slab.reserve(3);
    slab.incrementBlockMap(3);
    expect(slab.countOf(3)).toBe(254);
    expect(() => slab.increment(3)).toThrow();
  });

  test('nothing is taken from a free or reserved block, nor reserved or released twice', () => {
    const slab = makeSlab();
    expect(() => slab.decrement(4)).toThrow('no reference');
    slab.reserve(4);
    expect(() => slab.decrement(4)).toThrow('no reference');
    expect(() => slab.reserve(4)).toThrow('free');
    slab.release(4);
    expect(() => slab.release(4)).toThrow('reserved');
  });
});

describe('counts from disk', () => {
  test('provisional ones are free, free ones are counted', () => {
    const slab = makeSlab();
    const counts = new Uint8Array(DATA).fill(1);
    counts.set([0, 255, 3, 255], 10);
    slab.adopt(counts);
    expect(slab.free).toBe(3);
    expect([10, 11, 12, 13].map((sbn) => slab.countOf(sbn))).toEqual([0, 0, 3, 0]);
    expect(slab.findFree(0)).toBe(10);
    expect(slab.findFree(12)).toBe(13);
    expect(slab.findFree(14)).toBe(-1);
    expect(slab.findFree(DATA)).toBe(-1);
  });

  test('a slab without any is free from end to end', () => {
    const slab = makeSlab(false);
    expect(slab.free).toBe(DATA);
    expect(slab.findFree(0)).toBe(0);
    expect(slab.findFree(DATA - 1)).toBe(DATA - 1);
    expect(slab.findFree(DATA)).toBe(-1);
    expect(slab.opened).toBe(false);
  });
});

describe('what a checkpoint writes', () => {
  test('only blocks that changed, with the last journal position in all eight sectors', () => {
    const slab = makeSlab();
    slab.increment(2);
    log(slab, 2, true);
    slab.increment(2 * COUNTS_PER_BLOCK + 5);
    log(slab, 2 * COUNTS_PER_BLOCK + 5, true);
    expect(slab.dirtyBlocks).toBe(2);
    const blocks = written(slab);
    expect([...blocks.keys()]).toEqual([0, 2]);
    expect(blocks.get(2)!.counts[5]).toBe(1);
    for (let sector = 0; sector < 8; sector++) {
      for (const { bytes } of blocks.values()) {
        expect(readCommitPoint(bytes, sector)).toEqual({ sequence: 5, index: 1 });
      }
    }
    expect(slab.dirtyBlocks).toBe(0);
    expect(written(slab).size).toBe(0);
  });

  test('every block the first time, until the load flag is set', () => {
    const slab = makeSlab(false);
    slab.increment(2);
    log(slab, 2, true);
    expect([...written(slab).keys()]).toEqual([0, 1, 2]);
    // Still not loaded: a checkpoint that failed in between would write them again.
    expect([...written(slab).keys()]).toEqual([0, 1, 2]);
    slab.loaded = true;
    expect(written(slab).size).toBe(0);
  });

  test('provisional counts never: reserved and held blocks are free on disk', () => {
    const slab = makeSlab();
    slab.reserve(0);
    slab.increment(1);
    log(slab, 1, true);
    slab.reserve(2);
    slab.increment(3);
    log(slab, 3, true);
    slab.decrement(3);
    log(slab, 3, false);
    expect([0, 2, 3].map((sbn) => slab.countOf(sbn))).toEqual([255, 255, 255]);
    const { counts } = written(slab).get(0)!;
    expect([...counts.subarray(0, 5)]).toEqual([0, 1, 0, 0, 0]);
    // In memory they are what they were.
    expect(slab.countOf(0)).toBe(255);
  });

  test('a copy: later changes do not reach it', () => {
    const slab = makeSlab();
    slab.increment(1);
    log(slab, 1, true);
    let copy: Uint8Array | undefined;
    slab.takeDirty((_, bytes) => (copy = bytes));
    slab.increment(1);
    const counts = new Uint8Array(COUNTS_PER_BLOCK);
    decodeReferenceBlock(copy!, counts, 0);
    expect(counts[1]).toBe(1);
  });
});
