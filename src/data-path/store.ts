/**
 * Stores the rows of a batch that nobody shares: compressed and packed where that saves space, else
 * as they are, in blocks allocated here and written in one vector.
 *
 * Invariants:
 * - Space was reserved when the rows were acknowledged; a deferred batch may take only what nobody
 *   else has reserved, and its rows fail where that is not enough.
 * - Whatever is added to `mappings` is written before the caller applies it.
 */
import { assert } from '../base/assert.ts';
import { asBuffer } from '../base/bytes.ts';
import {
  BLOCK_SIZE,
  COMPRESSED_BASE,
  MAXIMUM_REFERENCE_COUNT,
  UNCOMPRESSED,
} from '../base/constants.ts';
import type { Extent } from '../storage/storage.ts';
import { Fate, type WriteBatch } from './batch.ts';
import type { DataPath, Mappings, NamedLocations } from './data-path.ts';
import { copyName, LARGEST_PACKED_FRAGMENT, NAME_WORDS, type EmitBin } from './packer.ts';

const NONE = -1;

export class Store {
  readonly #path: DataPath;
  readonly #mappings: Mappings;
  readonly #posts: NamedLocations;
  readonly #rows: Int32Array;
  /** Those of them that are to be compressed. */
  readonly #compressed: Int32Array;
  readonly #blocks: Buffer;
  /**
   * Blocks in the order of their places, where rows and bins take turns: few large writes cost less than
   * many small ones, even with the copy.
   */
  readonly #staging: Buffer;
  #staged = 0;
  #isStaging = false;
  #extents: Extent[] = [];
  // The run of neighbours that the next extent will be.
  #runPbn = 0;
  #runSource: Buffer | null = null;
  #runAt = 0;
  #runBlocks = 0;

  /** Adds mappings to `mappings` and names to `posts` as blocks get their places. */
  constructor(path: DataPath, mappings: Mappings, posts: NamedLocations) {
    this.#path = path;
    this.#mappings = mappings;
    this.#posts = posts;
    this.#rows = new Int32Array(path.batchBlocks);
    this.#compressed = new Int32Array(path.batchBlocks);
    this.#blocks = asBuffer(path.arena.blocks);
    // Every bin emitted holds a fragment of this batch or was open before it.
    assert(path.arena.stagingCount >= path.batchBlocks + path.packer.bins, 'blocks to be staged');
    this.#staging = asBuffer(path.arena.staging);
  }

  /** Stores every row that is `Unique`. `available`: blocks a deferred batch may use. */
  async run(batch: WriteBatch, available: number): Promise<void> {
    const count = this.#gather(batch, available);
    const { arena, compression, pool } = this.#path;
    const left = compression ? this.#listUncompressed(batch, count) : 0;
    if (left > 0) await pool.compress(this.#compressed, left);
    this.#isStaging = compression && this.#isMixed(count);
    for (let i = 0; i < count; i++) {
      const row = this.#rows[i]! - batch.base;
      const size = compression ? arena.fragmentSizes[this.#rows[i]!]! : 0;
      if (size === 0 || size > LARGEST_PACKED_FRAGMENT || !this.#pack(batch, row, size)) {
        this.#storeRow(batch, row);
      }
    }
    await this.#write();
  }

  /** Writes out all bins of the packer, or those older than `age` ticks. */
  async drain(age: number): Promise<void> {
    this.#path.packer.drain(this.#emit, age);
    await this.#write();
  }

  /** Whether some of the rows to be stored go to bins. */
  #isMixed(count: number): boolean {
    const { fragmentSizes } = this.#path.arena;
    for (let i = 0; i < count; i++) if (fragmentSizes[this.#rows[i]!] !== 0) return true;
    return false;
  }

  /** Of the rows to be stored, those whose fragments are not made yet; returns their number. */
  #listUncompressed(batch: WriteBatch, count: number): number {
    let left = 0;
    for (let i = 0; i < count; i++) {
      const row = this.#rows[i]!;
      if (batch.isCompressed[row - batch.base] === 0) this.#compressed[left++] = row;
    }
    return left;
  }

  /** Lists the rows to be stored; those for which a deferred batch has no space fail. */
  #gather(batch: WriteBatch, available: number): number {
    let count = 0;
    let left = available;
    for (let row = 0; row < batch.count; row++) {
      if (batch.fate[row] !== Fate.Unique) continue;
      if (batch.deferred) {
        const needed = this.#blocksFor(batch, row);
        if (needed > left) {
          this.#fail(batch, row);
          continue;
        }
        left -= needed;
        batch.reserved += needed;
      }
      this.#rows[count++] = batch.base + row;
    }
    return count;
  }

  /** Upper bound of the blocks that a row and its followers take. */
  #blocksFor(batch: WriteBatch, row: number): number {
    let followers = 0;
    for (let f = batch.firstFollower[row]!; f !== NONE; f = batch.nextFollower[f]!) followers++;
    return followers === 0 ? 1 : 2 + Math.floor(followers / MAXIMUM_REFERENCE_COUNT);
  }

