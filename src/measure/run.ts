/**
 * One run of a measurement: batch after batch is read and named on all cores, counted, compressed on all
 * cores, and handed to a model of the engine's packer.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { Arena } from '../kernels/arena.ts';
import { WIDE_PACKER_BINS } from '../volume/open.ts';
import {
  createPool,
  defaultWorkers,
  type Ahead,
  type ComputePool,
  type ReadAhead,
} from '../workers/pool.ts';
import { AlignmentScanner } from './alignment.ts';
import { BlockFeed, type Batch } from './block-feed.ts';
import { BlockCounter } from './counter.ts';
import { figuresOf, type Measurement } from './figures.ts';
import { FingerprintTable, MAX_TIMES } from './fingerprint-table.ts';
import { filesFrom, type KeptState, type Plan, type Position } from './kept-state.ts';
import type { MeasureOptions } from './measurement.ts';
import { SourceSets } from './source-sets.ts';
import { sourceFiles, survey, type ReportProblem, type SourceFile } from './source-files.ts';
import { SpilledContents, Walker, type Walked } from './spilled-contents.ts';
import type { MeasureStore } from './store.ts';
import { StoredModel, type StoredState } from './stored-model.ts';
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

interface Keeping {
  readonly store: MeasureStore;
  /** What the table may take. */
  readonly memoryBytes: number;
}

export class MeasureRun {
  readonly #plan: Plan;
  readonly #options: MeasureOptions;
  readonly #sample: number;
  readonly #totalBytes: number | null;
  readonly #settings: readonly WindowSetting[];
  readonly #arena: Arena;
  readonly #table: FingerprintTable;
  readonly #sets: SourceSets | null;
  readonly #stored: StoredModel | null;
  readonly #windows: WindowModel | null;
  readonly #spilled: SpilledContents | null;
  readonly #counter: BlockCounter;
  readonly #startMs = performance.now();
  #errors: number;
  #bytes = 0;
  #position: Position | null;
  #tableBytes = 0;

