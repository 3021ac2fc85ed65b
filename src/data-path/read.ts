/**
 * The phases of a read: blocks that wait in the packer answer from there, the rest are located in the
 * block map, read in one vector, and expanded where they are compressed.
 */
import { asBuffer, copyBytes } from '../base/bytes.ts';
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_SIZE,
  COMPRESSED_BASE,
  UNCOMPRESSED,
} from '../base/constants.ts';
import type { Place } from '../block-map/block-map.ts';
import { VdoError } from '../base/errors.ts';
import { NumberMap } from '../base/number-map.ts';
import { CHECK_WORDS } from '../kernels/arena.ts';
import type { Extent } from '../storage/storage.ts';
import { stepFrom } from './apply.ts';
import type { Ahead } from '../workers/pool.ts';
import type { DataPath } from './data-path.ts';

/** Rows that are read at once. */
const PIECE_ROWS = 128;

/** `count` blocks from `lbn`, read into `into` (count × 4096 bytes). */
export interface ReadRequest {
  readonly lbn: number;
  readonly count: number;
  readonly into: Uint8Array;
}

export class Reader {
  readonly #path: DataPath;
  readonly #place: Place = { pbn: 0, state: 0 };
  // One step's blocks: logical block, and where it goes.
  readonly #lbn: Float64Array;
  readonly #target: (Buffer | null)[];
  readonly #at: Float64Array;
  // Those of them that are compressed.
  #packedRows = 0;
  readonly #packedRow: Int32Array;
  /** Places in the verify region by compressed block, and the blocks by place. */
  readonly #packed: NumberMap;
  readonly #packedPbn: Float64Array;
  /** Compressed blocks of one step, and what they expand to: writes and reads take turns, so the regions are free. */
  readonly #verify: Buffer;
  readonly #staging: Buffer;
  /** The first block of `#verify`. */
  readonly #oneStored: Buffer;

  constructor(path: DataPath) {
    const rows = path.batchBlocks;
    this.#path = path;
    this.#lbn = new Float64Array(rows);
    this.#target = new Array<Buffer | null>(rows).fill(null);
    this.#at = new Float64Array(rows);
    this.#packedRow = new Int32Array(rows);
    this.#packed = new NumberMap(rows);
    this.#packedPbn = new Float64Array(rows);
    this.#verify = asBuffer(path.arena.verify);
    this.#staging = asBuffer(path.arena.staging);
    this.#oneStored = this.#verify.subarray(0, BLOCK_SIZE);
  }

  /** Fills every request. Fails with `BadMapping`, `Corrupt`, `Io`. */
  async read(requests: readonly ReadRequest[]): Promise<void> {
    let rows = 0;
    for (const { lbn, count, into } of requests) {
      const target = asBuffer(into);
      for (let i = 0; i < count; i++) {
        if (rows === this.#lbn.length) {
          await this.#readRows(rows);
          rows = 0;
        }
        this.#lbn[rows] = lbn + i;
        this.#target[rows] = target;
        this.#at[rows++] = i * BLOCK_SIZE;
      }
    }
    await this.#readRows(rows);
    this.#target.fill(null, 0, Math.min(rows, this.#lbn.length));
  }

  /**
   * Reads one block before it returns, where its leaf is resident and the storage is quick. False: nothing is
   * promised, `read` is the way and tells what is wrong. For when no job runs.
   */
  readNow(lbn: number, into: Uint8Array): boolean {
    const isRead = this.#readBlock(lbn, asBuffer(into));
    if (isRead) this.#path.counters.readBlocks++;
    return isRead;
  }

