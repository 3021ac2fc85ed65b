/**
 * The shape of a deduplication index for every memory setting: chapters, pages, delta lists, and the
 * blocks of each part of its region (INDEX §1).
 *
 * - All numbers are integers below 2^53 up to 1024 GB sparse, so all arithmetic is exact.
 * - Every number is fixed by the setting and the sparse flag; nothing of it may be chosen.
 */
import { assert } from '../../base/assert.ts';
import { BLOCK_SIZE } from '../../base/constants.ts';
import { VdoError } from '../../base/errors.ts';
import { bitLength, deltaCode } from './delta-code.ts';
import type { DeltaCode } from './delta-code.ts';
import { CHAPTER_ADDRESS_BITS, SPARSE_SAMPLE_RATE, VOLUME_ADDRESS_BITS } from './record-name.ts';

export const INDEX_PAGE_SIZE = 32768;
export const RECORDS_PER_PAGE = 1024;
/** Chapters whose pages dm-vdo caches; part of the stored configuration. */
export const CACHE_CHAPTERS = 7;
/** Parameter of the volume index, part of the stored configuration. */
export const VOLUME_INDEX_MEAN_DELTA = 4096;
export const CHAPTER_MEAN_DELTA = 65536;
const BLOCKS_PER_INDEX_PAGE = INDEX_PAGE_SIZE / BLOCK_SIZE;
/** Records that a list of the volume index holds when the index is full. */
const RECORDS_PER_LIST = 256;
const MIN_LISTS = 256;
const MEMORY_ROUNDING = 65536;
const CHAPTER_OFFSET_BITS = 19;
const CHAPTER_HEADER_SIZE = 20;

/** Added to a setting of whole gigabytes: one chapter fewer, as on volumes converted from older releases. */
const REDUCED = 0x1000;
const MAX_GIGABYTES = 1024;
const BASE_CHAPTERS = 1024;
/** Settings below one gigabyte; reduced ones are 1024 less. */
const SMALL: readonly { gigabytes: number; setting: number; recordPages: number }[] = [
  { gigabytes: 0.25, setting: -256, recordPages: 64 },
  { gigabytes: 0.5, setting: -512, recordPages: 128 },
  { gigabytes: 0.75, setting: -768, recordPages: 192 },
];

/** A volume index, or one of the two of a sparse index (INDEX §1.3). Sizes in bytes unless they say bits. */
export interface SubIndexGeometry {
  /** Records of a chapter that this sub-index knows. */
  readonly recordsPerChapter: number;
  /** Chapters that it remembers. */
  readonly chapters: number;
  readonly lists: number;
  readonly addressBits: number;
  /** Bits of a stored chapter number. */
  readonly chapterBits: number;
  readonly code: DeltaCode;
  /** Bits that the records of a chapter are expected to take. */
  readonly bitsPerChapter: number;
  /** Memory for lists. */
  readonly memory: number;
  /** Of `memory`, what early expiry keeps free. */
  readonly targetFree: number;
  /** The largest save. */
  readonly saveSize: number;
}

export interface ChapterShape {
  readonly recordPages: number;
  readonly chapters: number;
  readonly sparseChapters: number;
}

export interface IndexGeometry {
  readonly sparse: boolean;
  /** 32, or 0 for a dense index, as the configuration stores it. */
  readonly sparseSampleRate: number;
  readonly chapters: number;
  readonly sparseChapters: number;
  readonly denseChapters: number;
  readonly reduced: boolean;
  readonly recordsPerChapter: number;
  readonly recordPagesPerChapter: number;
  readonly indexPagesPerChapter: number;
  readonly pagesPerChapter: number;
  readonly chapterLists: number;
  readonly chapterListBits: number;
  readonly chapterAddressBits: number;
  /** Bits of a record page number. */
  readonly chapterPayloadBits: number;
  readonly chapterCode: DeltaCode;
  readonly pagesPerVolume: number;
  readonly volumeBlocks: number;
  readonly volumeIndexBlocks: number;
  readonly pageMapBlocks: number;
  readonly openChapterBlocks: number;
  readonly saveBlocks: number;
  /** The umbrella region: volume and both saves. */
  readonly subIndexBlocks: number;
  readonly totalBlocks: number;
  /** Dense: one. Sparse: of the names that are no hooks, and of the hooks. */
  readonly subIndexes: readonly SubIndexGeometry[];
  /** Not of the setting, but of this index: its configuration says it. */
  readonly remapping: Remapping;
}

