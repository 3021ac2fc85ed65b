/**
 * Epochs: the one place where changes become durable. The order is data → flush → recovery journal →
 * flush → (what the epoch freed can be reused, its flushes are answered), and, in checkpoints, counts
 * and map after that.
 *
 * Invariants (docs/COMMIT.md):
 * - One epoch is open; at most one is committing; at most one checkpoint is writing back. Batches run
 *   beside both.
 * - Whatever a commit or checkpoint writes is a copy made in one synchronous step, at the close of
 *   the epoch it belongs to. Between synchronous steps of a batch the state in memory is consistent:
 *   entry appended, counts and map changed.
 * - A checkpoint writes only after its epoch is committed, so no uncommitted effect reaches the disk.
 * - Room is reserved before entries are appended; a checkpoint can always finish with what is left.
 * - The first error ends it all: read-only mode (`Health`).
 */
import { assert } from '../base/assert.ts';
import { RECOVERY_ENTRIES_PER_BLOCK, SLAB_JOURNAL_FULL_ENTRIES } from '../base/constants.ts';
import type { BlockMap } from '../block-map/block-map.ts';
import type { RecoveryJournal } from '../recovery-journal/recovery-journal.ts';
import type { SlabDepot } from '../slab-depot/slab-depot.ts';
import type { Storage } from '../storage/storage.ts';
import { captureCheckpoint, writeBack, type Capture } from './checkpoint.ts';
import type { Health } from './health.ts';

export interface CommitLimits {
  /** Journal blocks after which an epoch is closed by itself. */
  readonly epochBlocks: number;
  /** Held blocks after which an epoch is closed by itself. */
  readonly heldBlocks: number;
}

export interface CommitParts {
  readonly storage: Storage;
  readonly journal: RecoveryJournal;
  readonly depot: SlabDepot;
  readonly blockMap: BlockMap;
  readonly health: Health;
  readonly limits: CommitLimits;
}

export class Committer {
  readonly #parts: CommitParts;
  /** Entries that one reservation may ask for. */
  readonly maxReservation: number;
  #epoch = 1;
  #committed = 0;
  #running: Promise<void> | null = null;
  #checkpoint: Promise<void> | null = null;
  #checkpointWanted = false;
  /** A checkpoint is captured and writes once its epoch is committed. */
  #captured = false;
  #captures = 0;
  flushes = 0;

  constructor(parts: CommitParts) {
    this.#parts = parts;
    const { journal, depot } = parts;
    const journalEntries = (journal.usableBlocks - 1) * RECOVERY_ENTRIES_PER_BLOCK;
    const slabEntries = (depot.shape.journalBlocks - 2) * SLAB_JOURNAL_FULL_ENTRIES;
    this.maxReservation = Math.floor(Math.min(journalEntries, slabEntries / 2));
  }

  /** The open epoch: the one that an entry appended now belongs to. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Whether something waits to become durable. */
  get isDirty(): boolean {
    return this.#parts.journal.isOpen || this.#running !== null;
  }

