/**
 * Where the parts of each slab lie: data blocks, then reference blocks, then the slab journal.
 *
 * Implements docs/FORMAT.md §1.2.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import type { SuperBlock } from '../format/super-block.ts';

export interface DepotShape {
  /** First block of slab 0. */
  readonly firstBlock: number;
  /** Blocks of a slab, a power of two. */
  readonly slabBlocks: number;
  readonly dataBlocks: number;
  readonly referenceBlocks: number;
  readonly journalBlocks: number;
}

/** The shape of a volume's slabs. */
export function depotShapeOf({ slab, firstBlock }: SuperBlock): DepotShape {
  return {
    firstBlock,
    slabBlocks: slab.blocks,
    dataBlocks: slab.dataBlocks,
    referenceBlocks: slab.referenceBlocks,
    journalBlocks: slab.journalBlocks,
  };
}

/** Whether `pbn` is a block of one of `slabs` slabs that can hold data (0, the zero block, is not). */
export function isSlabData(shape: DepotShape, slabs: number, pbn: number): boolean {
  const offset = pbn - shape.firstBlock;
  if (!(offset >= 0) || offset >= slabs * shape.slabBlocks) return false;
  return offset % shape.slabBlocks < shape.dataBlocks;
}

/** Byte where the reference blocks of a slab begin. */
export function referencesOffset(shape: DepotShape, slab: number): number {
  return (shape.firstBlock + slab * shape.slabBlocks + shape.dataBlocks) * BLOCK_SIZE;
}

/** Byte where the journal of a slab begins. */
export function slabJournalOffset(shape: DepotShape, slab: number): number {
  return referencesOffset(shape, slab) + shape.referenceBlocks * BLOCK_SIZE;
}

/** Byte where block `sequence` of a slab's journal lies. */
export function slabJournalBlockOffset(shape: DepotShape, slab: number, sequence: number): number {
  return slabJournalOffset(shape, slab) + (sequence % shape.journalBlocks) * BLOCK_SIZE;
}
