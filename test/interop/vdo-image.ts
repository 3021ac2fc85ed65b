/**
 * A small dm-vdo volume as bytes in memory, to look into and to forge: what a crash left, what a
 * program that commits in another order than dm-vdo would leave. Independent of `src/` on purpose:
 * it is the second reading of the format that the first one is compared with.
 *
 * Invariants: volumes here have no index (the super block is block 1) and no bio offset; every
 * setter leaves valid checksums behind. docs/FORMAT.md is the format.
 */
import { readFileSync, writeFileSync } from 'node:fs';

export const BLOCK = 4096;
const COUNTS_PER_SECTOR = 504;
export const COUNTS_PER_BLOCK = 4032;
export const JOURNAL_ENTRIES = 217;
export const SLAB_FULL_ENTRIES = 1299;
export const SUPER_PBN = 1;
export const ROOTS = 60;
export const SUMMARY_BLOCKS = 64;
const SUMMARY_ZONES = 16;
const SUMMARY_ZONE_BYTES = 8192 * 2;
const SUPER_CRC_OFFSET = 434;
const SLAB_BITMAP_OFFSET = 3933;

export const State = {
  dirty: 0,
  new: 1,
  clean: 2,
  readOnly: 3,
  forceRebuild: 4,
  recovering: 5,
} as const;