/** The chapter that a conversion moved, and its slot (INDEX §1.5); 0, 0 everywhere else. */
export interface Remapping {
  readonly virtual: number;
  readonly physical: number;
}

export const NOT_REMAPPED: Remapping = { virtual: 0, physical: 0 };

const ceilDiv = (a: number, b: number): number => Math.floor((a + b - 1) / b);
const roundUp = (n: number, unit: number): number => ceilDiv(n, unit) * unit;

function decodeSetting(setting: number) {
  for (const { gigabytes, setting: small, recordPages } of SMALL) {
    if (setting === small || setting === small - 1024) {
      return { gigabytes, reduced: setting !== small, recordPages, baseChapters: BASE_CHAPTERS };
    }
  }
  const reduced = setting > REDUCED;
  const gigabytes = reduced ? setting - REDUCED : setting;
  if (!Number.isInteger(gigabytes) || gigabytes < 1 || gigabytes > MAX_GIGABYTES) return undefined;
  return { gigabytes, reduced, recordPages: 256, baseChapters: BASE_CHAPTERS * gigabytes };
}

/** The setting stored for so many gigabytes: 0.25, 0.5, 0.75 or 1 … 1024. Fails with `InvalidArgument`. */
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
  return decodeSetting(setting)?.gigabytes;
}

/**
 * The geometry for a stored memory setting. Fails with `InvalidArgument` for a setting that dm-vdo
 * does not know.
 */
export function indexGeometry(setting: number, sparse: boolean): IndexGeometry {
  const decoded = decodeSetting(setting);
  if (decoded === undefined) {
    throw new VdoError('InvalidArgument', `unknown index memory setting ${setting}`);
  }
  const { recordPages, baseChapters, reduced } = decoded;
  return makeIndexGeometry({
    recordPages,
    chapters: (sparse ? 10 * baseChapters : baseChapters) - (reduced ? 1 : 0),
    sparseChapters: sparse ? (19 * baseChapters) / 2 : 0,
  });
}

/** Blocks of the index region for a stored memory setting. Fails as `indexGeometry` does. */
export function indexRegionBlocks(setting: number, sparse: boolean): number {
  return indexGeometry(setting, sparse).totalBlocks;
}

/** Bits that `records` entries with a value of `valueBits` bits are expected to take. */
function expectedBits(records: number, valueBits: number, code: DeltaCode): number {
  return records * (valueBits + code.minBits + 1) + Math.floor(records / 2);
}

function subIndexGeometry(recordsPerChapter: number, chapters: number): SubIndexGeometry {
  const rounded = chapters + (chapters % 2);
  const lists = Math.max(Math.floor((recordsPerChapter * rounded) / RECORDS_PER_LIST), MIN_LISTS);
  const addressBits = VOLUME_ADDRESS_BITS;
  const chapterBits = bitLength(rounded - 1);
  // Entries live on in lists that nobody looks at: room for some more chapters than are valid.
  const kept = rounded + Math.max(Math.floor(rounded / 256), 2);
  const code = deltaCode(Math.floor((lists * 2 ** addressBits) / (recordsPerChapter * kept)));
  const bitsPerChapter = expectedBits(recordsPerChapter, chapterBits, code);
  const full = Math.floor((bitsPerChapter * kept) / 8);
  const memory = Math.floor((full * 106) / 100);
  return {
    recordsPerChapter,
    chapters,
    lists,
    addressBits,
    chapterBits,
    code,
    bitsPerChapter,
    memory,
    targetFree: Math.floor(full / 20),
    saveSize: 80 + 17 * lists + roundUp(memory, MEMORY_ROUNDING),
  };
}

/** Bytes for lists in each of `zones` zones. */
export function zoneMemory(geometry: SubIndexGeometry, zones: number): number {
  return roundUp(Math.floor(geometry.memory / zones), MEMORY_ROUNDING);
}

/** Bits of lists above which a zone expires chapters early (INDEX §6.4). */
export function maxZoneBits(geometry: SubIndexGeometry, zones: number): number {
  const free = zones * zoneMemory(geometry, zones) - geometry.targetFree;
  return Math.floor((free * 8) / zones);
}

