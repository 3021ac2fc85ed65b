/**
 * Writes a long range of a file into the volume, with the pure work done ahead: while the state of one
 * batch is changed, other threads do what the batches behind it need.
 *
 *     batch n                  names → duplicates → store → apply    this thread, one job of the engine
 *     batches n + 1, n + 2     compress what seems to be new         workers, and this thread while
 *     batches n + 3 … n + 5    read the file into the arena, name    it waits
 *
 * - Several batches lie between, since they are unlike: one of duplicates is nearly all this thread's
 *   work, one of new blocks the others'.
 * - What is done ahead is pure: it reads the arena and files and fills the arena. A wrong guess (a
 *   duplicate compressed, a new block not) costs time only; `Writer.run` decides as it does for any batch.
 * - Every batch is one job of the engine's queue: other requests run between.
 * - Blocks of zeros are not written, only told.
 */
import { NameTable } from '../base/name-table.ts';
import { BLOCK_MAP_ENTRIES_PER_PAGE, BLOCK_SIZE } from '../base/constants.ts';
import type { Ahead, FileRead, ReadAhead } from '../workers/pool.ts';
import { makeColumns, WriteBatch, type BatchColumns } from './batch.ts';
import { NamedLocations, type DataPath } from './data-path.ts';
import { copyName, NAME_WORDS } from './packer.ts';

/** Batches in the arena at once, behind the engine's own: the one written and those in work. */
export const AHEAD_BATCHES = 6;
/** Those of them whose blocks are named. */
const NAMED_BATCHES = 3;
/** Blocks of a batch: its bytes, fragments and duplicates should not leave the caches too early. */
const BATCH_BLOCKS = 1024;
const READ_BLOCKS = 64;

/** Rows of one of them. */
export const aheadRows = (batchBlocks: number): number => Math.min(BATCH_BLOCKS, batchBlocks);

/** First row of batch `n` of those that use the arena in turn. */
export function aheadRow(batchBlocks: number, n: number): number {
  return 2 * batchBlocks + (n % AHEAD_BATCHES) * aheadRows(batchBlocks);
}

/** Rows of the arena that they need, behind `2 · batchBlocks` others. */
export const allAheadRows = (batchBlocks: number): number => AHEAD_BATCHES * aheadRows(batchBlocks);

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

/** A batch whose rows are read and named, and the fragments of those that seem new. */
interface Named {
  readonly batch: WriteBatch;
  readonly fragments: Ahead;
}

export class Ingest {
  readonly #path: DataPath;
  readonly #lane: IngestLane;
  readonly #columns: BatchColumns[];
  readonly #blocks: number;
  readonly #names: NameTable;
  /** Rows that are probably to be stored. */
  readonly #newRows: Int32Array;
  readonly #newNames: NamedLocations;
  readonly #mayHold: Uint8Array;

