/** Scrubbing: a slab journal applied to reference blocks from each sector's own commit point on. */
import { expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { encodeReferenceBlock, readCommitPoint } from '../../../src/format/reference-block.ts';
import {
  beginSlabJournalBlock,
  finishSlabJournalBlock,
  makeFullSlabJournalBlock,
  setBlockMapIncrement,
  setSlabJournalEntry,
} from '../../../src/format/slab-journal-block.ts';
import { encodeReferences, scrubSlab, type ScrubInput } from '../../../src/slab-depot/scrub.ts';

const NONCE = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
const DATA_BLOCKS = 1007;
const JOURNAL_BLOCKS = 8;

type Entry = readonly [sbn: number, change: 1 | -1 | 'page'];

/** A journal with the given blocks, by sequence. */
function journalOf(head: number, blocks: Readonly<Record<number, readonly Entry[]>>): Uint8Array {
  const journal = new Uint8Array(JOURNAL_BLOCKS * BLOCK_SIZE);
  for (const [key, entries] of Object.entries(blocks)) {
    const sequence = Number(key);
    const at = (sequence % JOURNAL_BLOCKS) * BLOCK_SIZE;
    const block = journal.subarray(at, at + BLOCK_SIZE);
    beginSlabJournalBlock(block, NONCE, sequence);
    if (entries.some(([, change]) => change === 'page')) makeFullSlabJournalBlock(block);
    entries.forEach(([sbn, change], index) => {
      setSlabJournalEntry(block, index, sbn, change !== -1);
      if (change === 'page') setBlockMapIncrement(block, index);
    });
    finishSlabJournalBlock(block, {
      head,
      entryCount: entries.length,
      recoverySequence: sequence,
      recoveryIndex: 0,
    });
  }
  return journal;
}

function references(counts: Readonly<Record<number, number>>, sequence: number, index: number) {
  const bytes = new Uint8Array(BLOCK_SIZE);
  const all = new Uint8Array(DATA_BLOCKS);
  for (const [sbn, count] of Object.entries(counts)) all[Number(sbn)] = count;
  encodeReferenceBlock(bytes, all, 0, sequence, index);
  return bytes;
}

const input = (rest: Pick<ScrubInput, 'journal' | 'last' | 'references'>): ScrubInput => ({
  slab: 3,
  dataBlocks: DATA_BLOCKS,
  nonce: NONCE,
  ...rest,
});

test('a slab without counts starts from zero; pages get 254', () => {
  const journal = journalOf(1, {
    1: [
      [0, 'page'],
      [1, 1],
      [1, 1],
    ],
    2: [
      [1, -1],
      [9, 1],
    ],
  });
  const { counts, pointSequence, pointIndex } = scrubSlab(
    input({ journal, last: 2, references: null }),
  );
  expect([counts[0], counts[1], counts[9]]).toEqual([254, 1, 1]);
  expect([pointSequence, pointIndex]).toEqual([2, 1]);
});

test('entries up to the commit point are in the counts already', () => {
  const journal = journalOf(7, {
    7: [
      [5, 1],
      [5, 1],
    ],
    8: [
      [5, 1],
      [6, 1],
    ],
  });
  const scrub = (sequence: number, index: number, count: number) =>
    scrubSlab(input({ journal, last: 8, references: references({ 5: count }, sequence, index) }));
  expect(scrub(7, 0, 1).counts[5]).toBe(3);
  expect(scrub(7, 1, 2).counts[5]).toBe(3);
  expect(scrub(8, 0, 3).counts[5]).toBe(3);
  expect(scrub(8, 1, 3).counts[6]).toBe(0);
});

test('each sector goes by its own point, as after a torn write', () => {
  const journal = journalOf(4, {
    4: [
      [5, 1],
      [600, 1],
    ],
  });
  const torn = references({ 5: 1 }, 4, 1);
  // The second sector (counts from 504 on) is still the old one.
  torn.set(references({}, 3, 9).subarray(512, 1024), 512);
  const { counts } = scrubSlab(input({ journal, last: 4, references: torn }));
  expect([counts[5], counts[600]]).toEqual([1, 1]);
});

test('a provisional count on disk is free', () => {
  const journal = journalOf(4, { 4: [[5, 1]] });
  const { counts } = scrubSlab(
    input({ journal, last: 4, references: references({ 5: 255, 6: 255 }, 3, 0) }),
  );
  expect([counts[5], counts[6]]).toEqual([1, 0]);
});

test('the encoded blocks carry the counts and the last position, in every sector', () => {
  const journal = journalOf(4, {
    4: [
      [5, 1],
      [600, 1],
    ],
  });
  const scrubbed = scrubSlab(input({ journal, last: 4, references: null }));
  const extents = encodeReferences(scrubbed, 7 * BLOCK_SIZE);
  expect(extents.map(({ offset }) => offset)).toEqual([7 * BLOCK_SIZE]);
  const { bytes } = extents[0]!;
  for (let sector = 0; sector < 8; sector++) {
    expect(readCommitPoint(bytes, sector)).toEqual({ sequence: 4, index: 1 });
  }
  const again = scrubSlab(input({ journal, last: 4, references: bytes }));
  expect(again.counts).toEqual(scrubbed.counts);
  expect(encodeReferences(again, 0), 'nothing changed').toEqual([]);
});

test('a journal that was never used changes nothing', () => {
  const empty = { journal: new Uint8Array(0), last: 0 };
  const old = scrubSlab(input({ ...empty, references: references({ 5: 2, 6: 255 }, 0, 0) }));
  expect([old.counts[5], old.counts[6]]).toEqual([2, 0]);
  expect(encodeReferences(old, 0)).toEqual([]);
  expect(encodeReferences(scrubSlab(input({ ...empty, references: null })), 0)).toHaveLength(1);
});

test('a journal that contradicts itself is refused', () => {
  const good = journalOf(4, { 4: [[5, 1]], 5: [[5, -1]] });
  const gap = journalOf(4, { 5: [[5, 1]] });
  expect(() => scrubSlab(input({ journal: gap, last: 5, references: null }))).toThrow(
    /no valid block 4/,
  );
  const below = journalOf(5, { 5: [[5, -1]] });
  expect(() => scrubSlab(input({ journal: below, last: 5, references: null }))).toThrow(
    /decrement of block 5, which has 0 references/,
  );
  const outside = journalOf(5, { 5: [[DATA_BLOCKS, 1]] });
  expect(() => scrubSlab(input({ journal: outside, last: 5, references: null }))).toThrow(/entry/);
  const ahead = journalOf(9, { 5: [[5, 1]] });
  expect(() => scrubSlab(input({ journal: ahead, last: 5, references: null }))).toThrow(/head 9/);
  expect(scrubSlab(input({ journal: good, last: 5, references: null })).counts[5]).toBe(0);
});
