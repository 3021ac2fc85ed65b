/**
 * `measure`: what a VDO volume would save of given data, exactly, in one pass and without a volume.
 *
 * Batch after batch is read, named on all cores, counted, compressed on all cores, and handed to a model
 * of the engine's packer; docs/MEASURE.md says what each figure means.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import { Arena } from '../kernels/arena.ts';
import { DEFAULT_PACKER_BINS } from '../volume/open.ts';
import { createPool, defaultWorkers, type ComputePool, type Load } from '../workers/pool.ts';
import { AlignmentScanner } from './alignment.ts';
import { BlockFeed, type Batch, type OpenUri } from './block-feed.ts';
import { BlockCounter } from './counter.ts';
import { figuresOf, type Measurement } from './figures.ts';
import { FingerprintTable, MAX_TIMES } from './fingerprint-table.ts';
import { SharedMatrix, SourceSets } from './source-sets.ts';
import { sourceFiles, survey, type ReportProblem } from './source-files.ts';
import { StoredModel } from './stored-model.ts';
import {
  allWindowSettings,
  usefulWindows,
  windowFloor,
  windowSetting,
  type WindowSetting,
} from './window-settings.ts';
import { WindowModel } from './windows.ts';

/** Rows of a batch: as many as the engine takes at once. */
const BATCH_ROWS = 2048;
/** Sections of the arena: a batch being packed, one being counted, one being read. */
const SECTIONS = 3;
/** Rows behind them, for what has to be read or moved but not kept. */
const SPARE_ROW = SECTIONS * BATCH_ROWS;
/** More sources than these get no matrix of what they share. */
const MAX_MATRIX_SOURCES = 64;
/** Names that the simulation of windows follows, about: beyond, one in 2, 4 … 64. */
const FOLLOWED_NAMES = 16 * 2 ** 20;
const MAX_WINDOW_RATE = 64;

export interface MeasureOptions {
  /** Whether blocks are compressed and packed. Default true. */
  readonly compression?: boolean;
  /** Index memory in GB to look at, or `all`: 0.25, 0.5, 1, 2 … dense and sparse. Default `all`. */
  readonly indexMemory?: number | 'all';
  /** Which kind of index is looked at, and recommended. */
  readonly sparseIndex?: boolean;
  /** Also looks for content that lies shifted by sectors. */
  readonly alignment?: boolean;
  /** Looks at one content in so many; figures are estimates with an interval. Default 1. */
  readonly sample?: number;
  /** Threads beside the calling one, 0 … 15. Default: one for each core but one. */
  readonly workers?: number;
  /** Opens URIs. */
  readonly openUri?: OpenUri;
  /** What `-` reads. Default: standard input. */
  readonly input?: AsyncIterable<Uint8Array>;
  readonly onProgress?: (progress: MeasureProgress) => void;
  /** Told of each path that cannot be read. */
  readonly onProblem?: ReportProblem;
  /** Ends the measurement early. */
  readonly signal?: AbortSignal;
}

export interface MeasureProgress {
  readonly bytes: number;
  /** Bytes in all, where they are known. */
  readonly totalBytes: number | null;
  readonly blocks: number;
  /** Of the blocks so far: not zeros, distinct, stored. */
  readonly uniqueBlocks: number;
  readonly storedBlocks: number;
}

/**
 * Measures files, folders, block devices, URIs and `-` together. Paths that cannot be read are told to
 * `onProblem` and counted in `errors`. Fails with `InvalidArgument` for options that make no sense, with
 * the signal's reason after an abort.
 */
export async function measure(
  sources: readonly string[],
  options: MeasureOptions = {},
): Promise<Measurement> {
  if (sources.length === 0) throw new VdoError('InvalidArgument', 'there is nothing to measure');
  const run = new Run(sources, options);
  return run.measure();
}