function chapterGeometry(recordPages: number) {
  const records = RECORDS_PER_PAGE * recordPages;
  const payloadBits = bitLength(recordPages - 1);
  const listBits = bitLength((records - 1) | 63) - 6;
  const lists = 2 ** listBits;
  const code = deltaCode(CHAPTER_MEAN_DELTA);
  const bits = expectedBits(records, payloadBits, code);
  const pageBits =
    (INDEX_PAGE_SIZE - CHAPTER_HEADER_SIZE) * 8 - CHAPTER_OFFSET_BITS - Math.floor(bits / lists);
  const indexPages = ceilDiv(bits + lists * CHAPTER_OFFSET_BITS, pageBits);
  const addressBits = 16 - listBits + bitLength(records - 1);
  assert(addressBits === CHAPTER_ADDRESS_BITS, 'address bits of a chapter');
  return { records, payloadBits, listBits, lists, code, indexPages, addressBits };
}

function subIndexGeometries(records: number, { chapters, sparseChapters }: ChapterShape) {
  if (sparseChapters === 0) return [subIndexGeometry(records, chapters)];
  const hooks = records / SPARSE_SAMPLE_RATE;
  return [
    subIndexGeometry(records - hooks, chapters - sparseChapters),
    subIndexGeometry(hooks, chapters),
  ];
}

/** The geometry of any shape, also of those that no setting gives. */
export function makeIndexGeometry(shape: ChapterShape): IndexGeometry {
  const { recordPages, chapters, sparseChapters } = shape;
  assert(recordPages >= 1 && chapters > 1 && sparseChapters < chapters, 'shape of an index');
  const chapter = chapterGeometry(recordPages);
  const subIndexes = subIndexGeometries(chapter.records, shape);
  const pagesPerChapter = chapter.indexPages + recordPages;
  const pagesPerVolume = chapters * pagesPerChapter;
  const volumeBlocks = BLOCKS_PER_INDEX_PAGE * (pagesPerVolume + 1);
  const saveSize =
    subIndexes.reduce((sum, sub) => sum + sub.saveSize, 0) + (sparseChapters > 0 ? 12 : 0);
  const volumeIndexBlocks = ceilDiv(saveSize + 8, BLOCK_SIZE) + 16;
  const pageMapBlocks = ceilDiv(16 + 2 * chapters * (chapter.indexPages - 1), BLOCK_SIZE);
  const openChapterBlocks = ceilDiv(14 + 32 * chapter.records, BLOCK_SIZE);
  const saveBlocks = 1 + volumeIndexBlocks + pageMapBlocks + openChapterBlocks;
  const subIndexBlocks = volumeBlocks + 2 * saveBlocks;
  return {
    sparse: sparseChapters > 0,
    sparseSampleRate: sparseChapters > 0 ? SPARSE_SAMPLE_RATE : 0,
    chapters,
    sparseChapters,
    denseChapters: chapters - sparseChapters,
    reduced: chapters % 2 === 1,
    recordsPerChapter: chapter.records,
    recordPagesPerChapter: recordPages,
    indexPagesPerChapter: chapter.indexPages,
    pagesPerChapter,
    chapterLists: chapter.lists,
    chapterListBits: chapter.listBits,
    chapterAddressBits: chapter.addressBits,
    chapterPayloadBits: chapter.payloadBits,
    chapterCode: chapter.code,
    pagesPerVolume,
    volumeBlocks,
    volumeIndexBlocks,
    pageMapBlocks,
    openChapterBlocks,
    saveBlocks,
    subIndexBlocks,
    totalBlocks: 3 + subIndexBlocks,
    subIndexes,
    remapping: NOT_REMAPPED,
  };
}

/** The slot of the volume that holds a virtual chapter. */
export function physicalChapter(
  { chapters, reduced, remapping }: IndexGeometry,
  virtualChapter: number,
): number {
  if (!reduced) return virtualChapter % chapters;
  const { virtual, physical } = remapping;
  const distance = Math.abs(virtualChapter - virtual);
  if (virtualChapter > virtual) return distance > physical ? distance % chapters : distance - 1;
  if (virtualChapter === virtual) return physical;
  return distance < chapters ? chapters - distance : 0;
}

/** How many chapters are forgotten when `newest` is opened: 0, 1 or 2. */
export function chaptersToExpire({ chapters, remapping }: IndexGeometry, newest: number): number {
  if (newest < chapters) return 0;
  const { virtual, physical } = remapping;
  if (physical > 0) {
    const oldest = newest - chapters;
    if (oldest === virtual) return 2;
    if (oldest === virtual + physical) return 0;
  }
  return 1;
}

/** Whether only the hooks of a chapter are still known to the volume index. */
export function isSparseChapter(
  { sparse, denseChapters }: IndexGeometry,
  virtualChapter: number,
  oldest: number,
  newest: number,
): boolean {
  return sparse && newest - oldest + 1 > denseChapters && virtualChapter + denseChapters <= newest;
}
