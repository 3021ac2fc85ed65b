/**
 * The commit protocol as a model: a volume engine of a few hundred lines with everything that decides
 * whether a crash can be recovered (batches, epochs, commits, checkpoints, holds, reservations) and
 * nothing else. It is what src/ builds on, broken by any of the sabotages when told to.
 *
 * Batches run in memory and write their data; an epoch commits by data flush, journal blocks, flush; a
 * checkpoint writes copies made when its epoch closed, behind three barriers. docs/COMMIT.md has the
 * reasons.
 */
import { assert } from '../../src/base/assert.ts';
import { VdoError } from '../../src/base/errors.ts';
import type { FaultyDisk } from '../sim/disk.ts';
import { Batch, type Request } from './batch.ts';
import { Contents } from './contents.ts';
import { ModelJournal, type BlockCopy } from './journal.ts';
import {
  changedSuperBlock,
  readLayout,
  slabOf,
  slabPlace,
  STATE,
  type VolumeLayout,
} from './layout.ts';
import { ModelPages, type PageCopy } from './pages.ts';
import {
  COUNTS_PER_BLOCK,
  COUNTS_PER_SECTOR,
  encodeSummaryEntry,
  hintOf,
  type SummaryEntry,
} from './records.ts';
import type { Sabotage } from './sabotage.ts';
import type { Scheduler, Task, Wait } from './scheduler.ts';
import { ModelSlab, type SlabCopy } from './slab.ts';
import { loadSlabs, writeSummary } from './slabs.ts';
import { BLOCK, range, readBlocks, runNow, type Steps } from './steps.ts';

export interface ModelOptions {
  readonly sabotage?: Sabotage | undefined;
  /** Dirty pages at most; more resident ones may be dropped at any time. */
  readonly frames: number;
  /** Entries after which an epoch closes by itself. */
  readonly epochEntries: number;
  readonly heldLimit: number;
  /** Part of the recovery journal in use at which a checkpoint starts. */
  readonly checkpointAt: number;
  readonly random: { below(limit: number): number; chance(probability: number): boolean };
}

interface ClosedEpoch {
  readonly number: number;
  readonly blocks: readonly BlockCopy[];
  readonly lastBlock: BlockCopy | undefined;
  readonly checkpoint: CheckpointCopy | undefined;
}

interface CheckpointCopy {
  readonly epoch: number;
  readonly slabs: readonly SlabCopy[];
  readonly pages: readonly PageCopy[];
  readonly head: number | undefined;
}

export class Model {
  readonly disk: FaultyDisk;
  readonly layout: VolumeLayout;
  readonly options: ModelOptions;
  readonly sabotage: Sabotage | undefined;
  readonly contents: Contents;
  readonly journal: ModelJournal;
  readonly slabs: ModelSlab[];
  readonly pages: ModelPages;
  /** Freed blocks that the durable map may still name, with the epoch that freed them last. */
  readonly held = new Map<number, number>();
  openEpoch = 1;
  committedEpoch = 0;
  checkpoints = 0;
  readOnly = false;
  readonly #scheduler: Scheduler;
  readonly #summary: SummaryEntry[];
  #epochEntries = 0;
  #commitWanted = false;
  #checkpointWanted = false;
  #checkpointRunning = false;
  #commitsRunning = 0;

