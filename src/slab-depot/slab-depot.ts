/**
 * All slabs: which block is free, who refers to which, and what of that goes to disk.
 *
 * Invariants:
 * - A block whose last reference goes in epoch n is *held* until n is committed: until then the
 *   durable block map may still name it. Freed again after a revival, the hold moves to the newer
 *   epoch (docs/COMMIT.md, rule 8).
 * - `allocatable` = counts that are 0, over all slabs; held blocks are not among them.
 * - Counts change only together with a recovery journal entry, whose point the caller passes.
 *
 * Implements docs/FORMAT.md §6.
 */
import { assert } from '../base/assert.ts';
import {
  BLOCK_SIZE,
  PROVISIONAL_REFERENCE_COUNT,
  SLAB_JOURNAL_FULL_ENTRIES,
} from '../base/constants.ts';
import { fullnessHint } from '../format/slab-summary.ts';
import type { Extent } from '../storage/storage.ts';
import { isSlabData, type DepotShape } from './shape.ts';
import type { Slab } from './slab.ts';
import type { SlabSummary } from './summary.ts';

/** What one checkpoint writes of the depot: copies made in one synchronous step. */
export interface DepotCapture {
  /** Reference blocks and sealed journal tails: before the first barrier. */
  readonly extents: readonly Extent[];
  /** Slabs whose summary entry follows behind it. */
  readonly slabs: readonly { readonly slab: Slab; readonly tail: number; readonly hint: number }[];
}

export class SlabDepot {
  readonly shape: DepotShape;
  readonly slabs: readonly Slab[];
  readonly #summary: SlabSummary;
  readonly #slabBits: number;
  /** Slabs with journal entries since the last capture. */
  #touched = new Set<Slab>();
  /** One of them, to which the next change mostly belongs too. */
  #lastTouched: Slab | null = null;
  /** Slabs whose room is less than whole: touched, or captured and not yet emptied. */
  readonly #filling = new Set<Slab>();
  /** Held block → the last epoch that freed it. */
  readonly #holds = new Map<number, number>();
  #heldBy = new Map<number, number[]>();
  #open: Slab | null = null;
  #cursor = 0;
  #allocatable = 0;
  #unscrubbed = 0;
  referenceBlocksWritten = 0;
  slabJournalBlocksWritten = 0;
  slabsReopened = 0;

  constructor(shape: DepotShape, slabs: readonly Slab[], summary: SlabSummary) {
    this.shape = shape;
    this.slabs = slabs;
    this.#summary = summary;
    this.#slabBits = Math.log2(shape.slabBlocks);
    for (const slab of slabs) {
      this.#allocatable += slab.free;
      if (!slab.scrubbed) this.#unscrubbed++;
    }
  }

  get allocatable(): number {
    return this.#allocatable;
  }

  get heldBlocks(): number {
    return this.#holds.size;
  }

  get dataBlocks(): number {
    return this.slabs.length * this.shape.dataBlocks;
  }

  /** Slabs whose counts are not known yet. */
  get unscrubbedSlabs(): number {
    return this.#unscrubbed;
  }

  /** Whether the counts of the slab of `pbn`, a data block, are known. */
  isScrubbed(pbn: number): boolean {
    return this.#unscrubbed === 0 || this.slabOf(pbn).scrubbed;
  }

  /** Takes the counts of a slab that was scrubbed: its free blocks can be allocated from now on. */
  admit(slab: Slab, counts: Uint8Array): void {
    assert(!slab.scrubbed, 'a slab is scrubbed once');
    slab.adopt(counts);
    this.#unscrubbed--;
    this.#allocatable += slab.free;
  }

  /** Whether `pbn` is a block of a slab that can hold data (0, the zero block, is not). */
  isDataBlock(pbn: number): boolean {
    return isSlabData(this.shape, this.slabs.length, pbn);
  }

  /** References of a data block of a scrubbed slab; 0 where it is free, held or only reserved. */
  references(pbn: number): number {
    const slab = this.slabOf(pbn);
    const count = slab.countOf(pbn - slab.start);
    return count === PROVISIONAL_REFERENCE_COUNT ? 0 : count;
  }

