/**
 * The indexes that dm-vdo can be given, as windows: how many of the newest records each remembers.
 * A chapter holds `chapterRecords` records; a dense index keeps `chapters` chapters, all of them
 * searchable. A sparse one keeps ten times as many: the newest `denseChapters` are searchable, of the
 * others only the hooks, one name in 32.
 */
import { VdoError } from '../base/errors.ts';

const SMALL: readonly (readonly [gigabytes: number, chapterRecords: number])[] = [
  [0.25, 65536],
  [0.5, 131072],
  [0.75, 196608],
];
const USUAL_CHAPTER_RECORDS = 262144;
const CHAPTERS_PER_GIGABYTE = 1024;
const MAX_GIGABYTES = 1024;
/** 0.25, 0.5, 1, 2 and 4 GB, dense and sparse. */
const LEAST_WINDOWS = 10;

export interface WindowSetting {
  /** Gigabytes, as `--index-memory` has them. */
  readonly indexMemory: number;
  readonly sparse: boolean;
  readonly chapterRecords: number;
  readonly chapters: number;
  /** Of a dense index all. */
  readonly denseChapters: number;
}

/** The window of one setting. Fails with `InvalidArgument` for a size that dm-vdo does not know. */
export function windowSetting(indexMemory: number, sparse: boolean): WindowSetting {
  const small = SMALL.find(([gigabytes]) => gigabytes === indexMemory);
  const isWhole = Number.isInteger(indexMemory) && indexMemory >= 1 && indexMemory <= MAX_GIGABYTES;
  if (small === undefined && !isWhole) {
    throw new VdoError(
      'InvalidArgument',
      `index memory of ${indexMemory} GB: choose 0.25, 0.5, 0.75, a whole number from 1 to 1024, or all`,
    );
  }
  const base = small === undefined ? indexMemory * CHAPTERS_PER_GIGABYTE : CHAPTERS_PER_GIGABYTE;
  return {
    indexMemory,
    sparse,
    chapterRecords: small?.[1] ?? USUAL_CHAPTER_RECORDS,
    chapters: sparse ? 10 * base : base,
    denseChapters: sparse ? base / 2 : base,
  };
}

/** 0.25, 0.5, 1, 2, 4 … GB, dense and sparse. */
export function allWindowSettings(): WindowSetting[] {
  const sizes = [0.25, 0.5];
  for (let gigabytes = 1; gigabytes <= MAX_GIGABYTES; gigabytes *= 2) sizes.push(gigabytes);
  return sizes.flatMap((size) => [windowSetting(size, false), windowSetting(size, true)]);
}

/** Of all settings those up to the first dense one that holds `blocks` records, ten at least. */
export function usefulWindows(settings: readonly WindowSetting[], blocks: number): WindowSetting[] {
  const enough = settings.findIndex(
    (setting) => !setting.sparse && windowRecords(setting) >= blocks,
  );
  return settings.slice(0, enough < 0 ? settings.length : Math.max(LEAST_WINDOWS, enough + 2));
}

/** Records of the window. */
export function windowRecords({ chapterRecords, chapters }: WindowSetting): number {
  return chapterRecords * chapters;
}

/** So many blocks are found by every index, however they are ordered: none of them is forgotten. */
export function windowFloor(settings: readonly WindowSetting[]): number {
  return Math.min(
    ...settings.map(({ chapterRecords, denseChapters }) => chapterRecords * (denseChapters - 1)),
  );
}
