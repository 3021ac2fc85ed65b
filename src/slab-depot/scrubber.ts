/**
 * Rebuilds the counts of the slabs that a crash left behind, beside the running volume: a few slabs
 * at a time, those that a request waits for first.
 *
 * Invariants:
 * - Nothing of a slab changes until it is scrubbed. Then its journal on disk is empty: reference
 *   blocks are written, and behind a barrier its summary entry says clean. Only after both are durable
 *   the slab counts as scrubbed in memory, so a checkpoint never meets half of it.
 * - Scrubbing writes while no checkpoint does (`writeBack`): both write blocks of the summary.
 * - Killed at any point, the slab is still dirty on disk, or clean and complete.
 * - The first error ends scrubbing for good; whoever waits gets it.
 *
 * Implements docs/FORMAT.md §7.3, step H.
 */
import { BLOCK_SIZE, MiB } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import { fullnessHint } from '../format/slab-summary.ts';
import type { Extent, Storage } from '../storage/storage.ts';
import { encodeReferences, scrubSlab, type Scrubbed } from './scrub.ts';
import { referencesOffset, slabJournalOffset } from './shape.ts';
import type { SlabDepot } from './slab-depot.ts';
import type { Slab } from './slab.ts';
import type { SlabSummary } from './summary.ts';

/** Bytes of slab metadata in memory at a time, unless one slab has more. */
const BATCH_BYTES = 32 * MiB;

export interface ScrubberParts {
  readonly storage: Storage;
  readonly depot: SlabDepot;
  readonly summary: SlabSummary;
  readonly nonce: Uint8Array;
  /** Runs `write` while no checkpoint writes, and fails when the volume has failed. */
  readonly writeBack: (write: () => Promise<void>) => Promise<void>;
  /** Flushes, and fails when anything has failed. */
  readonly flush: () => Promise<void>;
  /** Enters read-only mode; returns the error to report. */
  readonly fail: (error: unknown) => Error;
}

export class Scrubber {
  readonly #parts: ScrubberParts;
  /** Slabs that wait, and those of them that a request waits for. */
  readonly #queue: Set<Slab>;
  readonly #urgent = new Set<Slab>();
  #running: Promise<void> | null = null;
  /** The batch that runs or ran last; never fails. */
  #batch: Promise<void> = Promise.resolve();
  #error: Error | null = null;
  #stopped = false;
  scrubbedSlabs = 0;
  /** Slabs that waited when the volume was opened. */
  readonly slabs: number;

  constructor(parts: ScrubberParts) {
    this.#parts = parts;
    this.#queue = new Set(parts.depot.slabs.filter(({ scrubbed }) => !scrubbed));
    this.slabs = this.#queue.size;
  }

  /** Counts and journal of one slab: what scrubbing it reads at most. */
  get bytesEach(): number {
    const { referenceBlocks, journalBlocks } = this.#parts.depot.shape;
    return (referenceBlocks + journalBlocks) * BLOCK_SIZE;
  }

  /** Whether every slab is scrubbed. */
  get isDone(): boolean {
    return this.#parts.depot.unscrubbedSlabs === 0;
  }

  /** Begins to scrub in the background. */
  start(): void {
    this.#running ??= this.#run();
  }

