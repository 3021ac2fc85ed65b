/** The recovery journal in memory: blocks fill in order, heads are stamped, room is known. */
import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import {
  checkByte,
  readRecoveryEntry,
  readRecoveryHeader,
  usableEntryCount,
} from '../../../src/format/recovery-block.ts';
import {
  RecoveryJournal,
  type JournalOptions,
} from '../../../src/recovery-journal/recovery-journal.ts';
import type { Extent } from '../../../src/storage/storage.ts';

const ORIGIN = 500;
const PER_BLOCK = 217;

function makeJournal(options: Partial<JournalOptions> = {}): RecoveryJournal {
  return new RecoveryJournal({
    origin: ORIGIN,
    size: 16,
    nonce: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8),
    recoveryCount: 3,
    start: 1,
    logicalBlocksUsed: 0,
    blockMapDataBlocks: 0,
    ...options,
  });
}

/** Appends `count` new mappings. */
function append(journal: RecoveryJournal, count: number): void {
  for (let i = 0; i < count; i++) journal.appendData(70, i % 812, 100 + i, 1, 0, 0);
}

/** Closes the open epoch and lets it become durable. */
function commit(journal: RecoveryJournal, publish = false): Extent[] {
  const blocks = journal.closeEpoch(publish);
  journal.committed(blocks);
  return blocks;
}

const headerOf = (block: Extent | undefined) => readRecoveryHeader(block!.bytes);
const sequencesOf = (blocks: readonly Extent[]) => blocks.map((block) => headerOf(block).sequence);

describe('blocks', () => {
  test('are filled to 217 entries before the next one is opened', () => {
    const journal = makeJournal();
    append(journal, PER_BLOCK);
    expect([journal.lastSequence, journal.lastIndex]).toEqual([1, 216]);
    append(journal, 1);
    expect([journal.lastSequence, journal.lastIndex]).toEqual([2, 0]);
    const blocks = commit(journal);
    expect(blocks.map(({ offset }) => offset / BLOCK_SIZE)).toEqual([ORIGIN + 1, ORIGIN + 2]);
    expect(blocks.map(({ bytes }) => usableEntryCount(bytes))).toEqual([217, 1]);
    expect(journal.tail).toBe(3);
  });

  test('carry what identifies them', () => {
    const journal = makeJournal({ start: 18 });
    append(journal, 1);
    const [block] = commit(journal);
    expect(block!.offset).toBe((ORIGIN + 2) * BLOCK_SIZE);
    expect(headerOf(block)).toMatchObject({
      sequence: 18,
      metadataType: 3,
      entryCount: 1,
      checkByte: checkByte(18, 16),
      recoveryCount: 3,
      nonce: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8),
    });
  });

  test('hold entries as they were appended', () => {
    const journal = makeJournal();
    journal.appendBlockMap(2, 7, 62);
    journal.appendData(62, 811, 2 ** 35 + 5, 9, 123, 1);
    const [block] = commit(journal);
    expect(readRecoveryEntry(block!.bytes, 0)).toEqual({
      operation: 1,
      pagePbn: 2,
      slot: 7,
      newPbn: 62,
      newState: 1,
      oldPbn: 0,
      oldState: 0,
    });
    expect(readRecoveryEntry(block!.bytes, 1)).toEqual({
      operation: 0,
      pagePbn: 62,
      slot: 811,
      newPbn: 2 ** 35 + 5,
      newState: 9,
      oldPbn: 123,
      oldState: 1,
    });
  });

  test('that are partial go on in the next epoch, as a copy', () => {
    const journal = makeJournal();
    append(journal, 10);
    const [first] = journal.closeEpoch(false);
    const before = first!.bytes.slice();
    append(journal, 5);
    // While the first is being written it does not change.
    expect(Buffer.compare(first!.bytes, before)).toBe(0);
    journal.committed([first!]);
    const [again] = commit(journal);
    expect(again!.offset).toBe(first!.offset);
    expect(usableEntryCount(again!.bytes)).toBe(15);
    expect(readRecoveryEntry(again!.bytes, 3)).toEqual(readRecoveryEntry(before, 3));
  });

  test('that were full are not written again', () => {
    const journal = makeJournal();
    append(journal, PER_BLOCK);
    expect(sequencesOf(commit(journal))).toEqual([1]);
    append(journal, 1);
    expect(sequencesOf(commit(journal))).toEqual([2]);
  });

  test('reuse buffers, and nothing of an older block shines through', () => {
    const journal = makeJournal({ size: 64 });
    for (let i = 0; i < 40; i++) {
      append(journal, 3 * PER_BLOCK);
      for (const block of commit(journal)) {
        expect(usableEntryCount(block.bytes)).toBe(headerOf(block).entryCount);
      }
      append(journal, 1);
      const last = commit(journal).at(-1)!;
      const { entryCount } = headerOf(last);
      const sector = 1 + Math.floor(entryCount / 31);
      if (sector < 7) {
        expect(last.bytes.subarray((sector + 1) * 512).every((byte) => byte === 0)).toBe(true);
      }
      append(journal, PER_BLOCK - entryCount);
      commit(journal);
      journal.reap(journal.lastSequence);
      append(journal, 1);
      commit(journal);
    }
  });
});

