/** The depot of a clean volume in memory: counts, where each journal goes on, old zones, new volumes. */
import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { encodeReferenceBlock } from '../../../src/format/reference-block.ts';
import {
  beginSlabJournalBlock,
  finishSlabJournalBlock,
  setSlabJournalEntry,
} from '../../../src/format/slab-journal-block.ts';
import { setSummaryEntry } from '../../../src/format/slab-summary.ts';
import { CLEAN, NEW, type SuperBlock } from '../../../src/format/super-block.ts';
import { readLabels } from '../../../src/volume/labels.ts';
import { loadDepot } from '../../../src/volume/load-depot.ts';
import { noise, tinyStorage, type WatchedStorage } from '../../support/volumes.ts';
import { FIRST, SLAB_DATA } from '../data-path/support.ts';

interface Forged {
  readonly counts?: readonly number[];
  readonly tailOffset: number;
  readonly loadCounts: boolean;
  /** Sequence, and nonce if not the volume's, of the block before `tailOffset`. */
  readonly tail?: { readonly sequence: number; readonly nonce?: Uint8Array };
}

/** A clean volume whose slab 0 is as described; slab journal and reference blocks were noise before. */
async function forge(slab: Forged): Promise<{ storage: WatchedStorage; superBlock: SuperBlock }> {
  const storage = await tinyStorage();
  const { superBlock } = await readLabels(storage);
  const countsAt = FIRST + SLAB_DATA;
  for (let pbn = countsAt; pbn < FIRST + 1024; pbn++) storage.scribble(pbn, noise(pbn));
  const bytes = new Uint8Array(BLOCK_SIZE);
  if (slab.counts !== undefined) {
    encodeReferenceBlock(bytes, Uint8Array.from(slab.counts), 0, 1, 0);
    storage.scribble(countsAt, bytes);
  }
  if (slab.tail !== undefined) {
    const block = new Uint8Array(BLOCK_SIZE);
    beginSlabJournalBlock(block, slab.tail.nonce ?? superBlock.nonce, slab.tail.sequence);
    setSlabJournalEntry(block, 0, 0, true);
    const point = { recoverySequence: 1, recoveryIndex: 0 };
    finishSlabJournalBlock(block, { head: 1, entryCount: 1, ...point });
    storage.scribble(countsAt + 1 + ((slab.tailOffset + 15) % 16), block);
  }
  const summary = new Uint8Array(BLOCK_SIZE);
  for (let number = 0; number < 2; number++) {
    setSummaryEntry(summary, number, {
      tailOffset: number === 0 ? slab.tailOffset : 0,
      fullnessHint: 62,
      loadCounts: number === 0 && slab.loadCounts,
      dirty: false,
    });
  }
  storage.scribble(superBlock.partitions.slabSummary.offset, summary);
  return { storage, superBlock: { ...superBlock, state: CLEAN } };
}

describe('counts', () => {
  test('are those of the reference blocks, provisional ones free', async () => {
    const counts = [254, 1, 0, 255, 3];
    const tail = { sequence: 1 };
    const forged = await forge({ counts, tailOffset: 2, loadCounts: true, tail });
    const { depot } = await loadDepot(forged.storage, forged.superBlock);
    expect([0, 1, 2, 3, 4, 5].map((i) => depot.references(FIRST + i))).toEqual([
      254, 1, 0, 0, 3, 0,
    ]);
    expect(depot.allocatable).toBe(2 * SLAB_DATA - 3);
    expect([depot.slabs[0]!.loaded, depot.slabs[1]!.loaded]).toEqual([true, false]);
  });

  test('on disk mean nothing where the load flag is not set', async () => {
    const forged = await forge({ counts: [9, 9], tailOffset: 0, loadCounts: false });
    const { depot } = await loadDepot(forged.storage, forged.superBlock);
    expect(depot.references(FIRST)).toBe(0);
    expect(depot.allocatable).toBe(2 * SLAB_DATA);
  });

  test('nor does any summary of a new volume', async () => {
    const forged = await forge({ counts: [9], tailOffset: 3, loadCounts: true });
    const superBlock = { ...forged.superBlock, state: NEW } as const;
    const { depot, summary } = await loadDepot(forged.storage, superBlock);
    expect(depot.allocatable).toBe(2 * SLAB_DATA);
    expect(summary.get(0)).toMatchObject({ tailOffset: 0, loadCounts: false, dirty: false });
  });
});

describe('a slab journal goes on', () => {
  test.for([
    ['behind its tail block', { tailOffset: 6, loadCounts: true, tail: { sequence: 5 } }, 6],
    ['also around the end', { tailOffset: 0, loadCounts: true, tail: { sequence: 31 } }, 32],
    ['at 1 where it was never used', { tailOffset: 0, loadCounts: false }, 1],
    ['at 1 after a rebuild: noise in the tail', { tailOffset: 0, loadCounts: true }, 1],
    [
      'at 1 where the tail is of another volume',
      { tailOffset: 6, loadCounts: true, tail: { sequence: 5, nonce: new Uint8Array(8).fill(1) } },
      1,
    ],
  ] as const)('%s', async ([, slab, sequence]) => {
    const forged = await forge({ counts: [1], ...slab });
    const { depot } = await loadDepot(forged.storage, forged.superBlock);
    expect(depot.slabs[0]!.journal.tail).toBe(sequence);
    expect(depot.slabs[1]!.journal.tail).toBe(1);
  });
});

test('reads only what is needed, in one vector', async () => {
  const forged = await forge({
    counts: [1],
    tailOffset: 2,
    loadCounts: true,
    tail: { sequence: 1 },
  });
  const calls = await forged.storage.during(() => loadDepot(forged.storage, forged.superBlock));
  const blocks = calls.map(({ extents }) => extents.map(({ offset }) => offset / BLOCK_SIZE));
  const { slabSummary } = forged.superBlock.partitions;
  expect(blocks).toEqual([[slabSummary.offset], [FIRST + SLAB_DATA, FIRST + SLAB_DATA + 2]]);
});
