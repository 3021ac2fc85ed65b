/**
 * How many blocks the region of the deduplication index takes, for every memory setting (FORMAT §1.4).
 *
 * All arithmetic is exact integers: the region of 1024 GB sparse passes 2^53 on the way.
 */
import { VdoError } from '../base/errors.ts';

/** Added to a setting: one chapter fewer, as on volumes converted from older releases. */
const REDUCED = 0x1000;
const MAX_GIGABYTES = 1024;
/** Settings below one gigabyte, with record pages per chapter. */
const SMALL: readonly { gigabytes: number; setting: number; recordPages: bigint }[] = [
  { gigabytes: 0.25, setting: -256, recordPages: 64n },
  { gigabytes: 0.5, setting: -512, recordPages: 128n },
  { gigabytes: 0.75, setting: -768, recordPages: 192n },
];

interface IndexShape {
  readonly gigabytes: number;
  readonly reduced: boolean;
  readonly recordPages: bigint;
  readonly baseChapters: bigint;
}

function shapeOf(setting: number): IndexShape | undefined {
  for (const { gigabytes, setting: small, recordPages } of SMALL) {
    if (setting === small || setting === small - 1024) {
      return { gigabytes, reduced: setting !== small, recordPages, baseChapters: 1024n };
    }
  }
  const reduced = setting > REDUCED;
  const gigabytes = reduced ? setting - REDUCED : setting;
  if (!Number.isInteger(gigabytes) || gigabytes < 1 || gigabytes > MAX_GIGABYTES) return undefined;
  return { gigabytes, reduced, recordPages: 256n, baseChapters: 1024n * BigInt(gigabytes) };
}

/** The setting stored for so many gigabytes: 0.25, 0.5, 0.75 or 1 … 1024. */
export function indexMemorySetting(gigabytes: number): number {
  const small = SMALL.find((entry) => entry.gigabytes === gigabytes);
  if (small !== undefined) return small.setting;
  if (Number.isInteger(gigabytes) && gigabytes >= 1 && gigabytes <= MAX_GIGABYTES) return gigabytes;
  throw new VdoError(
    'InvalidArgument',
    `index memory of ${gigabytes} GB: choose 0.25, 0.5, 0.75 or a whole number from 1 to 1024`,
  );
}

/** Gigabytes of a stored setting; `undefined` for 0 (no index) and settings dm-vdo does not know. */
export function indexGigabytes(setting: number): number | undefined {
  return shapeOf(setting)?.gigabytes;
}

/** Bits it takes to write `n`; at least 1. */
function bits(n: bigint): bigint {
  return BigInt(n.toString(2).length);
}

function ceilDiv(a: bigint, b: bigint): bigint {
  return (a + b - 1n) / b;
}

/** Bits that a delta list of `entries` entries with this mean delta is expected to take. */
function deltaListBits(entries: bigint, mean: bigint, payload: bigint): bigint {
  const k = (836158n * mean + 603160n) / 1206321n;
  return entries * (payload + bits(k + 1n) + 1n) + entries / 2n;
}

/** Index pages per chapter: its delta index, packed into pages. */
function indexPages(recordPages: bigint, records: bigint): bigint {
  const lists = 2n ** (bits((records - 1n) | 63n) - 6n);
  const size = deltaListBits(records, 65536n, bits(recordPages - 1n));
  const perList = size / lists;
  const perPage = (32768n - 20n) * 8n - 19n - perList;
  return ceilDiv(size + 19n * lists, perPage);
}

/** Bytes that a save of one sub-index of the volume index takes. */
function subIndexBytes(records: bigint, chapters: bigint, reduced: bigint): bigint {
  const rounded = chapters + reduced;
  const most = (a: bigint, b: bigint): bigint => (a > b ? a : b);
  const lists = most((records * rounded) / 256n, 256n);
  const entries = records * (rounded + most(rounded / 256n, 2n));
  const mean = (lists << 20n) / entries;
  const perChapter = deltaListBits(records, mean, bits(rounded - 1n));
  const memory = ((perChapter * (entries / records)) / 8n) * 106n;
  const rounding = 65536n;
  const listBytes = ceilDiv(memory / 100n, rounding) * rounding;
  return 80n + 17n * lists + listBytes;
}

/**
 * Blocks of the index region for a stored memory setting. Fails with `InvalidArgument` for a
 * setting that dm-vdo does not know.
 */
export function indexRegionBlocks(setting: number, sparse: boolean): number {
  const shape = shapeOf(setting);
  if (shape === undefined) {
    throw new VdoError('InvalidArgument', `unknown index memory setting ${setting}`);
  }
  const { recordPages, baseChapters } = shape;
  const reduced = shape.reduced ? 1n : 0n;
  const records = 1024n * recordPages;
  const sparseChapters = sparse ? (19n * baseChapters) / 2n : 0n;
  const chapters = (sparse ? 10n * baseChapters : baseChapters) - reduced;
  const pages = indexPages(recordPages, records);
  const volumeBlocks = 8n * ((pages + recordPages) * chapters + 1n);

  const hooks = records / 32n;
  const volumeIndexBytes = sparse
    ? 12n +
      subIndexBytes(hooks, chapters, reduced) +
      subIndexBytes(records - hooks, chapters - sparseChapters, reduced)
    : subIndexBytes(records, chapters, reduced);
  const volumeIndexBlocks = ceilDiv(volumeIndexBytes + 8n, 4096n) + 16n;
  const pageMapBlocks = ceilDiv(16n + 2n * chapters * (pages - 1n), 4096n);
  const openChapterBlocks = ceilDiv(14n + 32n * records, 4096n);
  const saveBlocks = 1n + volumeIndexBlocks + pageMapBlocks + openChapterBlocks;
  return Number(3n + volumeBlocks + 2n * saveBlocks);
}