  constructor(plan: Plan, options: MeasureOptions, keeping: Keeping | null = null) {
    const { compression = true, sample = 1 } = options;
    const { tallies, kept } = plan;
    this.#plan = plan;
    this.#options = options;
    this.#sample = sample;
    this.#errors = kept?.errors ?? 0;
    this.#position = kept?.position ?? null;
    const { bytes } = survey(plan.pending.map(({ path }) => path));
    this.#totalBytes = bytes.includes(null) ? null : bytes.reduce<number>((a, b) => a + b!, 0);
    const counted = tallies.reduce((sum, { blocks }) => sum + blocks, 0);
    const blocks = this.#totalBytes === null ? Infinity : counted + this.#totalBytes / BLOCK_SIZE;
    const settings = settingsFor(options, blocks);
    const isEverythingFound = blocks <= windowFloor(settings);
    // What earlier runs asked of an index is not known any more.
    this.#settings = counted > 0 && !isEverythingFound ? [] : settings;
    this.#windows =
      isEverythingFound || counted > 0
        ? null
        : new WindowModel(settings, windowRate(blocks / sample), sample);
    const isMatrix =
      (tallies.length > 1 || keeping !== null) &&
      tallies.length <= MAX_MATRIX_SOURCES &&
      kept?.sets !== null;
    this.#arena = new Arena(BATCH_ROWS * (SECTIONS + 1), WIDE_PACKER_BINS);
    this.#table = new FingerprintTable(isMatrix ? 5 : 4);
    this.#sets = isMatrix ? new SourceSets(tallies.length) : null;
    for (const members of kept?.sets ?? []) this.#sets?.of(members);
    this.#stored = compression ? new StoredModel(this.#arena, this.#table) : null;
    this.#spilled =
      keeping === null
        ? null
        : new SpilledContents(keeping.store, this.#table, this.#sets, {
            compression,
            memoryBytes: keeping.memoryBytes,
          });
    this.#counter = new BlockCounter(tallies, {
      arena: this.#arena,
      table: this.#table,
      stored: this.#stored,
      sets: this.#sets,
      windows: this.#windows,
      spilled: this.#spilled,
      sample,
    });
    if (kept !== null) this.#counter.restore(kept);
  }

  async measure(): Promise<Measurement> {
    const { signal, workers, alignment = false } = this.#options;
    signal?.throwIfAborted();
    await this.#spilled?.load(this.#stored);
    if (this.#plan.kept?.stored != null) this.#stored?.restore(this.#plan.kept.stored);
    const feed = this.#feed();
    const stop = (): void => feed.abort();
    signal?.addEventListener('abort', stop, { once: true });
    const pool = await createPool(this.#arena, workers ?? defaultWorkers());
    try {
      const scanner = alignment
        ? new AlignmentScanner(this.#arena, pool, SPARE_ROW, BATCH_ROWS)
        : null;
      await this.#runBatches(feed, pool, scanner);
      return await this.#finish(scanner);
    } finally {
      signal?.removeEventListener('abort', stop);
      await pool.close();
    }
  }

  #feed(): BlockFeed {
    const { pending } = this.#plan;
    const report: ReportProblem = (path, error) => {
      this.#errors++;
      this.#options.onProblem?.(path, error);
    };
    const paths = pending.map(({ path }) => path);
    function* indexed(): Generator<SourceFile> {
      for (const file of sourceFiles(paths, report)) {
        yield { ...file, source: pending[file.source]!.index };
      }
    }
    const position = this.#position;
    const isAmidst = position !== null && !position.isLast;
    return new BlockFeed(this.#arena, BATCH_ROWS, filesFrom(indexed(), position, report), {
      report,
      openUri: this.#options.openUri,
      input: this.#options.input,
      ...(isAmidst ? { first: { path: position.path, offset: position.offset } } : {}),
    });
  }

  /**
   * Batch after batch; this thread counts a batch and packs the one before while the others compress what is
   * new in it and read and name what comes next, and joins them when it waits.
   */
  async #runBatches(
    feed: BlockFeed,
    pool: ComputePool,
    scanner: AlignmentScanner | null,
  ): Promise<void> {
    const stored = this.#stored;
    // What is new in the batches that were counted, under way since then: one, two for a moment.
    const fragments: Ahead[] = [];
    const store = async (): Promise<void> => {
      const job = fragments.shift();
      if (job === undefined) return;
      await job.finish();
      stored!.store();
    };
    // Bytes that nobody looks at again need not leave the cache.
    const areNamesEnough = stored === null && scanner === null;
    const staging = areNamesEnough ? SPARE_ROW : -1;
    let section = 0;
    const begin = async (): Promise<{ batch: Batch; load: ReadAhead } | null> => {
      const batch = await feed.plan(section * BATCH_ROWS);
      section = (section + 1) % SECTIONS;
      return batch === null ? null : { batch, load: pool.readAhead(batch.reads, staging) };
    };
    let next = await begin();
    try {
      while (next !== null && this.#options.signal?.aborted !== true) {
        const { batch, load } = next;
        next = null;
        await feed.settle(batch, await load.finish());
        await scanner?.add(batch);
        next = await begin();
        if (this.#spilled?.needsRoom === true) {
          await store();
          await this.#spilled.makeRoom();
        }
        this.#counter.add(batch);
        const isBehind = fragments.length > 0;
        if (stored !== null) {
          const rows = stored.seal();
          fragments.push(pool.compressAhead(rows, rows.length));
        }
        if (isBehind) await store();
        this.#advance(batch);
      }
      // After an abort: what was read ahead is not counted. Other jobs wait for it.
      await next?.load.finish();
      next = null;
      await store();
    } finally {
      await next?.load.finish();
      for (const job of fragments) await job.finish();
      await feed.close();
    }
  }

  #advance(batch: Batch): void {
    for (const { bytes } of batch.parts) this.#bytes += bytes;
    const { file, endOffset, isLast } = batch.parts.at(-1)!;
    this.#position = { source: file.source, path: file.path, offset: endOffset, isLast };
    this.#tableBytes = Math.max(this.#tableBytes, this.#table.bytes);
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

  /** Writes what waits; keeps everything, where it is to be kept; then the figures or the abort. */
  async #finish(scanner: AlignmentScanner | null): Promise<Measurement> {
    const { signal } = this.#options;
    const isAborted = signal?.aborted === true;
    const uniqueBlocks = this.#counter.uniqueBlocks;
    const tableBytes = Math.max(this.#tableBytes, this.#table.bytes) + (this.#stored?.bytes ?? 0);
    const wasSpilled = this.#spilled?.isSpilled === true;
    const state = this.#stored?.finish() ?? null;
    if (this.#spilled !== null) await this.#spilled.save(this.#keptState(state, isAborted));
    signal?.throwIfAborted();
    const sources = this.#plan.tallies.length;
    const walked = this.#spilled === null ? this.#walkTable() : await this.#spilled.walk(sources);
    // New contents that a filter took for known ones were not compressed: the others speak for them.
    const correction = wasSpilled && uniqueBlocks > 0 ? walked.uniqueBlocks / uniqueBlocks : 1;
    return this.#figures(walked, correction, scanner, tableBytes + (this.#spilled?.bytes ?? 0));
  }

  #keptState(stored: StoredState | null, isAborted: boolean): KeptState {
    const { done, pending, tallies } = this.#plan;
    const isDone = [...done];
    for (const { index } of pending) {
      // Pending sources are read in their order.
      if (isAborted && index === (this.#position?.source ?? pending[0]?.index)) break;
      isDone[index] = true;
    }
    const { compression = true } = this.#options;
    return {
      compression,
      sample: this.#sample,
      sources: tallies,
      done: isDone,
      position: isAborted ? this.#position : null,
      sets: this.#sets === null || this.#sets.overflowed ? null : this.#sets.all(),
      topFiles: this.#counter.topFiles,
      uniqueBlocks: this.#counter.uniqueBlocks,
      copies: this.#counter.copies,
      stored,
      final:
        this.#stored === null
          ? null
          : {
              compressedBlocks: this.#stored.compressedBlocks,
              packedBlocks: this.#stored.packedBlocks,
              storedBlocks: this.#stored.storedBlocks,
              kernelStoredBlocks: this.#stored.kernel.storedBlocks,
            },
      errors: this.#errors,
      seconds: this.#seconds,
    };
  }

  get #seconds(): number {
    return (this.#plan.kept?.seconds ?? 0) + (performance.now() - this.#startMs) / 1000;
  }

  #figures(
    walked: Walked,
    correction: number,
    scanner: AlignmentScanner | null,
    tableBytes: number,
  ): Measurement {
    const counter = this.#counter;
    const stored = this.#stored;
    const corrected = (blocks: number): number => Math.round(blocks * correction);
    const { indexMemory, sparseIndex = false } = this.#options;
    return figuresOf({
      sources: counter.sources,
      topFiles: counter.topFiles,
      uniqueBlocks: walked.uniqueBlocks,
      compressedBlocks: corrected(stored?.compressedBlocks ?? 0),
      packedBlocks: corrected(stored?.packedBlocks ?? 0),
      storedBlocks: stored === null ? walked.copies : corrected(stored.storedBlocks),
      kernelStoredBlocks: stored === null ? walked.copies : corrected(stored.kernel.storedBlocks),
      shared: walked.shared,
      references: walked.references,
      windows: this.#settings,
      missed: this.#windows?.missed() ?? this.#settings.map(() => 0),
      asked: typeof indexMemory === 'number' ? windowSetting(indexMemory, sparseIndex) : null,
      sparseIndex,
      alignment: scanner?.finish(counter.sources.map(({ path }) => path)) ?? null,
      sample: this.#sample,
      compression: stored !== null,
      errors: this.#errors,
      seconds: this.#seconds,
      tableBytes,
      windowBytes: this.#windows?.bytes ?? 0,
    });
  }

  /** What only the whole table tells: how often contents occur, and who shares them. */
  #walkTable(): Walked {
    const walker = new Walker(this.#sets, this.#plan.tallies.length);
    const isCounted = this.#stored === null;
    this.#table.each((words, at) => {
      const times = isCounted ? words[at + 2]! : words[at + 3]! & MAX_TIMES;
      walker.add(times, words[at + 4]!);
    });
    return walker.finish();
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
