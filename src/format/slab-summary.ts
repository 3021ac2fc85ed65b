/**
 * The slab summary: two bytes per slab, a copy per physical zone (FORMAT §6.3).
 *
 * ```
 * bits 7 … 0   tail block offset: where the block after the last written slab journal block goes
 * bits 13 … 8  fullness hint
 * bit 14       load counts: 0 = the reference blocks on disk mean nothing yet
 * bit 15       dirty: 1 = the slab journal must be replayed
 * ```
 */
import { MAX_SLABS } from '../base/constants.ts';
import { assert } from '../base/assert.ts';
import { getU16, setU16 } from '../base/bytes.ts';
import { struct, u16 } from './struct.ts';

export const slabSummaryEntry = struct(
  'SlabSummaryEntry',
  {
    bits: u16('7 … 0 tail block offset, 13 … 8 fullness hint, 14 load reference counts, 15 dirty'),
  },
  2,
);

/** Bytes of one zone's copy. */
export const SUMMARY_ZONE_SIZE = MAX_SLABS * slabSummaryEntry.size;

export interface SummaryEntry {
  /** 0 … 255. */
  readonly tailOffset: number;
  /** 0 … 63. */
  readonly fullnessHint: number;
  readonly loadCounts: boolean;
  readonly dirty: boolean;
}

/** Entry `index` of the table at the start of `bytes`. */
export function readSummaryEntry(bytes: Uint8Array, index: number): SummaryEntry {
  const bits = getU16(bytes, index * 2);
  return {
    tailOffset: bits & 0xff,
    fullnessHint: (bits >>> 8) & 0x3f,
    loadCounts: (bits & 0x4000) !== 0,
    dirty: (bits & 0x8000) !== 0,
  };
}

/** Stores entry `index` of the table at the start of `bytes`. */
export function setSummaryEntry(bytes: Uint8Array, index: number, entry: SummaryEntry): void {
  assert(entry.tailOffset >= 0 && entry.tailOffset < 256, 'tail offset of a slab summary entry');
  assert(entry.fullnessHint >= 0 && entry.fullnessHint < 64, 'hint of a slab summary entry');
  const bits =
    entry.tailOffset |
    (entry.fullnessHint << 8) |
    (entry.loadCounts ? 0x4000 : 0) |
    (entry.dirty ? 0x8000 : 0);
  setU16(bytes, index * 2, bits);
}

/** Free space in 64ths of a slab of 2^`slabBits` blocks; 0 only when no block is free. */
export function fullnessHint(freeBlocks: number, slabBits: number): number {
  if (freeBlocks === 0) return 0;
  return Math.max(1, freeBlocks >>> Math.max(0, slabBits - 6));
}
