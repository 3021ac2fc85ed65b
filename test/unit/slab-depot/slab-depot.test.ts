/** The depot: allocation, holds by epoch, claims, and what one checkpoint writes of it. */
import { beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_SIZE, SLAB_JOURNAL_FULL_ENTRIES } from '../../../src/base/constants.ts';
import { decodeReferenceBlock, readCommitPoint } from '../../../src/format/reference-block.ts';
import { readSlabJournalHeader } from '../../../src/format/slab-journal-block.ts';
import { readSummaryEntry } from '../../../src/format/slab-summary.ts';
import type { DepotShape } from '../../../src/slab-depot/shape.ts';
import { SlabDepot } from '../../../src/slab-depot/slab-depot.ts';
import { SlabJournal } from '../../../src/slab-depot/slab-journal.ts';
import { Slab } from '../../../src/slab-depot/slab.ts';
import { SlabSummary } from '../../../src/slab-depot/summary.ts';

const NONCE = new Uint8Array(8).fill(9);
const SUMMARY_AT = 9000 * BLOCK_SIZE;
/** Slabs of 64 blocks: 55 of data, one of counts, eight of journal. */
const SHAPE: DepotShape = {
  firstBlock: 100,
  slabBlocks: 64,
  dataBlocks: 55,
  referenceBlocks: 1,
  journalBlocks: 8,
};

function makeDepot(slabs: readonly { counts?: Uint8Array; tail?: number }[]): SlabDepot {
  const made = slabs.map(({ counts, tail = 1 }, number) => {
    const slab = new Slab({
      number,
      start: SHAPE.firstBlock + number * SHAPE.slabBlocks,
      dataBlocks: SHAPE.dataBlocks,
      referenceBlocks: SHAPE.referenceBlocks,
      journal: new SlabJournal(NONCE, SHAPE.journalBlocks, tail),
      loaded: counts !== undefined,
    });
    if (counts !== undefined) slab.adopt(counts);
    return slab;
  });
  return new SlabDepot(SHAPE, made, new SlabSummary(SUMMARY_AT));
}

let point = 0;
beforeEach(() => (point = 0));
const up = (depot: SlabDepot, pbn: number): void => depot.increment(pbn, 1, point++);
const down = (depot: SlabDepot, pbn: number, epoch: number): void =>
  depot.decrement(pbn, 1, point++, epoch);

describe('blocks that can hold data', () => {
  test('are the data blocks of the slabs and nothing else', () => {
    const depot = makeDepot([{}, {}]);
    const good = [100, 154, 164, 218];
    const bad = [0, 99, 155, 163, 219, 228, 1e9, -1, NaN];
    expect(good.map((pbn) => depot.isDataBlock(pbn))).toEqual(good.map(() => true));
    expect(bad.map((pbn) => depot.isDataBlock(pbn))).toEqual(bad.map(() => false));
    expect(() => depot.references(155)).toThrow('in no slab');
    expect(() => depot.references(99)).toThrow('in no slab');
    expect(() => depot.references(228)).toThrow('in no slab');
  });
});

describe('allocation', () => {
  test('goes through a slab in order, then through the next, then ends with 0', () => {
    const depot = makeDepot([{}, {}]);
    const taken = Array.from({ length: 110 }, () => depot.allocate());
    const run = (start: number) => Array.from({ length: 55 }, (_, i) => start + i);
    expect(taken).toEqual([...run(100), ...run(164)]);
    expect(depot.allocatable).toBe(0);
    expect(depot.allocate()).toBe(0);
  });

  test('finds every last hole', () => {
    const counts = new Uint8Array(55).fill(1);
    counts[3] = 0;
    counts[54] = 0;
    const depot = makeDepot([{ counts }, { counts: new Uint8Array(55).fill(2) }]);
    expect([depot.allocate(), depot.allocate(), depot.allocate()]).toEqual([103, 154, 0]);
  });

  test('comes back to blocks behind its cursor', () => {
    const depot = makeDepot([{}]);
    for (let i = 0; i < 55; i++) depot.allocate();
    depot.unallocate(110);
    depot.unallocate(105);
    expect(depot.allocatable).toBe(2);
    expect([depot.allocate(), depot.allocate(), depot.allocate()]).toEqual([105, 110, 0]);
    expect(depot.slabsReopened).toBeGreaterThan(0);
  });

  test('prefers an almost free used slab, then one never used, then the emptiest', () => {
    const filled = (used: number) => new Uint8Array(55).fill(1, 0, used);
    const depot = makeDepot([
      { counts: filled(30) },
      {},
      { counts: filled(2) },
      { counts: filled(50) },
    ]);
    const order: number[] = [];
    for (let pbn = depot.allocate(); pbn !== 0; pbn = depot.allocate()) {
      const slab = Math.floor((pbn - 100) / 64);
      if (order.at(-1) !== slab) order.push(slab);
    }
    expect(order).toEqual([2, 1, 0, 3]);
  });
});

