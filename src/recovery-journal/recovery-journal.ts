/**
 * The recovery journal in memory: entries appended to the open epoch, encoded as they come, and the
 * room that is left before heads must move.
 *
 * Invariants (docs/COMMIT.md, rules 4 and 5):
 * - Entries have strictly increasing points (sequence, index); a block is filled (217 entries) before
 *   the next one is opened, except at open: a run starts at a sequence of its own.
 * - The partial last block of an epoch goes on in the next one as a private copy, so blocks that are
 *   being written never change.
 * - Block s is opened only if s − head < U = R − min(R/4, 11) and s − durableHead < R.
 * - `head` never exceeds the last committed block that holds an entry.
 * - Header counters say what held before the block's own entries.
 *
 * Implements docs/FORMAT.md §5.
 */
import { assert } from '../base/assert.ts';
import {
  BLOCK_SIZE,
  RECOVERY_ENTRIES_PER_BLOCK,
  RECOVERY_JOURNAL_RESERVED_BLOCKS,
  UNMAPPED,
} from '../base/constants.ts';
import {
  beginRecoveryBlock,
  setRecoveryEntry,
  setRecoveryHeads,
} from '../format/recovery-block.ts';
import type { Extent } from '../storage/storage.ts';

interface JournalBlock {
  readonly sequence: number;
  readonly bytes: Uint8Array;
}

export interface JournalOptions {
  /** First block of the partition. */
  readonly origin: number;
  /** Blocks of the partition, R. */
  readonly size: number;
  readonly nonce: Uint8Array;
  /** Complete recoveries of the volume, modulo 256. */
  readonly recoveryCount: number;
  /** First sequence of this run. */
  readonly start: number;
  readonly logicalBlocksUsed: number;
  readonly blockMapDataBlocks: number;
}

const DATA_REMAPPING = 0;
const BLOCK_MAP_REMAPPING = 1;

export class RecoveryJournal {
  readonly #options: JournalOptions;
  /** Blocks that may lie between the head and the block being filled, U. */
  readonly usableBlocks: number;
  /** Blocks of the open epoch, in order; the last one is being filled. */
  #epoch: JournalBlock[] = [];
  #block: JournalBlock | null = null;
  #count = 0;
  /** Last block written, kept so that newer heads can be published by rewriting it. */
  #lastWritten: JournalBlock | null = null;
  #spare: Uint8Array[] = [];
  #nextSequence: number;
  #head: number;
  #durableHead: number;
  #stampedHead = 0;
  #logicalBlocksUsed: number;
  #blockMapDataBlocks: number;
  entriesStarted = 0;
  entriesCommitted = 0;
  blocksStarted = 0;
  blocksWritten = 0;
  #entriesAtClose = 0;

  constructor(options: JournalOptions) {
    this.#options = options;
    const reserved = Math.min(Math.floor(options.size / 4), RECOVERY_JOURNAL_RESERVED_BLOCKS);
    this.usableBlocks = options.size - reserved;
    this.#nextSequence = options.start;
    this.#head = options.start;
    this.#durableHead = options.start;
    this.#logicalBlocksUsed = options.logicalBlocksUsed;
    this.#blockMapDataBlocks = options.blockMapDataBlocks;
  }

  get logicalBlocksUsed(): number {
    return this.#logicalBlocksUsed;
  }

  get blockMapDataBlocks(): number {
    return this.#blockMapDataBlocks;
  }

  /** Oldest block that a recovery needs, as far as memory knows. */
  get head(): number {
    return this.#head;
  }

  /** The next sequence that no entry has used: where a clean volume goes on. */
  get tail(): number {
    return this.#nextSequence;
  }

  /** Whether the open epoch has entries. */
  get isOpen(): boolean {
    return this.#epoch.length > 0;
  }

  get openBlocks(): number {
    return this.#epoch.length;
  }

  /** Sequence of the block that holds the last entry appended (the head while there is none). */
  get lastSequence(): number {
    return this.#block?.sequence ?? this.#head;
  }

  /** Index in its block of the last entry appended. */
  get lastIndex(): number {
    return this.#count - 1;
  }

  /** Entries that can be appended before the heads must move in memory. */
  roomUntilReaped(): number {
    return this.#roomTo(this.#head + this.usableBlocks - 1);
  }

  /** Entries that can be appended before newer heads must be durable. */
  roomUntilPublished(): number {
    return this.#roomTo(this.#durableHead + this.#options.size - 1);
  }

  /** Whether a commit would make newer heads durable. */
  get hasHeadsToPublish(): boolean {
    return this.#head > this.#durableHead;
  }

