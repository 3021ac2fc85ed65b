/**
 * A block of a slab journal: header and three-byte entries in one of two payload forms (FORMAT §6.1).
 *
 * ```
 * plain  36 … 4094   1353 entries
 * full   36 … 3932   1299 entries, then 163 bytes: bit i set = entry i is a block map increment
 * ```
 *
 * - A block starts plain and turns full at its first block map increment.
 * - Block `sequence` lies at index `sequence mod journalBlocks` of the slab's journal.
 * - The recovery point is that of the block's last entry; its index is doubled: 2 × entry for an
 *   increment, + 1 for the decrement of the same entry.
 */
import {
  BLOCK_SIZE,
  SLAB_JOURNAL_FULL_ENTRIES,
  SLAB_JOURNAL_PLAIN_ENTRIES,
} from '../base/constants.ts';
import { assert } from '../base/assert.ts';
import { getU16, getU64, setU16, setU64 } from '../base/bytes.ts';
import { getPoint, point, raw, setPoint, struct, u16, u64, u8 } from './struct.ts';

export const SLAB_JOURNAL_METADATA_TYPE = 2;

export const slabJournalHeader = struct(
  'SlabJournalHeader',
  {
    head: u64('oldest sequence still needed when this block was written'),
    sequence: u64('sequence number of this block'),
    recoveryPoint: point('recovery journal point of the last entry, index doubled'),
    nonce: raw(8, 'nonce of the volume'),
    metadataType: u8('2'),
    hasBlockMapIncrements: u8('1: full form, with the bitmap'),
    entryCount: u16('entries in this block'),
  },
  36,
);

export const slabJournalEntry = struct(
  'SlabJournalEntry',
  {
    offsetLow: u16('bits 15 … 0 of the block in the slab'),
    highAndIncrement: u8('bits 6 … 0: bits 22 … 16 of the block; bit 7: increment'),
  },
  3,
);

const HEADER_SIZE = slabJournalHeader.size;
const ENTRY_SIZE = slabJournalEntry.size;
const POINT_AT = slabJournalHeader.offset.recoveryPoint;
const FLAG_AT = slabJournalHeader.offset.hasBlockMapIncrements;
const COUNT_AT = slabJournalHeader.offset.entryCount;
export const SLAB_JOURNAL_BITMAP_AT = HEADER_SIZE + SLAB_JOURNAL_FULL_ENTRIES * ENTRY_SIZE;
const BITMAP_SIZE = Math.ceil(SLAB_JOURNAL_FULL_ENTRIES / 8);

assert(SLAB_JOURNAL_BITMAP_AT + BITMAP_SIZE === BLOCK_SIZE);
assert(HEADER_SIZE + SLAB_JOURNAL_PLAIN_ENTRIES * ENTRY_SIZE <= BLOCK_SIZE);

export interface SlabJournalHeader {
  readonly head: number;
  readonly sequence: number;
  readonly recoverySequence: number;
  /** Doubled: 2 × entry of the recovery journal block, + 1 for its decrement. */
  readonly recoveryIndex: number;
  readonly nonce: Uint8Array;
  readonly metadataType: number;
  readonly hasBlockMapIncrements: boolean;
  readonly entryCount: number;
}

export interface SlabJournalEntry {
  readonly sbn: number;
  readonly increment: boolean;
  readonly blockMap: boolean;
}

/** Makes `bytes` an empty block in the plain form. */
export function beginSlabJournalBlock(
  bytes: Uint8Array,
  nonce: Uint8Array,
  sequence: number,
): void {
  bytes.fill(0, 0, BLOCK_SIZE);
  slabJournalHeader.write(bytes, {
    head: 0,
    sequence,
    recoveryPoint: { sequence: 0, index: 0 },
    nonce,
    metadataType: SLAB_JOURNAL_METADATA_TYPE,
    hasBlockMapIncrements: 0,
    entryCount: 0,
  });
}

/** Stores entry `index`. Neither counts it nor marks it as of the block map. No allocation. */
export function setSlabJournalEntry(
  bytes: Uint8Array,
  index: number,
  sbn: number,
  increment: boolean,
): void {
  const at = HEADER_SIZE + index * ENTRY_SIZE;
  bytes[at] = sbn;
  bytes[at + 1] = sbn >>> 8;
  bytes[at + 2] = ((sbn >>> 16) & 0x7f) | (increment ? 0x80 : 0);
}

/** Turns a plain block of at most 1299 entries into the full form, no bit set. */
export function makeFullSlabJournalBlock(bytes: Uint8Array): void {
  bytes[FLAG_AT] = 1;
  bytes.fill(0, SLAB_JOURNAL_BITMAP_AT, BLOCK_SIZE);
}

/** Marks entry `index` of a full block as a block map increment. */
export function setBlockMapIncrement(bytes: Uint8Array, index: number): void {
  const at = SLAB_JOURNAL_BITMAP_AT + (index >>> 3);
  bytes[at] = bytes[at]! | (1 << (index & 7));
}

/** Completes the header for a write. `recoveryIndex` is the doubled index of the last entry. */
export function finishSlabJournalBlock(
  bytes: Uint8Array,
  block: {
    readonly head: number;
    readonly entryCount: number;
    readonly recoverySequence: number;
    readonly recoveryIndex: number;
  },
): void {
  setU64(bytes, slabJournalHeader.offset.head, block.head);
  setPoint(bytes, POINT_AT, block.recoverySequence, block.recoveryIndex);
  setU16(bytes, COUNT_AT, block.entryCount);
}

/** The header, unchecked: a 64-bit field above 2^53 − 1 is `NaN`. */
export function readSlabJournalHeader(bytes: Uint8Array): SlabJournalHeader {
  const recovery = getPoint(bytes, POINT_AT);
  return {
    head: getU64(bytes, slabJournalHeader.offset.head),
    sequence: getU64(bytes, slabJournalHeader.offset.sequence),
    recoverySequence: recovery.sequence,
    recoveryIndex: recovery.index,
    nonce: bytes.slice(slabJournalHeader.offset.nonce, slabJournalHeader.offset.nonce + 8),
    metadataType: bytes[slabJournalHeader.offset.metadataType]!,
    hasBlockMapIncrements: bytes[FLAG_AT] !== 0,
    entryCount: getU16(bytes, COUNT_AT),
  };
}

/** Entries a block of this form can hold. */
export function slabJournalCapacity(hasBlockMapIncrements: boolean): number {
  return hasBlockMapIncrements ? SLAB_JOURNAL_FULL_ENTRIES : SLAB_JOURNAL_PLAIN_ENTRIES;
}

/** Entry `index`, which must be below the capacity of the block's form. */
export function readSlabJournalEntry(bytes: Uint8Array, index: number): SlabJournalEntry {
  const at = HEADER_SIZE + index * ENTRY_SIZE;
  const bit = bytes[SLAB_JOURNAL_BITMAP_AT + (index >>> 3)]! & (1 << (index & 7));
  return {
    sbn: bytes[at]! | (bytes[at + 1]! << 8) | ((bytes[at + 2]! & 0x7f) << 16),
    increment: bytes[at + 2]! >= 0x80,
    blockMap: bytes[FLAG_AT] !== 0 && bit !== 0,
  };
}