  /** Resolves when the given slabs are scrubbed, which are taken before all others. */
  async need(slabs: Iterable<Slab>): Promise<void> {
    const wanted = [...slabs].filter(({ scrubbed }) => !scrubbed);
    for (const slab of wanted) if (this.#queue.has(slab)) this.#urgent.add(slab);
    this.start();
    while (wanted.some(({ scrubbed }) => !scrubbed)) await this.#nextBatch();
  }

  /** Resolves when every slab is scrubbed. */
  async all(): Promise<void> {
    await this.need(this.#parts.depot.slabs);
  }

  /** Resolves when at least one more slab is scrubbed, or none is left. */
  async more(): Promise<void> {
    const before = this.scrubbedSlabs;
    this.start();
    while (!this.isDone && this.scrubbedSlabs === before) await this.#nextBatch();
  }

  /** Ends after the batch that runs. Never fails. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #nextBatch(): Promise<void> {
    // The loop waits for the batch too, and first: it has begun the next one when this goes on.
    await this.#batch;
    if (this.#error !== null) throw this.#error;
    if (this.#stopped) throw new VdoError('Closed', 'the volume is being closed');
  }

  async #run(): Promise<void> {
    while (this.#queue.size > 0 && !this.#stopped && this.#error === null) {
      this.#batch = this.#scrub(this.#takeBatch()).catch((error: unknown) => {
        this.#error = this.#parts.fail(error);
      });
      await this.#batch;
    }
  }

  #takeBatch(): Slab[] {
    const most = Math.max(1, Math.floor(BATCH_BYTES / this.bytesEach));
    const batch = [...(this.#urgent.size > 0 ? this.#urgent : this.#queue)].slice(0, most);
    for (const slab of batch) {
      this.#urgent.delete(slab);
      this.#queue.delete(slab);
    }
    return batch;
  }

  async #scrub(batch: readonly Slab[]): Promise<void> {
    const { storage, depot, summary } = this.#parts;
    const scrubbed = await this.#read(batch);
    const references: Extent[] = [];
    batch.forEach((slab, i) => {
      references.push(
        ...encodeReferences(scrubbed[i]!, referencesOffset(depot.shape, slab.number)),
      );
    });
    await this.#parts.writeBack(async () => {
      // Hints durable ahead of counts: a scrub that finds no count to change keeps the hint it finds.
      batch.forEach((slab, i) => this.#setHint(slab, scrubbed[i]!));
      const hints = summary.takeDirty();
      if (hints.length > 0) {
        await storage.write(hints);
        await this.#parts.flush();
      }
      if (references.length > 0) await storage.write(references);
      await this.#parts.flush();
      for (const { number } of batch) {
        summary.set(number, { ...summary.get(number), loadCounts: true, dirty: false });
      }
      await storage.write(summary.takeDirty());
      await this.#parts.flush();
    });
    batch.forEach((slab, i) => {
      slab.loaded = true;
      slab.opened = true;
      depot.admit(slab, scrubbed[i]!.counts);
      this.scrubbedSlabs++;
    });
  }

  /** Reads reference blocks and journals of the batch in one vector, and applies the journals. */
  async #read(batch: readonly Slab[]): Promise<Scrubbed[]> {
    const { storage, depot, nonce } = this.#parts;
    const { shape } = depot;
    const extents: Extent[] = [];
    const parts = batch.map((slab) => {
      const references = slab.loaded ? new Uint8Array(shape.referenceBlocks * BLOCK_SIZE) : null;
      // A journal that was never used is not read: what lies there is somebody else's.
      const used = slab.journal.tail > 1 ? shape.journalBlocks : 0;
      const journal = new Uint8Array(used * BLOCK_SIZE);
      if (references !== null) {
        extents.push({ offset: referencesOffset(shape, slab.number), bytes: references });
      }
      if (used > 0) extents.push({ offset: slabJournalOffset(shape, slab.number), bytes: journal });
      return { references, journal };
    });
    if (extents.length > 0) await storage.read(extents);
    return batch.map((slab, i) =>
      scrubSlab({
        slab: slab.number,
        dataBlocks: shape.dataBlocks,
        nonce,
        last: slab.journal.tail - 1,
        ...parts[i]!,
      }),
    );
  }

  #setHint({ number }: Slab, { counts }: Scrubbed): void {
    const { summary, depot } = this.#parts;
    let free = 0;
    for (let at = counts.indexOf(0); at >= 0; at = counts.indexOf(0, at + 1)) free++;
    const fullness = fullnessHint(free, Math.log2(depot.shape.slabBlocks));
    const entry = summary.get(number);
    if (entry.fullnessHint === fullness) return;
    summary.set(number, { ...entry, fullnessHint: fullness });
  }
}
