/**
 * A block of reference counts: eight sectors of a commit point and 504 one-byte counts (FORMAT §6.2).
 *
 * - A count is 0 (free), 1 … 254 (references; 254 also marks tree pages), or 255 (provisional: free
 *   when read from disk).
 * - The commit point names the slab journal entry up to which the counts are complete. A write
 *   stores eight equal points; differing ones mean that it tore, and each sector stands alone.
 */
import {
  BLOCK_SIZE,
  COUNTS_PER_BLOCK,
  COUNTS_PER_SECTOR,
  SECTOR_SIZE,
  SECTORS_PER_BLOCK,
} from '../base/constants.ts';
import { assert } from '../base/assert.ts';
import { getPoint, point, raw, setPoint, struct, type JournalPoint } from './struct.ts';

export const referenceSector = struct(
  'ReferenceSector',
  {
    commitPoint: point('slab journal block and entry up to which these counts are complete'),
    counts: raw(COUNTS_PER_SECTOR, 'a byte per block'),
  },
  SECTOR_SIZE,
);

const COUNTS_AT = referenceSector.offset.counts;
assert(COUNTS_AT + COUNTS_PER_SECTOR === SECTOR_SIZE);

/**
 * Fills one 4 KiB block with `counts[from …]`; what lies past the end of `counts` is zero. All
 * eight sectors get the same commit point.
 */
export function encodeReferenceBlock(
  bytes: Uint8Array,
  counts: Uint8Array,
  from: number,
  pointSequence: number,
  pointIndex: number,
): void {
  for (let sector = 0; sector < SECTORS_PER_BLOCK; sector++) {
    const at = sector * SECTOR_SIZE;
    setPoint(bytes, at, pointSequence, pointIndex);
    const start = Math.min(counts.length, from + sector * COUNTS_PER_SECTOR);
    const end = Math.min(counts.length, start + COUNTS_PER_SECTOR);
    bytes.set(counts.subarray(start, end), at + COUNTS_AT);
    bytes.fill(0, at + COUNTS_AT + (end - start), at + SECTOR_SIZE);
  }
}

/** Copies the block's raw counts to `counts[from …]`, as many as fit. 255 stays 255. */
export function decodeReferenceBlock(bytes: Uint8Array, counts: Uint8Array, from: number): void {
  const end = Math.min(counts.length, from + COUNTS_PER_BLOCK);
  for (let sector = 0; sector < SECTORS_PER_BLOCK; sector++) {
    const start = from + sector * COUNTS_PER_SECTOR;
    const count = Math.min(COUNTS_PER_SECTOR, end - start);
    if (count <= 0) break;
    const at = sector * SECTOR_SIZE + COUNTS_AT;
    counts.set(bytes.subarray(at, at + count), start);
  }
}

/** Commit point of sector 0 … 7. */
export function readCommitPoint(bytes: Uint8Array, sector: number): JournalPoint {
  return getPoint(bytes, sector * SECTOR_SIZE);
}

assert(
  COUNTS_PER_SECTOR * SECTORS_PER_BLOCK === COUNTS_PER_BLOCK && BLOCK_SIZE % SECTOR_SIZE === 0,
);
