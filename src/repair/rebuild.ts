/**
 * The read-only rebuild: brings back a volume that entered read-only mode, or whose metadata is wrong in
 * any other way. The block map is taken at its word, with whatever the recovery journal still tells;
 * all counts are made anew from it. References that cannot stand are removed and told: that is data
 * lost, by design.
 *
 * Order of what reaches the disk, `|` being a flush:
 *
 * ```
 * super block FORCE_REBUILD | pages | slab journals (zeros), reference blocks, summary | super block CLEAN |
 * ```
 *
 * - As long as the super block says FORCE_REBUILD, the next start, here or in the kernel, does all of
 *   it again from what is on disk then, and comes to the same result: pages are only mended, and the
 *   journal stays as it was. So it may be killed anywhere.
 * - Memory: a byte a block of the slabs in use, and a window of the journal.
 *
 * Implements docs/FORMAT.md §7.5.
 */
import { isZero } from '../base/bytes.ts';
import { BLOCK_SIZE, MiB } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import { encodeReferenceBlock } from '../format/reference-block.ts';
import { fullnessHint } from '../format/slab-summary.ts';
import {
  CLEAN,
  encodeSuperBlock,
  FORCE_REBUILD,
  NEW,
  REBUILD_FOR_UPGRADE,
  type SuperBlock,
} from '../format/super-block.ts';
import { COUNTS_PER_BLOCK } from '../base/constants.ts';
import {
  depotShapeOf,
  isSlabData,
  referencesOffset,
  slabJournalOffset,
  type DepotShape,
} from '../slab-depot/shape.ts';
import { SlabSummary } from '../slab-depot/summary.ts';
import type { Extent, Storage } from '../storage/storage.ts';
import { salvageJournal, type Salvage } from './rebuild-journal.ts';
import { MapRebuild, type Removal } from './rebuild-map.ts';
import { findJournalEnds } from './scan-journal.ts';

/** Bytes of slab journals and reference blocks that are in memory at a time. */
const BATCH_BYTES = 32 * MiB;

export type RebuildPhase = 'block map' | 'slabs';

export interface RebuildOptions {
  /** Told every reference that is removed. */
  readonly onRemoval?: (removal: Removal) => void;
  /** Told how far it is, in blocks. */
  readonly onProgress?: (phase: RebuildPhase, done: number, total: number) => void;
  /** Stops it with its reason; the volume is left to be rebuilt. */
  readonly signal?: AbortSignal;
}

export interface RebuildReport {
  /** What the journal gave. */
  readonly journal: Salvage;
  /** References removed. */
  readonly removed: number;
  readonly pagesMended: number;
  readonly logicalBlocksUsed: number;
  readonly blockMapDataBlocks: number;
  readonly dataBlocksUsed: number;
}

export interface Rebuilt {
  /** The super block as it is on disk now: CLEAN. */
  readonly superBlock: SuperBlock;
  readonly report: RebuildReport;
}

/**
 * Rebuilds the volume, whatever its state, and leaves it clean. `superBlockAt`: byte of the super
 * block. Fails with `InvalidArgument` for a new volume, with `Corrupt` where the journal's numbers have
 * come to their end, and with `Io`; it can be repeated.
 */
export async function rebuild(
  storage: Storage,
  superBlock: SuperBlock,
  superBlockAt: number,
  options: RebuildOptions = {},
): Promise<Rebuilt> {
  if (superBlock.state === NEW) {
    throw new VdoError('InvalidArgument', 'a new volume has nothing to rebuild');
  }
  const shape = depotShapeOf(superBlock);
  const slabs = (superBlock.lastBlock - superBlock.firstBlock) / superBlock.slabSize;
  const ends = await findJournalEnds(storage, superBlock);
  const isUpgrade = superBlock.state === REBUILD_FOR_UPGRADE;
  if (!isUpgrade && superBlock.state !== FORCE_REBUILD) {
    await writeSuperBlock(storage, { ...superBlock, state: FORCE_REBUILD }, superBlockAt);
  }
  const journal = await salvageJournal(storage, superBlock, ends, (pbn) =>
    isSlabData(shape, slabs, pbn),
  );
  await storage.flush();
  const { map, removed } = await rebuildMap(storage, superBlock, shape, slabs, options);
  await storage.flush();
  const dataBlocksUsed = await writeDepot(storage, superBlock, shape, map, options);
  await storage.flush();
  const rebuilt: SuperBlock = {
    ...superBlock,
    state: CLEAN,
    completeRecoveries: superBlock.completeRecoveries + (isUpgrade ? 0 : 1),
    readOnlyRecoveries: superBlock.readOnlyRecoveries + (isUpgrade ? 0 : 1),
    journalStart: ends.highest + 1,
    logicalBlocksUsed: map.logicalBlocksUsed,
    blockMapDataBlocks: map.blockMapDataBlocks,
    zoneCount: 1,
  };
  await writeSuperBlock(storage, rebuilt, superBlockAt);
  const { logicalBlocksUsed, blockMapDataBlocks, pagesWritten: pagesMended } = map;
  const counted = { logicalBlocksUsed, blockMapDataBlocks, dataBlocksUsed };
  return { superBlock: rebuilt, report: { journal, removed, pagesMended, ...counted } };
}

