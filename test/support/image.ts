/**
 * A small volume as one buffer that tests look into and forge, seen as a storage; its structures
 * found by the decoders of test/model, which know nothing of src/format.
 */
import type { Extent, Storage } from '../../src/storage/storage.ts';
import { VdoError } from '../../src/base/errors.ts';
import {
  changedSuperBlock,
  readLayout,
  slabOf,
  slabPlace,
  type SuperBlockChange,
  type VolumeLayout,
} from '../model/layout.ts';
import {
  COUNTS_PER_BLOCK,
  COUNTS_PER_SECTOR,
  decodeSummaryEntry,
  encodeSummaryEntry,
  getMapping,
  judgePage,
  slotAt,
  SLOTS,
  type Mapping,
  type SummaryEntry,
} from '../model/records.ts';
import { BLOCK, runNow, type SyncStorage } from '../model/steps.ts';

/** The bytes of a storage in memory as an image. */
export function imageOf(storage: SyncStorage & { readonly size: number }): Image {
  const bytes = Buffer.alloc(storage.size);
  storage.readSync([{ offset: 0, bytes }]);
  return new Image(bytes);
}

/** Bytes in memory as a storage that notes whether anything was written. */
export class ImageStorage implements Storage, SyncStorage {
  readonly bytes: Buffer;
  readonly readOnly: boolean;
  writes = 0;

  constructor(bytes: Buffer, readOnly = false) {
    this.bytes = bytes;
    this.readOnly = readOnly;
  }

  get size(): number {
    return this.bytes.length;
  }

  readSync(extents: readonly Extent[]): void {
    for (const { offset, bytes } of extents) {
      if (!(offset >= 0) || offset + bytes.length > this.size) {
        throw new VdoError('Truncated', `read at byte ${offset}: past the end`);
      }
      bytes.set(this.bytes.subarray(offset, offset + bytes.length));
    }
  }

  writeSync(extents: readonly Extent[]): void {
    this.writes++;
    for (const { offset, bytes } of extents) {
      if (!(offset >= 0) || offset + bytes.length > this.size) {
        throw new VdoError('Io', `write at byte ${offset}: past the end`);
      }
      this.bytes.set(bytes, offset);
    }
  }

  async read(extents: readonly Extent[]): Promise<void> {
    this.readSync(extents);
  }

  async write(extents: readonly Extent[]): Promise<void> {
    this.writeSync(extents);
  }

  async flush(): Promise<void> {}
  async close(): Promise<void> {}
}

/** A tree page that is in use. */
export interface PageRef {
  readonly pbn: number;
  /** 4 (roots) … 0 (leaves). */
  readonly height: number;
  /** Leaf number as in the map, for leaves. */
  readonly leaf: number;
}

export class Image {
  readonly bytes: Buffer;
  readonly layout: VolumeLayout;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
    this.layout = runNow(readLayout(), new ImageStorage(bytes));
  }

  clone(): Image {
    return new Image(Buffer.from(this.bytes));
  }

  block(pbn: number): Buffer {
    const at = (pbn - this.layout.bioOffset) * BLOCK;
    return this.bytes.subarray(at, at + BLOCK);
  }

  changeSuperBlock(change: Partial<SuperBlockChange>): void {
    const block = this.block(this.layout.superPbn);
    changedSuperBlock(block, { state: this.layout.state, ...change }).copy(block);
  }

  /** The byte that holds the count of a data block. */
  countAt(pbn: number): { readonly block: Buffer; readonly at: number } {
    const { slab, offset } = slabOf(this.layout, pbn)!;
    const within = offset % COUNTS_PER_BLOCK;
    const pbnOfCounts = slabPlace(this.layout, slab).counts + Math.floor(offset / COUNTS_PER_BLOCK);
    const at = Math.floor(within / COUNTS_PER_SECTOR) * 512 + 8 + (within % COUNTS_PER_SECTOR);
    return { block: this.block(pbnOfCounts), at };
  }

  count(pbn: number): number {
    const { block, at } = this.countAt(pbn);
    return block[at]!;
  }

  setCount(pbn: number, count: number): void {
    const { block, at } = this.countAt(pbn);
    block[at] = count;
  }

  /** Every tree page in use, roots first; of a damaged volume what can be found, each once. */
  pages(): PageRef[] {
    const seen = new Set<number>();
    let level = Array.from({ length: 60 }, (_, root) => ({
      pbn: this.layout.rootOrigin + root,
      height: 4,
      leaf: root,
    }));
    const all: PageRef[] = [];
    for (let height = 4; height >= 0; height--) {
      const valid = level.filter(({ pbn }) => {
        if (pbn >= this.layout.physicalBlocks || seen.has(pbn)) return false;
        seen.add(pbn);
        return judgePage(this.block(pbn), pbn, this.layout.nonce) === 'valid';
      });
      all.push(...valid);
      level = valid.flatMap(({ pbn, leaf }) =>
        height === 0
          ? []
          : this.entries(pbn).map(({ slot, mapping }) => ({
              pbn: mapping.pbn,
              height: height - 1,
              leaf: (((leaf - (leaf % 60)) / 60) * SLOTS + slot) * 60 + (leaf % 60),
            })),
      );
    }
    return all;
  }

  /** The entries of a page that are not unmapped. */
  entries(pbn: number): { readonly slot: number; readonly mapping: Mapping }[] {
    const block = this.block(pbn);
    const found: { slot: number; mapping: Mapping }[] = [];
    for (let slot = 0; slot < SLOTS; slot++) {
      const at = slotAt(slot);
      if ((block[at]! & 15) !== 0) found.push({ slot, mapping: getMapping(block, at) });
    }
    return found;
  }

  /** Every mapping in the leaves, by logical block, as `state:pbn`. */
  mappings(): Map<number, string> {
    const found = new Map<number, string>();
    for (const { pbn, height, leaf } of this.pages()) {
      if (height > 0) continue;
      for (const { slot, mapping } of this.entries(pbn)) {
        found.set(leaf * SLOTS + slot, `${mapping.state}:${mapping.pbn}`);
      }
    }
    return found;
  }

  summary(slab: number): SummaryEntry {
    const { block, at } = this.#summaryAt(slab);
    return decodeSummaryEntry(block, at);
  }

  setSummary(slab: number, change: Partial<SummaryEntry>): void {
    const { block, at } = this.#summaryAt(slab);
    encodeSummaryEntry(block, at, { ...this.summary(slab), ...change });
  }

  #summaryAt(slab: number): { block: Buffer; at: number } {
    const zone = slab % Math.max(1, this.layout.zoneCount);
    const at = (zone * 8192 + slab) * 2;
    const block = this.block(this.layout.summaryOrigin + Math.floor(at / BLOCK));
    return { block, at: at % BLOCK };
  }
}
