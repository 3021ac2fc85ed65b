/**
 * One slab's journal: the order in which its reference counts changed since they were last written.
 *
 * uvdo keeps it in memory between checkpoints. Each checkpoint writes all reference blocks that the
 * journal's entries changed, so afterwards the journal on disk is empty, and of its blocks only the
 * last one is ever read again: it tells where the journal goes on. Only that *tail block* is written
 * (docs/COMMIT.md, "Slab journals").
 *
 * Invariants:
 * - Positions (sequence, index) are those that dm-vdo's replay of the recovery journal would assign:
 *   a block starts plain (1353 entries) and becomes full (1299, with a bitmap) at its first block map
 *   increment; one that no longer fits starts the next block. A block is sealed early in a checkpoint
 *   only. Reference blocks on disk carry such positions.
 * - Entries come in strictly increasing recovery journal order.
 * - `room` bounds the entries since the durable tail so that a replay never overwrites what it needs.
 *
 * Implements docs/FORMAT.md §6.1.
 */
import { assert } from '../base/assert.ts';
import {
  BLOCK_SIZE,
  SLAB_JOURNAL_FULL_ENTRIES,
  SLAB_JOURNAL_PLAIN_ENTRIES,
} from '../base/constants.ts';
import {
  beginSlabJournalBlock,
  finishSlabJournalBlock,
  makeFullSlabJournalBlock,
  setBlockMapIncrement,
  setSlabJournalEntry,
} from '../format/slab-journal-block.ts';

/** A sealed tail block as a checkpoint writes it. */
export interface SealedTail {
  readonly sequence: number;
  readonly bytes: Uint8Array;
}

export class SlabJournal {
  readonly #nonce: Uint8Array;
  readonly #blocks: number;
  /** Sequence of the block being filled. */
  #tail: number;
  /** Entries in that block. */
  #count = 0;
  /** Whether that block has the bitmap of block map increments. */
  #full = false;
  #block: Uint8Array | null = null;
  /** Recovery journal point of the last entry: block and expanded index. */
  #pointSequence = 0;
  #pointIndex = 0;
  /** Tail that a recovery would find on disk now, and the entries since. */
  #durableTail: number;
  #entriesSince = 0;
  #capturedTail = 0;
  #capturedEntries = 0;

  /** `tail`: the next sequence of this slab's journal; `blocks`: its size J. */
  constructor(nonce: Uint8Array, blocks: number, tail: number) {
    this.#nonce = nonce;
    this.#blocks = blocks;
    this.#tail = tail;
    this.#durableTail = tail;
  }

  /** Sequence of the block that the next entry goes to, or of the one being filled. */
  get tail(): number {
    return this.#tail;
  }

  /** Index of the last entry in block `tail`; with it the slab's commit point. Needs an entry. */
  get lastIndex(): number {
    assert(this.#count > 0, 'a commit point is an entry');
    return this.#count - 1;
  }

  get isEmpty(): boolean {
    return this.#count === 0;
  }

  /**
   * Entries that may still be appended before a checkpoint must have emptied the journal.
   * `loaded`: whether the slab's reference blocks on disk are valid (load flag). docs/COMMIT.md, rule 6.
   */
  room(loaded: boolean): number {
    const fresh = !loaded || this.#durableTail === 1;
    const blocks = fresh ? this.#blocks - 1 - this.#durableTail : this.#blocks - 1;
    return Math.max(0, blocks * SLAB_JOURNAL_FULL_ENTRIES - this.#entriesSince);
  }

  /**
   * Appends one change of a count. `recoverySequence` and `recoveryIndex` (expanded: 2i for the
   * increment of entry i, 2i + 1 for its decrement) must exceed those of the entry before.
   */
  append(
    sbn: number,
    increment: boolean,
    isBlockMap: boolean,
    recoverySequence: number,
    recoveryIndex: number,
  ): void {
    assert(
      recoverySequence > this.#pointSequence ||
        (recoverySequence === this.#pointSequence && recoveryIndex > this.#pointIndex),
      'slab journal entries must come in recovery journal order',
    );
    const capacity =
      this.#full || isBlockMap ? SLAB_JOURNAL_FULL_ENTRIES : SLAB_JOURNAL_PLAIN_ENTRIES;
    if (this.#count >= capacity) {
      this.#tail++;
      this.#count = 0;
    }
    this.#block ??= new Uint8Array(BLOCK_SIZE);
    if (this.#count === 0) {
      beginSlabJournalBlock(this.#block, this.#nonce, this.#tail);
      this.#full = false;
    }
    if (isBlockMap && !this.#full) {
      makeFullSlabJournalBlock(this.#block);
      this.#full = true;
    }
    setSlabJournalEntry(this.#block, this.#count, sbn, increment);
    if (isBlockMap) setBlockMapIncrement(this.#block, this.#count);
    this.#count++;
    this.#entriesSince++;
    this.#pointSequence = recoverySequence;
    this.#pointIndex = recoveryIndex;
  }

  /**
   * Seals the block being filled and returns a copy of it for the checkpoint; later entries go to the
   * next block. Must hold at least one entry.
   */
  seal(): SealedTail {
    assert(this.#block !== null && this.#count > 0, 'an empty slab journal block is not sealed');
    finishSlabJournalBlock(this.#block, {
      head: this.#durableTail,
      entryCount: this.#count,
      recoverySequence: this.#pointSequence,
      recoveryIndex: this.#pointIndex,
    });
    const sealed = { sequence: this.#tail, bytes: this.#block.slice() };
    this.#tail++;
    this.#count = 0;
    this.#capturedTail = this.#tail;
    this.#capturedEntries = this.#entriesSince;
    return sealed;
  }

  /** The summary entry that names the sealed tail is durable: the journal on disk is empty. */
  emptied(): void {
    assert(this.#capturedTail > this.#durableTail);
    this.#durableTail = this.#capturedTail;
    this.#entriesSince -= this.#capturedEntries;
  }
}
