/**
 * Whether blocks of a source would be found elsewhere if the source began some sectors later: images
 * whose partitions begin on other boundaries share content that blocks of 4 KiB do not see.
 *
 * Every window of 4096 bytes that begins on a sector is named; of the names a sample is kept, chosen by
 * their own bits so that equal contents are kept or left alike. In the end the names at each shift are
 * looked up among those at shift 0, which is where blocks are.
 *
 * - Blocks of zeros, and windows that repeat themselves every sector, are left out: they match at any
 *   shift.
 * - Where the names kept become too many, half of them are let go.
 */
import { assert } from '../base/assert.ts';
import { BLOCK_SIZE, SECTOR_SIZE, SECTORS_PER_BLOCK } from '../base/constants.ts';
import type { Arena } from '../kernels/arena.ts';
import type { ComputePool } from '../workers/pool.ts';
import type { Batch } from './block-feed.ts';

/** Some 60 MB. */
const MAX_NAMES = 1 << 18;
const KEY_SCALE = 2 ** 21;
/** One name in so many is kept to begin with. */
const FIRST_RATE = 16;

export interface AlignmentScan {
  /** One window in so many was looked at. */
  readonly oneIn: number;
  readonly sources: readonly {
    readonly path: string;
    /** Blocks of the source that occur elsewhere on block boundaries, were it moved up by so much. */
    readonly shifts: readonly { readonly bytes: number; readonly blocks: number }[];
    /** The shift with most. */
    readonly best: number;
  }[];
}

/** Sightings of one name: how often at each shift, by source. */
interface Sighting {
  /** Times seen at shift 0, in all sources. */
  aligned: number;
  /** By `source · 8 + shift`. */
  readonly seen: Map<number, number>;
}

export class AlignmentScanner {
  readonly #arena: Arena;
  readonly #names: Uint32Array;
  readonly #pool: ComputePool;
  readonly #spareRow: number;
  readonly #rows: number;
  #rate = FIRST_RATE;
  #sightings = new Map<number, Sighting>();

  /** Rows from `spareRow` on, as many as a batch has, are its own to work in. */
  constructor(arena: Arena, pool: ComputePool, spareRow: number, rows: number) {
    assert(spareRow + rows <= arena.rows, 'spare rows of the arena');
    this.#arena = arena;
    this.#names = new Uint32Array(arena.names.buffer, arena.names.byteOffset, arena.rows * 4);
    this.#pool = pool;
    this.#spareRow = spareRow;
    this.#rows = rows;
  }

  /** Looks at a batch that is hashed. */
  async add(batch: Batch): Promise<void> {
    for (const { firstRow, endRow, file } of batch.parts) {
      this.#note(firstRow, endRow, file.source, 0);
    }
    const { blocks } = this.#arena;
    const start = batch.base * BLOCK_SIZE;
    const to = this.#spareRow * BLOCK_SIZE;
    const rows = batch.count - 1;
    if (rows < 1) return;
    assert(rows <= this.#rows, 'rows of a batch');
    for (let shift = 1; shift < SECTORS_PER_BLOCK; shift++) {
      const from = start + shift * SECTOR_SIZE;
      blocks.copyWithin(to, from, from + rows * BLOCK_SIZE);
      await this.#pool.hash(this.#spareRow, this.#spareRow + rows);
      for (const { firstRow, endRow, file } of batch.parts) {
        const first = this.#spareRow + firstRow - batch.base;
        // The last row of a part has no successor of the same file.
        this.#note(first, first + endRow - firstRow - 1, file.source, shift);
      }
    }
  }

  /** What was found, by source. */
  finish(paths: readonly string[]): AlignmentScan {
    const counts = paths.map(() => new Float64Array(SECTORS_PER_BLOCK));
    for (const { aligned, seen } of this.#sightings.values()) {
      if (aligned === 0) continue;
      for (const [key, times] of seen) {
        const shift = key % SECTORS_PER_BLOCK;
        // A block is not found in itself.
        if (shift === 0 && aligned === 1) continue;
        counts[Math.floor(key / SECTORS_PER_BLOCK)]![shift]! += times;
      }
    }
    const sources = paths.map((path, source) => {
      const shifts = Array.from(counts[source]!, (count, shift) => ({
        bytes: shift * SECTOR_SIZE,
        blocks: count * this.#rate,
      }));
      const best = shifts.reduce((a, b) => (b.blocks > a.blocks ? b : a));
      return { path, shifts, best: best.bytes };
    });
    return { oneIn: this.#rate, sources };
  }

  #note(first: number, end: number, source: number, shift: number): void {
    const { zero } = this.#arena;
    const names = this.#names;
    for (let row = first; row < end; row++) {
      if (zero[row] === 1) continue;
      const n2 = names[row * 4 + 2]!;
      if ((n2 & (this.#rate - 1)) !== 0 || this.#repeats(row)) continue;
      // 53 bits: among so few names no two that differ are expected to agree.
      const key = names[row * 4]! * KEY_SCALE + (n2 & (KEY_SCALE - 1));
      let sighting = this.#sightings.get(key);
      if (sighting === undefined) {
        sighting = { aligned: 0, seen: new Map() };
        this.#sightings.set(key, sighting);
      }
      if (shift === 0) sighting.aligned++;
      const place = source * SECTORS_PER_BLOCK + shift;
      sighting.seen.set(place, (sighting.seen.get(place) ?? 0) + 1);
    }
    if (this.#sightings.size > MAX_NAMES) this.#thin();
  }

  /** Lets half of the names go: their low bits are those that chose them. */
  #thin(): void {
    this.#rate *= 2;
    for (const key of this.#sightings.keys()) {
      if (key % this.#rate !== 0) this.#sightings.delete(key);
    }
  }

  /** Whether the block in a row is one sector, again and again. */
  #repeats(row: number): boolean {
    const { blocks } = this.#arena;
    const start = row * BLOCK_SIZE;
    for (let at = start; at < start + BLOCK_SIZE - SECTOR_SIZE; at++) {
      if (blocks[at] !== blocks[at + SECTOR_SIZE]) return false;
    }
    return true;
  }
}
