/**
 * A block of the recovery journal: a header sector and seven sectors of 31 entries (FORMAT §5).
 *
 * ```
 * sector 0   header
 * sector 1…7 check byte | recovery count | entries in this sector | 31 × 16-byte entry | zeros
 * ```
 *
 * - Block `sequence` lies at index `sequence mod journalBlocks` of the journal.
 * - A sector belongs to the header only while its check byte and recovery count equal the header's;
 *   a sector not yet reached is all zero, and check byte 0 never matches (bit 7 is always set).
 * - Rewriting a block only appends, so any mix of sectors of two writes yields the older entries.
 * - Header counters are those before the block's own entries.
 */
import {
  BLOCK_SIZE,
  RECOVERY_ENTRIES_PER_BLOCK,
  RECOVERY_ENTRIES_PER_SECTOR,
  SECTOR_SIZE,
  SECTORS_PER_BLOCK,
} from '../base/constants.ts';
import { assert } from '../base/assert.ts';
import { getU16, getU32, setU16, setU32, setU64 } from '../base/bytes.ts';
import { mappingPbn, mappingState, setMapping } from './block-map-page.ts';
import { raw, struct, u16, u32, u64, u8, unused } from './struct.ts';

export const RECOVERY_METADATA_TYPE = 3;
/** Metadata type of the layout before dm-vdo 8: 11-byte entries. Recognised, never replayed. */
export const OLD_RECOVERY_METADATA_TYPE = 1;

export const DATA_REMAPPING = 0;
export const BLOCK_MAP_REMAPPING = 1;

export const recoveryBlockHeader = struct(
  'RecoveryBlockHeader',
  {
    blockMapHead: u64('oldest sequence the block map still needs, as of this write'),
    slabJournalHead: u64('oldest sequence the slab journals still need, as of this write'),
    sequence: u64('sequence number of this block'),
    nonce: raw(8, 'nonce of the volume'),
    metadataType: u8('3 (1: layout of dm-vdo 6)'),
    entryCount: u16('entries in the whole block, 0 … 217'),
    logicalBlocksUsed: u64('mapped logical blocks before the entries of this block'),
    blockMapDataBlocks: u64('allocated tree pages before the entries of this block'),
    checkByte: u8('((sequence / journal blocks) & 0x7f) | 0x80'),
    recoveryCount: u8('low byte of the number of completed recoveries'),
    rest: unused(459, 'zeros'),
  },
  SECTOR_SIZE,
);

export const recoverySector = struct(
  'RecoverySector',
  {
    checkByte: u8('as in the header'),
    recoveryCount: u8('as in the header'),
    entryCount: u8('entries in this sector, 0 … 31'),
    entries: raw(31 * 16, '31 entries'),
    rest: unused(13, 'zeros'),
  },
  SECTOR_SIZE,
);

export const recoveryEntry = struct(
  'RecoveryEntry',
  {
    operationSlotHigh: u16('bits 1 … 0 operation, 11 … 2 slot, 15 … 12 page pbn bits 35 … 32'),
    pagePbnLow: u32('block map page pbn bits 31 … 0'),
    mapping: raw(5, 'new block map entry of the slot'),
    unmapping: raw(5, 'previous block map entry of the slot'),
  },
  16,
);

const ENTRY_SIZE = recoveryEntry.size;
const ENTRIES_AT = recoverySector.offset.entries;
const COUNT_AT = recoveryBlockHeader.offset.entryCount;
const CHECK_AT = recoveryBlockHeader.offset.checkByte;
const RECOVERY_AT = recoveryBlockHeader.offset.recoveryCount;
const TWO_32 = 2 ** 32;

assert(RECOVERY_ENTRIES_PER_SECTOR * (SECTORS_PER_BLOCK - 1) === RECOVERY_ENTRIES_PER_BLOCK);

export interface RecoveryHeader {
  readonly blockMapHead: number;
  readonly slabJournalHead: number;
  readonly sequence: number;
  readonly nonce: Uint8Array;
  readonly metadataType: number;
  readonly entryCount: number;
  readonly logicalBlocksUsed: number;
  readonly blockMapDataBlocks: number;
  readonly checkByte: number;
  readonly recoveryCount: number;
}

export interface RecoveryEntry {
  readonly operation: number;
  readonly pagePbn: number;
  readonly slot: number;
  readonly newPbn: number;
  readonly newState: number;
  readonly oldPbn: number;
  readonly oldState: number;
}

/** Check byte of the block with this sequence: tells one lap around the journal from the next. */
export function checkByte(sequence: number, journalBlocks: number): number {
  return (Math.floor(sequence / journalBlocks) % 128) | 0x80;
}