describe('counters in the header', () => {
  test('say what held before the block, uncommitted blocks before it included', () => {
    const journal = makeJournal({ logicalBlocksUsed: 40, blockMapDataBlocks: 6 });
    journal.appendBlockMap(2, 7, 62);
    append(journal, PER_BLOCK - 1);
    journal.appendData(70, 0, 0, 0, 100, 1);
    const [first, second] = commit(journal);
    expect(headerOf(first)).toMatchObject({ logicalBlocksUsed: 40, blockMapDataBlocks: 6 });
    expect(headerOf(second)).toMatchObject({ logicalBlocksUsed: 256, blockMapDataBlocks: 7 });
    expect([journal.logicalBlocksUsed, journal.blockMapDataBlocks]).toEqual([255, 7]);
  });

  test('count mappings that end and begin, zeros too, and nothing for replacements', () => {
    const journal = makeJournal({ logicalBlocksUsed: 10 });
    journal.appendData(70, 0, 0, 1, 0, 0);
    expect(journal.logicalBlocksUsed).toBe(11);
    journal.appendData(70, 0, 100, 1, 0, 1);
    journal.appendData(70, 0, 101, 4, 100, 1);
    expect(journal.logicalBlocksUsed).toBe(11);
    journal.appendData(70, 0, 0, 0, 101, 4);
    expect(journal.logicalBlocksUsed).toBe(10);
    expect(journal.entriesStarted).toBe(4);
    expect(journal.entriesCommitted).toBe(0);
    commit(journal);
    expect(journal.entriesCommitted).toBe(4);
  });

  test('a rewritten partial block keeps those from before its first entry', () => {
    const journal = makeJournal({ logicalBlocksUsed: 5 });
    append(journal, 3);
    commit(journal);
    append(journal, 3);
    expect(headerOf(commit(journal)[0]).logicalBlocksUsed).toBe(5);
  });
});

