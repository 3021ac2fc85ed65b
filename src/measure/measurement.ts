/**
 * `measure`: what a VDO volume would save of given data, exactly, in one pass and without a volume.
 * docs/MEASURE.md says what each figure means.
 */
import { totalmem } from 'node:os';
import { VdoError } from '../base/errors.ts';
import type { OpenUri } from './block-feed.ts';
import type { Measurement } from './figures.ts';
import { newPlan, planOver } from './kept-state.ts';
import { MeasureRun } from './run.ts';
import type { ReportProblem } from './source-files.ts';
import { MeasureStore } from './store.ts';

const MAX_SAMPLE = 2 ** 20;
const MIN_MEMORY_BYTES = 32 * 2 ** 20;
/** Of the machine's memory, what the table may take before it goes to disk. */
const MEMORY_SHARE = 0.5;

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
  /**
   * Folder that keeps what is measured: an interrupted run goes on where it ended, later runs add
   * sources, `mergeMeasurements` joins stores.
   */
  readonly store?: string;
  /** Bytes that the table of contents may take before it goes to the store. Default: half the memory. */
  readonly memory?: number;
  /** Threads beside the calling one, 0 … 15. Default: one for each core but one. */
  readonly workers?: number;
  /** Opens URIs. */
  readonly openUri?: OpenUri;
  /** What `-` reads. Default: standard input. */
  readonly input?: AsyncIterable<Uint8Array>;
  readonly onProgress?: (progress: MeasureProgress) => void;
  /** Told of each path that cannot be read. */
  readonly onProblem?: ReportProblem;
  /** Ends the measurement early. With a store what was measured is kept. */
  readonly signal?: AbortSignal;
}

export interface MeasureProgress {
  readonly bytes: number;
  /** Bytes in all, where they are known. */
  readonly totalBytes: number | null;
  /** Counted in all, earlier runs of a store included. */
  readonly blocks: number;
  readonly uniqueBlocks: number;
  readonly storedBlocks: number;
}

/**
 * Measures files, folders, block devices, URIs and `-` together. Paths that cannot be read are told to
 * `onProblem` and counted in `errors`. Fails with `InvalidArgument` for options that make no sense,
 * `Busy` and `Io` for a store that cannot be used, and with the signal's reason after an abort.
 */
export async function measure(
  sources: readonly string[],
  options: MeasureOptions = {},
): Promise<Measurement> {
  const { sample = 1, compression = true, store: directory } = options;
  if (sources.length === 0) throw new VdoError('InvalidArgument', 'there is nothing to measure');
  if (!Number.isInteger(sample) || sample < 1 || sample > MAX_SAMPLE) {
    throw new VdoError('InvalidArgument', `a sample of 1/${sample}: choose 1/1 … 1/${MAX_SAMPLE}`);
  }
  const memory = memoryFor(options);
  if (directory === undefined) return new MeasureRun(newPlan(sources), options).measure();
  const store = await MeasureStore.open(directory);
  try {
    const plan = planOver(sources, store.state, { compression, sample, directory });
    return await new MeasureRun(plan, options, { store, memoryBytes: memory }).measure();
  } finally {
    await store.close();
  }
}

function memoryFor({ memory, store }: MeasureOptions): number {
  if (memory === undefined) return totalmem() * MEMORY_SHARE;
  if (store === undefined) {
    const message = 'a bound on memory needs a store that takes what is beyond it, or a sample';
    throw new VdoError('InvalidArgument', message);
  }
  if (!(memory >= MIN_MEMORY_BYTES)) {
    const message = `${memory} bytes of memory are too few: ${MIN_MEMORY_BYTES} at least`;
    throw new VdoError('InvalidArgument', message);
  }
  return memory;
}
