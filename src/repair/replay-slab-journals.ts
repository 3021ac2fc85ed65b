/**
 * Slab journals in recovery: the changes of counts that journal entries stand for go on where each
 * slab's journal on disk ends, at the positions that the crashed run gave them.
 *
 * Invariants:
 * - Entries that a slab's tail block covers (its recovery point) are skipped.
 * - Blocks fill by the rules of normal running, so that (sequence, index) come out the same: the
 *   commit points of reference blocks on disk refer to them.
 * - The summary in memory says at the end what `writes` makes true: tail, dirty; hints stay.
 * - Reference blocks are not touched: scrubbing applies what is written here.
 *
 * Implements docs/FORMAT.md §7.3, step E.
 */
import { assert } from '../base/assert.ts';
import {
  BLOCK_SIZE,
  SLAB_JOURNAL_FULL_ENTRIES,
  SLAB_JOURNAL_PLAIN_ENTRIES,
} from '../base/constants.ts';
import { BLOCK_MAP_REMAPPING } from '../format/recovery-block.ts';
import {
  beginSlabJournalBlock,
  finishSlabJournalBlock,
  makeFullSlabJournalBlock,
  setBlockMapIncrement,
  setSlabJournalEntry,
} from '../format/slab-journal-block.ts';
import { slabJournalBlockOffset, type DepotShape } from '../slab-depot/shape.ts';
import type { SlabSummary } from '../slab-depot/summary.ts';
import type { SlabTails } from '../slab-depot/tails.ts';
import type { Extent } from '../storage/storage.ts';
import type { JournalEntries } from './journal-entries.ts';

export class SlabJournalReplay {
  readonly #nonce: Uint8Array;
  readonly #shape: DepotShape;
  readonly #summary: SlabSummary;
  readonly #tails: SlabTails;
  /** Per slab: the block being filled, its entries, and whether it is full form. */
  readonly #blocks: (Uint8Array | null)[];
  readonly #counts: Int32Array;
  readonly #full: Uint8Array;
  /** Finished blocks by their offset: of two in one place the later one. */
  #writes = new Map<number, Uint8Array>();
  /** Slabs that got entries. */
  readonly changed = new Set<number>();

  constructor(nonce: Uint8Array, shape: DepotShape, summary: SlabSummary, tails: SlabTails) {
    const slabs = tails.tail.length;
    this.#nonce = nonce;
    this.#shape = shape;
    this.#summary = summary;
    this.#tails = tails;
    this.#blocks = new Array<Uint8Array | null>(slabs).fill(null);
    this.#counts = new Int32Array(slabs);
    this.#full = new Uint8Array(slabs);
  }

  /** Adds what entries `from` … mean for counts; of each the increment before the decrement. */
  add(entries: JournalEntries, from: number): void {
    const { newPbn, oldPbn, operation, sequence, index } = entries;
    for (let i = from; i < entries.count; i++) {
      const isBlockMap = operation[i] === BLOCK_MAP_REMAPPING;
      if (newPbn[i] !== 0) this.#add(newPbn[i]!, true, isBlockMap, sequence[i]!, 2 * index[i]!);
      if (oldPbn[i] !== 0) this.#add(oldPbn[i]!, false, false, sequence[i]!, 2 * index[i]! + 1);
    }
  }

  /** Finishes partial blocks; nothing can be added afterwards. */
  finish(): void {
    for (const slab of this.changed) if (this.#counts[slab]! > 0) this.#commit(slab);
  }

  /** Blocks finished since the last call. */
  takeWrites(): Extent[] {
    const writes = [...this.#writes].map(([offset, bytes]) => ({ offset, bytes }));
    this.#writes = new Map();
    return writes;
  }

  #add(
    pbn: number,
    increment: boolean,
    isBlockMap: boolean,
    pointSequence: number,
    pointIndex: number,
  ): void {
    const { firstBlock, slabBlocks, journalBlocks } = this.#shape;
    const slab = Math.floor((pbn - firstBlock) / slabBlocks);
    const tails = this.#tails;
    const last = tails.pointSequence[slab]!;
    if (pointSequence < last) return;
    if (pointSequence === last && pointIndex <= tails.pointIndex[slab]!) return;
    if (isBlockMap && this.#counts[slab]! >= SLAB_JOURNAL_FULL_ENTRIES) this.#commit(slab);
    // The oldest block leaves the replay: its counts are durable, or the run would not have filled up.
    if (tails.tail[slab]! - tails.head[slab]! >= journalBlocks) tails.head[slab]!++;
    const block = this.#blockOf(slab, isBlockMap);
    const at = this.#counts[slab]!++;
    setSlabJournalEntry(block, at, pbn - firstBlock - slab * slabBlocks, increment);
    if (isBlockMap) setBlockMapIncrement(block, at);
    tails.pointSequence[slab] = pointSequence;
    tails.pointIndex[slab] = pointIndex;
    const capacity = this.#full[slab] ? SLAB_JOURNAL_FULL_ENTRIES : SLAB_JOURNAL_PLAIN_ENTRIES;
    if (at + 1 === capacity) this.#commit(slab);
  }

  /** The block that the slab's next entry goes to. */
  #blockOf(slab: number, isBlockMap: boolean): Uint8Array {
    let block = this.#blocks[slab]!;
    if (block === null) {
      block = new Uint8Array(BLOCK_SIZE);
      beginSlabJournalBlock(block, this.#nonce, this.#tails.tail[slab]!);
      this.#blocks[slab] = block;
      this.#full[slab] = 0;
      this.changed.add(slab);
    }
    if (isBlockMap && this.#full[slab] === 0) {
      makeFullSlabJournalBlock(block);
      this.#full[slab] = 1;
    }
    return block;
  }

  #commit(slab: number): void {
    const block = this.#blocks[slab] ?? null;
    assert(block !== null && this.#counts[slab]! > 0, 'an empty block is not committed');
    const { head, tail, pointSequence, pointIndex } = this.#tails;
    finishSlabJournalBlock(block, {
      head: head[slab]!,
      entryCount: this.#counts[slab]!,
      recoverySequence: pointSequence[slab]!,
      recoveryIndex: pointIndex[slab]!,
    });
    this.#writes.set(slabJournalBlockOffset(this.#shape, slab, tail[slab]!), block);
    this.#blocks[slab] = null;
    this.#counts[slab] = 0;
    tail[slab]!++;
    const entry = this.#summary.get(slab);
    this.#summary.set(slab, {
      ...entry,
      tailOffset: tail[slab]! % this.#shape.journalBlocks,
      loadCounts: entry.loadCounts || head[slab]! > 1,
      dirty: true,
    });
  }
}