/** Makes `bytes` a block without entries. `recoveryCount` may be the full number of recoveries. */
export function beginRecoveryBlock(
  bytes: Uint8Array,
  block: {
    readonly sequence: number;
    readonly nonce: Uint8Array;
    readonly journalBlocks: number;
    readonly recoveryCount: number;
    readonly blockMapHead: number;
    readonly slabJournalHead: number;
    readonly logicalBlocksUsed: number;
    readonly blockMapDataBlocks: number;
  },
): void {
  bytes.fill(0, 0, BLOCK_SIZE);
  recoveryBlockHeader.write(bytes, {
    blockMapHead: block.blockMapHead,
    slabJournalHead: block.slabJournalHead,
    sequence: block.sequence,
    nonce: block.nonce,
    metadataType: RECOVERY_METADATA_TYPE,
    entryCount: 0,
    logicalBlocksUsed: block.logicalBlocksUsed,
    blockMapDataBlocks: block.blockMapDataBlocks,
    checkByte: checkByte(block.sequence, block.journalBlocks),
    recoveryCount: block.recoveryCount % 256,
  });
}

/** Refreshes the two heads, as before every write of the block. */
export function setRecoveryHeads(
  bytes: Uint8Array,
  blockMapHead: number,
  slabJournalHead: number,
): void {
  setU64(bytes, recoveryBlockHeader.offset.blockMapHead, blockMapHead);
  setU64(bytes, recoveryBlockHeader.offset.slabJournalHead, slabJournalHead);
}

function entryOffset(index: number): number {
  const sector = (index / RECOVERY_ENTRIES_PER_SECTOR) | 0;
  const inSector = index - sector * RECOVERY_ENTRIES_PER_SECTOR;
  return (sector + 1) * SECTOR_SIZE + ENTRIES_AT + inSector * ENTRY_SIZE;
}

/**
 * Stores entry `index`, which must be the next one, and counts it in header and sector. Operation
 * 0 remaps data, 1 gives an interior slot its tree page. No allocation.
 */
export function setRecoveryEntry(
  bytes: Uint8Array,
  index: number,
  operation: number,
  pagePbn: number,
  slot: number,
  newPbn: number,
  newState: number,
  oldPbn: number,
  oldState: number,
): void {
  const sector = (index / RECOVERY_ENTRIES_PER_SECTOR) | 0;
  const inSector = index - sector * RECOVERY_ENTRIES_PER_SECTOR;
  const start = (sector + 1) * SECTOR_SIZE;
  bytes[start] = bytes[CHECK_AT]!;
  bytes[start + 1] = bytes[RECOVERY_AT]!;
  bytes[start + 2] = inSector + 1;
  const at = start + ENTRIES_AT + inSector * ENTRY_SIZE;
  const high = pagePbn >= TWO_32 ? Math.floor(pagePbn / TWO_32) : 0;
  setU16(bytes, at, operation | (slot << 2) | (high << 12));
  setU32(bytes, at + 2, pagePbn - high * TWO_32);
  setMapping(bytes, at + 6, newPbn, newState);
  setMapping(bytes, at + 11, oldPbn, oldState);
  setU16(bytes, COUNT_AT, index + 1);
}

/** Entries that the header promises. */
export function recoveryEntryCount(bytes: Uint8Array): number {
  return getU16(bytes, COUNT_AT);
}

/** The header, unchecked: a 64-bit field above 2^53 − 1 is `NaN`. */
export function readRecoveryHeader(bytes: Uint8Array): RecoveryHeader {
  return recoveryBlockHeader.read(bytes);
}

/** Entry `index` (0 … 216) as stored, valid or not. */
export function readRecoveryEntry(bytes: Uint8Array, index: number): RecoveryEntry {
  const at = entryOffset(index);
  const word = getU16(bytes, at);
  return {
    operation: word & 3,
    pagePbn: (word >>> 12) * TWO_32 + getU32(bytes, at + 2),
    slot: (word >>> 2) & 0x3ff,
    newPbn: mappingPbn(bytes, at + 6),
    newState: mappingState(bytes, at + 6),
    oldPbn: mappingPbn(bytes, at + 11),
    oldState: mappingState(bytes, at + 11),
  };
}

/** Whether sector 1 … 7 belongs to the write that its header describes. */
export function isSectorValid(bytes: Uint8Array, sector: number): boolean {
  const start = sector * SECTOR_SIZE;
  return (
    bytes[start] === bytes[CHECK_AT] &&
    bytes[start + 1] === bytes[RECOVERY_AT] &&
    bytes[start + 2]! <= RECOVERY_ENTRIES_PER_SECTOR
  );
}

/** Entries that sector 1 … 7 says it has. Meaningful where `isSectorValid`. */
export function sectorEntryCount(bytes: Uint8Array, sector: number): number {
  return bytes[sector * SECTOR_SIZE + 2]!;
}

/**
 * Number of entries a replay may use, from the first: it ends at the first sector of another
 * write and after the first sector that is not full, and never exceeds the header's promise.
 */
export function usableEntryCount(bytes: Uint8Array): number {
  const promised = Math.min(recoveryEntryCount(bytes), RECOVERY_ENTRIES_PER_BLOCK);
  let usable = 0;
  for (let sector = 1; sector < SECTORS_PER_BLOCK && usable < promised; sector++) {
    if (!isSectorValid(bytes, sector)) break;
    const here = Math.min(sectorEntryCount(bytes, sector), promised - usable);
    usable += here;
    if (here < RECOVERY_ENTRIES_PER_SECTOR) break;
  }
  return usable;
}
