/**
 * Opens a volume: labels, recovery where it is due, depot, map, journal, index, and the engine over
 * them.
 *
 * - A writable open replays the journal of a volume that was not closed; otherwise it writes all 16
 *   copies of the slab summary, then the super block as DIRTY. From then on a crash is recovered from
 *   the journal. Counts of slabs that a crash left behind are rebuilt beside the running volume.
 * - A read-only open writes nothing: recovery works on a layer of memory over the storage.
 *
 * Implements docs/FORMAT.md §7.1 and §7.3.
 */
import { BLOCK_SIZE, MAX_VIOS } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import { BlockMap } from '../block-map/block-map.ts';
import { Committer } from '../data-path/commit.ts';
import { Counters, type DataPath } from '../data-path/data-path.ts';
import { Engine } from '../data-path/engine.ts';
import { Health } from '../data-path/health.ts';
import { allAheadRows } from '../data-path/ingest.ts';
import { Packer } from '../data-path/packer.ts';
import {
  DIRTY,
  encodeSuperBlock,
  needsRebuild,
  needsReplay,
  READ_ONLY,
  stateName,
  type SuperBlock,
  type VolumeState,
} from '../format/super-block.ts';
import type { GeometryBlock } from '../format/geometry-block.ts';
import type { HashIndex } from '../index/hash-index.ts';
import { createNullIndex } from '../index/null-index.ts';
import { Arena } from '../kernels/arena.ts';
import { RecoveryJournal } from '../recovery-journal/recovery-journal.ts';
import { lockStorage, openStorage } from '../nbd-client/open-storage.ts';
import { recover, type RecoveryReport } from '../repair/recover.ts';
import { Scrubber } from '../slab-depot/scrubber.ts';
import type { FileLock } from '../storage/file-lock.ts';
import { OverlayStorage } from '../storage/overlay-storage.ts';
import { ShiftedStorage } from '../storage/shifted-storage.ts';
import type { Storage } from '../storage/storage.ts';
import { createPool, defaultWorkers } from '../workers/pool.ts';
import { readLabels, type Labels } from './labels.ts';
import { loadDepot, type LoadedDepot } from './load-depot.ts';
import { hasIndexRegion, openIndex, type IndexChoice, type IndexPlace } from './open-index.ts';
import { Volume } from './volume.ts';

export interface OpenOptions {
  /**
   * `uds`: in the volume (default, where it has room for one); `memory`: gone at close (default
   * elsewhere); `level`: a directory `FILE.index`; `off`; or an index of your own.
   */
  readonly index?: IndexChoice | HashIndex;
  /** The default for volumes without room for an index of their own. */
  readonly fallbackIndex?: 'memory' | 'level';
  /** Compress what is stored (default). */
  readonly compression?: boolean;
  readonly readOnly?: boolean;
  /** Threads that do pure work beside the calling one. Default: one a further core, none to read only. */
  readonly workers?: number;
  /** Leaf pages of the block map kept in memory. Default 32768: 128 MiB, resident as used. */
  readonly cachePages?: number;
  /** Blocks of one batch, 1 … 2048. */
  readonly batchBlocks?: number;
  /** Compressed blocks under construction. */
  readonly packerBins?: number;
  /** Records that a `memory` index holds at most. */
  readonly indexCapacity?: number;
  /** What was written is committed unasked after this time; 0 = only when asked. Default 1000. */
  readonly commitIntervalMs?: number;
}

const DEFAULT_CACHE_PAGES = 32768;
const MIN_CACHE_PAGES = 8;
export const DEFAULT_PACKER_BINS = 64;
/** For whoever writes whole images and flushes once: more choice, denser blocks. */
export const WIDE_PACKER_BINS = 2048;
/** A slab journal of fewer blocks cannot take one step's entries beside a durable tail. */
const MIN_SLAB_JOURNAL_BLOCKS = 3;
/** In a recovery journal of one block the head can never move. */
const MIN_RECOVERY_JOURNAL_BLOCKS = 2;
const AS_IT_STANDS = 'read as it stands, parts may be old or missing';

/**
 * Opens the volume in a file, on a block device or, by its NBD URI, on an export, recovering it first
 * where it was not closed. Fails with `NotVdo`, `Busy`, `ChecksumMismatch`, `UnsupportedVersion`,
 * `Truncated`, `ReadOnly` and `RecoveryNeeded` (it wants a rebuild), and nothing was written; or with
 * `Corrupt` and `Io`.
 */
export async function openVolume(path: string, options: OpenOptions = {}): Promise<Volume> {
  const readOnly = options.readOnly ?? false;
  const storage = await openStorage(path, { readOnly });
  let lock: FileLock | null = null;
  try {
    lock = await lockStorage(path).catch((error: unknown) => {
      if (!readOnly || !(error instanceof VdoError) || error.code !== 'Busy') throw error;
      throw new VdoError('Busy', `${error.message}; its contents may change`, error.where, error);
    });
    if (readOnly) {
      // Readers keep no lock: they only make sure that nobody is writing.
      await lock.release();
      lock = null;
    }
    return await open(storage, options, { path, lock });
  } catch (error) {
    await storage.close();
    await lock?.release();
    throw error;
  }
}