  constructor(path: DataPath, lane: IngestLane) {
    this.#path = path;
    this.#lane = lane;
    const blocks = aheadRows(path.batchBlocks);
    this.#blocks = blocks;
    this.#columns = Array.from({ length: AHEAD_BATCHES }, (_, n) =>
      makeColumns(path.arena, aheadRow(path.batchBlocks, n), blocks),
    );
    this.#names = new NameTable(path.arena.names);
    this.#newRows = new Int32Array(blocks);
    this.#newNames = new NamedLocations(blocks);
    this.#mayHold = new Uint8Array(blocks);
  }

  /**
   * Writes all of `source`. Returns how many blocks came before the file ended or failed: the rest is
   * the caller's to read and to report. Fails with `NoSpace`, and as batches do.
   */
  async run(source: IngestSource): Promise<number> {
    const line = new Line(source, this.#blocks);
    try {
      for (let n = 0; n < line.batches && n * this.#blocks < line.limit; n++) {
        source.signal?.throwIfAborted();
        let batch!: WriteBatch;
        await this.#lane.step(async () => {
          batch = await this.#next(line, n);
          this.#reserve(batch);
          await this.#lane.write(batch);
        });
        const zeros = batch.arena.zero.subarray(batch.base, batch.base + batch.count);
        await source.onBatch(source.lbn + n * this.#blocks, zeros);
      }
    } finally {
      await line.end();
    }
    return line.limit;
  }

  /** Batch `n`, which is not empty, ready to be written. Begins what the arena has room for behind it. */
  async #next(line: Line, n: number): Promise<WriteBatch> {
    const { pool } = this.#path;
    while (line.begun < Math.min(line.batches, n + AHEAD_BATCHES)) {
      const base = this.#columns[line.begun % AHEAD_BATCHES]!.base;
      line.reading.push(pool.readAhead(line.readsOf(line.begun, base)));
      line.begun++;
    }
    while (line.reading.length > 0 && line.namedEnd < n + NAMED_BATCHES) {
      line.shorten(await line.reading.shift()!.finish());
      const batch = line.batch(this.#columns[line.namedEnd % AHEAD_BATCHES]!);
      const isGuessing = this.#path.compression && batch.count > 0;
      const count = isGuessing ? this.#guess(batch, line.named) : 0;
      line.named.push({ batch, fragments: pool.compressAhead(this.#newRows, count) });
      line.namedEnd++;
    }
    const { batch, fragments } = line.named.shift()!;
    await fragments.finish();
    return batch;
  }

  /** Lists the rows of a batch that are probably to be stored, for their fragments to be made. */
  #guess(batch: WriteBatch, before: readonly Named[]): number {
    const { deduplication, index } = this.#path;
    const rows = this.#newRows;
    const count = this.#listNew(batch, before);
    this.#mayHold.fill(0, 0, count);
    if (deduplication) index.mayHold?.(this.#newNames.names, count, this.#mayHold);
    let guessed = 0;
    for (let i = 0; i < count; i++) {
      if (this.#mayHold[i] === 1) continue;
      batch.isCompressed[rows[i]! - batch.base] = 1;
      rows[guessed++] = rows[i]!;
    }
    return guessed;
  }

  /**
   * Lists the rows whose content is not in the batch already, nor in those before it, nor in the packer,
   * and their names.
   */
  #listNew(batch: WriteBatch, before: readonly Named[]): number {
    const { arena, deduplication, packer } = this.#path;
    let count = 0;
    this.#names.clear();
    if (deduplication) for (const named of before) this.#addNew(named.batch);
    for (let row = 0; row < batch.count; row++) {
      if (batch.isZero[row] === 1) continue;
      const at = batch.base + row;
      if (deduplication) {
        if (this.#names.find(at) >= 0 || packer.findName(at) >= 0) continue;
        this.#names.add(at);
        copyName(arena.nameWords, at * NAME_WORDS, this.#newNames.nameWords, count * NAME_WORDS);
      }
      this.#newRows[count++] = at;
    }
    return count;
  }

  #addNew(batch: WriteBatch): void {
    for (let row = 0; row < batch.count; row++) {
      if (batch.isCompressed[row] === 1) this.#names.add(batch.base + row);
    }
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

/** The batches of a source that are in work, in order. */
class Line {
  readonly batches: number;
  /** Blocks before the end of the file, or before what cannot be read. */
  limit: number;
  /** Batches that were begun, and those that were named. */
  begun = 0;
  namedEnd = 0;
  readonly reading: ReadAhead[] = [];
  readonly named: Named[] = [];
  readonly #source: IngestSource;
  readonly #blocks: number;

  /** `blocks`: of a batch. */
  constructor(source: IngestSource, blocks: number) {
    this.#source = source;
    this.#blocks = blocks;
    this.batches = Math.ceil(source.blocks / blocks);
    this.limit = source.blocks;
  }

  /** The reads that fill the rows from `base` on with the blocks of batch `n`. */
  readsOf(n: number, base: number): FileRead[] {
    const { fd, offset, blocks } = this.#source;
    const reads: FileRead[] = [];
    const first = n * this.#blocks;
    const end = Math.min(blocks, first + this.#blocks);
    for (let block = first; block < end; block += READ_BLOCKS) {
      reads.push({
        fd,
        offset: offset + block * BLOCK_SIZE,
        length: Math.min(READ_BLOCKS, end - block) * BLOCK_SIZE,
        row: base + block - first,
      });
    }
    return reads;
  }

  /** Takes note of the reads of the next batch to be named that came short. */
  shorten(reads: readonly number[]): void {
    if (reads.length === 0) return;
    const first = this.namedEnd * this.#blocks;
    this.limit = Math.min(this.limit, first + Math.min(...reads) * READ_BLOCKS);
  }

  /** The next batch to be named: empty behind the end. */
  batch(columns: BatchColumns): WriteBatch {
    const batch = new WriteBatch(columns, false);
    const first = this.namedEnd * this.#blocks;
    batch.prepare(
      this.#source.lbn + first,
      Math.max(0, Math.min(this.#blocks, this.limit - first)),
    );
    return batch;
  }

  /** Waits for all that is in work: the rows are free afterwards. Never fails. */
  async end(): Promise<void> {
    for (const { fragments } of this.named) await fragments.finish().catch(() => undefined);
    for (const reads of this.reading) await reads.finish().catch(() => undefined);
  }
}
