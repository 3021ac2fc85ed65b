/**
 * Chooses and checks the sizes of a new volume (FORMAT §1.3): everything that formatting decides
 * before it touches anything.
 */
import { randomBytes } from 'node:crypto';
import {
  BLOCK_SIZE,
  MAX_LOGICAL_BLOCKS,
  MAX_PHYSICAL_BLOCKS,
  MAX_SLAB_BITS,
  MAX_SLABS,
  RECOVERY_JOURNAL_DEFAULT_BLOCKS,
  SLAB_JOURNAL_DEFAULT_BLOCKS,
} from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import type { GeometryBlock } from '../format/geometry-block.ts';
import { NEW, type SuperBlock } from '../format/super-block.ts';
import { indexMemorySetting, indexRegionBlocks } from '../index/uds/index-geometry.ts';
import { checkLabels, slabsOf, type Labels } from './labels.ts';
import {
  computeLayout,
  defaultLogicalBlocks,
  isPowerOfTwo,
  slabCount,
  type LayoutSizes,
} from './layout.ts';

const MIN_SLAB_BITS = 13;
const DEFAULT_SLAB_BITS = 19;

export interface FormatOptions {
  /** Bytes, a multiple of 4096. Default: what fits if nothing deduplicates. */
  readonly logicalSize?: number;
  /** Bytes, a power of two from 32 MiB to 32 GiB. Default: 2 GiB, or what suits the device. */
  readonly slabSize?: number;
  /** Memory of the deduplication index in gigabytes: 0.25 (default), 0.5, 0.75, or 1 … 1024. */
  readonly indexMemory?: number;
  readonly sparseIndex?: boolean;
  /** Leaves no room for an index in the volume. */
  readonly noIndex?: boolean;
  /** Overwrites whatever is there. */
  readonly force?: boolean;
  /** Eight bytes that no earlier volume on this storage had. Default: the clock in microseconds. */
  readonly nonce?: Uint8Array;
  /** Sixteen bytes. Default: random. */
  readonly uuid?: Uint8Array;
  /** For tests: blocks of each slab journal; lifts the lower limit of the slab size. */
  readonly slabJournalBlocks?: number;
  /** For tests: blocks of the recovery journal, a power of two. */
  readonly recoveryJournalBlocks?: number;
}

export interface FormatResult extends Labels {
  readonly slabs: number;
  /** Whether the slab size was chosen smaller or larger than the usual 2 GiB to suit the device. */
  readonly slabSizeAdjusted: boolean;
}

function invalid(message: string): VdoError {
  return new VdoError('InvalidArgument', message);
}

/** The volume that `formatStorage` would make on so many bytes. Fails with `InvalidArgument`. */
export function planFormat(physicalSize: number, options: FormatOptions = {}): FormatResult {
  if (!Number.isSafeInteger(physicalSize) || physicalSize < 0) {
    throw invalid(`a volume cannot have ${physicalSize} bytes`);
  }
  const physicalBlocks = Math.floor(physicalSize / BLOCK_SIZE);
  if (physicalBlocks > MAX_PHYSICAL_BLOCKS) {
    throw invalid(`physical size of ${physicalSize} bytes is over the limit of 256T`);
  }
  const geometry = planGeometry(options);
  const base = {
    physicalBlocks,
    dataStart: geometry.dataStart,
    slabJournalBlocks: options.slabJournalBlocks ?? SLAB_JOURNAL_DEFAULT_BLOCKS,
    recoveryJournalBlocks: options.recoveryJournalBlocks ?? RECOVERY_JOURNAL_DEFAULT_BLOCKS,
  };
  const slabBlocks =
    options.slabSize === undefined
      ? chooseSlabBlocks(base)
      : slabBlocksOf(options.slabSize, options.slabJournalBlocks !== undefined);
  const superBlock = planSuperBlock(geometry, { ...base, slabBlocks }, options.logicalSize);
  const slabSizeAdjusted = options.slabSize === undefined && slabBlocks !== 2 ** DEFAULT_SLAB_BITS;
  checkLabels({ geometry, superBlock });
  return { geometry, superBlock, slabs: slabsOf(superBlock), slabSizeAdjusted };
}

