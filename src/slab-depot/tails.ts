/**
 * Where each slab journal ends, as its summarised tail block tells: the way dm-vdo finds it at every
 * start, clean or not.
 *
 * Implements docs/FORMAT.md §7.1.
 */
import { bytesEqual } from '../base/bytes.ts';
import { BLOCK_SIZE } from '../base/constants.ts';
import { readSlabJournalHeader, SLAB_JOURNAL_METADATA_TYPE } from '../format/slab-journal-block.ts';
import type { Extent, Storage } from '../storage/storage.ts';
import { slabJournalBlockOffset, type DepotShape } from './shape.ts';
import type { SlabSummary } from './summary.ts';

/** Columns by slab number. */
export interface SlabTails {
  /** Oldest block that scrubbing needs; the tail where that is none. */
  readonly head: Float64Array;
  /** Sequence of the next block; 1 for a slab that was never used. */
  readonly tail: Float64Array;
  /** Recovery journal point of the last entry; 0 where there is none. */
  readonly pointSequence: Float64Array;
  readonly pointIndex: Int32Array;
}

/** Takes what a tail block says; one that is not ours leaves the slab as never used. */
export function adoptTail(
  tails: SlabTails,
  slab: number,
  block: Uint8Array,
  { nonce, dirty }: { readonly nonce: Uint8Array; readonly dirty: boolean },
): void {
  const header = readSlabJournalHeader(block);
  const isOurs =
    header.metadataType === SLAB_JOURNAL_METADATA_TYPE && bytesEqual(header.nonce, nonce);
  if (!isOurs || !(header.sequence >= 1)) return;
  tails.tail[slab] = header.sequence + 1;
  // A head beyond all numbers is damage, which scrubbing will find: block 1 cannot be where it says.
  const head = Number.isNaN(header.head) ? 1 : header.head;
  tails.head[slab] = dirty ? head : header.sequence + 1;
  tails.pointSequence[slab] = header.recoverySequence;
  tails.pointIndex[slab] = header.recoveryIndex;
}

/** Tails of `slabs` slabs none of which was ever used. */
export function freshTails(slabs: number): SlabTails {
  return {
    head: new Float64Array(slabs).fill(1),
    tail: new Float64Array(slabs).fill(1),
    pointSequence: new Float64Array(slabs),
    pointIndex: new Int32Array(slabs),
  };
}

/** Reads the tail block of every slab that has one, in one vector. Fails with `Io`. */
export async function readTails(
  storage: Storage,
  shape: DepotShape,
  summary: SlabSummary,
  options: { readonly slabs: number; readonly nonce: Uint8Array },
): Promise<SlabTails> {
  const tails = freshTails(options.slabs);
  const used: number[] = [];
  const extents: Extent[] = [];
  for (let slab = 0; slab < options.slabs; slab++) {
    const { tailOffset, loadCounts } = summary.get(slab);
    if (tailOffset === 0 && !loadCounts) continue;
    const last = tailOffset + shape.journalBlocks - 1;
    const offset = slabJournalBlockOffset(shape, slab, last);
    used.push(slab);
    extents.push({ offset, bytes: new Uint8Array(BLOCK_SIZE) });
  }
  if (extents.length > 0) await storage.read(extents);
  used.forEach((slab, i) => {
    const { dirty } = summary.get(slab);
    adoptTail(tails, slab, extents[i]!.bytes, { nonce: options.nonce, dirty });
  });
  return tails;
}