class Run {
  readonly #sources: readonly string[];
  readonly #options: MeasureOptions;
  readonly #compression: boolean;
  readonly #sample: number;
  readonly #totalBytes: number | null;
  readonly #settings: readonly WindowSetting[];
  readonly #arena: Arena;
  readonly #table: FingerprintTable;
  readonly #sets: SourceSets | null;
  readonly #stored: StoredModel | null;
  readonly #windows: WindowModel | null;
  readonly #counter: BlockCounter;
  readonly #startMs = performance.now();
  #errors = 0;
  #bytes = 0;

  constructor(sources: readonly string[], options: MeasureOptions) {
    const sample = options.sample ?? 1;
    if (!Number.isInteger(sample) || sample < 1 || sample > 2 ** 20) {
      throw new VdoError('InvalidArgument', `a sample of 1/${sample}: choose 1/1 … 1/1048576`);
    }
    this.#sources = sources;
    this.#options = options;
    this.#compression = options.compression ?? true;
    this.#sample = sample;
    const { bytes } = survey(sources);
    this.#totalBytes = bytes.includes(null) ? null : bytes.reduce<number>((a, b) => a + b!, 0);
    const blocks = this.#totalBytes === null ? Infinity : this.#totalBytes / BLOCK_SIZE;
    this.#settings = settingsFor(options, blocks);
    const isMatrix = sources.length > 1 && sources.length <= MAX_MATRIX_SOURCES;
    this.#arena = new Arena(BATCH_ROWS * (SECTIONS + 1), DEFAULT_PACKER_BINS);
    this.#table = new FingerprintTable(isMatrix ? 5 : 4);
    this.#sets = isMatrix ? new SourceSets(sources.length) : null;
    this.#stored = this.#compression ? new StoredModel(this.#arena, this.#table) : null;
    const isEverythingFound = blocks <= windowFloor(this.#settings);
    this.#windows = isEverythingFound
      ? null
      : new WindowModel(this.#settings, windowRate(blocks / sample), sample);
    this.#counter = new BlockCounter(sources, {
      arena: this.#arena,
      table: this.#table,
      stored: this.#stored,
      sets: this.#sets,
      windows: this.#windows,
      sample,
    });
  }

