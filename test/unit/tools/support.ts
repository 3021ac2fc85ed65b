/** Runs command lines in this process, and makes a small volume with something in it. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { vi } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { formatPage, setEntry } from '../../../src/format/block-map-page.ts';
import { encodeCompressedBlock } from '../../../src/format/compressed-block.ts';
import { beginRecoveryBlock, setRecoveryEntry } from '../../../src/format/recovery-block.ts';
import { encodeReferenceBlock } from '../../../src/format/reference-block.ts';
import {
  beginSlabJournalBlock,
  finishSlabJournalBlock,
  makeFullSlabJournalBlock,
  setBlockMapIncrement,
  setSlabJournalEntry,
} from '../../../src/format/slab-journal-block.ts';
import { setSummaryEntry } from '../../../src/format/slab-summary.ts';
import { CLEAN, encodeSuperBlock, type SuperBlock } from '../../../src/format/super-block.ts';
import { openFileStorage } from '../../../src/storage/file-storage.ts';
import { formatVolume } from '../../../src/volume/format.ts';
import { runCommandLine } from '../../../tools/cli/main.ts';

export const TINY_SIZE = 2238 * BLOCK_SIZE;

export interface Outcome {
  readonly status: number;
  readonly out: string;
  readonly err: string;
}

/** One command line. */
export async function uvdo(...argv: string[]): Promise<Outcome> {
  let out = '';
  let err = '';
  const stdout = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += String(text);
    return true;
  });
  const stderr = vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    err += String(text);
    return true;
  });
  try {
    return { status: await runCommandLine(argv), out, err };
  } finally {
    stdout.mockRestore();
    stderr.mockRestore();
  }
}

export async function temporaryDirectory(): Promise<{ path: string; remove(): Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), 'uvdo-tools-'));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}

/** Writes blocks into a volume's file behind its back. */
export async function scribble(
  path: string,
  blocks: readonly (readonly [pbn: number, bytes: Uint8Array])[],
): Promise<void> {
  const storage = await openFileStorage(path);
  await storage.write(blocks.map(([pbn, bytes]) => ({ offset: pbn * BLOCK_SIZE, bytes })));
  await storage.close();
}

/** Slab blocks of the small volume: tree pages 62 … 65, data at 66, a compressed block at 67. */
export const FIRST = 62;

/**
 * A volume of two slabs without an index: lbn 0 → 66, lbn 2 zeros, lbn 3 and 5 → slots of 67. With
 * its journal entry, slab journal, counts and summary.
 */
export async function makeVolume(
  path: string,
  change: Partial<SuperBlock> = {},
): Promise<SuperBlock> {
  const { superBlock } = await formatVolume(path, {
    noIndex: true,
    slabSize: 1024 * BLOCK_SIZE,
    slabJournalBlocks: 16,
    recoveryJournalBlocks: 64,
    size: TINY_SIZE,
  });
  const { nonce, slab, partitions } = superBlock;
  const page = (pbn: number, entries: readonly (readonly [number, number, number])[]) => {
    const bytes = new Uint8Array(BLOCK_SIZE);
    formatPage(bytes, nonce, pbn, true);
    for (const [slot, target, state] of entries) setEntry(bytes, slot, target, state);
    return [pbn, bytes] as const;
  };
  const compressed = new Uint8Array(BLOCK_SIZE);
  encodeCompressedBlock(compressed, [new Uint8Array(30).fill(3), new Uint8Array(40).fill(4)]);

  const journal = new Uint8Array(BLOCK_SIZE);
  const heads = { blockMapHead: 1, slabJournalHead: 1 };
  const used = { logicalBlocksUsed: 0, blockMapDataBlocks: 0 };
  const lap = { sequence: 1, journalBlocks: 64, recoveryCount: 0 };
  beginRecoveryBlock(journal, { nonce, ...lap, ...heads, ...used });
  setRecoveryEntry(journal, 0, 1, 2, 0, FIRST, 1, 0, 0);
  setRecoveryEntry(journal, 1, 0, FIRST + 3, 0, 66, 1, 0, 0);

  const slabJournal = new Uint8Array(BLOCK_SIZE);
  beginSlabJournalBlock(slabJournal, nonce, 1);
  makeFullSlabJournalBlock(slabJournal);
  setSlabJournalEntry(slabJournal, 0, 0, true);
  setBlockMapIncrement(slabJournal, 0);
  setSlabJournalEntry(slabJournal, 1, 4, true);
  const end = { head: 1, entryCount: 2, recoverySequence: 1, recoveryIndex: 2 };
  finishSlabJournalBlock(slabJournal, end);

  const counts = new Uint8Array(BLOCK_SIZE);
  const stored = [254, 254, 254, 254, 1, 2];
  encodeReferenceBlock(counts, Uint8Array.from(stored), 0, 1, 1);
  const summary = new Uint8Array(BLOCK_SIZE);
  const entry = { tailOffset: 2, fullnessHint: 62, loadCounts: true, dirty: false };
  setSummaryEntry(summary, 0, entry);

  const countsAt = FIRST + slab.dataBlocks;
  const stopped = { state: CLEAN, journalStart: 2, logicalBlocksUsed: 4, zoneCount: 1 } as const;
  const saved = { ...superBlock, ...stopped, blockMapDataBlocks: 4, ...change };
  await scribble(path, [
    page(2, [[0, FIRST, 1]]),
    page(FIRST, [[0, FIRST + 1, 1]]),
    page(FIRST + 1, [[0, FIRST + 2, 1]]),
    page(FIRST + 2, [[0, FIRST + 3, 1]]),
    page(FIRST + 3, [
      [0, 66, 1],
      [2, 0, 1],
      [3, 67, 3],
      [5, 67, 2],
    ]),
    [67, compressed],
    [partitions.recoveryJournal.offset + 1, journal],
    [countsAt, counts],
    [countsAt + slab.referenceBlocks + 1, slabJournal],
    [partitions.slabSummary.offset, summary],
    [1, encodeSuperBlock(saved)],
  ]);
  return saved;
}