  /** Resolves when every entry appended before the call, and its data, is durable. */
  async commit(): Promise<void> {
    const { journal, depot, health } = this.#parts;
    health.check();
    const isOpen = journal.isOpen || depot.holdsUntil(this.#epoch);
    const epoch = isOpen ? this.#epoch : this.#epoch - 1;
    while (this.#committed < epoch) {
      health.check();
      await (this.#running ?? this.#start(false));
    }
    health.check();
  }

  /** Resolves when map, counts and summary on disk are at least as new as the call. */
  async checkpoint(): Promise<void> {
    while (this.#checkpoint !== null) await this.#checkpoint;
    this.#checkpointWanted = true;
    for (const before = this.#captures; this.#captures === before;) {
      this.#parts.health.check();
      await (this.#running ?? this.#checkpoint ?? this.#start(false));
    }
    while (this.#checkpoint !== null) await this.#checkpoint;
    this.#parts.health.check();
  }

  /**
   * Waits until `entries` recovery journal entries can be appended, with two slab journal entries
   * each. At most `maxReservation`.
   */
  async reserve(entries: number): Promise<void> {
    assert(entries <= this.maxReservation, 'a step reserves no more than an empty journal holds');
    const { journal, depot, health } = this.#parts;
    for (;;) {
      health.check();
      if (journal.roomUntilReaped() < entries || depot.journalRoom() < 2 * entries) {
        await this.checkpoint();
      } else if (journal.roomUntilPublished() < entries) {
        if (journal.hasHeadsToPublish) await (this.#running ?? this.#start(true));
        else await this.checkpoint();
      } else return;
    }
  }

  /** Waits until `frames` frames of the block map cache hold no changes. */
  async reserveFrames(frames: number): Promise<void> {
    const { cache } = this.#parts.blockMap;
    while (cache.cleanFrames < frames) await this.checkpoint();
  }

  /** After entries were appended: starts a commit or checkpoint where a limit is near. Never waits. */
  relieve(): void {
    const { journal, depot, blockMap, limits } = this.#parts;
    const journalHalf = (journal.usableBlocks * RECOVERY_ENTRIES_PER_BLOCK) / 2;
    const slabQuarter = (depot.shape.journalBlocks * SLAB_JOURNAL_FULL_ENTRIES) / 4;
    if (this.#checkpoint === null && !this.#checkpointWanted) {
      this.#checkpointWanted =
        journal.roomUntilReaped() < journalHalf ||
        depot.journalRoom() < slabQuarter ||
        blockMap.cache.dirtyPages > blockMap.cache.frames / 2;
    }
    const wanted =
      (this.#checkpointWanted && this.#checkpoint === null) ||
      journal.openBlocks >= limits.epochBlocks ||
      depot.heldBlocks >= limits.heldBlocks;
    if (wanted && this.#running === null) this.#start(false).catch(() => undefined);
  }

  /** Runs `write` while no checkpoint writes, as if it were one. An error ends in read-only mode. */
  async writeBackAlone(write: () => Promise<void>): Promise<void> {
    while (this.#checkpoint !== null || this.#captured) {
      this.#parts.health.check();
      await (this.#checkpoint ?? this.#running)?.catch(() => undefined);
    }
    this.#parts.health.check();
    await this.#runWriteBack(write());
  }

  /** Flushes, and fails once anything has failed. */
  flush(): Promise<void> {
    return this.#flush(this.#parts.storage);
  }

  /** Waits for whatever runs, so that the storage can be closed. Never fails. */
  async settle(): Promise<void> {
    while (this.#running !== null || this.#checkpoint !== null) {
      await (this.#running ?? this.#checkpoint)?.catch(() => undefined);
    }
  }

  /** Commits the open epoch; with `publish` also when only newer heads are to become durable. */
  #start(publish: boolean): Promise<void> {
    const run = this.#run(publish)
      .catch((error: unknown) => {
        throw this.#parts.health.fail(error);
      })
      .finally(() => {
        this.#running = null;
      });
    this.#running = run;
    return run;
  }

  async #run(publish: boolean): Promise<void> {
    const { storage, journal, depot } = this.#parts;
    this.#parts.health.check();
    const epoch = this.#epoch++;
    let capture: Capture | null = null;
    if (this.#checkpointWanted && this.#checkpoint === null) {
      this.#checkpointWanted = false;
      this.#captures++;
      capture = captureCheckpoint(this.#parts);
      this.#captured = true;
    }
    const blocks = journal.closeEpoch(publish);
    if (blocks.length > 0) {
      await this.#flush(storage);
      await storage.write(blocks);
      await this.#flush(storage);
    }
    journal.committed(blocks);
    this.#committed = epoch;
    depot.releaseHolds(epoch);
    if (capture === null) return;
    this.#captured = false;
    this.#runWriteBack(writeBack(this.#parts, capture)).catch(() => undefined);
  }

  #runWriteBack(writing: Promise<void>): Promise<void> {
    const checkpoint = writing
      .catch((error: unknown) => {
        throw this.#parts.health.fail(error);
      })
      .finally(() => {
        this.#checkpoint = null;
      });
    this.#checkpoint = checkpoint;
    return checkpoint;
  }

  /**
   * A flush that succeeds beside one that failed proves nothing: the failed one may have dropped what
   * this one was to make durable. So nothing is written behind it once anything has failed.
   */
  async #flush(storage: Storage): Promise<void> {
    this.flushes++;
    await storage.flush();
    this.#parts.health.check();
  }
}