  async measure(): Promise<Measurement> {
    const { signal, workers } = this.#options;
    signal?.throwIfAborted();
    const report: ReportProblem = (path, error) => {
      this.#errors++;
      this.#options.onProblem?.(path, error);
    };
    const files = sourceFiles(this.#sources, report);
    const { input } = this.#options;
    const feed = new BlockFeed(this.#arena, BATCH_ROWS, files, {
      report,
      openUri: this.#options.openUri,
      input,
    });
    const stop = (): void => feed.abort();
    signal?.addEventListener('abort', stop, { once: true });
    const pool = await createPool(this.#arena, workers ?? defaultWorkers());
    try {
      const scanner =
        this.#options.alignment === true
          ? new AlignmentScanner(this.#arena, pool, SPARE_ROW, BATCH_ROWS)
          : null;
      await this.#runBatches(feed, pool, scanner);
      return this.#figures(scanner);
    } finally {
      signal?.removeEventListener('abort', stop);
      await pool.close();
    }
  }

  /**
   * Batch after batch; this thread packs and counts what is read while the others read and name what
   * comes next, then joins them; all together compress.
   */
  async #runBatches(
    feed: BlockFeed,
    pool: ComputePool,
    scanner: AlignmentScanner | null,
  ): Promise<void> {
    const stored = this.#stored;
    const compress = async (): Promise<void> => {
      if (stored !== null && stored.count > 0) await pool.compress(stored.rows, stored.count);
    };
    // Bytes that nobody looks at again need not leave the cache.
    const areNamesEnough = stored === null && scanner === null;
    const staging = areNamesEnough ? SPARE_ROW : -1;
    let section = 0;
    const begin = async (): Promise<{ batch: Batch; load: Load } | null> => {
      const batch = await feed.plan(section * BATCH_ROWS);
      section = (section + 1) % SECTIONS;
      return batch === null ? null : { batch, load: await pool.load(batch.reads, staging) };
    };
    let next = await begin();
    try {
      while (next !== null) {
        const { batch, load } = next;
        next = null;
        await feed.settle(batch, await load.finish());
        this.#options.signal?.throwIfAborted();
        await scanner?.add(batch);
        await compress();
        next = await begin();
        stored?.store();
        this.#counter.add(batch);
        this.#progress(batch);
      }
      this.#options.signal?.throwIfAborted();
      await compress();
      stored?.store();
      stored?.finish();
    } finally {
      await next?.load.finish();
      await feed.close();
    }
  }

  #progress(batch: Batch): void {
    for (const { bytes } of batch.parts) this.#bytes += bytes;
    const scale = this.#sample;
    const { blocks, uniqueBlocks, copies } = this.#counter;
    this.#options.onProgress?.({
      bytes: this.#bytes,
      totalBytes: this.#totalBytes,
      blocks,
      uniqueBlocks: uniqueBlocks * scale,
      storedBlocks: (this.#stored?.storedSoFar ?? copies) * scale,
    });
  }

  #figures(scanner: AlignmentScanner | null): Measurement {
    const counter = this.#counter;
    const stored = this.#stored;
    const { shared, references } = this.#walk();
    const { indexMemory, sparseIndex = false } = this.#options;
    return figuresOf({
      sources: counter.sources,
      topFiles: counter.topFiles,
      uniqueBlocks: counter.uniqueBlocks,
      compressedBlocks: stored?.compressedBlocks ?? 0,
      packedBlocks: stored?.packedBlocks ?? 0,
      storedBlocks: stored?.storedBlocks ?? counter.copies,
      kernelStoredBlocks: stored?.kernel.storedBlocks ?? counter.copies,
      shared,
      references,
      windows: this.#settings,
      missed: this.#windows?.missed() ?? this.#settings.map(() => 0),
      asked: typeof indexMemory === 'number' ? windowSetting(indexMemory, sparseIndex) : null,
      sparseIndex,
      alignment: scanner?.finish(this.#sources) ?? null,
      sample: this.#sample,
      compression: this.#compression,
      errors: this.#errors,
      seconds: (performance.now() - this.#startMs) / 1000,
      tableBytes: this.#table.bytes + (stored?.bytes ?? 0),
      windowBytes: this.#windows?.bytes ?? 0,
    });
  }

  /** What only the whole table tells: how often contents occur, and who shares them. */
  #walk(): { shared: number[][] | null; references: number[] } {
    const references: number[] = [];
    const sets = this.#sets;
    const matrix = sets === null ? null : new SharedMatrix(sets, this.#sources.length);
    this.#table.each((words, at) => {
      const place = Math.ceil(Math.log2(words[at + 3]! & MAX_TIMES));
      references[place] = (references[place] ?? 0) + 1;
      matrix?.add(words[at + 4]!);
    });
    for (let place = 0; place < references.length; place++) references[place] ??= 0;
    if (matrix !== null) return { shared: matrix.finish(), references };
    const alone = this.#sources.length === 1 ? [[this.#counter.uniqueBlocks]] : null;
    return { shared: alone, references };
  }
}

/** The indexes to be looked at. */
function settingsFor(options: MeasureOptions, blocks: number): WindowSetting[] {
  const { indexMemory = 'all', sparseIndex = false } = options;
  if (indexMemory !== 'all') return [windowSetting(indexMemory, sparseIndex)];
  return usefulWindows(allWindowSettings(), blocks);
}

/** One name in so many is followed, a power of two; hooks always are. */
function windowRate(blocks: number): number {
  if (!Number.isFinite(blocks)) return 16;
  let rate = 1;
  while (rate < MAX_WINDOW_RATE && blocks / rate > FOLLOWED_NAMES) rate *= 2;
  return rate;
}