/** Opens the volume on any storage, which the volume closes when it is closed. */
export async function openVolumeOn(storage: Storage, options: OpenOptions = {}): Promise<Volume> {
  return open(storage, options, { path: null, lock: null });
}

async function open(
  device: Storage,
  options: OpenOptions,
  { path, lock }: { path: string | null; lock: FileLock | null },
): Promise<Volume> {
  const labelsFound = await readLabels(device);
  const { geometry } = labelsFound;
  const wanted = options.readOnly ?? device.readOnly;
  checkState(labelsFound, wanted);
  const shifted =
    geometry.bioOffset === 0
      ? device
      : new ShiftedStorage(device, -geometry.bioOffset * BLOCK_SIZE);
  const health = new Health();
  const { storage, superBlock, readOnly, ...found } = await ready(
    shifted,
    labelsFound,
    health,
    wanted,
  );
  const labels = { geometry, superBlock };
  const loaded = await loadDepot(storage, superBlock);
  const parts = await assemble(
    { device, storage, labels, path, readOnly, health },
    loaded,
    options,
  );
  try {
    if (!readOnly && found.recovery === null) await markDirty(storage, labels, loaded);
  } catch (error) {
    await parts.index.close();
    await parts.pool.close();
    throw error;
  }
  if (!readOnly) {
    const { journal } = parts;
    health.storeBy(() =>
      storeState(storage, geometry, READ_ONLY, {
        ...superBlock,
        zoneCount: 1,
        journalStart: journal.head,
      }),
    );
  }
  if (!found.asItStands) parts.scrubber.start();
  return new Volume({
    storage,
    labels,
    path: parts,
    engine: new Engine(parts, readOnly ? 0 : (options.commitIntervalMs ?? 1000)),
    readOnly,
    ...found,
    release: async () => {
      await storage.close();
      await lock?.release();
    },
  });
}

function checkState({ superBlock }: Labels, readOnly: boolean): void {
  if (readOnly) return;
  const { state, slabJournalBlocks } = superBlock;
  const journalBlocks = superBlock.partitions.recoveryJournal.count;
  if (needsRebuild(state)) {
    throw new VdoError(
      state === READ_ONLY ? 'ReadOnly' : 'RecoveryNeeded',
      `the volume is ${stateName(state)}: it can be opened read-only, and written again after uvdo rebuild`,
      { state: stateName(state) },
    );
  }
  if (journalBlocks < MIN_RECOVERY_JOURNAL_BLOCKS) {
    throw new VdoError(
      'ReadOnly',
      `a recovery journal of ${journalBlocks} blocks is too short to write with: open it read-only`,
    );
  }
  if (slabJournalBlocks < MIN_SLAB_JOURNAL_BLOCKS) {
    throw new VdoError(
      'ReadOnly',
      `slab journals of ${slabJournalBlocks} blocks are too short to write with: open it read-only`,
    );
  }
}

interface Ready {
  readonly storage: Storage;
  readonly superBlock: SuperBlock;
  readonly readOnly: boolean;
  readonly recovery: RecoveryReport | null;
  readonly notice: string | null;
  /** Journals do not count: what pages and counts say may be old. */
  readonly asItStands: boolean;
}

/**
 * Makes the volume one that can be loaded: on the storage itself, or read-only on a layer over it.
 * Where it cannot be recovered, a volume to be written enters read-only mode.
 */
async function ready(
  device: Storage,
  { geometry, superBlock }: Labels,
  health: Health,
  readOnly: boolean,
): Promise<Ready> {
  const { state } = superBlock;
  const asItIs = (notice: string): Ready => {
    const storage = new OverlayStorage(device);
    return { storage, superBlock, readOnly: true, recovery: null, notice, asItStands: true };
  };
  if (needsRebuild(state)) return asItIs(`the volume is ${stateName(state)}: ${AS_IT_STANDS}`);
  if (!needsReplay(state)) {
    const storage = readOnly ? new OverlayStorage(device) : device;
    return { storage, superBlock, readOnly, recovery: null, notice: null, asItStands: false };
  }
  try {
    const superBlockAt = geometry.dataStart * BLOCK_SIZE;
    const storage = readOnly ? new OverlayStorage(device) : device;
    const { superBlock: recovered, report } = await recover(storage, superBlock, superBlockAt);
    const where = readOnly ? 'replayed in memory, nothing written' : 'replayed';
    const notice = `the volume was not closed: ${report.entries} journal entries ${where}`;
    const rest = { recovery: report, notice, asItStands: false };
    return { storage, superBlock: recovered, readOnly, ...rest };
  } catch (error) {
    if (!(error instanceof VdoError) || error.code !== 'Corrupt') throw error;
    if (readOnly) return asItIs(`${error.message}: ${AS_IT_STANDS}`);
    health.storeBy(() => storeState(device, geometry, READ_ONLY, superBlock));
    const { message } = health.fail(error);
    await health.settle();
    return asItIs(`${message}: ${AS_IT_STANDS}; uvdo rebuild makes it writable again`);
  }
}