  /** Appends a change of `slot` in the leaf `page` from the old to the new mapping. */
  appendData(
    page: number,
    slot: number,
    newPbn: number,
    newState: number,
    oldPbn: number,
    oldState: number,
  ): void {
    const { bytes } = this.#openBlock();
    const index = this.#count++;
    setRecoveryEntry(bytes, index, DATA_REMAPPING, page, slot, newPbn, newState, oldPbn, oldState);
    this.entriesStarted++;
    if (newState !== UNMAPPED) this.#logicalBlocksUsed++;
    if (oldState !== UNMAPPED) this.#logicalBlocksUsed--;
  }

  /** Appends the allocation of a tree page: `slot` of the interior `page` now names `newPbn`. */
  appendBlockMap(page: number, slot: number, newPbn: number): void {
    const { bytes } = this.#openBlock();
    const index = this.#count++;
    setRecoveryEntry(bytes, index, BLOCK_MAP_REMAPPING, page, slot, newPbn, 1, 0, 0);
    this.entriesStarted++;
    this.#blockMapDataBlocks++;
  }

  /**
   * Closes the open epoch and returns its blocks, stamped with the heads as they are now. Where it has
   * no entries and `publish` is set, the last block written comes again if there are newer heads.
   */
  closeEpoch(publish: boolean): Extent[] {
    let blocks = this.#epoch;
    if (blocks.length === 0 && publish && this.hasHeadsToPublish && this.#lastWritten !== null) {
      blocks = [this.#lastWritten];
    }
    this.#epoch = [];
    this.#entriesAtClose = this.entriesStarted;
    this.#stampedHead = this.#head;
    for (const { bytes } of blocks) setRecoveryHeads(bytes, this.#head, this.#head);
    const last = blocks.at(-1);
    if (last !== undefined && last === this.#block && this.#count < RECOVERY_ENTRIES_PER_BLOCK) {
      const bytes = this.#takeBuffer();
      bytes.set(last.bytes);
      this.#block = { sequence: last.sequence, bytes };
    }
    this.blocksWritten += blocks.length;
    this.#lastWritten = last ?? this.#lastWritten;
    const { origin, size } = this.#options;
    return blocks.map(({ sequence, bytes }) => ({
      offset: (origin + (sequence % size)) * BLOCK_SIZE,
      bytes,
    }));
  }

  /** The blocks of the last `closeEpoch` are durable. */
  committed(blocks: readonly Extent[]): void {
    this.entriesCommitted = this.#entriesAtClose;
    if (blocks.length === 0) return;
    this.#durableHead = this.#stampedHead;
    for (const { bytes } of blocks) {
      if (bytes !== this.#lastWritten?.bytes && bytes !== this.#block?.bytes) {
        this.#spare.push(bytes);
      }
    }
  }

  /** A checkpoint ended: blocks before `sequence` are no longer needed. */
  reap(sequence: number): void {
    assert(sequence >= this.#head && sequence <= this.lastSequence);
    this.#head = sequence;
  }

  #openBlock(): JournalBlock {
    if (this.#block === null || this.#count === RECOVERY_ENTRIES_PER_BLOCK) {
      const sequence = this.#nextSequence++;
      const { size, nonce, recoveryCount } = this.#options;
      assert(sequence - this.#head < this.usableBlocks, 'the recovery journal is full');
      assert(sequence - this.#durableHead < size, 'a journal slot is reused too early');
      const bytes = this.#takeBuffer();
      beginRecoveryBlock(bytes, {
        sequence,
        nonce,
        journalBlocks: size,
        recoveryCount,
        blockMapHead: this.#head,
        slabJournalHead: this.#head,
        logicalBlocksUsed: this.#logicalBlocksUsed,
        blockMapDataBlocks: this.#blockMapDataBlocks,
      });
      this.#block = { sequence, bytes };
      this.#count = 0;
      this.blocksStarted++;
    }
    if (this.#epoch.at(-1) !== this.#block) this.#epoch.push(this.#block);
    return this.#block;
  }

  #takeBuffer(): Uint8Array {
    return this.#spare.pop() ?? new Uint8Array(BLOCK_SIZE);
  }

  #roomTo(lastSequence: number): number {
    const inBlock = this.#block === null ? 0 : RECOVERY_ENTRIES_PER_BLOCK - this.#count;
    const blocks = Math.max(0, lastSequence - this.#nextSequence + 1);
    return inBlock + blocks * RECOVERY_ENTRIES_PER_BLOCK;
  }
}