/** dm-vdo's CRC-32: the register starts at 0. */
export function crc32(bytes: Uint8Array): number {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

export interface Mapping {
  readonly pbn: number;
  readonly state: number;
}

export interface JournalEntry {
  /** 0 data, 1 block map. */
  readonly operation: number;
  readonly page: number;
  readonly slot: number;
  readonly mapping: Mapping;
  readonly unmapping: Mapping;
}

export interface JournalBlock {
  readonly sequence: number;
  readonly blockMapHead: number;
  readonly slabJournalHead: number;
  readonly entryCount: number;
  readonly recoveryCount: number;
  readonly logicalUsed: number;
  readonly entries: readonly JournalEntry[];
}

/** One change of a reference count, as a slab journal names it. */
export interface SlabUpdate {
  readonly sbn: number;
  readonly increment: boolean;
  readonly blockMap: boolean;
  /** Recovery journal sequence and expanded index. */
  readonly sequence: number;
  readonly index: number;
}

export interface SummaryEntry {
  readonly offset: number;
  readonly hint: number;
  readonly load: boolean;
  readonly dirty: boolean;
}

function readMapping(bytes: Buffer, at: number): Mapping {
  const first = bytes.readUInt8(at);
  return { pbn: (first >> 4) * 2 ** 32 + bytes.readUInt32LE(at + 1), state: first & 15 };
}

function writeMapping(bytes: Buffer, at: number, { pbn, state }: Mapping): void {
  bytes.writeUInt8((Math.floor(pbn / 2 ** 32) << 4) | state, at);
  bytes.writeUInt32LE(pbn % 2 ** 32, at + 1);
}

const number64 = (bytes: Buffer, at: number): number => Number(bytes.readBigUInt64LE(at));
export const put64 = (bytes: Buffer, at: number, value: number): void => {
  bytes.writeBigUInt64LE(BigInt(value), at);
};

export class VdoImage {
  readonly bytes: Buffer;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  static load(path: string): VdoImage {
    return new VdoImage(readFileSync(path));
  }

  save(path: string): void {
    writeFileSync(path, this.bytes);
  }

  clone(): VdoImage {
    return new VdoImage(Buffer.from(this.bytes));
  }

  block(pbn: number): Buffer {
    return this.bytes.subarray(pbn * BLOCK, (pbn + 1) * BLOCK);
  }

  // --- super block ---------------------------------------------------------------------------

  private get superBlock(): Buffer {
    return this.block(SUPER_PBN);
  }

  private partition(id: number): { offset: number; count: number } {
    for (let i = 0; i < 4; i++) {
      const at = 145 + i * 25;
      if (this.superBlock.readUInt8(at) !== id) continue;
      return {
        offset: number64(this.superBlock, at + 1),
        count: number64(this.superBlock, at + 17),
      };
    }
    throw new Error(`no partition ${id}`);
  }

  get state(): number {
    return this.superBlock.readUInt32LE(40);
  }
  get completeRecoveries(): number {
    return number64(this.superBlock, 44);
  }
  get nonce(): bigint {
    return this.superBlock.readBigUInt64LE(100);
  }
  get slabSize(): number {
    return number64(this.superBlock, 76);
  }
  get slabJournalBlocks(): number {
    return number64(this.superBlock, 92);
  }
  get journalSize(): number {
    return this.partition(2).count;
  }
  get journalStart(): number {
    return number64(this.superBlock, 265);
  }
  get logicalUsed(): number {
    return number64(this.superBlock, 273);
  }
  get dataBlocks(): number {
    return number64(this.superBlock, 317);
  }
  get referenceBlocks(): number {
    return number64(this.superBlock, 325);
  }
  get firstBlock(): number {
    return number64(this.superBlock, 365);
  }
  get slabs(): number {
    return (number64(this.superBlock, 373) - this.firstBlock) / this.slabSize;
  }
  get zoneCount(): number {
    return this.superBlock.readUInt8(381);
  }

  /** Changes fields of the super block by offset and seals it again. */
  setSuper(change: { state?: number; journalStart?: number; zoneCount?: number }): void {
    if (change.state !== undefined) this.superBlock.writeUInt32LE(change.state, 40);
    if (change.journalStart !== undefined) put64(this.superBlock, 265, change.journalStart);
    if (change.zoneCount !== undefined) this.superBlock.writeUInt8(change.zoneCount, 381);
    this.superBlock.writeUInt32LE(
      crc32(this.superBlock.subarray(0, SUPER_CRC_OFFSET)),
      SUPER_CRC_OFFSET,
    );
  }

  // --- recovery journal ------------------------------------------------------------------------

  journalPbn(sequence: number): number {
    return this.partition(2).offset + (sequence % this.journalSize);
  }

  /** The block in a slot of the journal if its header is one of this run's, else undefined. */
  journalBlock(sequence: number): JournalBlock | undefined {
    const b = this.block(this.journalPbn(sequence));
    if (b.readBigUInt64LE(24) !== this.nonce || number64(b, 16) !== sequence) return undefined;
    if (b.readUInt8(32) !== 3) return undefined;
    const entries: JournalEntry[] = [];
    const entryCount = b.readUInt16LE(33);
    for (let sector = 1; sector < 8 && entries.length < entryCount; sector++) {
      const at = sector * 512;
      if (b.readUInt8(at) !== b.readUInt8(51) || b.readUInt8(at + 1) !== b.readUInt8(52)) break;
      for (let i = 0; i < b.readUInt8(at + 2) && entries.length < entryCount; i++) {
        const e = at + 3 + i * 16;
        const word = b.readUInt16LE(e);
        entries.push({
          operation: word & 3,
          slot: (word >> 2) & 0x3ff,
          page: (word >> 12) * 2 ** 32 + b.readUInt32LE(e + 2),
          mapping: readMapping(b, e + 6),
          unmapping: readMapping(b, e + 11),
        });
      }
    }
    return {
      sequence,
      blockMapHead: number64(b, 0),
      slabJournalHead: number64(b, 8),
      entryCount,
      recoveryCount: b.readUInt8(52),
      logicalUsed: number64(b, 35),
      entries,
    };
  }

  /** All blocks of the journal that belong to the present run, by sequence. */
  journal(): JournalBlock[] {
    const found: JournalBlock[] = [];
    for (let slot = 0; slot < this.journalSize; slot++) {
      const sequence = number64(this.block(this.partition(2).offset + slot), 16);
      if (sequence % this.journalSize !== slot) continue;
      const block = this.journalBlock(sequence);
      if (block && block.recoveryCount === (this.completeRecoveries & 0xff)) found.push(block);
    }
    return found.sort((a, b) => a.sequence - b.sequence);
  }

  setJournalHeads(sequence: number, blockMapHead: number, slabJournalHead: number): void {
    const b = this.block(this.journalPbn(sequence));
    put64(b, 0, blockMapHead);
    put64(b, 8, slabJournalHead);
  }

  /** The entries of every block from `from` on, as changes of counts, by slab. */
  slabUpdates(from = 0): Map<number, SlabUpdate[]> {
    const updates = new Map<number, SlabUpdate[]>();
    const add = (pbn: number, increment: boolean, blockMap: boolean, seq: number, i: number) => {
      if (pbn === 0) return;
      const slab = Math.floor((pbn - this.firstBlock) / this.slabSize);
      const sbn = (pbn - this.firstBlock) % this.slabSize;
      const list = updates.get(slab) ?? [];
      list.push({ sbn, increment, blockMap, sequence: seq, index: i });
      updates.set(slab, list);
    };
    for (const block of this.journal()) {
      if (block.sequence < from) continue;
      block.entries.forEach((entry, i) => {
        add(entry.mapping.pbn, true, entry.operation === 1, block.sequence, 2 * i);
        add(entry.unmapping.pbn, false, entry.operation === 1, block.sequence, 2 * i + 1);
      });
    }
    return updates;
  }

  // --- slabs -----------------------------------------------------------------------------------

  referencePbn(slab: number, block = 0): number {
    return this.firstBlock + slab * this.slabSize + this.dataBlocks + block;
  }

  slabJournalPbn(slab: number, sequence: number): number {
    const start = this.referencePbn(slab) + this.referenceBlocks;
    return start + (sequence % this.slabJournalBlocks);
  }

  summary(slab: number, zone = 0): SummaryEntry {
    const word = this.bytes.readUInt16LE(this.summaryOffset(slab, zone));
    return {
      offset: word & 0xff,
      hint: (word >> 8) & 0x3f,
      load: (word & 0x4000) !== 0,
      dirty: (word & 0x8000) !== 0,
    };
  }

  /** Sets the entry of a slab in one zone's copy, or in all sixteen. */
  setSummary(slab: number, entry: SummaryEntry, zone?: number): void {
    const word =
      entry.offset | (entry.hint << 8) | (entry.load ? 0x4000 : 0) | (entry.dirty ? 0x8000 : 0);
    for (let z = 0; z < SUMMARY_ZONES; z++) {
      if (zone === undefined || zone === z)
        this.bytes.writeUInt16LE(word, this.summaryOffset(slab, z));
    }
  }

  private summaryOffset(slab: number, zone: number): number {
    return this.partition(3).offset * BLOCK + zone * SUMMARY_ZONE_BYTES + slab * 2;
  }

  /** Writes one slab journal block, in the full format if it holds a block map increment. */
  writeSlabJournal(
    slab: number,
    sequence: number,
    head: number,
    updates: readonly SlabUpdate[],
  ): void {
    const last = updates.at(-1);
    if (last === undefined) throw new Error('an empty slab journal block');
    const b = this.block(this.slabJournalPbn(slab, sequence));
    const full = updates.some((update) => update.blockMap);
    b.fill(0);
    put64(b, 0, head);
    put64(b, 8, sequence);
    put64(b, 16, last.sequence * 65536 + last.index);
    b.writeBigUInt64LE(this.nonce, 24);
    b.writeUInt8(2, 32);
    b.writeUInt8(full ? 1 : 0, 33);
    b.writeUInt16LE(updates.length, 34);
    updates.forEach((update, i) => {
      b.writeUIntLE(update.sbn | (update.increment ? 0x800000 : 0), 36 + 3 * i, 3);
      if (update.blockMap) {
        const at = SLAB_BITMAP_OFFSET + (i >> 3);
        b.writeUInt8(b.readUInt8(at) | (1 << (i & 7)), at);
      }
    });
  }

  counts(slab: number): Uint8Array {
    const counts = new Uint8Array(this.dataBlocks);
    for (let sbn = 0; sbn < counts.length; sbn++) {
      const b = this.block(this.referencePbn(slab, Math.floor(sbn / COUNTS_PER_BLOCK)));
      const inBlock = sbn % COUNTS_PER_BLOCK;
      const sector = Math.floor(inBlock / COUNTS_PER_SECTOR);
      counts[sbn] = b.readUInt8(sector * 512 + 8 + (inBlock % COUNTS_PER_SECTOR));
    }
    return counts;
  }

  /** Writes counts into one sector of a reference block, with the point they stand for. */
  writeReferenceSector(
    slab: number,
    block: number,
    sector: number,
    counts: Uint8Array,
    point: { sequence: number; index: number },
  ): void {
    const b = this.block(this.referencePbn(slab, block));
    put64(b, sector * 512, point.sequence * 65536 + point.index);
    const from = block * COUNTS_PER_BLOCK + sector * COUNTS_PER_SECTOR;
    for (let i = 0; i < COUNTS_PER_SECTOR; i++) {
      b.writeUInt8(counts[from + i] ?? 0, sector * 512 + 8 + i);
    }
  }

  writeReferences(
    slab: number,
    counts: Uint8Array,
    point: { sequence: number; index: number },
  ): void {
    for (let block = 0; block < this.referenceBlocks; block++) {
      for (let sector = 0; sector < 8; sector++) {
        this.writeReferenceSector(slab, block, sector, counts, point);
      }
    }
  }

  // --- block map -------------------------------------------------------------------------------

  /** The leaf page of an lbn, or undefined where the tree does not reach it. */
  leafPbn(lbn: number): number | undefined {
    const page = Math.floor(lbn / 812);
    let i = Math.floor(page / ROOTS);
    let pbn = this.partition(0).offset + (page % ROOTS);
    const slots: number[] = [];
    for (let height = 0; height < 4; height++) {
      slots.unshift(i % 812);
      i = Math.floor(i / 812);
    }
    for (const slot of slots) {
      const b = this.block(pbn);
      if (b.readUInt32LE(0) !== 4 || b.readUInt8(32) !== 1) return undefined;
      const entry = readMapping(b, 36 + 5 * slot);
      if (entry.state !== 1) return undefined;
      pbn = entry.pbn;
    }
    return pbn;
  }

  /** The entry in the page on disk; unmapped where there is no valid page. */
  mapping(lbn: number): Mapping {
    const pbn = this.leafPbn(lbn);
    if (pbn === undefined) return { pbn: 0, state: 0 };
    const b = this.block(pbn);
    if (b.readUInt8(32) !== 1 || b.readBigUInt64LE(8) !== this.nonce) return { pbn: 0, state: 0 };
    return readMapping(b, 36 + 5 * (lbn % 812));
  }

  /** Forges a block map page: its header, and the given entries. */
  writePage(
    pbn: number,
    page: { pbn: number; initialized: boolean; entries?: ReadonlyMap<number, Mapping> },
  ): void {
    const b = this.block(pbn);
    b.fill(0);
    b.writeUInt32LE(4, 0);
    b.writeUInt32LE(1, 4);
    b.writeBigUInt64LE(this.nonce, 8);
    put64(b, 16, page.pbn);
    b.writeUInt8(page.initialized ? 1 : 0, 32);
    for (const [slot, mapping] of page.entries ?? []) writeMapping(b, 36 + 5 * slot, mapping);
  }

  /** The fragment sizes of a compressed block. */
  fragmentSizes(pbn: number): number[] {
    const b = this.block(pbn);
    return Array.from({ length: 14 }, (_, i) => b.readUInt16LE(8 + 2 * i));
  }
}

/** Applies updates to counts in place, as replay does. */
export function applyUpdates(counts: Uint8Array, updates: readonly SlabUpdate[]): void {
  for (const { sbn, increment, blockMap } of updates) {
    if (blockMap) counts[sbn] = 254;
    else counts[sbn] = (counts[sbn] ?? 0) + (increment ? 1 : -1);
  }
}
