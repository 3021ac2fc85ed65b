/**
 * The phases of a write, in order, for a whole batch: merge · locate and hash · deduplicate · store ·
 * apply · post. docs/ARCHITECTURE.md walks through them.
 *
 * One batch or other step runs at a time; between the awaits of a phase no other step touches the
 * state. Commits and checkpoints run beside, on copies.
 */
import { asBuffer, copyBytes } from '../base/bytes.ts';
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_SIZE,
  COMPRESSION_SLOTS,
  MAX_VIOS,
  UNCOMPRESSED,
  ZERO_BLOCK,
} from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import type { TreeAllocator } from '../block-map/block-map.ts';
import { applyMappings, stepFrom } from './apply.ts';
import { Fate, type WriteBatch } from './batch.ts';
import { Mappings, NamedLocations, type DataPath } from './data-path.ts';
import { Deduplicator } from './deduplicate.ts';
import type { Reader } from './read.ts';
import { Store } from './store.ts';

export class Writer {
  readonly #path: DataPath;
  readonly #reader: Reader;
  readonly #deduplicator: Deduplicator;
  readonly #store: Store;
  readonly #mappings: Mappings;
  readonly #posts: NamedLocations;
  /** Blocks that the batch at hand writes. */
  readonly #lbn: Float64Array;
  readonly #old = Buffer.alloc(BLOCK_SIZE);
  /** Free blocks that are spoken for by others than the running step. */
  readonly #spokenFor: () => number;

  constructor(path: DataPath, reader: Reader, spokenFor: () => number) {
    const fragments = path.packer.bins * COMPRESSION_SLOTS;
    this.#path = path;
    this.#reader = reader;
    this.#spokenFor = spokenFor;
    this.#mappings = new Mappings(path.batchBlocks + MAX_VIOS);
    this.#lbn = new Float64Array(path.batchBlocks);
    this.#posts = new NamedLocations(2 * path.batchBlocks + fragments);
    this.#deduplicator = new Deduplicator(path);
    this.#store = new Store(path, this.#mappings, this.#posts);
  }

  /**
   * Runs one batch. Rows without space end as `Failed`, in deferred batches only. Any other error
   * leaves acknowledged writes undone: the caller makes the volume read-only.
   */
  async run(batch: WriteBatch): Promise<void> {
    const { counters, pool } = this.#path;
    if (batch.deferred) {
      const wanted = batch.reserved;
      batch.reserved = 0;
      await this.#makeRoom(wanted);
    }
    if (batch.partialRows > 0) await this.#merge(batch);
    const written = this.#begin(batch);
    await Promise.all([
      !batch.isPrepared &&
        batch.endHashed > 0 &&
        pool.hash(batch.base + batch.firstHashed, batch.base + batch.endHashed),
      this.#locate(this.#lbn, written, batch.deferred),
    ]);
    if (batch.deferred) this.#failWithoutLeaf(batch);
    await this.#deduplicator.run(batch);
    await this.#store.run(batch, this.#available());
    // A block that rows share can lose its last other reference, and be free for a moment, before the
    // step that maps the row to it: that space is not for others.
    batch.reserved = written;
    this.#mapShared(batch);
    await this.#apply();
    batch.reserved = 0;
    counters.writtenBlocks += written;
  }

  /** Writes out what waits in the packer: everything, or bins older than `age` ticks. */
  async drainPacker(age = 0): Promise<void> {
    if (this.#path.packer.fragmentCount === 0) return;
    await this.#store.drain(age);
    await this.#apply();
  }

  /** Gives every row its first fate and lists the blocks that are written; returns their number. */
  #begin(batch: WriteBatch): number {
    const { packer } = this.#path;
    let written = 0;
    for (let row = 0; row < batch.count; row++) {
      const isSkipped = batch.isPrepared && batch.isZero[row] === 1;
      batch.fate[row] = isSkipped ? Fate.Skipped : Fate.Unique;
      if (isSkipped) continue;
      const lbn = batch.lbn[row]!;
      packer.detach(lbn);
      this.#lbn[written++] = lbn;
    }
    return written;
  }

