/**
 * The result of a measurement, and how it follows from what was counted.
 *
 * Ratios are before ÷ after, so larger is better. With a sample (one content in `sample.oneIn`) unique
 * and stored blocks are estimates: contents are drawn independently by their names, so a count of k has
 * a standard error of √(k · (1 − 1/N)), and N times as much for all.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { sizesForBlocks, treePagesFor } from '../transfer/fit.ts';
import { indexMemorySetting, indexRegionBlocks } from '../index/uds/index-geometry.ts';
import type { AlignmentScan } from './alignment.ts';
import type { Tally } from './counter.ts';
import { expectedFalseMatches, FINGERPRINT_BITS } from './fingerprint-table.ts';
import {
  usefulWindows,
  windowRecords,
  windowSetting,
  type WindowSetting,
} from './window-settings.ts';

/** Duplicates that an index must find to be recommended, of those that one without end finds. */
const GOOD_ENOUGH = 0.99;
/** Standard errors on either side of an estimate: 95 in 100 lie within. */
const CONFIDENCE_95 = 1.96;

/** An interval that holds the true figure with 95 % confidence. */
export type Interval = readonly [low: number, high: number];

export interface MeasuredWindow {
  /** Gigabytes of index memory. */
  readonly indexMemory: number;
  readonly sparse: boolean;
  /** Records that this index holds. */
  readonly records: number;
  /** Blocks left after deduplication by this index. */
  readonly uniqueBlocks: number;
  readonly dedupRatio: number;
}

export interface Measurement {
  readonly bytes: number;
  readonly blocks: number;
  readonly zeroBlocks: number;
  /** Distinct non-zero contents. */
  readonly uniqueBlocks: number;
  readonly duplicateBlocks: number;
  readonly dedupRatio: number;
  /** Unique blocks that found company, and the physical blocks that hold them. */
  readonly compressedBlocks: number;
  readonly packedBlocks: number;
  /** Data blocks that `uvdo create` writes, and that dm-vdo writes. */
  readonly storedBlocks: number;
  readonly kernelStoredBlocks: number;
  readonly compressionRatio: number;
  readonly totalRatio: number;
  readonly savingPercent: number;
  /** Records of the index that was asked for, else of the one that is recommended. */
  readonly windowRecords: number;
  readonly windows: readonly MeasuredWindow[];
  /** Contents that sources i and j share, on the diagonal those of i; null for too many sources. */
  readonly shared: readonly (readonly number[])[] | null;
  readonly seconds: number;
  readonly files: number;
  /** Paths that could not be read. */
  readonly errors: number;
  readonly compression: boolean;
  readonly sources: readonly Tally[];
  /** Files with most blocks whose content came before. */
  readonly topFiles: readonly Tally[];
  /** Contents by how often they occur: 1, 2, 3 to 4, 5 to 8 … */
  readonly references: readonly { from: number; to: number; contents: number }[];
  readonly recommended: {
    readonly logicalSize: number;
    /** Bytes that hold the data, all metadata and the index. */
    readonly physicalSize: number;
    readonly slabSize: number;
    readonly indexMemory: number;
    readonly sparseIndex: boolean;
  };
  readonly alignment?: AlignmentScan;
  readonly sample?: {
    readonly oneIn: number;
    readonly uniqueBlocks: Interval;
    readonly storedBlocks: Interval;
    readonly totalRatio: Interval;
  };
  readonly fingerprintBits: number;
  /** Expected number of different contents taken for one. */
  readonly expectedFalseMatches: number;
  /** Bytes of the table of contents at its largest, and of what simulates windows. */
  readonly tableBytes: number;
  readonly windowBytes: number;
}

/** What was counted; of the sample where there is one. */
export interface Counted {
  readonly sources: readonly Tally[];
  readonly topFiles: readonly Tally[];
  readonly uniqueBlocks: number;
  readonly compressedBlocks: number;
  readonly packedBlocks: number;
  readonly storedBlocks: number;
  readonly kernelStoredBlocks: number;
  readonly shared: number[][] | null;
  /** Contents by times seen: place k holds those seen 2^(k−1) + 1 … 2^k times. */
  readonly references: readonly number[];
  readonly windows: readonly WindowSetting[];
  /** Duplicates that each window missed, unscaled. */
  readonly missed: readonly number[];
  /** The index that was asked for. */
  readonly asked: WindowSetting | null;
  readonly sparseIndex: boolean;
  readonly alignment: AlignmentScan | null;
  readonly sample: number;
  readonly compression: boolean;
  readonly errors: number;
  readonly seconds: number;
  readonly tableBytes: number;
  readonly windowBytes: number;
}

/** `before` ÷ `after`; what became nothing shrank by all of itself. */
function ratio(before: number, after: number): number {
  return after === 0 ? Math.max(1, before) : before / after;
}

function sum(tallies: readonly Tally[], key: 'bytes' | 'blocks' | 'zeroBlocks' | 'files'): number {
  return tallies.reduce((total, tally) => total + tally[key], 0);
}

