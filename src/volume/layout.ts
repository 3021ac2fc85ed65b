/**
 * Where everything on a volume lies: layout, slab geometry, sizes and limits (FORMAT §1).
 *
 * ```
 * 0            geometry block
 * 1 … I        index region (may be empty)
 * D = 1 + I    super block
 * D+1 … D+60   block map roots
 * D+61 …       slabs, then an unused tail of less than one slab
 * P−64−R …     recovery journal, R blocks
 * P−64 … P−1   slab summary
 * ```
 *
 * The formatter computes a layout with these functions; opening a volume compares what is stored with
 * them (`labels.ts`).
 */
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_MAP_ROOT_COUNT,
  BLOCK_SIZE,
  COUNTS_PER_BLOCK,
  MAX_PHYSICAL_BLOCKS,
  MAX_SLAB_BITS,
  MAX_SLABS,
  MAX_VIOS,
  SLAB_JOURNAL_FULL_ENTRIES,
  SLAB_SUMMARY_BLOCKS,
} from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import type { Partition, PartitionName, SlabConfig } from '../format/super-block.ts';

export interface Layout {
  readonly partitions: Readonly<Record<PartitionName, Partition>>;
  readonly slab: SlabConfig;
  readonly slabs: number;
  /** First block of the first slab, and the block after the last slab. */
  readonly firstBlock: number;
  readonly lastBlock: number;
}

export interface LayoutSizes {
  readonly physicalBlocks: number;
  /** Block of the super block. */
  readonly dataStart: number;
  readonly slabBlocks: number;
  readonly slabJournalBlocks: number;
  readonly recoveryJournalBlocks: number;
}

export function isPowerOfTwo(n: number): boolean {
  return Number.isInteger(n) && n >= 1 && 2 ** Math.round(Math.log2(n)) === n;
}

function invalid(message: string): VdoError {
  return new VdoError('InvalidArgument', message);
}

/** Divides a slab of `blocks` blocks, `journalBlocks` of them its journal. */
export function slabConfig(blocks: number, journalBlocks: number): SlabConfig {
  if (!isPowerOfTwo(blocks) || blocks > 2 ** MAX_SLAB_BITS) {
    throw invalid(`slabs of ${blocks} blocks: choose a power of two up to ${2 ** MAX_SLAB_BITS}`);
  }
  if (!Number.isInteger(journalBlocks) || journalBlocks < 2 || journalBlocks > blocks) {
    throw invalid(`slab journals of ${journalBlocks} blocks do not fit slabs of ${blocks} blocks`);
  }
  const referenceBlocks = Math.ceil((blocks - journalBlocks) / COUNTS_PER_BLOCK);
  let dataBlocks = blocks - journalBlocks - referenceBlocks;
  if (dataBlocks < 1) {
    throw invalid(`slabs of ${blocks} blocks have no room beside a journal of ${journalBlocks}`);
  }
  if (blocks < 1024) dataBlocks = 2 ** Math.floor(Math.log2(dataBlocks));
  const flushingThreshold = Math.floor((3 * journalBlocks + 3) / 4);
  const unscrubbed = 1 + Math.floor(MAX_VIOS / SLAB_JOURNAL_FULL_ENTRIES);
  let blockingThreshold =
    flushingThreshold + Math.floor((5 * (journalBlocks - flushingThreshold)) / 7);
  const scrubbingThreshold =
    journalBlocks > unscrubbed ? journalBlocks - unscrubbed : blockingThreshold;
  blockingThreshold = Math.min(blockingThreshold, scrubbingThreshold);
  return {
    blocks,
    dataBlocks,
    referenceBlocks,
    journalBlocks,
    flushingThreshold,
    blockingThreshold,
    scrubbingThreshold,
  };
}

/** Smallest physical size with one slab. */
export function minimumPhysicalBlocks(sizes: Omit<LayoutSizes, 'physicalBlocks'>): number {
  const { dataStart, recoveryJournalBlocks, slabBlocks } = sizes;
  return (
    dataStart + 1 + BLOCK_MAP_ROOT_COUNT + recoveryJournalBlocks + SLAB_SUMMARY_BLOCKS + slabBlocks
  );
}

/** Slabs that fit; may be 0 or more than a volume can have. */
export function slabCount(sizes: LayoutSizes): number {
  const depotBlocks = sizes.physicalBlocks - (minimumPhysicalBlocks(sizes) - sizes.slabBlocks);
  return Math.max(0, Math.floor(depotBlocks / sizes.slabBlocks));
}

/** The layout for these sizes. Fails with `InvalidArgument`, saying which size would do. */
export function computeLayout(sizes: LayoutSizes): Layout {
  const { physicalBlocks, dataStart, slabBlocks, recoveryJournalBlocks } = sizes;
  if (physicalBlocks > MAX_PHYSICAL_BLOCKS) {
    throw invalid(
      `physical size of ${physicalBlocks * BLOCK_SIZE} bytes is over the limit of 256T`,
    );
  }
  if (!isPowerOfTwo(recoveryJournalBlocks)) {
    throw invalid(`recovery journal of ${recoveryJournalBlocks} blocks: choose a power of two`);
  }
  const slab = slabConfig(slabBlocks, sizes.slabJournalBlocks);
  const slabs = slabCount(sizes);
  if (slabs < 1) {
    const least = minimumPhysicalBlocks(sizes) * BLOCK_SIZE;
    throw invalid(
      `physical size of ${physicalBlocks * BLOCK_SIZE} bytes is too small: these settings need at least ${least} bytes`,
    );
  }
  if (slabs > MAX_SLABS) {
    throw invalid(
      `${slabs} slabs of ${slabBlocks * BLOCK_SIZE} bytes are too many (at most ${MAX_SLABS}): choose larger slabs`,
    );
  }
  const blockMap = { offset: dataStart + 1, count: BLOCK_MAP_ROOT_COUNT };
  const summaryStart = physicalBlocks - SLAB_SUMMARY_BLOCKS;
  const journalStart = summaryStart - recoveryJournalBlocks;
  const firstBlock = blockMap.offset + blockMap.count;
  return {
    partitions: {
      blockMap,
      slabDepot: { offset: firstBlock, count: journalStart - firstBlock },
      recoveryJournal: { offset: journalStart, count: recoveryJournalBlocks },
      slabSummary: { offset: summaryStart, count: SLAB_SUMMARY_BLOCKS },
    },
    slab,
    slabs,
    firstBlock,
    lastBlock: firstBlock + slabs * slabBlocks,
  };
}

/**
 * Logical blocks that can all be mapped at once when nothing deduplicates: all data blocks less the
 * tree pages to map them. 0 or negative when there are too few data blocks for one page per level
 * and root.
 */
export function defaultLogicalBlocks(slabs: number, dataBlocks: number): number {
  const total = slabs * dataBlocks;
  const perPage = (pages: number): number => Math.ceil(pages / BLOCK_MAP_ENTRIES_PER_PAGE);
  let pages = Math.ceil(Math.max(1, perPage(total)) / BLOCK_MAP_ROOT_COUNT);
  let interior = 0;
  for (let height = 1; height <= 3; height++) {
    pages = perPage(pages);
    interior += BLOCK_MAP_ROOT_COUNT * pages;
  }
  const leaves = perPage(total - interior);
  return total - interior - leaves;
}