  constructor(
    disk: FaultyDisk,
    scheduler: Scheduler,
    options: ModelOptions,
    layout: VolumeLayout,
    summary: SummaryEntry[],
  ) {
    this.disk = disk;
    this.#scheduler = scheduler;
    this.options = options;
    this.sabotage = options.sabotage;
    this.layout = layout;
    this.contents = new Contents(layout.nonce);
    this.journal = new ModelJournal(layout, this.sabotage);
    this.slabs = range(0, layout.slabCount).map((n) => new ModelSlab(layout, n, this.sabotage));
    this.pages = new ModelPages(layout, this.sabotage);
    this.#summary = summary;
    scheduler.spawn(this.#committer(), true);
  }

  /** Opens a CLEAN or NEW volume: summary, then super block. Crashes may strike in between. */
  static open(disk: FaultyDisk, scheduler: Scheduler, options: ModelOptions): Model {
    return runNow(openSteps(disk, scheduler, options), disk);
  }

  // Clients

  /** Writes, discards and zeroes of one batch. `applied` is told of each when it is in memory. */
  *batch(requests: readonly Request[], applied: (request: Request) => void): Task {
    if (this.readOnly) return;
    try {
      yield* new Batch(this, requests, applied).run();
    } catch (error) {
      this.enterReadOnly(error);
    }
  }

  /** Resolves, by calling `answered`, once everything applied before is durable. */
  *flush(answered: () => void): Task {
    if (this.readOnly) return;
    const epoch = this.openEpoch;
    this.#commitWanted = true;
    yield { until: () => this.committedEpoch >= epoch || this.readOnly };
    if (!this.readOnly) answered();
  }

  /** Drain, commit, checkpoint, CLEAN. */
  *close(): Task {
    if (this.readOnly) return;
    const superBlock = changedSuperBlock(this.layout.superBlock, {
      state: STATE.CLEAN,
      zoneCount: this.sabotage === 'zone-count-kept' ? this.layout.zoneCount : 1,
      journalStart: this.journal.nextSequence,
      logicalBlocksUsed: this.journal.logicalBlocksUsed,
      treePages: this.journal.treePages,
    });
    const writeSuperBlock = function* (model: Model): Generator<Wait, void, void> {
      yield* model.write(new Map([[model.layout.superPbn, superBlock]]));
      yield* model.flushDisk();
    };
    try {
      if (this.sabotage === 'clean-early') yield* writeSuperBlock(this);
      yield* this.checkpointNow();
      if (!this.readOnly) yield* writeSuperBlock(this);
    } catch (error) {
      this.enterReadOnly(error);
    }
  }

  /** Asks for a checkpoint at the next close, unless one is running. */
  wantCheckpoint(): void {
    if (!this.#checkpointRunning) this.#checkpointWanted = true;
  }

  /** Runs a whole checkpoint of everything that is in memory now. */
  *checkpointNow(): Generator<Wait, void, void> {
    yield { until: () => !this.#checkpointRunning || this.readOnly };
    const before = this.checkpoints;
    this.#checkpointWanted = true;
    yield { until: () => (this.checkpoints > before && !this.#checkpointRunning) || this.readOnly };
  }

  // What batches use

  get closed(): boolean {
    return this.readOnly;
  }

  slabFor(pbn: number): { readonly slab: ModelSlab; readonly offset: number } {
    const place = slabOf(this.layout, pbn);
    assert(place, `block ${pbn} is in no slab`);
    return { slab: this.slabs[place.slab]!, offset: place.offset };
  }

  countOf(pbn: number): number {
    const { slab, offset } = this.slabFor(pbn);
    return slab.counts[offset]!;
  }

  setCount(pbn: number, count: number): void {
    const { slab, offset } = this.slabFor(pbn);
    slab.counts[offset] = count;
  }

  /** Waits until journal, slab journals and frames have room for the batch. */
  *reserve(requestCount: number, pageNumbers: () => number): Generator<Wait, void, void> {
    const roomy = (): boolean => {
      const obstacle = this.journal.obstacle(5 * requestCount);
      if (obstacle === 'durable-head') this.#commitWanted = true;
      let room = obstacle === 'none';
      if (obstacle === 'head' || !this.slabs.every((slab) => slab.hasRoom(6 * requestCount))) {
        room = false;
        this.wantCheckpoint();
      }
      if (this.pages.dirtyCount + pageNumbers() > this.options.frames) {
        room = false;
        this.wantCheckpoint();
      }
      return room || this.readOnly;
    };
    yield { until: roomy };
  }

  /** Waits for a commit that may release held blocks. False if none are held. */
  *releaseHeld(): Generator<Wait, boolean, void> {
    if (this.held.size === 0) return false;
    const epoch = this.openEpoch;
    this.#commitWanted = true;
    yield { until: () => this.committedEpoch >= epoch || this.readOnly };
    return true;
  }

  appended(entries: number): void {
    this.#epochEntries += entries;
    if (this.#epochEntries >= this.options.epochEntries) this.#commitWanted = true;
    if (this.held.size >= this.options.heldLimit) this.#commitWanted = true;
    const { checkpointAt } = this.options;
    if (this.journal.length > checkpointAt * this.layout.journalBlocks) this.wantCheckpoint();
  }

  hold(pbn: number): void {
    if (this.sabotage === 'hold-not-moved' && this.held.has(pbn)) return;
    this.held.set(pbn, this.openEpoch);
  }

  *write(blocks: ReadonlyMap<number, Uint8Array>): Generator<Wait, void, void> {
    if (blocks.size === 0) return;
    const extents = [...blocks].map(([pbn, bytes]) => ({ offset: pbn * BLOCK, bytes }));
    yield { ticket: this.disk.issueWrite(extents) };
  }

  *read(pbn: number): Generator<Wait, Buffer, void> {
    const bytes = Buffer.alloc(BLOCK);
    yield { ticket: this.disk.issueRead([{ offset: pbn * BLOCK, bytes }]) };
    return bytes;
  }

  /**
   * Flushes. A success means nothing once another flush has failed: the failed one may have dropped
   * what this one covers, and only one caller is told.
   */
  *flushDisk(): Generator<Wait, void, void> {
    yield { ticket: this.disk.issueFlush() };
    if (!this.readOnly || this.sabotage === 'believe-flush') return;
    throw new VdoError('ReadOnly', 'a flush beside this one failed');
  }

  /** The one place where a failed write-back or flush ends. A bug of the model is none. */
  enterReadOnly(error: unknown): void {
    if (!(error instanceof Error) || !('code' in error)) throw error;
    this.readOnly = true;
  }

  // Commit

  *#committer(): Task {
    for (;;) {
      const overlap = this.sabotage === 'one-commit-in-flight' ? 2 : 1;
      yield {
        until: () =>
          !this.readOnly &&
          this.#commitsRunning < overlap &&
          (this.#commitWanted || (this.#checkpointWanted && !this.#checkpointRunning)),
      };
      this.#commitWanted = false;
      this.#commitsRunning++;
      const epoch = this.#close(this.#checkpointWanted && !this.#checkpointRunning);
      this.#scheduler.spawn(this.#commit(epoch));
    }
  }

  /** Ends the open epoch and copies, in the same instant, what a checkpoint of it would write. */
  #close(withCheckpoint: boolean): ClosedEpoch {
    const number = this.openEpoch++;
    const { lastBlock } = this.journal;
    const blocks = this.journal.close();
    this.#epochEntries = 0;
    let checkpoint: CheckpointCopy | undefined;
    if (withCheckpoint) {
      this.#checkpointWanted = false;
      this.#checkpointRunning = true;
      checkpoint = {
        epoch: number,
        slabs: this.slabs.map((slab) => slab.copy()).filter((copy) => copy !== undefined),
        pages: this.pages.copyDirty(),
        head: lastBlock && this.#headAfter(lastBlock),
      };
    }
    return { number, blocks, lastBlock, checkpoint };
  }

  #headAfter({ block, count }: BlockCopy): number {
    const full = this.sabotage === 'head-beyond-last' && count === 217;
    return full ? block.sequence + 1 : block.sequence;
  }

  *#commit(epoch: ClosedEpoch): Task {
    try {
      const { checkpoint } = epoch;
      if (checkpoint && this.sabotage === 'write-back-before-commit') {
        this.#scheduler.spawn(this.#checkpoint(checkpoint));
      }
      yield* this.#commitBlocks(epoch);
      if (this.committedEpoch < epoch.number) this.committedEpoch = epoch.number;
      for (const [pbn, freed] of this.held) if (freed <= epoch.number) this.held.delete(pbn);
      if (checkpoint && this.sabotage !== 'write-back-before-commit') {
        this.#scheduler.spawn(this.#checkpoint(checkpoint));
      }
    } catch (error) {
      this.enterReadOnly(error);
    } finally {
      this.#commitsRunning--;
    }
  }

  *#commitBlocks({ number, blocks, lastBlock }: ClosedEpoch): Generator<Wait, void, void> {
    let copies = blocks;
    if (copies.length === 0) {
      // Nothing to commit: at most newer heads, in the last committed block.
      if (!lastBlock || this.journal.durableHead === this.journal.head) return;
      copies = [lastBlock];
    }
    if (this.sabotage !== 'skip-data-flush') yield* this.#flushFinally();
    const { head } = this.journal;
    yield* this.write(new Map(copies.map((copy) => this.journal.encode(copy))));
    if (this.sabotage === 'answer-before-commit') this.committedEpoch = number;
    yield* this.#flushFinally();
    this.journal.durableHead = Math.max(this.journal.durableHead, head);
  }

  *#flushFinally(): Generator<Wait, void, void> {
    try {
      yield* this.flushDisk();
    } catch (error) {
      if (this.sabotage !== 'retry-flush') throw error;
      yield* this.flushDisk();
    }
  }

  // Checkpoint

  *#checkpoint(copy: CheckpointCopy): Task {
    try {
      if (this.sabotage === 'heads-at-copy') this.#adopt(this.journal.lastBlock?.block.sequence);
      const first = new Map<number, Uint8Array>();
      for (const { slab, journalBlock, journalImage, ...rest } of copy.slabs) {
        first.set(journalBlock, journalImage);
        if (this.sabotage === 'counts-left-out') continue;
        const whole = { slab, journalBlock, journalImage, ...rest };
        for (const [pbn, image] of slab.images(whole)) first.set(pbn, image);
      }
      const second = new Map<number, Uint8Array>();
      for (const page of copy.pages) this.pages.images(page, first, second);
      yield* this.#writeHints(copy);
      if (this.sabotage === 'one-barrier') this.#addSummaries(copy, first);
      const images = [...second];
      if (this.sabotage === 'second-image-early') second.clear();
      yield* this.write(first);
      if (this.sabotage === 'second-image-early') yield* this.write(new Map(images));
      yield* this.flushDisk();
      if (this.sabotage === 'heads-early') this.#adopt(copy.head);
      this.#addSummaries(copy, second);
      yield* this.write(second);
      yield* this.flushDisk();
      for (const { slab, ...rest } of copy.slabs) slab.finish({ slab, ...rest });
      this.pages.finish(copy.pages);
      this.#adopt(copy.head);
      this.checkpoints++;
      this.#checkpointRunning = false;
    } catch (error) {
      this.enterReadOnly(error);
    }
  }