export function figuresOf(counted: Counted): Measurement {
  const { sources, sample } = counted;
  const blocks = sum(sources, 'blocks');
  const zeroBlocks = sum(sources, 'zeroBlocks');
  const nonZero = blocks - zeroBlocks;
  const uniqueBlocks = Math.min(nonZero, counted.uniqueBlocks * sample);
  const storedBlocks = counted.storedBlocks * sample;
  const windows = windowsOf(counted, nonZero, uniqueBlocks);
  const recommended = recommend(counted, blocks, storedBlocks, windows, nonZero - uniqueBlocks);
  const { indexMemory, sparseIndex } = recommended;
  const index = counted.asked ?? windowSetting(indexMemory, sparseIndex);
  return {
    bytes: sum(sources, 'bytes'),
    blocks,
    zeroBlocks,
    uniqueBlocks,
    duplicateBlocks: nonZero - uniqueBlocks,
    dedupRatio: ratio(nonZero, uniqueBlocks),
    compressedBlocks: counted.compressedBlocks * sample,
    packedBlocks: counted.packedBlocks * sample,
    storedBlocks,
    kernelStoredBlocks: counted.kernelStoredBlocks * sample,
    compressionRatio: ratio(uniqueBlocks, storedBlocks),
    totalRatio: ratio(blocks, storedBlocks),
    savingPercent: blocks === 0 ? 0 : 100 * (1 - storedBlocks / blocks),
    windowRecords: windowRecords(index),
    windows,
    shared: counted.shared?.map((row) => row.map((count) => count * sample)) ?? null,
    seconds: counted.seconds,
    files: sum(sources, 'files'),
    errors: counted.errors,
    compression: counted.compression,
    sources,
    topFiles: counted.topFiles,
    references: referencesOf(counted),
    recommended,
    ...(counted.alignment === null ? {} : { alignment: counted.alignment }),
    ...(sample === 1 ? {} : { sample: confidence(counted, blocks, nonZero) }),
    fingerprintBits: FINGERPRINT_BITS,
    expectedFalseMatches: expectedFalseMatches(uniqueBlocks),
    tableBytes: counted.tableBytes,
    windowBytes: counted.windowBytes,
  };
}

function windowsOf(counted: Counted, nonZero: number, uniqueBlocks: number): MeasuredWindow[] {
  return usefulWindows(counted.windows, nonZero).map((setting, i) => {
    const missed = Math.min(nonZero - uniqueBlocks, counted.missed[i]! * counted.sample);
    return {
      indexMemory: setting.indexMemory,
      sparse: setting.sparse,
      records: windowRecords(setting),
      uniqueBlocks: uniqueBlocks + missed,
      dedupRatio: ratio(nonZero, uniqueBlocks + missed),
    };
  });
}

/** The smallest index that is good enough, and a volume that just holds everything. */
function recommend(
  counted: Counted,
  blocks: number,
  storedBlocks: number,
  windows: readonly MeasuredWindow[],
  duplicates: number,
): Measurement['recommended'] {
  const ofKind = windows.filter(({ sparse }) => sparse === counted.sparseIndex);
  const allowed = (1 - GOOD_ENOUGH) * duplicates;
  const least = Math.min(...ofKind.map((window) => window.uniqueBlocks));
  const good = ofKind.find((window) => window.uniqueBlocks <= least + allowed);
  const indexMemory = counted.asked?.indexMemory ?? good?.indexMemory ?? 0.25;
  const indexBlocks = indexRegionBlocks(indexMemorySetting(indexMemory), counted.sparseIndex);
  const logicalBlocks = Math.max(1, blocks);
  const needed = Math.max(1, storedBlocks) + treePagesFor(logicalBlocks);
  const { size, slabSize } = sizesForBlocks(needed, indexBlocks);
  const logicalSize = logicalBlocks * BLOCK_SIZE;
  return {
    logicalSize,
    physicalSize: size,
    slabSize,
    indexMemory,
    sparseIndex: counted.sparseIndex,
  };
}

function referencesOf({ references, sample }: Counted): Measurement['references'] {
  return references.flatMap((contents, k) => {
    if (contents === 0) return [];
    return [{ from: k === 0 ? 1 : 2 ** (k - 1) + 1, to: 2 ** k, contents: contents * sample }];
  });
}

function confidence(
  counted: Counted,
  blocks: number,
  nonZero: number,
): NonNullable<Measurement['sample']> {
  const { sample } = counted;
  const spread = (k: number): number => CONFIDENCE_95 * sample * Math.sqrt(k * (1 - 1 / sample));
  const around = (k: number, most: number): Interval => [
    Math.max(0, Math.floor(k * sample - spread(k))),
    Math.min(most, Math.ceil(k * sample + spread(k))),
  ];
  const storedInterval = around(counted.storedBlocks, nonZero);
  return {
    oneIn: sample,
    uniqueBlocks: around(counted.uniqueBlocks, nonZero),
    storedBlocks: storedInterval,
    totalRatio: [ratio(blocks, storedInterval[1]), ratio(blocks, storedInterval[0])],
  };
}
