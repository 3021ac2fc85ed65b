/**
 * Which duplicates indexes of all sizes find, in one pass.
 *
 * A request adds a record to the open chapter unless its name is there already, whether or not an older
 * record was found. So chapters fill alike in all indexes with chapters of one size: for each size it is
 * enough to know in which chapter a name was last recorded. The distance to the open chapter tells every
 * dense index at once; a sparse one also has a cache of seven chapters, which hooks bring in.
 *
 * - One zone is modelled: a kernel with more closes its chapters a little earlier.
 * - Of a name the newest record counts. A sparse index may still hold older ones in a cached chapter:
 *   what it finds by those is left out.
 * - All hooks are followed, of the other names one in `rate`, for all of them.
 */
import { assert } from '../base/assert.ts';
import { FingerprintTable } from './fingerprint-table.ts';
import type { WindowSetting } from './window-settings.ts';

const FIRST_CHAPTER_WORD = 4;
const HOOK_MASK = 31;
const CACHED_CHAPTERS = 7;
/** A cached chapter that gave nothing for so many searches is passed over until a hook hits it. */
const MAX_SEARCH_MISSES = 20_000;

/** One size of chapters, filling. */
class ChapterClock {
  readonly chapterRecords: number;
  /** Number of the open chapter, from 1: 0 stands for never. */
  open = 1;
  records = 0;
  /** Duplicates by distance to the open chapter, weighted: 0 = in it. */
  distances = new Float64Array(64);

  constructor(chapterRecords: number) {
    this.chapterRecords = chapterRecords;
  }

  count(distance: number, weight: number): void {
    if (distance >= this.distances.length) {
      const grown = new Float64Array(Math.max(distance + 1, 2 * this.distances.length));
      grown.set(this.distances);
      this.distances = grown;
    }
    this.distances[distance]! += weight;
  }

  /** Duplicates found by those who remember `chapters` chapters. */
  found(chapters: number): number {
    return this.distances.subarray(0, chapters).reduce((sum, weight) => sum + weight, 0);
  }

  add(weight: number): void {
    this.records += weight;
    if (this.records < this.chapterRecords) return;
    this.records -= this.chapterRecords;
    this.open++;
  }
}

/** The sparse part of one index: its cache, and what was found beyond the dense chapters. */
class SparseCache {
  readonly setting: WindowSetting;
  readonly clock: number;
  found = 0;
  /** Most recently used first. */
  #chapters: { readonly chapter: number; misses: number }[] = [];

  constructor(setting: WindowSetting, clock: number) {
    this.setting = setting;
    this.clock = clock;
  }

  /** A hook recorded in a sparse chapter brings that chapter in. */
  hit(chapter: number, weight: number): void {
    this.found += weight;
    const others = this.#chapters.filter((cached) => cached.chapter !== chapter);
    this.#chapters = [{ chapter, misses: 0 }, ...others].slice(0, CACHED_CHAPTERS);
  }

  /** Searches the cached chapters for a name last recorded in `chapter`, 0 for none. */
  search(chapter: number, oldest: number, weight: number): void {
    for (const cached of this.#chapters) {
      if (cached.misses > MAX_SEARCH_MISSES) continue;
      if (cached.chapter === chapter && chapter >= oldest) {
        cached.misses = 0;
        this.found += weight;
        return;
      }
      cached.misses += weight;
    }
  }
}

export class WindowModel {
  readonly settings: readonly WindowSetting[];
  readonly #table: FingerprintTable;
  /** Records of a chapter, by clock. */
  readonly #sizes: readonly number[];
  readonly #clocks: readonly ChapterClock[];
  readonly #sparse: readonly SparseCache[];
  readonly #rate: number;
  #duplicates = 0;

  /**
   * `rate`: a power of two. `scale`: the names that come are one in so many of all, and chapters that
   * much smaller.
   */
  constructor(settings: readonly WindowSetting[], rate: number, scale = 1) {
    assert(Number.isInteger(Math.log2(rate)), 'a rate is a power of two');
    const sizes = [...new Set(settings.map(({ chapterRecords }) => chapterRecords))];
    this.settings = settings;
    this.#sizes = sizes;
    this.#rate = rate;
    this.#clocks = sizes.map((records) => new ChapterClock(Math.max(1, records / scale)));
    this.#table = new FingerprintTable(FIRST_CHAPTER_WORD + sizes.length);
    this.#sparse = settings
      .filter(({ sparse }) => sparse)
      .map((setting) => new SparseCache(setting, sizes.indexOf(setting.chapterRecords)));
  }

  get bytes(): number {
    return this.#table.bytes;
  }

  /** One request, of a block that is not zeros. Words 0, 1 and 3 of its name. */
  add(n0: number, n1: number, n3: number): void {
    const isHook = ((n3 >>> 24) & HOOK_MASK) === 0;
    if (!isHook && this.#rate > 1 && (n1 & (this.#rate - 1)) !== 0) return;
    const weight = isHook ? 1 : this.#rate;
    const table = this.#table;
    let at = table.find(n0, n1, n3);
    if (at < 0) at = table.insert(at, n0, n1, n3);
    else this.#duplicates += weight;
    const { words } = table;
    for (let clock = 0; clock < this.#clocks.length; clock++) {
      this.#request(clock, words, at + FIRST_CHAPTER_WORD + clock, isHook, weight);
    }
  }

  #request(clock: number, words: Uint32Array, at: number, isHook: boolean, weight: number): void {
    const chapters = this.#clocks[clock]!;
    const last = words[at]!;
    if (last !== 0) chapters.count(chapters.open - last, weight);
    if (last === chapters.open) return;
    for (const sparse of this.#sparse) {
      if (sparse.clock !== clock) continue;
      const { denseChapters, chapters: remembered } = sparse.setting;
      if (chapters.open <= denseChapters) continue;
      if (last !== 0 && chapters.open - last < denseChapters) continue;
      const oldest = chapters.open - remembered + 1;
      if (!isHook) sparse.search(last, oldest, weight);
      else if (last !== 0 && last >= oldest) sparse.hit(last, weight);
    }
    words[at] = chapters.open;
    chapters.add(weight);
  }

  /** Duplicates that each index did not find, in the order of `settings`. */
  missed(): number[] {
    return this.settings.map((setting) => {
      let found = this.#clocks[this.#sizes.indexOf(setting.chapterRecords)]!.found(
        setting.denseChapters,
      );
      found += this.#sparse.find((sparse) => sparse.setting === setting)?.found ?? 0;
      return Math.max(0, this.#duplicates - found);
    });
  }
}
