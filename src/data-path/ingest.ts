/**
 * Writes a long range of a file into the volume, with the pure work done ahead: while the state of one
 * batch is changed, other threads compress the batch behind it and read and name the one behind that.
 *
 *     batch n       names → duplicates → store → apply      this thread, one job of the engine
 *     batch n + 1   compress what seems to be new           workers, and this thread while it waits
 *     batch n + 2   read the file into the arena, name      workers
 *
 * - What is done ahead is pure: it reads the arena and files and fills the arena. A wrong guess (a
 *   duplicate compressed, a new block not) costs time only; `Writer.run` decides as it does for any batch.
 * - Every batch is one job of the engine's queue: other requests run between.
 * - Blocks of zeros are not written, only told.
 */
import { NameTable } from '../base/name-table.ts';
import { BLOCK_MAP_ENTRIES_PER_PAGE, BLOCK_SIZE } from '../base/constants.ts';
import type { FileRead, Load, RowList } from '../workers/pool.ts';
import { makeColumns, WriteBatch, type BatchColumns } from './batch.ts';
import { NamedLocations, type DataPath } from './data-path.ts';
import { copyName, NAME_WORDS } from './packer.ts';

/** Batches in the arena at once, behind the engine's own. */
const BATCHES = 3;
/** Blocks of a batch: its bytes, fragments and duplicates should not leave the caches too early. */
const BATCH_BLOCKS = 1024;
const READ_BLOCKS = 64;

/** Rows of the arena that `ingest` needs, behind `2 · batchBlocks` others. */
export function ingestRows(batchBlocks: number): number {
  return BATCHES * Math.min(BATCH_BLOCKS, batchBlocks);
}

/** `blocks` whole blocks of the file `fd` from byte `offset` on, to be written from block `lbn` on. */
export interface IngestSource {
  readonly fd: number;
  readonly offset: number;
  readonly blocks: number;
  readonly lbn: number;
  /** Called behind each batch, in order: where block `i` is zeros, `zeros[i]` is 1. */
  readonly onBatch: (lbn: number, zeros: Uint8Array) => Promise<void> | void;
  readonly signal?: AbortSignal | undefined;
}

/** What the engine does for it. */
export interface IngestLane {
  /** Runs `step` as a job. */
  step(step: () => Promise<void>): Promise<void>;
  /** Runs a batch, within a step. */
  write(batch: WriteBatch): Promise<void>;
  /** Blocks that are free and promised to nobody. */
  free(): number;
}

export class Ingest {
  readonly #path: DataPath;
  readonly #lane: IngestLane;
  readonly #columns: BatchColumns[];
  readonly #blocks: number;
  readonly #names: NameTable;
  readonly #ahead: RowList & { count: number };
  readonly #newNames: NamedLocations;
  readonly #mayHold: Uint8Array;