  /**
   * Gets back all space that can be had: half-filled bins, blocks held by the open epoch, and, until
   * `wanted` blocks are free, those of slabs that wait for scrubbing.
   */
  async #makeRoom(wanted: number): Promise<void> {
    const { committer, scrubber } = this.#path;
    await this.drainPacker();
    await committer.commit();
    while (!scrubber.isDone && this.#available() < wanted) await scrubber.more();
  }

  #available(): number {
    return Math.max(0, this.#path.depot.allocatable - this.#spokenFor());
  }

  /** Rows that cover part of their block get the rest of it from what is there. */
  async #merge(batch: WriteBatch): Promise<void> {
    const blocks = asBuffer(batch.arena.blocks);
    for (let row = 0; row < batch.count; row++) {
      const from = batch.from[row]!;
      const to = batch.to[row]!;
      if (to - from === BLOCK_SIZE) continue;
      await this.#reader.read([{ lbn: batch.lbn[row]!, count: 1, into: this.#old }]);
      const at = (batch.base + row) * BLOCK_SIZE;
      copyBytes(this.#old, 0, from, blocks, at);
      copyBytes(this.#old, to, BLOCK_SIZE, blocks, at + to);
      this.#path.counters.partialBlocks++;
    }
  }

  /** Makes sure that every block's leaf exists, creating tree pages as needed. */
  async #locate(lbn: Float64Array, count: number, deferred: boolean): Promise<void> {
    const allocator = this.#treeAllocator(deferred);
    for (let at = 0; at < count;) {
      const { end, pages } = stepFrom(this.#path, { lbn, count }, at);
      await this.#path.blockMap.load(pages, allocator);
      at = end;
    }
  }

  #treeAllocator(deferred: boolean): TreeAllocator {
    const { depot, committer, journal } = this.#path;
    return {
      allocate: () => (deferred && this.#available() === 0 ? 0 : depot.allocate()),
      unallocate: (pbn) => depot.unallocate(pbn),
      reserve: (pages) => committer.reserve(pages),
      record: (parent, slot, pbn) => {
        journal.appendBlockMap(parent, slot, pbn);
        depot.incrementBlockMap(pbn, journal.lastSequence, 2 * journal.lastIndex);
      },
    };
  }

  /** Rows of a deferred batch for whose leaf there was no space fail. */
  #failWithoutLeaf(batch: WriteBatch): void {
    for (let row = 0; row < batch.count; row++) {
      if (batch.fate[row] === Fate.Skipped) continue;
      const page = Math.floor(batch.lbn[row]! / BLOCK_MAP_ENTRIES_PER_PAGE);
      if (this.#path.blockMap.missingPages(page) > 0) batch.fate[row] = Fate.Failed;
    }
  }

  /** Mappings of the rows that needed no block of their own. */
  #mapShared(batch: WriteBatch): void {
    for (let row = 0; row < batch.count; row++) {
      const fate = batch.fate[row];
      if (fate === Fate.Zero) this.#mappings.add(batch.lbn[row]!, ZERO_BLOCK, UNCOMPRESSED);
      else if (fate === Fate.Duplicate) {
        this.#mappings.add(batch.lbn[row]!, batch.pbn[row]!, batch.state[row]!);
      } else if (fate === Fate.Failed) this.#path.counters.noSpaceErrors++;
    }
  }

  /** Applies what was gathered and tells the index. */
  async #apply(): Promise<void> {
    const { index } = this.#path;
    await applyMappings(this.#path, this.#mappings);
    this.#mappings.count = 0;
    const posts = this.#posts;
    if (posts.count > 0) await index.update(posts.names, posts.count, posts);
    posts.count = 0;
  }
}

/** The error of a write for which there was no space. */
export function noSpace(path: DataPath): VdoError {
  return new VdoError(
    'NoSpace',
    `no physical block is free (${path.depot.dataBlocks} in all): discard data or grow the volume`,
  );
}