describe('heads', () => {
  test('begin at the first sequence, and every block of an epoch carries those of its close', () => {
    const journal = makeJournal({ start: 9 });
    append(journal, 2 * PER_BLOCK);
    for (const block of commit(journal)) {
      expect(headerOf(block)).toMatchObject({ blockMapHead: 9, slabJournalHead: 9 });
    }
    append(journal, PER_BLOCK + 1);
    commit(journal);
    journal.reap(12);
    append(journal, PER_BLOCK);
    for (const block of commit(journal)) {
      expect(headerOf(block)).toMatchObject({ blockMapHead: 12, slabJournalHead: 12 });
    }
  });

  test('can be published by rewriting the last block, same entries', () => {
    const journal = makeJournal();
    append(journal, PER_BLOCK + 7);
    commit(journal);
    journal.reap(2);
    expect(journal.hasHeadsToPublish).toBe(true);
    const blocks = commit(journal, true);
    expect(sequencesOf(blocks)).toEqual([2]);
    expect(headerOf(blocks[0])).toMatchObject({ blockMapHead: 2, entryCount: 7 });
    expect(journal.hasHeadsToPublish).toBe(false);
    // The partial block goes on as if nothing had happened.
    append(journal, 1);
    expect(headerOf(commit(journal)[0])).toMatchObject({ sequence: 2, entryCount: 8 });
  });

  test('without newer ones nothing is rewritten', () => {
    const journal = makeJournal();
    expect(commit(journal, true)).toEqual([]);
    append(journal, 5);
    commit(journal);
    expect(commit(journal, true)).toEqual([]);
    journal.reap(1);
    expect(commit(journal, true)).toEqual([]);
  });

  test('are not asked for where the commit does not want to publish', () => {
    const journal = makeJournal();
    append(journal, PER_BLOCK + 7);
    commit(journal);
    journal.reap(2);
    expect(commit(journal, false)).toEqual([]);
    expect(journal.hasHeadsToPublish).toBe(true);
  });

  test('move neither back nor beyond the last block that holds an entry', () => {
    const journal = makeJournal();
    append(journal, 2 * PER_BLOCK);
    commit(journal);
    expect(() => journal.reap(3)).toThrow();
    journal.reap(2);
    expect(() => journal.reap(1)).toThrow();
  });

  test('of a full last block stay on it, even when all of it is written back', () => {
    const journal = makeJournal();
    append(journal, PER_BLOCK);
    commit(journal);
    journal.reap(journal.lastSequence);
    append(journal, 1);
    expect(headerOf(commit(journal)[0])).toMatchObject({ sequence: 2, blockMapHead: 1 });
  });
});

describe('room', () => {
  test.for([
    [2, 2],
    [4, 3],
    [16, 12],
    [64, 53],
    [32768, 32757],
  ])('of a journal of %i blocks is %i usable ones', ([size, usable]) => {
    const journal = makeJournal({ size: size! });
    expect(journal.usableBlocks).toBe(usable);
    expect(journal.roomUntilReaped()).toBe(usable! * PER_BLOCK);
    expect(journal.roomUntilPublished()).toBe(size! * PER_BLOCK);
  });

  test('shrinks by one an entry, and its end is an assertion', () => {
    const journal = makeJournal();
    append(journal, 100);
    expect(journal.roomUntilReaped()).toBe(12 * PER_BLOCK - 100);
    append(journal, journal.roomUntilReaped());
    expect(journal.roomUntilReaped()).toBe(0);
    expect(() => append(journal, 1)).toThrow('full');
  });

  test('grows when a checkpoint ended, not before the heads are in memory', () => {
    const journal = makeJournal();
    append(journal, 12 * PER_BLOCK);
    commit(journal);
    expect(journal.roomUntilReaped()).toBe(0);
    journal.reap(12);
    expect(journal.roomUntilReaped()).toBe(11 * PER_BLOCK);
  });

  test('to reuse slots waits until newer heads are durable', () => {
    const journal = makeJournal();
    append(journal, 12 * PER_BLOCK);
    commit(journal);
    journal.reap(12);
    // Blocks 13 … 16 lie in slots that nobody needs; 17 would overwrite block 1.
    expect(journal.roomUntilPublished()).toBe(4 * PER_BLOCK);
    append(journal, 4 * PER_BLOCK);
    expect(journal.roomUntilReaped()).toBe(7 * PER_BLOCK);
    commit(journal);
    expect(journal.roomUntilPublished()).toBe(11 * PER_BLOCK);
    append(journal, 1);
    expect(journal.lastSequence).toBe(17);
  });

  test('and who does not wait fails an assertion', () => {
    const journal = makeJournal();
    append(journal, 12 * PER_BLOCK);
    commit(journal);
    journal.reap(12);
    append(journal, 4 * PER_BLOCK);
    expect(() => append(journal, 1)).toThrow('too early');
  });

  test('heads that moved while a commit was on its way are not yet durable by it', () => {
    const journal = makeJournal();
    append(journal, 2 * PER_BLOCK);
    const blocks = journal.closeEpoch(false);
    append(journal, 1);
    journal.reap(2);
    journal.committed(blocks);
    expect(journal.hasHeadsToPublish).toBe(true);
  });
});