  #fail(batch: WriteBatch, row: number): void {
    batch.fate[row] = Fate.Failed;
    for (let f = batch.firstFollower[row]!; f !== NONE; f = batch.nextFollower[f]!) {
      batch.fate[f] = Fate.Failed;
    }
  }

  /** Lets a row and its followers wait in the packer. Returns false where it is not worth packing. */
  #pack(batch: WriteBatch, row: number, size: number): boolean {
    const { packer, counters } = this.#path;
    const fragment = packer.add(batch.base + row, size, batch.lbn[row]!, this.#emit);
    if (fragment < 0) return false;
    batch.fate[row] = Fate.Waiting;
    let next = batch.firstFollower[row]!;
    batch.firstFollower[row] = NONE;
    while (next !== NONE && packer.join(fragment, batch.lbn[next]!)) {
      batch.fate[next] = Fate.Waiting;
      counters.duplicateBlocks++;
      next = batch.nextFollower[next]!;
    }
    packer.emitIfFull(fragment, this.#emit);
    if (next !== NONE) {
      // Its block has 254 references: the rest shares a copy of its own, which takes over the name.
      batch.firstFollower[next] = batch.nextFollower[next]!;
      batch.named[next] = 1;
      this.#storeRow(batch, next);
    }
    return true;
  }

  /** Stores a row uncompressed; its followers share the block, up to 254 in all, then the next copy. */
  #storeRow(batch: WriteBatch, first: number): void {
    const { counters } = this.#path;
    for (let row = first; row !== NONE;) {
      const pbn = this.#allocate();
      this.#addRow(pbn, batch.base + row);
      counters.storedBlocks++;
      this.#map(batch, row, pbn);
      if (batch.named[row] === 1) this.#post(pbn, batch.base + row);
      let references = 1;
      let next = batch.firstFollower[row]!;
      for (
        ;
        next !== NONE && references < MAXIMUM_REFERENCE_COUNT;
        next = batch.nextFollower[next]!
      ) {
        this.#map(batch, next, pbn);
        counters.duplicateBlocks++;
        references++;
      }
      if (next !== NONE) {
        batch.firstFollower[next] = batch.nextFollower[next]!;
        batch.named[next] = 1;
      }
      row = next;
    }
  }

  #map(batch: WriteBatch, row: number, pbn: number): void {
    batch.fate[row] = Fate.Stored;
    this.#mappings.add(batch.lbn[row]!, pbn, UNCOMPRESSED);
  }

  #post(pbn: number, arenaRow: number): void {
    const at = this.#posts.add(pbn, UNCOMPRESSED) * NAME_WORDS;
    copyName(this.#path.arena.nameWords, arenaRow * NAME_WORDS, this.#posts.nameWords, at);
  }

  /** A bin leaves the packer: it becomes a compressed block, or with one fragment an ordinary one. */
  readonly #emit: EmitBin = (fragments, bin) => {
    const { packer, counters } = this.#path;
    const pbn = this.#allocate();
    const at = this.#staged++ * BLOCK_SIZE;
    const isCompressed = fragments.length > 1;
    if (isCompressed) {
      packer.copyBlock(bin, this.#staging.byteOffset + at);
      counters.compressedFragments += fragments.length;
      counters.compressedBlocks++;
    } else packer.expand(fragments[0]!, this.#staging.byteOffset + at);
    counters.storedBlocks++;
    this.#addBlock(pbn, this.#staging, at);
    for (let slot = 0; slot < fragments.length; slot++) {
      const fragment = fragments[slot]!;
      const state = isCompressed ? COMPRESSED_BASE + slot : UNCOMPRESSED;
      for (let w = packer.firstWaiter(fragment); w !== NONE; w = packer.nextWaiter(w)) {
        this.#mappings.add(packer.lbnOf(w), pbn, state);
      }
      const name = this.#posts.add(pbn, state) * NAME_WORDS;
      packer.copyName(fragment, this.#posts.nameWords, name);
    }
  };

  #allocate(): number {
    const pbn = this.#path.depot.allocate();
    assert(pbn !== 0, 'space was reserved before the write was acknowledged');
    return pbn;
  }

  #addRow(pbn: number, arenaRow: number): void {
    if (!this.#isStaging) return this.#addBlock(pbn, this.#blocks, arenaRow * BLOCK_SIZE);
    const at = this.#staged++ * BLOCK_SIZE;
    const from = this.#blocks.byteOffset + arenaRow * BLOCK_SIZE;
    this.#path.pool.kernels.copy(from, this.#staging.byteOffset + at, BLOCK_SIZE);
    this.#addBlock(pbn, this.#staging, at);
  }

  /** Adds a block to the vector, joined to the one before where both are neighbours. */
  #addBlock(pbn: number, source: Buffer, at: number): void {
    const isNext =
      source === this.#runSource &&
      pbn === this.#runPbn + this.#runBlocks &&
      at === this.#runAt + this.#runBlocks * BLOCK_SIZE;
    if (!isNext) {
      this.#endRun();
      this.#runSource = source;
      this.#runPbn = pbn;
      this.#runAt = at;
    }
    this.#runBlocks++;
  }

  #endRun(): void {
    if (this.#runSource !== null) {
      const bytes = this.#runSource.subarray(
        this.#runAt,
        this.#runAt + this.#runBlocks * BLOCK_SIZE,
      );
      this.#extents.push({ offset: this.#runPbn * BLOCK_SIZE, bytes });
    }
    this.#runSource = null;
    this.#runBlocks = 0;
  }

  async #write(): Promise<void> {
    this.#endRun();
    const extents = this.#extents;
    this.#extents = [];
    this.#staged = 0;
    const { pool, storage } = this.#path;
    if (extents.length > 0) await pool.during(storage.write(extents));
  }
}
