/**
 * Map entries, journal entries, slab journal blocks, reference blocks and summary entries, decoded
 * and encoded independently of `src/format`.
 */
import { getU64, setU64, type VolumeLayout } from './layout.ts';
import { BLOCK } from './steps.ts';

// Block map pages

export interface Mapping {
  readonly state: number;
  readonly pbn: number;
}

export const SLOTS = 812;
const ENTRIES_AT = 36;
const TWO_32 = 2 ** 32;

export function getMapping(bytes: Buffer, at: number): Mapping {
  const first = bytes[at]!;
  return { state: first & 15, pbn: (first >>> 4) * TWO_32 + bytes.readUInt32LE(at + 1) };
}

export function setMapping(bytes: Buffer, at: number, { state, pbn }: Mapping): void {
  bytes[at] = state | (Math.floor(pbn / TWO_32) << 4);
  bytes.writeUInt32LE(pbn % TWO_32, at + 1);
}

export const slotAt = (slot: number): number => ENTRIES_AT + 5 * slot;

/** What a page read from disk is (volume format, page validity on load). */
export function judgePage(page: Buffer, pbn: number, nonce: Buffer): 'valid' | 'empty' | 'bad' {
  const right = page.readUInt32LE(0) === 4 && page.readUInt32LE(4) === 1 && page[32] === 1;
  if (!right || !page.subarray(8, 16).equals(nonce)) return 'empty';
  return getU64(page, 16) === pbn ? 'valid' : 'bad';
}

/** An empty page in memory: initialized is 0. */
export function formatPage(pbn: number, nonce: Buffer): Buffer {
  const page = Buffer.alloc(BLOCK);
  page.writeUInt32LE(4, 0);
  page.writeUInt32LE(1, 4);
  nonce.copy(page, 8);
  setU64(page, 16, pbn);
  return page;
}

// Recovery journal

export interface JournalHeader {
  readonly blockMapHead: number;
  readonly slabJournalHead: number;
  readonly sequence: number;
  readonly entryCount: number;
  readonly logicalBlocksUsed: number;
  readonly treePages: number;
}

export interface JournalEntry {
  readonly operation: number;
  readonly page: number;
  readonly slot: number;
  readonly mapping: Mapping;
  readonly unmapping: Mapping;
}

export const JOURNAL_ENTRIES = 217;
export const SECTOR_ENTRIES = 31;

const checkByte = (sequence: number, journalBlocks: number): number =>
  (Math.floor(sequence / journalBlocks) & 0x7f) | 0x80;

/** The header, if nonce, type, count and recovery count are right. */
export function decodeJournalHeader(
  block: Buffer,
  nonce: Buffer,
  recoveryCount: number,
): JournalHeader | undefined {
  const entryCount = block.readUInt16LE(33);
  if (block[32] !== 3 || entryCount > JOURNAL_ENTRIES || block[52] !== recoveryCount) {
    return undefined;
  }
  if (!block.subarray(24, 32).equals(nonce)) return undefined;
  return {
    blockMapHead: getU64(block, 0),
    slabJournalHead: getU64(block, 8),
    sequence: getU64(block, 16),
    entryCount,
    logicalBlocksUsed: getU64(block, 35),
    treePages: getU64(block, 43),
  };
}

export function decodeJournalEntry(block: Buffer, at: number): JournalEntry {
  const word = block.readUInt16LE(at);
  return {
    operation: word & 3,
    slot: (word >>> 2) & 0x3ff,
    page: (word >>> 12) * TWO_32 + block.readUInt32LE(at + 2),
    mapping: getMapping(block, at + 6),
    unmapping: getMapping(block, at + 11),
  };
}

export function encodeJournalEntry(block: Buffer, at: number, entry: JournalEntry): void {
  block.writeUInt16LE(
    entry.operation | (entry.slot << 2) | (Math.floor(entry.page / TWO_32) << 12),
    at,
  );
  block.writeUInt32LE(entry.page % TWO_32, at + 2);
  setMapping(block, at + 6, entry.mapping);
  setMapping(block, at + 11, entry.unmapping);
}

/** Where entry `index` of a journal block stands. */
export const journalEntryAt = (index: number): number =>
  (1 + Math.floor(index / SECTOR_ENTRIES)) * 512 + 3 + (index % SECTOR_ENTRIES) * 16;

export interface OpenJournalBlock extends JournalHeader {
  readonly entries: readonly JournalEntry[];
}