  /** Takes a free block (count 0 → 255), or returns 0 where none is left. */
  allocate(): number {
    for (;;) {
      if (this.#open !== null) {
        const sbn = this.#open.findFree(this.#cursor);
        if (sbn >= 0) {
          this.#open.reserve(sbn);
          this.#allocatable--;
          this.#cursor = sbn + 1;
          return this.#open.start + sbn;
        }
      }
      if (this.#allocatable === 0) return 0;
      this.#open = this.#bestSlab();
      this.#cursor = 0;
    }
  }

  /** Gives back a block that `allocate` or `claimUnreferenced` took and nothing refers to. */
  unallocate(pbn: number): void {
    const slab = this.slabOf(pbn);
    slab.release(pbn - slab.start);
    this.#allocatable++;
  }

  /**
   * Reserves a block without references for sharing its old content again, and says what it was.
   * `refused`: another write has reserved it for new content. Ends with `increment`, or where nothing
   * came of it with `unallocate` (it was `free`) or `holdAgain` (it was `held`).
   */
  claimUnreferenced(pbn: number): 'free' | 'held' | 'refused' {
    const slab = this.slabOf(pbn);
    const count = slab.countOf(pbn - slab.start);
    if (count === 0) {
      slab.reserve(pbn - slab.start);
      this.#allocatable--;
      return 'free';
    }
    if (count !== PROVISIONAL_REFERENCE_COUNT || !this.#holds.delete(pbn)) return 'refused';
    return 'held';
  }

  /** Holds a block that was `held` when it was claimed, until `epoch`, the open one, is committed. */
  holdAgain(pbn: number, epoch: number): void {
    this.#hold(pbn, epoch);
  }

  /** A mapping to `pbn` was journaled at the given recovery journal point. */
  increment(pbn: number, sequence: number, index: number): void {
    const slab = this.slabOf(pbn);
    const sbn = pbn - slab.start;
    const count = slab.countOf(sbn);
    if (count === 0) this.#allocatable--;
    slab.increment(sbn);
    // Nothing else is held, and asking a map for every mapping costs more than the rest of this.
    if (count === PROVISIONAL_REFERENCE_COUNT) this.#holds.delete(pbn);
    slab.journal.append(sbn, true, false, sequence, index);
    this.#touch(slab);
  }

  /** A new block map page at `pbn` was journaled. */
  incrementBlockMap(pbn: number, sequence: number, index: number): void {
    const slab = this.slabOf(pbn);
    const sbn = pbn - slab.start;
    slab.incrementBlockMap(sbn);
    slab.journal.append(sbn, true, true, sequence, index);
    this.#touch(slab);
  }

  /** A mapping to `pbn` ended, journaled in `epoch`. */
  decrement(pbn: number, sequence: number, index: number, epoch: number): void {
    const slab = this.slabOf(pbn);
    const sbn = pbn - slab.start;
    if (slab.decrement(sbn)) this.#hold(pbn, epoch);
    slab.journal.append(sbn, false, false, sequence, index);
    this.#touch(slab);
  }

  /** Whether the end of `epoch` will make blocks allocatable. */
  holdsUntil(epoch: number): boolean {
    return this.#heldBy.has(epoch);
  }

  /** `epoch` is committed: what it freed can be allocated, unless it was revived or freed later. */
  releaseHolds(epoch: number): void {
    const freed = this.#heldBy.get(epoch);
    if (freed === undefined) return;
    this.#heldBy.delete(epoch);
    for (const pbn of freed) {
      if (this.#holds.get(pbn) !== epoch) continue;
      this.#holds.delete(pbn);
      const slab = this.slabOf(pbn);
      slab.release(pbn - slab.start);
      this.#allocatable++;
    }
  }

  /** Fewest entries that any slab's journal still takes. */
  journalRoom(): number {
    const blocks = this.shape.journalBlocks;
    let room = (blocks - 2) * SLAB_JOURNAL_FULL_ENTRIES;
    for (const slab of this.#filling) room = Math.min(room, slab.journal.room(slab.loaded));
    return room;
  }

  /** Copies everything of the depot that differs from the disk, and seals the journals' tails. */
  capture(): DepotCapture {
    const extents: Extent[] = [];
    const slabs: DepotCapture['slabs'][number][] = [];
    const { dataBlocks, referenceBlocks, journalBlocks } = this.shape;
    for (const slab of this.#touched) {
      const references = slab.start + dataBlocks;
      slab.takeDirty((block, bytes) => {
        extents.push({ offset: (references + block) * BLOCK_SIZE, bytes });
        this.referenceBlocksWritten++;
      });
      const sealed = slab.journal.seal();
      const slot = references + referenceBlocks + (sealed.sequence % journalBlocks);
      extents.push({ offset: slot * BLOCK_SIZE, bytes: sealed.bytes });
      this.slabJournalBlocksWritten++;
      slabs.push({
        slab,
        tail: sealed.sequence + 1,
        hint: fullnessHint(slab.dataBlocks - slab.used, this.#slabBits),
      });
    }
    this.#touched = new Set();
    this.#lastTouched = null;
    return { extents, slabs };
  }

  /**
   * Summary blocks with the hints of a capture and nothing else of it: written ahead of its extents.
   * A scrub that finds no count to change keeps the hint it finds (docs/COMMIT.md, rule 7).
   */
  hints(capture: DepotCapture): Extent[] {
    for (const { slab, hint } of capture.slabs) {
      const entry = this.#summary.get(slab.number);
      if (entry.fullnessHint === hint) continue;
      this.#summary.set(slab.number, { ...entry, fullnessHint: hint });
    }
    return this.#summary.takeDirty();
  }

  /** Summary blocks that make a capture count, once its extents are durable. */
  summarize(capture: DepotCapture): Extent[] {
    for (const { slab, tail, hint } of capture.slabs) {
      this.#summary.set(slab.number, {
        tailOffset: tail % this.shape.journalBlocks,
        fullnessHint: hint,
        loadCounts: true,
        dirty: false,
      });
    }
    return this.#summary.takeDirty();
  }

  /** The summary blocks of `capture` are durable. */
  settle(capture: DepotCapture): void {
    for (const { slab } of capture.slabs) {
      slab.loaded = true;
      slab.journal.emptied();
      if (!this.#touched.has(slab)) this.#filling.delete(slab);
    }
  }

  get isSettled(): boolean {
    return this.#filling.size === 0;
  }

  #hold(pbn: number, epoch: number): void {
    this.#holds.set(pbn, epoch);
    let freed = this.#heldBy.get(epoch);
    if (freed === undefined) this.#heldBy.set(epoch, (freed = []));
    freed.push(pbn);
  }

  #touch(slab: Slab): void {
    if (slab === this.#lastTouched) return;
    this.#lastTouched = slab;
    this.#touched.add(slab);
    this.#filling.add(slab);
  }

  /** The slab of a data block. */
  slabOf(pbn: number): Slab {
    const slab = this.slabs[Math.floor((pbn - this.shape.firstBlock) / this.shape.slabBlocks)];
    assert(slab !== undefined && pbn - slab.start < slab.dataBlocks, `block ${pbn} is in no slab`);
    return slab;
  }

  /**
   * The slab to allocate from next, in dm-vdo's order of preference: opened slabs that are almost
   * free, then one that was never used, then the emptiest of the rest.
   */
  #bestSlab(): Slab {
    const unused = 1 + Math.floor(Math.log2(Math.max(1, (3 * this.shape.dataBlocks) / 4)));
    let best: Slab | null = null;
    let bestPriority = 0;
    for (const slab of this.slabs) {
      if (slab.free === 0) continue;
      const level = 1 + Math.floor(Math.log2(slab.free));
      const priority = slab.opened ? (level >= unused ? level + 1 : level) : unused;
      if (priority > bestPriority) [best, bestPriority] = [slab, priority];
    }
    assert(best !== null, 'some slab has a free block');
    if (best.opened) this.slabsReopened++;
    return best;
  }
}
