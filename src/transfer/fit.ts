/** Chooses the physical size of a volume that is to hold given images even if nothing is saved. */
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_MAP_ROOT_COUNT,
  BLOCK_SIZE,
  RECOVERY_JOURNAL_DEFAULT_BLOCKS,
  SLAB_JOURNAL_DEFAULT_BLOCKS,
} from '../base/constants.ts';
import { minimumPhysicalBlocks, slabConfig } from '../volume/layout.ts';

const MIN_SLAB_BITS = 13;
const USUAL_SLAB_BITS = 19;
/** Slabs that a volume made to fit has, roughly: enough to spread, few enough to waste little. */
const WANTED_SLABS = 16;

/** Tree pages that map `logicalBlocks` blocks, all of them used. */
export function treePagesFor(logicalBlocks: number): number {
  let pages = Math.ceil(
    Math.ceil(logicalBlocks / BLOCK_MAP_ENTRIES_PER_PAGE) / BLOCK_MAP_ROOT_COUNT,
  );
  let total = BLOCK_MAP_ROOT_COUNT * pages;
  for (let height = 1; height <= 3; height++) {
    pages = Math.ceil(pages / BLOCK_MAP_ENTRIES_PER_PAGE);
    total += BLOCK_MAP_ROOT_COUNT * pages;
  }
  return total;
}

/**
 * Physical size and slab size, in bytes, of a volume that stores `logicalBlocks` different blocks.
 * `indexBlocks`: blocks of its index region. `slabSize`: bytes, where the user has chosen.
 */
export function sizesToFit(
  logicalBlocks: number,
  indexBlocks: number,
  slabSize?: number,
): { size: number; slabSize: number } {
  return sizesForBlocks(logicalBlocks + treePagesFor(logicalBlocks), indexBlocks, slabSize);
}

/** The same for `needed` blocks of data and tree pages together. */
export function sizesForBlocks(
  needed: number,
  indexBlocks: number,
  slabSize?: number,
): { size: number; slabSize: number } {
  const wanted = Math.ceil(Math.log2(Math.max(1, needed / WANTED_SLABS)));
  const slabBlocks =
    slabSize === undefined
      ? 2 ** Math.min(USUAL_SLAB_BITS, Math.max(MIN_SLAB_BITS, wanted))
      : slabSize / BLOCK_SIZE;
  const { dataBlocks } = slabConfig(slabBlocks, SLAB_JOURNAL_DEFAULT_BLOCKS);
  const slabs = Math.max(1, Math.ceil(needed / dataBlocks));
  const least = minimumPhysicalBlocks({
    dataStart: 1 + indexBlocks,
    recoveryJournalBlocks: RECOVERY_JOURNAL_DEFAULT_BLOCKS,
    slabJournalBlocks: SLAB_JOURNAL_DEFAULT_BLOCKS,
    slabBlocks,
  });
  return {
    size: (least + (slabs - 1) * slabBlocks) * BLOCK_SIZE,
    slabSize: slabBlocks * BLOCK_SIZE,
  };
}
