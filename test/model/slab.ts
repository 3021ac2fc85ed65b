/**
 * A slab of the model: counts, the slab journal and what a checkpoint copies of both.
 *
 * Only the last block of a slab journal is ever written: every checkpoint empties the journals it
 * touches, so that the blocks before it are never needed.
 */
import { assert } from '../../src/base/assert.ts';
import { slabPlace, type VolumeLayout } from './layout.ts';
import {
  COUNTS_PER_BLOCK,
  encodeReferenceBlock,
  encodeSlabJournalBlock,
  FULL_ENTRIES,
  hintOf,
  PLAIN_ENTRIES,
  type SlabEntry,
  type SlabJournalBlock,
  type SummaryEntry,
} from './records.ts';
import type { Sabotage } from './sabotage.ts';

export interface SlabCopy {
  readonly slab: ModelSlab;
  readonly tail: number;
  readonly summary: SummaryEntry;
  readonly journalBlock: number;
  readonly journalImage: Buffer;
  /** Position (slab journal sequence · 65536 + entry) that the counts stand at. */
  readonly position: number;
  readonly countBlocks: readonly { readonly number: number; readonly counts: Uint8Array }[];
}

export class ModelSlab {
  readonly number: number;
  readonly counts: Uint8Array;
  load = false;
  /** Tail that the durable summary names. */
  durableTail = 1;
  /** Entries from the durable tail on, and of those the ones since the last copy. */
  sinceDurable = 0;
  sinceCopy = 0;
  sequence = 1;
  position = 0;
  readonly #layout: VolumeLayout;
  readonly #sabotage: Sabotage | undefined;
  #dirtyBlocks = new Set<number>();
  #entries: SlabEntry[] = [];
  #full = false;
  #point = 0;
  #filled: SlabJournalBlock | undefined;
  #positionBefore = 0;

  constructor(layout: VolumeLayout, number: number, sabotage: Sabotage | undefined) {
    this.#layout = layout;
    this.number = number;
    this.#sabotage = sabotage;
    this.counts = new Uint8Array(layout.dataBlocks);
  }

  /** Takes over what a clean load found. */
  restore(load: boolean, tail: number, point: number, counts: Uint8Array): void {
    this.load = load;
    this.durableTail = this.sequence = tail;
    this.#point = point;
    this.counts.set(counts);
  }

  /** Whether `more` entries leave a slab journal that dm-vdo can replay from every durable state. */
  hasRoom(more: number): boolean {
    const size = this.#layout.slabJournalBlocks;
    const tail = this.durableTail;
    const end = tail + Math.ceil((this.sinceDurable + more) / FULL_ENTRIES);
    if (end - (tail - 1) > size && this.#sabotage !== 'slab-overrun') return false;
    if (this.#sabotage === 'unload-overrun') return true;
    return end <= size - 1 || (this.load && tail !== 1);
  }

  /** Journals and applies one count update. Returns the new count. */
  apply(entry: SlabEntry, point: number): number {
    assert(point > this.#point, 'slab journal entries out of order');
    if (!this.load && this.position === 0 && this.#sabotage !== 'load-early') {
      for (let block = 0; block < this.#layout.countBlocks; block++) this.#dirtyBlocks.add(block);
    }
    this.#append(entry, point);
    this.#dirtyBlocks.add(Math.floor(entry.offset / COUNTS_PER_BLOCK));
    const count = this.counts[entry.offset]!;
    let next: number;
    if (entry.blockMap) {
      assert(count === 255, 'tree page not provisional');
      next = 254;
    } else if (entry.increment) {
      next = count === 255 ? 1 : count + 1;
    } else {
      assert(count > 0, 'decrement of a free block');
      next = count === 255 ? 0 : count - 1;
    }
    this.counts[entry.offset] = next;
    return next;
  }

  /** What a checkpoint writes of this slab; seals the partial tail block. Undefined if untouched. */
  copy(): SlabCopy | undefined {
    if (this.sinceCopy === 0) return undefined;
    const current = this.#entries.length > 0 ? this.#block() : this.#filled!;
    const tail = current.sequence + 1;
    if (this.#entries.length > 0 && this.#sabotage !== 'entries-after-seal') this.#startBlock();
    this.sinceCopy = 0;
    const place = slabPlace(this.#layout, this.number);
    const size = this.#layout.slabJournalBlocks;
    let free = 0;
    for (const count of this.counts) if (count === 0 || count === 255) free++;
    const hint = hintOf(free, this.#layout.slabBits);
    const position = this.#sabotage === 'point-behind' ? this.#positionBefore : this.position;
    this.#positionBefore = this.position;
    const countBlocks = [...this.#dirtyBlocks].map((number) => ({
      number,
      counts: this.countsOf(number).slice(),
    }));
    this.#dirtyBlocks.clear();
    return {
      slab: this,
      tail,
      summary: { tailOffset: tail % size, hint, load: true, dirty: false },
      journalBlock: place.journal + (current.sequence % size),
      journalImage: encodeSlabJournalBlock(this.#layout.nonce, current),
      position,
      countBlocks,
    };
  }

  countsOf(block: number): Uint8Array {
    return this.counts.subarray(block * COUNTS_PER_BLOCK, (block + 1) * COUNTS_PER_BLOCK);
  }

  /** The reference blocks of a copy as they are written. */
  *images(copy: SlabCopy): Generator<readonly [number, Buffer]> {
    const { counts: start } = slabPlace(this.#layout, this.number);
    for (const { number, counts } of copy.countBlocks) {
      const contents = this.#sabotage === 'live-counts' ? this.countsOf(number) : counts;
      const point = this.#sabotage === 'point-ahead' ? this.position : copy.position;
      yield [start + number, encodeReferenceBlock(point, contents)];
    }
  }

  /** The copy is durable, summary included. */
  finish(copy: SlabCopy): void {
    this.durableTail = copy.tail;
    this.sinceDurable = this.sinceCopy;
    this.load = true;
  }

  #append(entry: SlabEntry, point: number): void {
    if (entry.blockMap && this.#entries.length >= FULL_ENTRIES) this.#fill();
    if (entry.blockMap) this.#full = true;
    this.position = this.sequence * 65536 + this.#entries.length;
    this.#entries.push(entry);
    this.#point = point;
    this.sinceDurable++;
    this.sinceCopy++;
    if (this.#entries.length === (this.#full ? FULL_ENTRIES : PLAIN_ENTRIES)) this.#fill();
  }

  #block(): SlabJournalBlock {
    return {
      head: this.durableTail,
      sequence: this.sequence,
      point: this.#point,
      full: this.#full,
      entries: this.#entries.slice(),
    };
  }

  #fill(): void {
    this.#filled = this.#block();
    this.#startBlock();
  }

  #startBlock(): void {
    this.sequence++;
    this.#entries = [];
    this.#full = false;
  }
}