  #adopt(head: number | undefined): void {
    if (head !== undefined && head > this.journal.head) this.journal.head = head;
  }

  /** Hints ahead of counts, in entries that are otherwise as they were. */
  *#writeHints({ slabs }: CheckpointCopy): Task {
    if (slabs.every(({ slab, summary }) => this.#summary[slab.number]!.hint === summary.hint))
      return;
    for (const { slab, summary } of slabs) {
      this.#summary[slab.number] = { ...this.#summary[slab.number]!, hint: summary.hint };
    }
    yield* this.write(new Map([[this.layout.summaryOrigin, this.#summaryBlock()]]));
    if (this.sabotage !== 'hints-beside-counts') yield* this.flushDisk();
  }

  #summaryBlock(): Buffer {
    const block = Buffer.alloc(BLOCK);
    this.#summary.forEach((entry, n) => encodeSummaryEntry(block, n * 2, entry));
    return block;
  }

  #addSummaries(copy: CheckpointCopy, writes: Map<number, Uint8Array>): void {
    if (copy.slabs.length === 0) return;
    const size = this.layout.slabJournalBlocks;
    for (const { slab, summary } of copy.slabs) {
      const tail = this.sabotage === 'tail-in-memory' ? slab.sequence % size : summary.tailOffset;
      this.#summary[slab.number] = { ...summary, tailOffset: tail };
    }
    writes.set(this.layout.summaryOrigin, this.#summaryBlock());
  }
}

function* openSteps(disk: FaultyDisk, scheduler: Scheduler, options: ModelOptions): Steps<Model> {
  const layout = yield* readLayout();
  assert(layout.state === STATE.CLEAN || layout.state === STATE.NEW, 'not a clean volume');
  const fresh = layout.state === STATE.NEW;
  const hint = hintOf(layout.dataBlocks, layout.slabBits);
  const states = fresh ? [] : yield* loadSlabs(layout);
  const summary = range(0, layout.slabCount).map(
    (n) => states[n]?.summary ?? { tailOffset: 0, hint, load: false, dirty: false },
  );
  const model = new Model(disk, scheduler, options, layout, summary);
  for (const { slab, tail, point } of states) {
    const { load } = summary[slab]!;
    const start = slabPlace(layout, slab).counts;
    const blocks = load ? yield* readBlocks(range(start, layout.countBlocks)) : [];
    model.slabs[slab]!.restore(load, tail, point, countsIn(layout, blocks));
  }
  const keepsZones = options.sabotage === 'zone-count-kept';
  const superBlock = changedSuperBlock(layout.superBlock, {
    state: STATE.DIRTY,
    zoneCount: keepsZones ? layout.zoneCount : 1,
  });
  const superExtent = { offset: layout.superPbn * BLOCK, bytes: superBlock };
  if (options.sabotage === 'super-before-summary') yield { kind: 'write', extents: [superExtent] };
  const copies = options.sabotage === 'first-copy-only' ? 'first' : 'all';
  yield* writeSummary(layout, summary, copies);
  if (options.sabotage !== 'super-before-summary') yield { kind: 'flush' };
  yield { kind: 'write', extents: [superExtent] };
  yield { kind: 'flush' };
  return model;
}

function countsIn(layout: VolumeLayout, blocks: readonly Buffer[]): Uint8Array {
  const counts = new Uint8Array(layout.dataBlocks);
  if (blocks.length === 0) return counts;
  for (let offset = 0; offset < counts.length; offset++) {
    const within = offset % COUNTS_PER_BLOCK;
    const at = Math.floor(within / COUNTS_PER_SECTOR) * 512 + 8 + (within % COUNTS_PER_SECTOR);
    const count = blocks[Math.floor(offset / COUNTS_PER_BLOCK)]![at]!;
    counts[offset] = count === 255 ? 0 : count;
  }
  return counts;
}
