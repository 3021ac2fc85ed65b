/**
 * The statistics of an open volume, under dm-vdo's own names (docs/FORMAT.md §8), with the
 * savings they add up to and the capacities that were fixed at open.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { needsRebuild, type SuperBlock } from '../format/super-block.ts';
import type { DataPath } from '../data-path/data-path.ts';
import type { IndexStatistics } from '../index/hash-index.ts';

export interface Savings {
  readonly logicalUsed: number;
  readonly dataBlocksUsed: number;
  /** Logical blocks in use ÷ physical blocks that hold them; 1 for an empty volume. */
  readonly ratio: number;
  readonly percent: number;
}

/** Numbers, texts and groups of them. */
export interface Statistics {
  readonly [key: string]: number | string | Statistics | Savings;
}

export function savingsOf(logicalUsed: number, dataBlocksUsed: number): Savings {
  return {
    logicalUsed,
    dataBlocksUsed,
    ratio: logicalUsed === 0 ? 1 : logicalUsed / Math.max(1, dataBlocksUsed),
    percent: logicalUsed === 0 ? 0 : (100 * (logicalUsed - dataBlocksUsed)) / logicalUsed,
  };
}

/** Everything `stats` shows of an open volume. */
export function statisticsOf(path: DataPath, superBlock: SuperBlock): Statistics {
  const { depot, journal, packer, counters } = path;
  const treePages = journal.blockMapDataBlocks;
  const known = depot.dataBlocks - depot.unscrubbedSlabs * depot.shape.dataBlocks;
  const allocated = known - depot.allocatable - depot.heldBlocks;
  const dataBlocksUsed = Math.max(0, allocated - treePages);
  return {
    version: 36,
    dataBlocksUsed,
    overheadBlocksUsed: superBlock.physicalBlocks - depot.dataBlocks + treePages,
    logicalBlocksUsed: journal.logicalBlocksUsed,
    physicalBlocks: superBlock.physicalBlocks,
    logicalBlocks: superBlock.logicalBlocks,
    blockMapCacheSize: path.blockMap.cache.frames * BLOCK_SIZE,
    blockSize: BLOCK_SIZE,
    completeRecoveries: superBlock.completeRecoveries,
    readOnlyRecoveries: superBlock.readOnlyRecoveries,
    ...modeOf(path, superBlock),
    packer: {
      compressedFragmentsWritten: counters.compressedFragments,
      compressedBlocksWritten: counters.compressedBlocks,
      compressedFragmentsInPacker: packer.fragmentCount,
    },
    ...metadataStatistics(path),
    hashLock: {
      dedupeAdviceValid: counters.adviceValid,
      dedupeAdviceStale: counters.adviceStale,
      concurrentDataMatches: counters.concurrentMatches,
      concurrentHashCollisions: counters.concurrentCollisions,
    },
    errors: {
      invalidAdvicePBNCount: counters.invalidAdvice,
      noSpaceErrorCount: counters.noSpaceErrors,
      readOnlyErrorCount: counters.readOnlyErrors,
    },
    ...ownStatistics(path),
    savings: savingsOf(journal.logicalBlocksUsed, dataBlocksUsed),
  };
}

/** Mode, and how far scrubbing is: until it is done, blocks of other slabs are not counted. */
function modeOf({ health, depot, scrubber }: DataPath, { state }: SuperBlock): Statistics {
  const isReadOnly = health.failure !== null || needsRebuild(state);
  const isRecovering = !isReadOnly && !scrubber.isDone;
  const slabs = depot.slabs.length;
  return {
    mode: isReadOnly ? 'read-only' : isRecovering ? 'recovering' : 'normal',
    inRecoveryMode: isRecovering ? 1 : 0,
    recoveryPercentage: Math.floor(((slabs - depot.unscrubbedSlabs) * 100) / slabs),
  };
}

/** Slabs, journals and the block map. */
function metadataStatistics({ depot, journal, blockMap, committer }: DataPath): Statistics {
  const { cache } = blockMap;
  return {
    allocator: {
      slabCount: depot.slabs.length,
      slabsOpened: depot.slabs.reduce((sum, slab) => sum + (slab.opened ? 1 : 0), 0),
      slabsReopened: depot.slabsReopened,
    },
    journal: {
      entries: {
        started: journal.entriesStarted,
        written: journal.entriesCommitted,
        committed: journal.entriesCommitted,
      },
      blocks: {
        started: journal.blocksStarted,
        written: journal.blocksWritten,
        committed: journal.blocksWritten,
      },
    },
    slabJournal: { blocksWritten: depot.slabJournalBlocksWritten },
    refCounts: { blocksWritten: depot.referenceBlocksWritten },
    blockMap: {
      dirtyPages: cache.dirtyPages,
      cleanPages: cache.residentPages - cache.dirtyPages,
      freePages: cache.frames - cache.residentPages,
      foundInCache: blockMap.foundInCache,
      pagesLoaded: blockMap.pagesLoaded,
      pagesSaved: blockMap.pagesSaved,
      interiorPages: blockMap.interiorPages,
    },
    flushOut: committer.flushes,
  };
}

/** What dm-vdo has otherwise or not at all: the index, blocks by kind, capacities. */
function ownStatistics(path: DataPath): Statistics {
  const { counters, packer, arena } = path;
  const { memoryBytes, ...index } = path.index.statistics();
  return {
    index: { kind: path.index.kind, ...(path.index.kind === 'uds' ? inKernelTerms(index) : index) },
    blocks: {
      written: counters.writtenBlocks,
      read: counters.readBlocks,
      partial: counters.partialBlocks,
      zero: counters.zeroBlocks,
      duplicate: counters.duplicateBlocks,
      stored: counters.storedBlocks,
      discarded: counters.discardedBlocks,
    },
    capacities: {
      batchBlocks: path.batchBlocks,
      packerBins: packer.bins,
      blockMapCachePages: path.blockMap.cache.frames,
      arenaBytes: arena.size,
      indexBytes: memoryBytes,
    },
  };
}

/**
 * dm-vdo posts a name together with a block it may not need; here a name is looked up, and recorded
 * once its block is stored. The lookup is what dm-vdo counts as a post; a record for a name that is not
 * known yet is the second half of one, and not counted again.
 */
function inKernelTerms(index: Omit<IndexStatistics, 'memoryBytes'>): Statistics {
  const { queriesFound, queriesNotFound, updatesNotFound, ...others } = index;
  return {
    ...others,
    postsFound: queriesFound,
    postsNotFound: queriesNotFound,
    queriesFound: 0,
    queriesNotFound: 0,
    updatesNotFound: 0,
    recordsAdded: updatesNotFound,
  };
}