export function encodeJournalBlock(
  layout: VolumeLayout,
  recoveryCount: number,
  open: Omit<OpenJournalBlock, 'entryCount'>,
): Buffer {
  const block = Buffer.alloc(BLOCK);
  const check = checkByte(open.sequence, layout.journalBlocks);
  setU64(block, 0, open.blockMapHead);
  setU64(block, 8, open.slabJournalHead);
  setU64(block, 16, open.sequence);
  layout.nonce.copy(block, 24);
  block[32] = 3;
  block.writeUInt16LE(open.entries.length, 33);
  setU64(block, 35, open.logicalBlocksUsed);
  setU64(block, 43, open.treePages);
  block[51] = check;
  block[52] = recoveryCount;
  open.entries.forEach((entry, i) => {
    encodeJournalEntry(block, journalEntryAt(i), entry);
    const sector = 512 * (1 + Math.floor(i / SECTOR_ENTRIES));
    block[sector] = check;
    block[sector + 1] = recoveryCount;
    block[sector + 2] = (i % SECTOR_ENTRIES) + 1;
  });
  return block;
}

// Slab journal

export const PLAIN_ENTRIES = 1353;
export const FULL_ENTRIES = 1299;

export interface SlabEntry {
  readonly offset: number;
  readonly increment: boolean;
  readonly blockMap: boolean;
}

export interface SlabJournalBlock {
  readonly head: number;
  readonly sequence: number;
  /** Recovery point of the last entry: journal sequence · 65536 + expanded index. */
  readonly point: number;
  readonly full: boolean;
  readonly entries: readonly SlabEntry[];
}

export function encodeSlabJournalBlock(nonce: Buffer, open: SlabJournalBlock): Buffer {
  const block = Buffer.alloc(BLOCK);
  setU64(block, 0, open.head);
  setU64(block, 8, open.sequence);
  setU64(block, 16, open.point);
  nonce.copy(block, 24);
  block[32] = 2;
  block[33] = open.full ? 1 : 0;
  block.writeUInt16LE(open.entries.length, 34);
  open.entries.forEach(({ offset, increment, blockMap }, i) => {
    const at = 36 + 3 * i;
    block.writeUIntLE(offset + (increment ? 0x800000 : 0), at, 3);
    if (blockMap) block[3933 + (i >>> 3)]! |= 1 << (i & 7);
  });
  return block;
}

/** The block's header fields, if it is a slab journal block of this volume. */
export function decodeSlabJournalHeader(
  block: Buffer,
  nonce: Buffer,
): { head: number; sequence: number; point: number; full: boolean; count: number } | undefined {
  if (block[32] !== 2 || !block.subarray(24, 32).equals(nonce)) return undefined;
  return {
    head: getU64(block, 0),
    sequence: getU64(block, 8),
    point: getU64(block, 16),
    full: block[33] === 1,
    count: block.readUInt16LE(34),
  };
}

export function decodeSlabEntry(block: Buffer, index: number): SlabEntry {
  const word = block.readUIntLE(36 + 3 * index, 3);
  const blockMap = block[33] === 1 && ((block[3933 + (index >>> 3)]! >>> (index & 7)) & 1) === 1;
  return { offset: word & 0x7fffff, increment: word >= 0x800000, blockMap };
}

// Reference blocks

export const COUNTS_PER_BLOCK = 4032;
export const COUNTS_PER_SECTOR = 504;

/** `counts`: those of this block, at most 4032. */
export function encodeReferenceBlock(point: number, counts: Uint8Array): Buffer {
  const block = Buffer.alloc(BLOCK);
  for (let sector = 0; sector < 8; sector++) {
    setU64(block, sector * 512, point);
    const start = sector * COUNTS_PER_SECTOR;
    block.set(counts.subarray(start, start + COUNTS_PER_SECTOR), sector * 512 + 8);
  }
  return block;
}

// Slab summary

export interface SummaryEntry {
  readonly tailOffset: number;
  readonly hint: number;
  readonly load: boolean;
  readonly dirty: boolean;
}

export function decodeSummaryEntry(bytes: Buffer, at: number): SummaryEntry {
  const word = bytes.readUInt16LE(at);
  return {
    tailOffset: word & 255,
    hint: (word >>> 8) & 63,
    load: (word & 0x4000) !== 0,
    dirty: (word & 0x8000) !== 0,
  };
}

export function encodeSummaryEntry(bytes: Buffer, at: number, entry: SummaryEntry): void {
  const flags = (entry.load ? 0x4000 : 0) | (entry.dirty ? 0x8000 : 0);
  bytes.writeUInt16LE(entry.tailOffset | (entry.hint << 8) | flags, at);
}

export function hintOf(freeBlocks: number, slabBits: number): number {
  const shift = Math.max(0, slabBits - 6);
  return freeBlocks === 0 ? 0 : Math.max(1, Math.floor(freeBlocks / 2 ** shift));
}
