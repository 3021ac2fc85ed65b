/**
 * Forges what a crash may leave of slabs: which slab journal blocks are on disk, what the reference
 * blocks hold and up to which point, what the summary says. The recovery journal stays as it is.
 */
import { randomBytes } from 'node:crypto';
import {
  applyUpdates,
  SLAB_FULL_ENTRIES,
  type SlabUpdate,
  type SummaryEntry,
  type VdoImage,
} from './vdo-image.ts';

/** A slab journal block to be: its sequence and its entries. */
export interface Packed {
  readonly sequence: number;
  readonly updates: readonly SlabUpdate[];
}

/** Cuts updates into blocks of at most `limit` entries (small blocks are legal: sealed early). */
export function pack(
  updates: readonly SlabUpdate[],
  firstSequence: number,
  limit = SLAB_FULL_ENTRIES,
): Packed[] {
  const blocks: Packed[] = [];
  for (let i = 0; i < updates.length; i += limit) {
    blocks.push({
      sequence: firstSequence + blocks.length,
      updates: updates.slice(i, i + limit),
    });
  }
  return blocks;
}

/** Fills a slab's journal with noise, so that nothing but what is forged can help. */
export function scrambleSlabJournal(image: VdoImage, slab: number): void {
  for (let i = 0; i < image.slabJournalBlocks; i++) {
    randomBytes(4096).copy(image.block(image.slabJournalPbn(slab, i)));
  }
}

/** The counts after the first `n` updates. */
export function countsAfter(
  image: VdoImage,
  updates: readonly SlabUpdate[],
  n: number,
  before?: Uint8Array,
): Uint8Array {
  const counts = before ? Uint8Array.from(before) : new Uint8Array(image.dataBlocks);
  applyUpdates(counts, updates.slice(0, n));
  return counts;
}

/** A summary entry whose journal ends before `tail`. */
export function summaryEntry(
  image: VdoImage,
  tail: number,
  flags: { load: boolean; dirty: boolean },
): SummaryEntry {
  return { offset: tail % image.slabJournalBlocks, hint: 1, ...flags };
}

/**
 * A checkpoint as uvdo leaves it: of the slab's first `cut` entries only the sealed tail block
 * (sequence `tail`) is on disk, the reference blocks hold all of them, the summary says dirty 0,
 * load 1. Entries behind `cut` are in the recovery journal alone.
 */
export function forgeCheckpoint(
  image: VdoImage,
  slab: number,
  updates: readonly SlabUpdate[],
  options: { cut: number; tail: number; head: number; tailEntries: number },
): void {
  const { cut, tail, head, tailEntries } = options;
  scrambleSlabJournal(image, slab);
  image.writeSlabJournal(slab, tail, head, updates.slice(cut - tailEntries, cut));
  const point = { sequence: tail, index: tailEntries - 1 };
  image.writeReferences(slab, countsAfter(image, updates, cut), point);
  image.setSummary(slab, summaryEntry(image, tail + 1, { load: true, dirty: false }));
}

/** A slab that no run has touched yet: everything must come from the recovery journal. */
export function forgeUntouched(image: VdoImage, slab: number): void {
  scrambleSlabJournal(image, slab);
  for (let i = 0; i < image.referenceBlocks; i++) {
    randomBytes(4096).copy(image.block(image.referencePbn(slab, i)));
  }
  image.setSummary(slab, { offset: 0, hint: 63, load: false, dirty: false });
}