describe('a freed block is held', () => {
  test('until the epoch that freed it is committed', () => {
    const depot = makeDepot([{}]);
    const pbn = depot.allocate();
    up(depot, pbn);
    const free = depot.allocatable;
    down(depot, pbn, 4);
    expect(depot.references(pbn)).toBe(0);
    expect([depot.allocatable, depot.heldBlocks]).toEqual([free, 1]);
    depot.releaseHolds(3);
    expect(depot.heldBlocks).toBe(1);
    expect(depot.holdsUntil(4)).toBe(true);
    depot.releaseHolds(4);
    expect([depot.allocatable, depot.heldBlocks]).toEqual([free + 1, 0]);
    expect(depot.holdsUntil(4)).toBe(false);
  });

  test('and not given out meanwhile, however little is left', () => {
    const depot = makeDepot([{}]);
    const taken = Array.from({ length: 55 }, () => depot.allocate());
    for (const pbn of taken) up(depot, pbn);
    down(depot, taken[7]!, 1);
    expect(depot.allocate()).toBe(0);
    depot.releaseHolds(1);
    expect(depot.allocate()).toBe(taken[7]);
  });

  test('no longer once it is shared again', () => {
    const depot = makeDepot([{}]);
    const pbn = depot.allocate();
    up(depot, pbn);
    down(depot, pbn, 1);
    up(depot, pbn);
    expect(depot.heldBlocks).toBe(0);
    depot.releaseHolds(1);
    expect(depot.references(pbn)).toBe(1);
    expect(depot.allocatable).toBe(54);
  });

  test('until the later epoch, where it was revived and freed again', () => {
    const depot = makeDepot([{}]);
    const pbn = depot.allocate();
    up(depot, pbn);
    down(depot, pbn, 1);
    up(depot, pbn);
    down(depot, pbn, 2);
    expect(depot.heldBlocks).toBe(1);
    depot.releaseHolds(1);
    expect([depot.heldBlocks, depot.allocatable]).toEqual([1, 54]);
    depot.releaseHolds(2);
    expect([depot.heldBlocks, depot.allocatable]).toEqual([0, 55]);
  });

  test('once, though one epoch frees it twice', () => {
    const depot = makeDepot([{}]);
    const pbn = depot.allocate();
    for (let i = 0; i < 2; i++) {
      up(depot, pbn);
      down(depot, pbn, 1);
    }
    depot.releaseHolds(1);
    expect([depot.heldBlocks, depot.allocatable]).toEqual([0, 55]);
  });

  test('a block that still has references is not', () => {
    const depot = makeDepot([{}]);
    const pbn = depot.allocate();
    up(depot, pbn);
    up(depot, pbn);
    down(depot, pbn, 1);
    expect([depot.heldBlocks, depot.references(pbn)]).toEqual([0, 1]);
  });
});

describe('a claim on a block without references', () => {
  test('of a free one takes it, and gives it back at once', () => {
    const depot = makeDepot([{}]);
    expect(depot.claimUnreferenced(120)).toBe('free');
    expect(depot.allocatable).toBe(54);
    depot.unallocate(120);
    expect([depot.allocatable, depot.heldBlocks]).toEqual([55, 0]);
  });

  test('of a held one ends the hold; given back, it is held by the open epoch', () => {
    const depot = makeDepot([{}]);
    const pbn = depot.allocate();
    up(depot, pbn);
    down(depot, pbn, 1);
    expect(depot.claimUnreferenced(pbn)).toBe('held');
    depot.releaseHolds(1);
    expect([depot.allocatable, depot.heldBlocks]).toEqual([54, 0]);
    depot.holdAgain(pbn, 2);
    depot.releaseHolds(1);
    expect(depot.allocatable).toBe(54);
    depot.releaseHolds(2);
    expect([depot.allocatable, depot.heldBlocks]).toEqual([55, 0]);
  });

  test('of one reserved for new content is refused', () => {
    const depot = makeDepot([{}]);
    expect(depot.claimUnreferenced(depot.allocate())).toBe('refused');
    expect(depot.allocatable).toBe(54);
  });

  test('that leads to a reference counts it once', () => {
    const depot = makeDepot([{}]);
    depot.claimUnreferenced(120);
    up(depot, 120);
    up(depot, 120);
    expect([depot.allocatable, depot.references(120)]).toEqual([54, 2]);
  });

  test('an increment of a free block takes it, too', () => {
    const depot = makeDepot([{}]);
    up(depot, 130);
    expect([depot.allocatable, depot.references(130)]).toEqual([54, 1]);
  });
});