/** Summary copies first, then the state: whatever happens now, a recovery finds its way. */
async function markDirty(
  storage: Storage,
  { geometry, superBlock }: Labels,
  { summary }: LoadedDepot,
): Promise<void> {
  await storage.write(summary.allCopies());
  await storage.flush();
  await storeState(storage, geometry, DIRTY, { ...superBlock, zoneCount: 1 });
}

/** Makes the super block durable with another state. */
async function storeState(
  storage: Storage,
  { dataStart }: GeometryBlock,
  state: VolumeState,
  superBlock: SuperBlock,
): Promise<void> {
  const bytes = encodeSuperBlock({ ...superBlock, state });
  await storage.write([{ offset: dataStart * BLOCK_SIZE, bytes }]);
  await storage.flush();
}

interface Opened {
  /** With the device's own offsets. */
  readonly device: Storage;
  readonly storage: Storage;
  readonly labels: Labels;
  readonly path: string | null;
  readonly readOnly: boolean;
  readonly health: Health;
}

async function assemble(
  { device, storage, labels, path, readOnly, health }: Opened,
  { depot, summary }: LoadedDepot,
  options: OpenOptions,
): Promise<DataPath> {
  const { superBlock } = labels;
  const { nonce, partitions } = superBlock;
  const cachePages = Math.max(MIN_CACHE_PAGES, options.cachePages ?? DEFAULT_CACHE_PAGES);
  const journal = new RecoveryJournal({
    origin: partitions.recoveryJournal.offset,
    size: partitions.recoveryJournal.count,
    nonce,
    recoveryCount: superBlock.completeRecoveries % 256,
    start: superBlock.journalStart,
    logicalBlocksUsed: superBlock.logicalBlocksUsed,
    blockMapDataBlocks: superBlock.blockMapDataBlocks,
  });
  const blockMap: BlockMap = new BlockMap({
    storage,
    nonce,
    cachePages,
    isDataBlock: (pbn) => depot.isDataBlock(pbn),
    reserveFrames: (frames) => committer.reserveFrames(frames),
  });
  await blockMap.open(superBlock.rootOrigin);
  const limits = {
    epochBlocks: Math.max(1, Math.min(1024, Math.floor(journal.usableBlocks / 4))),
    heldBlocks: Math.max(64, Math.min(65536, Math.floor(depot.dataBlocks / 8))),
  };
  const committer = new Committer({ storage, journal, depot, blockMap, health, limits });
  const scrubber = new Scrubber({
    storage,
    depot,
    summary,
    nonce,
    writeBack: (write) => committer.writeBackAlone(write),
    flush: () => committer.flush(),
    fail: (error) => health.fail(error),
  });
  const batchBlocks = Math.min(MAX_VIOS, Math.max(1, options.batchBlocks ?? MAX_VIOS));
  const stepEntries = Math.max(1, Math.min(batchBlocks, Math.floor(committer.maxReservation / 4)));
  const stepPages = Math.max(1, Math.min(stepEntries, Math.floor(cachePages / 4)));
  const packerBins = Math.max(1, options.packerBins ?? DEFAULT_PACKER_BINS);
  const arena = new Arena(2 * batchBlocks + allAheadRows(batchBlocks), packerBins);
  const index = readOnly
    ? createNullIndex()
    : await chosenIndex(options, { device, labels, path, health });
  const pool = await createPool(arena, options.workers ?? (readOnly ? 0 : defaultWorkers()));
  return {
    storage,
    // What is read only writes no data blocks: they are those of the device, whatever lies over it.
    blockFile: readOnly ? (device.file ?? null) : null,
    blockMap,
    depot,
    scrubber,
    journal,
    committer,
    packer: new Packer(arena, pool.kernels),
    index,
    health,
    arena,
    pool,
    counters: new Counters(),
    compression: options.compression ?? true,
    deduplication: index.kind !== 'off',
    batchBlocks,
    stepPages: Math.min(stepPages, Math.max(1, Math.floor(committer.maxReservation / 8))),
    stepEntries,
  };
}

async function chosenIndex(
  { index, fallbackIndex = 'memory', indexCapacity }: OpenOptions,
  place: Omit<IndexPlace, 'capacity'>,
): Promise<HashIndex> {
  if (typeof index === 'object') return index;
  const choice = index ?? (hasIndexRegion(place.labels) ? 'uds' : fallbackIndex);
  return openIndex(choice, { ...place, capacity: indexCapacity });
}