function planGeometry(options: FormatOptions): GeometryBlock {
  const { noIndex = false, sparseIndex = false } = options;
  if (noIndex && (options.indexMemory !== undefined || sparseIndex)) {
    throw invalid('a volume without an index has neither index memory nor a sparse index');
  }
  const nonce = options.nonce ?? clockNonce();
  const uuid = options.uuid ?? randomUuid();
  if (nonce.length !== 8) throw invalid(`a nonce has 8 bytes, not ${nonce.length}`);
  if (uuid.length !== 16) throw invalid(`a UUID has 16 bytes, not ${uuid.length}`);
  const indexMemory = noIndex ? 0 : indexMemorySetting(options.indexMemory ?? 0.25);
  const indexBlocks = noIndex ? 0 : indexRegionBlocks(indexMemory, sparseIndex);
  return {
    formatVersion: 5,
    unusedWord: 0,
    nonce,
    uuid,
    bioOffset: 0,
    indexStart: 1,
    dataStart: 1 + indexBlocks,
    indexMemory,
    sparse: sparseIndex,
  };
}

function planSuperBlock(
  geometry: GeometryBlock,
  sizes: LayoutSizes,
  logicalSize: number | undefined,
): SuperBlock {
  const layout = computeLayout(sizes);
  const { partitions, slab, firstBlock, lastBlock } = layout;
  return {
    unusedWord: geometry.unusedWord,
    state: NEW,
    completeRecoveries: 0,
    readOnlyRecoveries: 0,
    logicalBlocks: logicalBlocksOf(logicalSize, layout.slabs, slab.dataBlocks),
    physicalBlocks: sizes.physicalBlocks,
    slabSize: sizes.slabBlocks,
    recoveryJournalSize: sizes.recoveryJournalBlocks,
    slabJournalBlocks: sizes.slabJournalBlocks,
    nonce: geometry.nonce,
    firstFree: partitions.recoveryJournal.offset,
    lastFree: partitions.recoveryJournal.offset,
    partitions,
    partitionOrder: [1, 2, 3, 0],
    journalStart: 1,
    logicalBlocksUsed: 0,
    blockMapDataBlocks: 0,
    slab,
    firstBlock,
    lastBlock,
    zoneCount: 0,
    rootOrigin: partitions.blockMap.offset,
    rootCount: partitions.blockMap.count,
  };
}

/** The usual size; smaller if not even one slab fits, larger if there would be too many. */
function chooseSlabBlocks(base: Omit<LayoutSizes, 'slabBlocks'>): number {
  const slabs = (bits: number): number => slabCount({ ...base, slabBlocks: 2 ** bits });
  let bits = DEFAULT_SLAB_BITS;
  while (bits > MIN_SLAB_BITS && slabs(bits) < 1) bits--;
  while (bits < MAX_SLAB_BITS && slabs(bits) > MAX_SLABS) bits++;
  return 2 ** bits;
}

function slabBlocksOf(slabSize: number, anySize: boolean): number {
  const blocks = slabSize / BLOCK_SIZE;
  const least = anySize ? 1 : 2 ** MIN_SLAB_BITS;
  if (!isPowerOfTwo(blocks) || blocks < least || blocks > 2 ** MAX_SLAB_BITS) {
    throw invalid(`slab size of ${slabSize} bytes: choose a power of two from 32M to 32G`);
  }
  return blocks;
}

function logicalBlocksOf(
  logicalSize: number | undefined,
  slabs: number,
  dataBlocks: number,
): number {
  if (logicalSize === undefined) {
    const blocks = defaultLogicalBlocks(slabs, dataBlocks);
    if (blocks < 1) throw invalid('the volume is too small for a default logical size: give one');
    return blocks;
  }
  const blocks = logicalSize / BLOCK_SIZE;
  if (!Number.isInteger(blocks) || blocks < 1) {
    throw invalid(`logical size of ${logicalSize} bytes: give a positive multiple of 4096`);
  }
  if (blocks > MAX_LOGICAL_BLOCKS) {
    throw invalid(`logical size of ${logicalSize} bytes is over the limit of 4P`);
  }
  return blocks;
}

/** Microseconds since 1970, as dm-vdo's own tool chooses its nonces. */
function clockNonce(): Uint8Array {
  const micros = BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000));
  const nonce = new Uint8Array(8);
  new DataView(nonce.buffer).setBigUint64(0, micros, true);
  return nonce;
}

function randomUuid(): Uint8Array {
  const uuid = new Uint8Array(randomBytes(16));
  uuid[6] = (uuid[6]! & 0x0f) | 0x40;
  uuid[8] = (uuid[8]! & 0x3f) | 0x80;
  return uuid;
}
