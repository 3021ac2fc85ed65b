/**
 * The two labels of a volume, geometry block and super block, read together and checked against each
 * other, against the layout formulas, and against the size of the storage (FORMAT §2).
 *
 * Partitions may lie in any order as long as they tile the data region exactly: dm-vdo asks for no
 * more, and everything finds them by name.
 */
import { BLOCK_SIZE, MAX_SLABS } from '../base/constants.ts';
import { bytesEqual } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import { decodeGeometryBlock, type GeometryBlock } from '../format/geometry-block.ts';
import { decodeSuperBlock, type SuperBlock } from '../format/super-block.ts';
import type { Storage } from '../storage/storage.ts';
import { slabConfig } from './layout.ts';

export interface Labels {
  readonly geometry: GeometryBlock;
  readonly superBlock: SuperBlock;
}

/** Byte on the storage where physical block `pbn` lies. */
export function deviceOffset(geometry: GeometryBlock, pbn: number): number {
  return (pbn - geometry.bioOffset) * BLOCK_SIZE;
}

/** Byte on the storage where the super block lies. */
export function superBlockOffset(geometry: GeometryBlock): number {
  return deviceOffset(geometry, geometry.dataStart);
}

/** Number of slabs of the volume. */
export function slabsOf(superBlock: SuperBlock): number {
  return (superBlock.lastBlock - superBlock.firstBlock) / superBlock.slabSize;
}

/** Reads block 0. Fails as `decodeGeometryBlock` does, and with `NotVdo` if there is no block 0. */
export async function readGeometry(storage: Storage): Promise<GeometryBlock> {
  if (storage.size < BLOCK_SIZE) {
    throw new VdoError('NotVdo', `no dm-vdo volume here: only ${storage.size} bytes`);
  }
  return decodeGeometryBlock(await readBlock(storage, 0));
}

/** Reads the super block that the geometry points to, unchecked against anything else. */
export async function readSuperBlock(
  storage: Storage,
  geometry: GeometryBlock,
): Promise<SuperBlock> {
  const offset = superBlockOffset(geometry);
  if (offset + BLOCK_SIZE > storage.size) {
    const needed = `its super block lies at byte ${offset}, the file ends at ${storage.size}`;
    throw new VdoError('Truncated', `the volume is cut short: ${needed}`);
  }
  return decodeSuperBlock(await readBlock(storage, offset));
}

/**
 * Reads and checks both labels. Fails with `NotVdo`, `UnsupportedVersion`, `ChecksumMismatch`,
 * `Corrupt`, or `Truncated` when the storage is smaller than the volume.
 */
export async function readLabels(storage: Storage): Promise<Labels> {
  const geometry = await readGeometry(storage);
  const superBlock = await readSuperBlock(storage, geometry);
  checkLabels({ geometry, superBlock });
  if (storage.size < superBlock.physicalBlocks * BLOCK_SIZE) {
    throw new VdoError(
      'Truncated',
      `the volume is cut short: it has ${superBlock.physicalBlocks * BLOCK_SIZE} bytes, ${storage.size} are there`,
    );
  }
  return { geometry, superBlock };
}

async function readBlock(storage: Storage, offset: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(BLOCK_SIZE);
  await storage.read([{ offset, bytes }]);
  return bytes;
}

/** Fails with `Corrupt` where the labels contradict each other or the layout formulas. */
export function checkLabels({ geometry, superBlock }: Labels): void {
  if (!bytesEqual(geometry.nonce, superBlock.nonce)) {
    throw corrupt('geometry block and super block carry different nonces');
  }
  checkPartitions(geometry, superBlock);
  checkSlabs(superBlock);
}

function checkPartitions(geometry: GeometryBlock, superBlock: SuperBlock): void {
  const partitions = Object.values(superBlock.partitions).sort((a, b) => a.offset - b.offset);
  let end = geometry.dataStart + 1;
  for (const { offset, count } of partitions) {
    if (offset !== end) {
      throw corrupt(`a partition starts at block ${offset} where block ${end} is the next`);
    }
    end += count;
  }
  if (end !== superBlock.physicalBlocks) {
    throw corrupt(`partitions end at block ${end}, the volume at ${superBlock.physicalBlocks}`);
  }
}

function checkSlabs(superBlock: SuperBlock): void {
  const { slab, slabSize, firstBlock, lastBlock } = superBlock;
  const { slabDepot } = superBlock.partitions;
  const slabs = slabsOf(superBlock);
  if (!Number.isInteger(slabs) || slabs < 1 || slabs > MAX_SLABS) {
    throw corrupt(`slabs of ${slabSize} blocks from block ${firstBlock} to ${lastBlock}`);
  }
  if (lastBlock > slabDepot.offset + slabDepot.count) {
    throw corrupt(`slabs end at block ${lastBlock}, past their partition`);
  }
  let expected;
  try {
    expected = slabConfig(slabSize, superBlock.slabJournalBlocks);
  } catch (error) {
    throw corrupt('slab sizes contradict each other', error);
  }
  for (const key of ['dataBlocks', 'referenceBlocks'] as const) {
    if (slab[key] !== expected[key]) {
      throw corrupt(
        `slabs with ${key} ${slab[key]} where ${expected[key]} follows from their size`,
      );
    }
  }
  // Thresholds steer when work is done, not where anything lies: only nonsense is refused. (In slab
  // journals of fewer than 8 blocks dm-vdo's own formulas put the last below the first.)
  const { flushingThreshold, blockingThreshold, scrubbingThreshold, journalBlocks } = slab;
  const thresholds = [flushingThreshold, blockingThreshold, scrubbingThreshold];
  if (thresholds.some((threshold) => threshold < 1 || threshold > journalBlocks)) {
    const found = thresholds.join(', ');
    throw corrupt(`slab journal thresholds ${found} of ${journalBlocks} blocks`);
  }
}

function corrupt(what: string, cause?: unknown): VdoError {
  return new VdoError('Corrupt', `labels of the volume: ${what}`, {}, cause);
}