  constructor(path: DataPath, lane: IngestLane) {
    this.#path = path;
    this.#lane = lane;
    const blocks = Math.min(BATCH_BLOCKS, path.batchBlocks);
    const first = 2 * path.batchBlocks;
    this.#blocks = blocks;
    this.#columns = Array.from({ length: BATCHES }, (_, i) =>
      makeColumns(path.arena, first + i * blocks, blocks),
    );
    this.#names = new NameTable(path.arena.names);
    this.#newNames = new NamedLocations(blocks);
    this.#mayHold = new Uint8Array(blocks);
    this.#ahead = { rows: new Int32Array(blocks), count: 0 };
  }

  /**
   * Writes all of `source`. Returns how many blocks came before the file ended or failed: the rest is
   * the caller's to read and to report. Fails with `NoSpace`, and as batches do.
   */
  async run(source: IngestSource): Promise<number> {
    const batches = Math.ceil(source.blocks / this.#blocks);
    let limit = source.blocks;
    const shorten = (batch: number, reads: readonly number[]): void => {
      if (reads.length === 0) return;
      limit = Math.min(limit, batch * this.#blocks + Math.min(...reads) * READ_BLOCKS);
    };
    shorten(0, await (await this.#begin(source, 0, null)).finish());
    let next = this.#batch(source, 0, limit);
    shorten(1, await (await this.#begin(source, 1, next)).finish());
    for (let n = 0; n < batches && next.count > 0; n++) {
      source.signal?.throwIfAborted();
      const batch = next;
      next = this.#batch(source, n + 1, limit);
      const ahead = next;
      let load: Load | null = null;
      try {
        await this.#lane.step(async () => {
          load = await this.#begin(source, n + 2, ahead);
          this.#reserve(batch);
          await this.#lane.write(batch);
        });
      } finally {
        const short = await (load as Load | null)?.finish();
        if (short !== undefined) shorten(n + 2, short);
      }
      const zeros = batch.arena.zero.subarray(batch.base, batch.base + batch.count);
      await source.onBatch(source.lbn + n * this.#blocks, zeros);
    }
    return limit;
  }

  /** Batch `n`, whose rows are read and named. Empty behind the end. */
  #batch(source: IngestSource, n: number, limit: number): WriteBatch {
    const batch = new WriteBatch(this.#columns[n % BATCHES]!, false);
    const first = n * this.#blocks;
    batch.prepare(source.lbn + first, Math.max(0, Math.min(this.#blocks, limit - first)));
    return batch;
  }

  /** Begins to compress what seems new in `ahead`, and to read batch `n`. */
  #begin(source: IngestSource, n: number, ahead: WriteBatch | null): Promise<Load> {
    const reads: FileRead[] = [];
    const base = this.#columns[n % BATCHES]!.base;
    const first = n * this.#blocks;
    const end = Math.min(source.blocks, first + this.#blocks);
    for (let block = first; block < end; block += READ_BLOCKS) {
      reads.push({
        fd: source.fd,
        offset: source.offset + block * BLOCK_SIZE,
        length: Math.min(READ_BLOCKS, end - block) * BLOCK_SIZE,
        row: base + block - first,
      });
    }
    this.#ahead.count = 0;
    if (ahead !== null && this.#path.compression) this.#guess(ahead);
    return this.#path.pool.load(reads, -1, this.#ahead);
  }

  /** Lists the rows of a batch that are probably to be stored, for their fragments to be made. */
  #guess(batch: WriteBatch): void {
    const { deduplication, index } = this.#path;
    const { rows } = this.#ahead;
    const count = this.#listNew(batch);
    this.#mayHold.fill(0, 0, count);
    if (deduplication) index.mayHold?.(this.#newNames.names, count, this.#mayHold);
    for (let i = 0; i < count; i++) {
      if (this.#mayHold[i] === 1) continue;
      batch.isCompressed[rows[i]! - batch.base] = 1;
      rows[this.#ahead.count++] = rows[i]!;
    }
  }

  /** Lists the rows whose content is not in the batch already, nor in the packer, and their names. */
  #listNew(batch: WriteBatch): number {
    const { arena, deduplication, packer } = this.#path;
    let count = 0;
    this.#names.clear();
    for (let row = 0; row < batch.count; row++) {
      if (batch.isZero[row] === 1) continue;
      const at = batch.base + row;
      if (deduplication) {
        if (this.#names.find(at) >= 0 || packer.findName(at) >= 0) continue;
        this.#names.add(at);
        copyName(arena.nameWords, at * NAME_WORDS, this.#newNames.nameWords, count * NAME_WORDS);
      }
      this.#ahead.rows[count++] = at;
    }
    return count;
  }

  /** Reserves space for the batch; where it is not certain, the batch is deferred. */
  #reserve(batch: WriteBatch): void {
    const { blockMap } = this.#path;
    let needed = 0;
    let lastPage = -1;
    for (let row = 0; row < batch.count; row++) {
      if (batch.isZero[row] === 1) continue;
      const page = Math.floor(batch.lbn[row]! / BLOCK_MAP_ENTRIES_PER_PAGE);
      needed += page === lastPage ? 1 : 1 + blockMap.missingPages(page);
      lastPage = page;
    }
    batch.deferred = needed > this.#lane.free();
    batch.reserved = needed;
  }
}
