/**
 * Deduplication of one batch: which rows are zeros, which have the content of another row, of a
 * waiting fragment, or of a stored block.
 *
 * Invariants:
 * - A name only says where to look. Content is shared after all 4096 bytes were compared.
 * - Of equal rows one is the owner; the others follow it wherever it goes.
 * - References are claimed before they are journaled: count + claims of a block never exceed 254,
 *   whatever this batch frees meanwhile. Who finds none left is stored anew and takes over the name.
 *
 * This is dm-vdo's hash lock for one batch; names that wait in the packer extend it beyond.
 */
import { asBuffer } from '../base/bytes.ts';
import {
  BLOCK_SIZE,
  COMPRESSED_BASE,
  COMPRESSION_SLOTS,
  MAXIMUM_REFERENCE_COUNT,
  UNCOMPRESSED,
} from '../base/constants.ts';
import { NameTable } from '../base/name-table.ts';
import { NumberMap } from '../base/number-map.ts';
import { CHECK_WORDS } from '../kernels/arena.ts';
import type { Extent } from '../storage/storage.ts';
import { Fate, type WriteBatch } from './batch.ts';
import { NamedLocations, type DataPath } from './data-path.ts';
import { copyName, NAME_WORDS } from './packer.ts';

const NONE = -1;
const HIGHEST_STATE = COMPRESSED_BASE + COMPRESSION_SLOTS - 1;

export class Deduplicator {
  readonly #path: DataPath;
  readonly #names: NameTable;
  /** References that this batch has claimed, by block. */
  readonly #claims: NumberMap;
  /** Blocks without references that this batch has claimed: free ones, and held ones. */
  #revivedFree: number[] = [];
  #revivedHeld: number[] = [];
  readonly #queries: NamedLocations;
  readonly #queryRow: Int32Array;
  readonly #verify: Buffer;
  // Addresses in the arena.
  readonly #blocksAt: number;
  readonly #expandedAt: number;

  constructor(path: DataPath) {
    const { arena, batchBlocks } = path;
    this.#path = path;
    this.#names = new NameTable(arena.names);
    this.#claims = new NumberMap(batchBlocks);
    this.#queries = new NamedLocations(batchBlocks);
    this.#queryRow = new Int32Array(batchBlocks);
    this.#verify = asBuffer(arena.verify);
    this.#blocksAt = arena.blocks.byteOffset;
    this.#expandedAt = arena.expanded.byteOffset;
  }

  /** Decides the fate of every row whose block is hashed; rows left `Unique` are to be stored. */
  async run(batch: WriteBatch): Promise<void> {
    this.#claims.clear();
    this.#revivedFree = [];
    this.#revivedHeld = [];
    this.#classify(batch);
    if (!this.#path.deduplication) return;
    if (this.#path.packer.fragmentCount > 0) this.#joinFragments(batch);
    const queries = this.#ask(batch);
    if (queries === 0) return;
    await this.#path.index.lookup(this.#queries.names, queries, this.#queries);
    await this.#verifyAdvice(batch, this.#select(batch, queries));
    this.#giveBackUnused();
  }

  /** Zero rows, owners, and rows that follow an owner. */
  #classify(batch: WriteBatch): void {
    const { counters, deduplication, arena } = this.#path;
    this.#names.clear();
    for (let row = 0; row < batch.count; row++) {
      batch.firstFollower[row] = NONE;
      batch.named[row] = 0;
      if (batch.fate[row] !== Fate.Unique) continue;
      const at = batch.base + row;
      if (batch.isZero[row] === 1 || arena.zero[at] === 1) {
        batch.fate[row] = Fate.Zero;
        counters.zeroBlocks++;
        continue;
      }
      if (!deduplication) continue;
      const found = this.#names.find(at);
      if (found < 0) {
        this.#names.add(at);
        batch.named[row] = 1;
      } else if (this.#equals(at, this.#blocksAt + found * BLOCK_SIZE)) {
        this.#follow(batch, row, found - batch.base);
        counters.concurrentMatches++;
      } else counters.concurrentCollisions++;
    }
  }

  #follow(batch: WriteBatch, row: number, owner: number): void {
    batch.fate[row] = Fate.Follower;
    batch.owner[row] = owner;
    batch.nextFollower[row] = batch.firstFollower[owner]!;
    batch.firstFollower[owner] = row;
  }