describe('a checkpoint', () => {
  test('copies counts and the sealed journal tail of touched slabs only', () => {
    const depot = makeDepot([{}, { counts: new Uint8Array(55), tail: 11 }, {}]);
    up(depot, 164);
    up(depot, 165);
    const { extents, slabs } = depot.capture();
    // Counts at 164 + 55; journal block 11 in slot 11 mod 8 behind them.
    expect(extents.map(({ offset }) => offset / BLOCK_SIZE)).toEqual([219, 220 + 3]);
    expect(slabs.map(({ slab, tail }) => [slab.number, tail])).toEqual([[1, 12]]);
    const counts = new Uint8Array(55);
    decodeReferenceBlock(extents[0]!.bytes, counts, 0);
    expect([...counts.subarray(0, 3)]).toEqual([1, 1, 0]);
    expect(readCommitPoint(extents[0]!.bytes, 7)).toEqual({ sequence: 11, index: 1 });
    expect(readSlabJournalHeader(extents[1]!.bytes)).toMatchObject({ sequence: 11, entryCount: 2 });
    expect(depot.capture().extents).toEqual([]);
  });

  test('then says in the summary: journal empty, counts valid, so many free, held ones included', () => {
    const depot = makeDepot([{}]);
    const pbn = depot.allocate();
    up(depot, pbn);
    down(depot, pbn, 1);
    const capture = depot.capture();
    const [block] = depot.summarize(capture);
    expect(block!.offset).toBe(SUMMARY_AT);
    expect(readSummaryEntry(block!.bytes, 0)).toEqual({
      tailOffset: 2,
      fullnessHint: 55,
      loadCounts: true,
      dirty: false,
    });
  });

  test('wraps the tail offset at the size of the journal', () => {
    const depot = makeDepot([{ counts: new Uint8Array(55), tail: 7 }]);
    up(depot, 100);
    const [block] = depot.summarize(depot.capture());
    expect(readSummaryEntry(block!.bytes, 0).tailOffset).toBe(0);
  });

  test('gives room back when it is settled, less what came since', () => {
    const depot = makeDepot([{}]);
    const whole = (8 - 2) * SLAB_JOURNAL_FULL_ENTRIES;
    expect(depot.journalRoom()).toBe(whole);
    for (let i = 0; i < 100; i++) up(depot, 100 + (i % 50));
    expect(depot.journalRoom()).toBe(whole - 100);
    const capture = depot.capture();
    for (let i = 0; i < 30; i++) up(depot, 100 + (i % 50));
    expect(depot.journalRoom()).toBe(whole - 130);
    expect(depot.slabs[0]!.loaded).toBe(false);
    depot.settle(capture);
    expect(depot.slabs[0]!.loaded).toBe(true);
    // Now a used slab whose tail block is needed: J − 1 blocks, capped at what a fresh one offers.
    expect(depot.journalRoom()).toBe(Math.min(whole, 7 * SLAB_JOURNAL_FULL_ENTRIES - 30));
    expect(depot.isSettled).toBe(false);
    depot.settle(depot.capture());
    expect(depot.isSettled).toBe(true);
    expect(depot.journalRoom()).toBe(whole);
  });

  test('leaves what changed after the copy for the next one', () => {
    const depot = makeDepot([{}]);
    up(depot, 100);
    const first = depot.capture();
    up(depot, 101);
    depot.settle(first);
    const { extents } = depot.capture();
    const counts = new Uint8Array(55);
    decodeReferenceBlock(extents[0]!.bytes, counts, 0);
    expect([...counts.subarray(0, 3)]).toEqual([1, 1, 0]);
    expect(readCommitPoint(extents[0]!.bytes, 0)).toEqual({ sequence: 2, index: 0 });
  });
});