async function writeSuperBlock(
  storage: Storage,
  superBlock: SuperBlock,
  at: number,
): Promise<void> {
  await storage.write([{ offset: at, bytes: encodeSuperBlock(superBlock) }]);
  await storage.flush();
}

/** Tells progress; throws where the caller wants to stop. */
function counter(
  { onProgress, signal }: RebuildOptions,
  phase: RebuildPhase,
  total: number,
): (blocks: number) => void {
  let done = 0;
  return (blocks) => {
    if (signal?.aborted === true) throw signal.reason as Error;
    done += blocks;
    onProgress?.(phase, done, Math.max(done, total));
  };
}

async function rebuildMap(
  storage: Storage,
  superBlock: SuperBlock,
  shape: DepotShape,
  slabs: number,
  options: RebuildOptions,
): Promise<{ map: MapRebuild; removed: number }> {
  let removed = 0;
  const total = superBlock.rootCount + superBlock.blockMapDataBlocks;
  const map = new MapRebuild({
    storage,
    superBlock,
    shape,
    slabs,
    onRemoval: (removal) => {
      removed++;
      options.onRemoval?.(removal);
    },
    onPages: counter(options, 'block map', total),
  });
  await map.run();
  return { map, removed };
}

/** Writes the depot as the counts have it; returns how many blocks hold data. */
async function writeDepot(
  storage: Storage,
  superBlock: SuperBlock,
  shape: DepotShape,
  map: MapRebuild,
  options: RebuildOptions,
): Promise<number> {
  const { dataBlocks, journalBlocks, slabBlocks, referenceBlocks } = shape;
  const slabs = map.counts.length;
  const slabBits = Math.log2(slabBlocks);
  const summary = new SlabSummary(superBlock.partitions.slabSummary.offset * BLOCK_SIZE);
  summary.reset(fullnessHint(dataBlocks, slabBits));
  const perSlab = (journalBlocks + referenceBlocks) * BLOCK_SIZE;
  const batch = Math.max(1, Math.floor(BATCH_BYTES / perSlab));
  const count = counter(options, 'slabs', slabs * (journalBlocks + referenceBlocks));
  let used = 0;
  for (let first = 0; first < slabs; first += batch) {
    const end = Math.min(slabs, first + batch);
    const writes = await usedJournals(storage, shape, first, end);
    for (let slab = first; slab < end; slab++) {
      const counts = map.counts[slab];
      if (counts === undefined) continue;
      const free = freeBlocks(counts);
      used += dataBlocks - free;
      writes.push({ offset: referencesOffset(shape, slab), bytes: encodeCounts(shape, counts) });
      const hint = fullnessHint(free, slabBits);
      const entry = { tailOffset: 0, fullnessHint: hint, loadCounts: true, dirty: false };
      summary.set(slab, entry);
    }
    if (writes.length > 0) await storage.write(writes);
    count((end - first) * (journalBlocks + referenceBlocks));
  }
  await storage.write(summary.allCopies());
  return used - map.blockMapDataBlocks;
}

/** Zeros over the slab journals that hold anything; others stay the holes they may be. */
async function usedJournals(
  storage: Storage,
  shape: DepotShape,
  first: number,
  end: number,
): Promise<Extent[]> {
  const journals: Extent[] = [];
  for (let slab = first; slab < end; slab++) {
    const bytes = new Uint8Array(shape.journalBlocks * BLOCK_SIZE);
    journals.push({ offset: slabJournalOffset(shape, slab), bytes });
  }
  await storage.read(journals);
  const used = journals.filter(({ bytes }) => !isZero(bytes));
  for (const { bytes } of used) bytes.fill(0);
  return used;
}

function freeBlocks(counts: Uint8Array): number {
  let free = 0;
  for (let sbn = 0; sbn < counts.length; sbn++) if (counts[sbn] === 0) free++;
  return free;
}

function encodeCounts({ referenceBlocks }: DepotShape, counts: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(referenceBlocks * BLOCK_SIZE);
  for (let i = 0; i < referenceBlocks; i++) {
    const block = bytes.subarray(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE);
    encodeReferenceBlock(block, counts, i * COUNTS_PER_BLOCK, 0, 0);
  }
  return bytes;
}