  /** Owners (and their followers) whose content waits in the packer wait with it. */
  #joinFragments(batch: WriteBatch): void {
    const { packer, counters } = this.#path;
    for (let row = 0; row < batch.count; row++) {
      if (batch.named[row] === 0) continue;
      const at = batch.base + row;
      const fragment = packer.findName(at);
      if (fragment < 0) continue;
      packer.expand(fragment);
      if (!this.#equals(at, this.#expandedAt)) continue;
      counters.duplicateBlocks += this.#share(batch, row, (member) => {
        if (!packer.join(fragment, batch.lbn[member]!)) return false;
        batch.fate[member] = Fate.Waiting;
        batch.owner[member] = fragment;
        return true;
      });
    }
  }

  /**
   * Offers a place to an owner and then to its followers. The first that `take` refuses becomes the
   * owner of those left, to be stored anew. Returns how many were taken.
   */
  #share(batch: WriteBatch, owner: number, take: (row: number) => boolean): number {
    if (!take(owner)) return 0;
    let taken = 1;
    let next = batch.firstFollower[owner]!;
    batch.firstFollower[owner] = NONE;
    batch.named[owner] = 0;
    while (next !== NONE && take(next)) {
      taken++;
      next = batch.nextFollower[next]!;
    }
    if (next !== NONE) this.#promote(batch, next);
    return taken;
  }

  /** A follower becomes the owner of those behind it. */
  #promote(batch: WriteBatch, row: number): void {
    batch.fate[row] = Fate.Unique;
    batch.named[row] = 1;
    batch.firstFollower[row] = batch.nextFollower[row]!;
    for (let f = batch.firstFollower[row]!; f !== NONE; f = batch.nextFollower[f]!) {
      batch.owner[f] = row;
    }
  }

  /** Gathers the names of the rows still to be looked up; returns their number. */
  #ask(batch: WriteBatch): number {
    const { nameWords } = this.#path.arena;
    let count = 0;
    for (let row = 0; row < batch.count; row++) {
      if (batch.named[row] === 0 || batch.fate[row] !== Fate.Unique) continue;
      const from = (batch.base + row) * NAME_WORDS;
      copyName(nameWords, from, this.#queries.nameWords, count * NAME_WORDS);
      this.#queryRow[count++] = row;
    }
    return count;
  }

  /** Keeps the queries whose advice can be true, claims for each owner; returns them by block. */
  #select(batch: WriteBatch, queries: number): Int32Array {
    const { pbn, state } = this.#queries;
    const selected = new Int32Array(queries);
    let count = 0;
    let sorted = true;
    for (let query = 0; query < queries; query++) {
      if (pbn[query] === 0) continue;
      if (!this.#claimable(pbn[query]!, state[query]!, batch.deferred)) continue;
      if (count > 0 && pbn[query]! < pbn[selected[count - 1]!]!) sorted = false;
      selected[count++] = query;
    }
    const result = selected.subarray(0, count);
    return sorted ? result : result.sort((a, b) => pbn[a]! - pbn[b]!);
  }

  /** Whether the block named by advice may be shared at least once more; then it is known to `claims`. */
  #claimable(pbn: number, state: number, deferred: boolean): boolean {
    const { depot, counters } = this.#path;
    if (state < UNCOMPRESSED || state > HIGHEST_STATE || !depot.isDataBlock(pbn)) {
      counters.invalidAdvice++;
      return false;
    }
    if (this.#claims.get(pbn) >= 0) return true;
    if (!depot.isScrubbed(pbn)) {
      // How often it is shared already is not known yet.
      counters.adviceStale++;
      return false;
    }
    const references = depot.references(pbn);
    // A block that was freed may still hold the content; taking it costs space like a new one.
    if (references === 0) {
      const was = deferred ? 'refused' : depot.claimUnreferenced(pbn);
      if (was === 'refused') {
        counters.adviceStale++;
        return false;
      }
      (was === 'free' ? this.#revivedFree : this.#revivedHeld).push(pbn);
    } else if (references >= MAXIMUM_REFERENCE_COUNT) {
      counters.adviceStale++;
      return false;
    }
    this.#claims.set(pbn, 0);
    return true;
  }

  /** Reads what the advice names and shares it where it is equal. */
  async #verifyAdvice(batch: WriteBatch, selected: Int32Array): Promise<void> {
    const { pbn, state } = this.#queries;
    const { arena, counters, pool } = this.#path;
    const { checks } = arena;
    if (!(await this.#readCandidates(selected))) return;
    for (let i = 0, at = 0; i < selected.length; i++, at += CHECK_WORDS) {
      const query = selected[i]!;
      checks[at] = batch.base + this.#queryRow[query]!;
      checks[at + 2] = state[query]!;
    }
    await pool.verify(selected.length);
    for (let i = 0; i < selected.length; i++) {
      const query = selected[i]!;
      if (checks[i * CHECK_WORDS + 2] === 1) {
        counters.adviceValid++;
        this.#shareStored(batch, this.#queryRow[query]!, pbn[query]!, state[query]!);
      } else counters.adviceStale++;
    }
  }

  /**
   * Reads the blocks of `selected` (ordered by block) one after another into the verify region, and
   * tells the i-th check where its block is. An error means that nothing is shared, no more.
   */
  async #readCandidates(selected: Int32Array): Promise<boolean> {
    const { pbn } = this.#queries;
    const { checks } = this.#path.arena;
    const extents: Extent[] = [];
    let runPbn = 0;
    let runStart = 0;
    let blocks = 0;
    const endRun = (): void => {
      if (blocks === runStart) return;
      const bytes = this.#verify.subarray(runStart * BLOCK_SIZE, blocks * BLOCK_SIZE);
      extents.push({ offset: runPbn * BLOCK_SIZE, bytes });
    };
    let before = NONE;
    for (let i = 0; i < selected.length; i++) {
      const block = pbn[selected[i]!]!;
      if (block !== before) {
        if (block !== before + 1 || blocks === runStart) {
          endRun();
          runStart = blocks;
          runPbn = block;
        }
        blocks++;
        before = block;
      }
      checks[i * CHECK_WORDS + 1] = blocks - 1;
    }
    endRun();
    try {
      const { pool, storage } = this.#path;
      if (extents.length > 0) await pool.during(storage.read(extents));
      return true;
    } catch {
      this.#path.counters.adviceStale += selected.length;
      return false;
    }
  }

  #shareStored(batch: WriteBatch, owner: number, pbn: number, state: number): void {
    const limit = MAXIMUM_REFERENCE_COUNT - this.#path.depot.references(pbn);
    this.#path.counters.duplicateBlocks += this.#share(batch, owner, (row) => {
      const claims = this.#claims.get(pbn);
      if (claims >= limit) return false;
      this.#claims.set(pbn, claims + 1);
      batch.fate[row] = Fate.Duplicate;
      batch.pbn[row] = pbn;
      batch.state[row] = state;
      return true;
    });
  }

  /** What was free must be free again at once: the row that was not shared counts on one block. */
  #giveBackUnused(): void {
    const { depot, committer } = this.#path;
    for (const pbn of this.#revivedFree) {
      if (this.#claims.get(pbn) === 0) depot.unallocate(pbn);
    }
    for (const pbn of this.#revivedHeld) {
      if (this.#claims.get(pbn) === 0) depot.holdAgain(pbn, committer.epoch);
    }
  }

  /** Whether a row of the arena holds the 4096 bytes at an address. */
  #equals(row: number, address: number): boolean {
    return this.#path.pool.kernels.equal(this.#blocksAt + row * BLOCK_SIZE, address);
  }
}