  #readBlock(lbn: number, target: Buffer): boolean {
    const { blockMap, packer, pool, storage } = this.#path;
    // No job runs: a leaf that is in memory was read as a whole.
    if (!blockMap.isResident(Math.floor(lbn / BLOCK_MAP_ENTRIES_PER_PAGE))) return false;
    const fragment = packer.findLbn(lbn);
    if (fragment >= 0) {
      packer.read(fragment, target, 0);
      return true;
    }
    if (!blockMap.locate(lbn, this.#place)) return false;
    const { pbn, state } = this.#place;
    if (pbn === 0) {
      target.fill(0);
      return true;
    }
    const isPlain = state === UNCOMPRESSED;
    const stored = isPlain ? target : this.#oneStored;
    if (storage.readNow?.(pbn * BLOCK_SIZE, stored) !== true) return false;
    if (isPlain) return true;
    const { byteOffset } = this.#staging;
    if (!pool.kernels.expand(stored.byteOffset, state - COMPRESSED_BASE, byteOffset)) return false;
    copyBytes(this.#staging, 0, BLOCK_SIZE, target, 0);
    return true;
  }

  async #readRows(count: number): Promise<void> {
    for (let at = 0; at < count;) {
      const { end, pages } = stepFrom(this.#path, { lbn: this.#lbn, count }, at);
      await this.#path.blockMap.load(pages);
      await this.#readStep(at, end);
      at = end;
    }
    this.#path.counters.readBlocks += count;
  }

  /** Reads rows piece by piece: while one is read, what the ones before have found is expanded. */
  async #readStep(from: number, end: number): Promise<void> {
    const { pool } = this.#path;
    const expanding: Ahead[] = [];
    this.#packed.clear();
    this.#packedRows = 0;
    try {
      for (let first = from; first < end; first += PIECE_ROWS) {
        const before = this.#packedRows;
        await this.#readPiece(first, Math.min(end, first + PIECE_ROWS));
        if (this.#packedRows > before) {
          expanding.push(pool.expandAhead(before, this.#packedRows));
        }
      }
    } finally {
      for (const job of expanding) await job.finish();
    }
    if (this.#packedRows > 0) this.#handOut();
  }

  /** Fills the rows that are not compressed, and gets the compressed blocks of the others. */
  async #readPiece(from: number, end: number): Promise<void> {
    const { arena, blockMap, packer, storage } = this.#path;
    const { checks } = arena;
    const extents: Extent[] = [];
    const run = new Run(extents);
    const packedBefore = this.#packed.size;
    for (let row = from; row < end; row++) {
      const lbn = this.#lbn[row]!;
      const target = this.#target[row]!;
      const at = this.#at[row]!;
      const fragment = packer.findLbn(lbn);
      if (fragment >= 0) {
        packer.read(fragment, target, at);
        continue;
      }
      const isValid = blockMap.locate(lbn, this.#place);
      const { pbn, state } = this.#place;
      if (!isValid) throw badMapping(lbn, pbn, state);
      if (pbn === 0) target.fill(0, at, at + BLOCK_SIZE);
      else if (state === UNCOMPRESSED) run.add(pbn, target, at);
      else {
        let place = this.#packed.get(pbn);
        if (place < 0) this.#packed.set(pbn, (place = this.#packed.size));
        const check = this.#packedRows * CHECK_WORDS;
        checks[check] = this.#packedRows;
        checks[check + 1] = place;
        checks[check + 2] = state;
        this.#packedRow[this.#packedRows] = row;
        this.#packedPbn[place] = pbn;
        this.#packedRows++;
      }
    }
    run.end();
    for (let place = packedBefore; place < this.#packed.size; place++) {
      run.add(this.#packedPbn[place]!, this.#verify, place * BLOCK_SIZE);
    }
    run.end();
    if (extents.length > 0) await storage.read(extents);
  }

  /** Hands the expanded blocks out. */
  #handOut(): void {
    const { checks } = this.#path.arena;
    for (let i = 0; i < this.#packedRows; i++) {
      const row = this.#packedRow[i]!;
      if (checks[i * CHECK_WORDS + 2] !== 1) {
        throw new VdoError(
          'Corrupt',
          `logical block ${this.#lbn[row]} cannot be expanded from its slot of compressed block ${this.#packedPbn[checks[i * CHECK_WORDS + 1]!]}`,
          { lbn: this.#lbn[row]! },
        );
      }
      const from = i * BLOCK_SIZE;
      copyBytes(this.#staging, from, from + BLOCK_SIZE, this.#target[row]!, this.#at[row]!);
    }
  }
}

/** Joins blocks that are neighbours on the device and in memory into one extent each. */
class Run {
  readonly #extents: Extent[];
  #pbn = 0;
  #target: Buffer | null = null;
  #at = 0;
  #blocks = 0;

  constructor(extents: Extent[]) {
    this.#extents = extents;
  }

  add(pbn: number, target: Buffer, at: number): void {
    const isNext =
      target === this.#target &&
      pbn === this.#pbn + this.#blocks &&
      at === this.#at + this.#blocks * BLOCK_SIZE;
    if (isNext) {
      this.#blocks++;
      return;
    }
    this.end();
    this.#pbn = pbn;
    this.#target = target;
    this.#at = at;
    this.#blocks = 1;
  }

  end(): void {
    if (this.#target !== null) {
      const bytes = this.#target.subarray(this.#at, this.#at + this.#blocks * BLOCK_SIZE);
      this.#extents.push({ offset: this.#pbn * BLOCK_SIZE, bytes });
    }
    this.#target = null;
    this.#blocks = 0;
  }
}

function badMapping(lbn: number, pbn: number, state: number): VdoError {
  return new VdoError(
    'BadMapping',
    `logical block ${lbn} is mapped to block ${pbn} in state ${state}, which cannot hold data: run uvdo audit`,
    { lbn, pbn, state },
  );
}
