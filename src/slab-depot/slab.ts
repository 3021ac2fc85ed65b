/**
 * One slab: a run of physical blocks with the reference count of each, and which parts of the counts
 * differ from what is on disk.
 *
 * Invariants:
 * - A count in memory is 0 (free, may be allocated), 1 … 254 references, or 255: allocated and not yet
 *   referenced, or freed and still held (the durable block map may name it). 255 never reaches the
 *   disk: reference blocks carry 0 for it.
 * - Counts of a slab that was never used are not resident, nor those of one that waits for scrubbing,
 *   which has no free block until then.
 * - `free` is the number of counts that are 0.
 *
 * Implements docs/FORMAT.md §6.2 and §6.3.
 */
import { assert } from '../base/assert.ts';
import {
  BLOCK_SIZE,
  COUNTS_PER_BLOCK,
  MAXIMUM_REFERENCE_COUNT,
  PROVISIONAL_REFERENCE_COUNT,
} from '../base/constants.ts';
import { encodeReferenceBlock } from '../format/reference-block.ts';
import type { SlabJournal } from './slab-journal.ts';

export class Slab {
  readonly number: number;
  /** First physical block, which is its first data block too. */
  readonly start: number;
  readonly dataBlocks: number;
  readonly referenceBlocks: number;
  readonly journal: SlabJournal;
  /** Blocks that can be allocated now. */
  free: number;
  /** Blocks with references. The others are free on disk, whatever is planned for them here. */
  used = 0;
  /** The load flag on disk: reference blocks hold something. */
  loaded: boolean;
  /** Whether the slab was ever allocated from. */
  opened: boolean;
  /** Whether the counts in memory are right. Until then nothing of the slab may change. */
  scrubbed: boolean;
  #counts: Uint8Array | null = null;
  #dirty: Uint8Array | null = null;
  #dirtyBlocks = 0;

  constructor(options: {
    number: number;
    start: number;
    dataBlocks: number;
    referenceBlocks: number;
    journal: SlabJournal;
    loaded: boolean;
    /** Not yet, for a slab whose counts `adopt` will bring; default true. */
    scrubbed?: boolean;
  }) {
    this.number = options.number;
    this.start = options.start;
    this.dataBlocks = options.dataBlocks;
    this.referenceBlocks = options.referenceBlocks;
    this.journal = options.journal;
    this.loaded = options.loaded;
    this.opened = options.loaded;
    this.scrubbed = options.scrubbed ?? true;
    this.free = this.scrubbed ? options.dataBlocks : 0;
  }

  get dirtyBlocks(): number {
    return this.#dirtyBlocks;
  }

  /** Takes the counts read from disk, or scrubbed; provisional ones become free. */
  adopt(counts: Uint8Array): void {
    assert(counts.length === this.dataBlocks);
    let free = 0;
    let used = 0;
    for (let i = 0; i < counts.length; i++) {
      if (counts[i] === PROVISIONAL_REFERENCE_COUNT) counts[i] = 0;
      if (counts[i] === 0) free++;
      else used++;
    }
    this.#counts = counts;
    this.free = free;
    this.used = used;
    this.scrubbed = true;
  }

  countOf(sbn: number): number {
    assert(this.scrubbed, 'counts of a slab are read once it is scrubbed');
    return this.#counts === null ? 0 : this.#counts[sbn]!;
  }

  /** First allocatable block at or after `cursor`, or −1. */
  findFree(cursor: number): number {
    if (cursor >= this.dataBlocks) return -1;
    return this.#counts === null ? cursor : this.#counts.indexOf(0, cursor);
  }

  /** 0 → 255: the block is taken until it is referenced, held or released. */
  reserve(sbn: number): void {
    const counts = this.#resident();
    assert(counts[sbn] === 0, 'only a free block can be reserved');
    counts[sbn] = PROVISIONAL_REFERENCE_COUNT;
    this.free--;
    this.opened = true;
  }

  /** 255 → 0: the block can be allocated again. */
  release(sbn: number): void {
    const counts = this.#resident();
    assert(counts[sbn] === PROVISIONAL_REFERENCE_COUNT, 'only a reserved block can be released');
    counts[sbn] = 0;
    this.free++;
  }

  /** One reference more. The caller has made sure that fewer than 254 exist. */
  increment(sbn: number): void {
    const counts = this.#resident();
    const count = counts[sbn]!;
    assert(count !== MAXIMUM_REFERENCE_COUNT, 'a block carries at most 254 references');
    if (count === 0) this.free--;
    const isFirst = count === 0 || count === PROVISIONAL_REFERENCE_COUNT;
    if (isFirst) this.used++;
    counts[sbn] = isFirst ? 1 : count + 1;
    this.#markDirty(sbn);
  }

  /** A block map page takes the block for good: its count becomes 254. */
  incrementBlockMap(sbn: number): void {
    const counts = this.#resident();
    assert(counts[sbn] === PROVISIONAL_REFERENCE_COUNT, 'a tree page takes a reserved block');
    counts[sbn] = MAXIMUM_REFERENCE_COUNT;
    this.used++;
    this.#markDirty(sbn);
  }

  /** One reference less; returns whether none is left. The block is then reserved (255), for a hold. */
  decrement(sbn: number): boolean {
    const counts = this.#resident();
    const count = counts[sbn]!;
    assert(count > 0 && count !== PROVISIONAL_REFERENCE_COUNT, 'no reference left to give back');
    counts[sbn] = count === 1 ? PROVISIONAL_REFERENCE_COUNT : count - 1;
    if (count === 1) this.used--;
    this.#markDirty(sbn);
    return count === 1;
  }

  /**
   * Encodes every reference block that changed since the last call, with the journal's last entry as
   * commit point; all of them the first time (load flag not set). Calls `emit(index, bytes)` for each.
   */
  takeDirty(emit: (referenceBlock: number, bytes: Uint8Array) => void): void {
    const counts = this.#resident();
    const { tail, lastIndex } = this.journal;
    for (let block = 0; block < this.referenceBlocks; block++) {
      if (this.loaded && this.#dirty![block] === 0) continue;
      const bytes = new Uint8Array(BLOCK_SIZE);
      const from = block * COUNTS_PER_BLOCK;
      encodeReferenceBlock(
        bytes,
        settled(counts.subarray(from, from + COUNTS_PER_BLOCK)),
        0,
        tail,
        lastIndex,
      );
      emit(block, bytes);
      this.#dirty![block] = 0;
    }
    this.#dirtyBlocks = 0;
  }

  #markDirty(sbn: number): void {
    const block = Math.floor(sbn / COUNTS_PER_BLOCK);
    if (this.#dirty![block] === 0) {
      this.#dirty![block] = 1;
      this.#dirtyBlocks++;
    }
  }

  #resident(): Uint8Array {
    assert(this.scrubbed, 'counts of a slab change once it is scrubbed');
    this.#counts ??= new Uint8Array(this.dataBlocks);
    this.#dirty ??= new Uint8Array(this.referenceBlocks);
    return this.#counts;
  }
}

/** The counts as they go to disk: provisional ones as 0. */
function settled(counts: Uint8Array): Uint8Array {
  let at = counts.indexOf(PROVISIONAL_REFERENCE_COUNT);
  if (at < 0) return counts;
  const copy = counts.slice();
  for (; at >= 0; at = copy.indexOf(PROVISIONAL_REFERENCE_COUNT, at)) copy[at] = 0;
  return copy;
}
