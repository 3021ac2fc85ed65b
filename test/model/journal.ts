/**
 * The recovery journal of the model: blocks in memory, heads, and whether there is room. Both heads are
 * always equal in this engine.
 */
import { assert } from '../../src/base/assert.ts';
import type { VolumeLayout } from './layout.ts';
import { encodeJournalBlock, JOURNAL_ENTRIES, type JournalEntry } from './records.ts';
import type { Sabotage } from './sabotage.ts';

interface OpenBlock {
  readonly sequence: number;
  readonly logicalBlocksUsed: number;
  readonly treePages: number;
  readonly entries: JournalEntry[];
}

/** A journal block as it stood when an epoch closed: later entries are not part of it. */
export interface BlockCopy {
  readonly block: OpenBlock;
  readonly count: number;
}

export class ModelJournal {
  head: number;
  durableHead: number;
  logicalBlocksUsed: number;
  treePages: number;
  nextSequence: number;
  readonly #layout: VolumeLayout;
  readonly #sabotage: Sabotage | undefined;
  readonly #recoveryCount: number;
  #tail: OpenBlock | undefined;
  #open = new Set<OpenBlock>();

  constructor(layout: VolumeLayout, sabotage: Sabotage | undefined) {
    this.#layout = layout;
    this.#sabotage = sabotage;
    this.#recoveryCount = layout.completeRecoveries & 0xff;
    this.nextSequence = this.head = this.durableHead = layout.journalStart;
    this.logicalBlocksUsed = layout.logicalBlocksUsed;
    this.treePages = layout.treePages;
  }

  /** Entries that still fit in the last block. */
  get tailRoom(): number {
    return this.#tail ? JOURNAL_ENTRIES - this.#tail.entries.length : 0;
  }

  /** The last block that holds an entry. */
  get lastBlock(): BlockCopy | undefined {
    return this.#tail && { block: this.#tail, count: this.#tail.entries.length };
  }

  /** Blocks from the head to the tail, for deciding when a checkpoint is due. */
  get length(): number {
    return this.nextSequence - this.head;
  }

  get usableBlocks(): number {
    const size = this.#layout.journalBlocks;
    return size - Math.min(Math.floor(size / 4), 11);
  }

  /** What stands in the way of `entries` more: nothing, heads in memory, or heads on disk. */
  obstacle(entries: number): 'none' | 'head' | 'durable-head' {
    const blocks = Math.ceil(Math.max(0, entries - this.tailRoom) / JOURNAL_ENTRIES);
    const last = this.nextSequence - 1 + blocks;
    if (blocks === 0 || this.#sabotage === 'journal-overrun') return 'none';
    if (last - this.head >= this.usableBlocks) return 'head';
    if (this.#sabotage === 'slot-reuse') return 'none';
    return last - this.durableHead >= this.#layout.journalBlocks ? 'durable-head' : 'none';
  }

  /** Appends to the open epoch. Returns the recovery point of the entry's increment. */
  append(entry: JournalEntry): number {
    if (!this.#tail || this.#tail.entries.length === JOURNAL_ENTRIES) {
      const { logicalBlocksUsed, treePages } = this;
      this.#tail = { sequence: this.nextSequence++, logicalBlocksUsed, treePages, entries: [] };
    }
    const block = this.#tail;
    block.entries.push(entry);
    this.#open.add(block);
    if (entry.operation === 1) this.treePages++;
    else {
      const { mapping, unmapping } = entry;
      this.logicalBlocksUsed += Number(mapping.state !== 0) - Number(unmapping.state !== 0);
    }
    return block.sequence * 65536 + 2 * (block.entries.length - 1);
  }

  /** Ends the open epoch: its blocks, as they stand. */
  close(): BlockCopy[] {
    const copies = [...this.#open].map((block) => ({ block, count: block.entries.length }));
    this.#open = new Set();
    if (this.#sabotage === 'new-block-after-partial') this.#tail = undefined;
    return copies;
  }

  /** A block as it is written now, with the heads of this moment. */
  encode({ block, count }: BlockCopy): readonly [number, Buffer] {
    assert(count > 0, 'empty journal block');
    const image = encodeJournalBlock(this.#layout, this.#recoveryCount, {
      ...block,
      blockMapHead: this.head,
      slabJournalHead: this.head,
      entries: block.entries.slice(0, count),
    });
    const place = this.#layout.journalOrigin + (block.sequence % this.#layout.journalBlocks);
    return [place, image];
  }
}
