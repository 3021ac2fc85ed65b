/** Positions in a slab journal are those that a replay would assign; room keeps a replay possible. */
import { describe, expect, test } from 'vitest';
import {
  SLAB_JOURNAL_FULL_ENTRIES as FULL,
  SLAB_JOURNAL_PLAIN_ENTRIES as PLAIN,
} from '../../../src/base/constants.ts';
import {
  readSlabJournalEntry,
  readSlabJournalHeader,
} from '../../../src/format/slab-journal-block.ts';
import { SlabJournal } from '../../../src/slab-depot/slab-journal.ts';

const NONCE = Uint8Array.of(8, 7, 6, 5, 4, 3, 2, 1);
const J = 16;

/** A journal with a clock of its own for recovery journal points. */
class Bench {
  readonly journal: SlabJournal;
  index = -1;

  constructor(tail = 1, blocks = J) {
    this.journal = new SlabJournal(NONCE, blocks, tail);
  }

  data(count = 1, sbn = 5, increment = true): void {
    for (let i = 0; i < count; i++) this.journal.append(sbn, increment, false, 1, ++this.index);
  }

  blockMap(sbn = 6): void {
    this.journal.append(sbn, true, true, 1, ++this.index);
  }

  get point(): [number, number] {
    return [this.journal.tail, this.journal.lastIndex];
  }
}

describe('positions', () => {
  test('a plain block takes 1353 entries, then the next one begins', () => {
    const bench = new Bench();
    expect(bench.journal.isEmpty).toBe(true);
    bench.data(PLAIN);
    expect(bench.point).toEqual([1, PLAIN - 1]);
    bench.data();
    expect(bench.point).toEqual([2, 0]);
  });

  test('a block with a block map increment takes 1299', () => {
    const bench = new Bench();
    bench.blockMap();
    bench.data(FULL - 1);
    expect(bench.point).toEqual([1, FULL - 1]);
    bench.data();
    expect(bench.point).toEqual([2, 0]);
    // The next block starts plain again.
    bench.data(PLAIN - 1);
    expect(bench.point).toEqual([2, PLAIN - 1]);
  });

  test('the first block map increment may be the 1299th entry', () => {
    const bench = new Bench();
    bench.data(FULL - 1);
    bench.blockMap();
    expect(bench.point).toEqual([1, FULL - 1]);
    bench.data();
    expect(bench.point).toEqual([2, 0]);
  });

  test.for([FULL, FULL + 1, PLAIN - 1, PLAIN])(
    'one that comes after %i entries begins the next block',
    (count) => {
      const bench = new Bench();
      bench.data(count);
      bench.blockMap();
      expect(bench.point).toEqual([2, 0]);
      bench.data(FULL - 1);
      expect(bench.point).toEqual([2, FULL - 1]);
      bench.data();
      expect(bench.point).toEqual([3, 0]);
    },
  );

  test('a sealed block is never continued', () => {
    const bench = new Bench();
    bench.data(3);
    bench.journal.seal();
    expect(bench.journal.isEmpty).toBe(true);
    bench.data();
    expect(bench.point).toEqual([2, 0]);
  });

  test('go on at the tail of the run before', () => {
    const bench = new Bench(45);
    bench.data();
    expect(bench.point).toEqual([45, 0]);
  });
});

describe('a sealed block', () => {
  test('holds the entries, the point of the last one, and the head as it is on disk', () => {
    const bench = new Bench(3);
    bench.data(1, 70_000);
    bench.blockMap(9);
    bench.data(1, 70_000, false);
    const { sequence, bytes } = bench.journal.seal();
    expect(sequence).toBe(3);
    expect(readSlabJournalHeader(bytes)).toMatchObject({
      head: 3,
      sequence: 3,
      recoverySequence: 1,
      recoveryIndex: 2,
      metadataType: 2,
      hasBlockMapIncrements: true,
      entryCount: 3,
      nonce: NONCE,
    });
    expect([0, 1, 2].map((i) => readSlabJournalEntry(bytes, i))).toEqual([
      { sbn: 70_000, increment: true, blockMap: false },
      { sbn: 9, increment: true, blockMap: true },
      { sbn: 70_000, increment: false, blockMap: false },
    ]);
  });

  test('is a copy that later entries leave alone', () => {
    const bench = new Bench();
    bench.data(2);
    const { bytes } = bench.journal.seal();
    const before = bytes.slice();
    bench.data(10, 99);
    bench.journal.seal();
    expect(Buffer.compare(bytes, before)).toBe(0);
  });

  test('has at least one entry', () => {
    const bench = new Bench();
    expect(() => bench.journal.seal()).toThrow('not sealed');
    bench.data();
    bench.journal.seal();
    expect(() => bench.journal.seal()).toThrow('not sealed');
    expect(() => bench.journal.lastIndex).toThrow('commit point');
  });
});

describe('order', () => {
  test('points must rise, within a block and from block to block', () => {
    const journal = new SlabJournal(NONCE, J, 1);
    journal.append(1, true, false, 7, 4);
    expect(() => journal.append(1, true, false, 7, 4)).toThrow('order');
    expect(() => journal.append(1, true, false, 7, 3)).toThrow('order');
    expect(() => journal.append(1, true, false, 6, 9)).toThrow('order');
    journal.append(1, false, false, 7, 5);
    journal.append(1, true, false, 8, 0);
  });
});

describe('room', () => {
  test('of a slab never used keeps slot J − 1 free, since offset 0 reads as never used', () => {
    const bench = new Bench();
    expect(bench.journal.room(false)).toBe((J - 2) * FULL);
    expect(bench.journal.room(true)).toBe((J - 2) * FULL);
    bench.data(100);
    expect(bench.journal.room(false)).toBe((J - 2) * FULL - 100);
  });

  test('of a used slab leaves the summarised tail block alone', () => {
    const bench = new Bench(20);
    expect(bench.journal.room(true)).toBe((J - 1) * FULL);
  });

  test('counts what a checkpoint has copied until that is durable', () => {
    const bench = new Bench(20);
    bench.data(1000);
    bench.journal.seal();
    bench.data(300);
    expect(bench.journal.room(true)).toBe((J - 1) * FULL - 1300);
    bench.journal.emptied();
    expect(bench.journal.room(true)).toBe((J - 1) * FULL - 300);
  });

  test('is never negative', () => {
    const bench = new Bench(20, 2);
    bench.data(FULL + 5);
    expect(bench.journal.room(true)).toBe(0);
    expect(new SlabJournal(NONCE, 3, 9).room(false)).toBe(0);
  });

  test.for([
    ['a slab never used', 1, false],
    ['a used slab', 21, true],
  ] as const)('of %s, used up, keeps a replay off the blocks it needs', ([, tail, loaded]) => {
    const bench = new Bench(tail);
    // A block map increment where it no longer fits cuts every block short: the most blocks there can be.
    while (bench.journal.room(loaded) > 0) {
      if (!bench.journal.isEmpty && bench.journal.lastIndex === FULL - 1) bench.blockMap();
      else bench.data();
    }
    const end = bench.journal.tail + 1;
    // The summarised tail block, tail − 1, is needed to the end.
    expect(end - (tail - 1)).toBeLessThanOrEqual(J);
    if (!loaded) expect(end).toBeLessThanOrEqual(J - 1);
    // Nothing is wasted either: one more block would be one too many.
    expect(loaded ? end - (tail - 1) : end).toBe(loaded ? J : J - 1);
  });
});
