/**
 * The sparse cache: the index pages of the few sparse chapters whose hooks were met last. Of a sparse
 * chapter the volume index knows only the hooks, one name in 32; one that is found says that its
 * neighbours are likely to be asked for next, and they are found here.
 *
 * - Chapters are searched in the order in which a hook met them, latest first.
 * - One that was searched in vain too often is passed over until a hook meets it again.
 * - The page map is not asked: all pages of a chapter are here, checked when they were read.
 */
import { CHAPTER_PAGE_SIZE } from '../../format/chapter-page.ts';
import { searchIndexPage } from './chapter-index.ts';
import { checkIndexPages, pageOffset } from './chapter-scan.ts';
import { physicalChapter } from './index-geometry.ts';
import type { IndexRegion } from './index-region.ts';
import { chapterList } from './record-name.ts';

/** Chapters that are kept, as in dm-vdo. */
const CACHED_CHAPTERS = 7;
const MAX_MISSES = 20_000;

interface CachedChapter {
  readonly chapter: number;
  readonly pages: Uint8Array;
  readonly lastLists: Uint16Array;
  /** Searches in vain since the last hit or hook. */
  misses: number;
}

export class SparseCache {
  readonly #region: IndexRegion;
  /** Latest first. */
  #chapters: CachedChapter[] = [];
  /** Where `search` found the name: chapter and record page. */
  chapter = -1;
  recordPage = -1;

  constructor(region: IndexRegion) {
    this.#region = region;
  }

  get isEmpty(): boolean {
    return this.#chapters.length === 0;
  }

  get memoryBytes(): number {
    return this.#chapters.reduce((sum, { pages }) => sum + pages.byteLength, 0);
  }

  /**
   * Chapters that hooks met, the last one last: all of them are cached when it returns, as far as there is
   * room. Damaged ones are left out. Fails with `Io`.
   */
  async include(chapters: Iterable<number>, oldest: number): Promise<void> {
    this.#chapters = this.#chapters.filter(({ chapter }) => chapter >= oldest);
    for (const chapter of [...chapters].slice(-CACHED_CHAPTERS)) {
      const at = this.#chapters.findIndex((cached) => cached.chapter === chapter);
      const cached = at >= 0 ? this.#chapters[at]! : await this.#read(chapter);
      if (cached === null) continue;
      if (at >= 0) this.#chapters.splice(at, 1);
      cached.misses = 0;
      this.#chapters.unshift(cached);
      this.#chapters.length = Math.min(this.#chapters.length, CACHED_CHAPTERS);
    }
  }

  /** Whether the name may be in a cached chapter; then `chapter` and `recordPage` say where. */
  search(names: Uint8Array, at: number, oldest: number): boolean {
    const { geometry } = this.#region;
    const list = chapterList(names, at, geometry.chapterListBits);
    for (const cached of this.#chapters) {
      if (cached.chapter < oldest || cached.misses > MAX_MISSES) continue;
      let number = 0;
      while (number < cached.lastLists.length && list > cached.lastLists[number]!) number++;
      const start = number * CHAPTER_PAGE_SIZE;
      const page = cached.pages.subarray(start, start + CHAPTER_PAGE_SIZE);
      const recordPage = searchIndexPage(geometry, page, names, at);
      if (recordPage < 0) {
        cached.misses++;
        continue;
      }
      cached.misses = 0;
      this.chapter = cached.chapter;
      this.recordPage = recordPage;
      return true;
    }
    return false;
  }

  async #read(chapter: number): Promise<CachedChapter | null> {
    const { geometry, storage } = this.#region;
    const slot = physicalChapter(geometry, chapter);
    const pages = new Uint8Array(geometry.indexPagesPerChapter * CHAPTER_PAGE_SIZE);
    await storage.read([{ offset: pageOffset(this.#region, slot, 0), bytes: pages }]);
    const info = checkIndexPages(this.#region, slot, pages);
    return info?.chapter === chapter
      ? { chapter, pages, lastLists: info.lastLists, misses: 0 }
      : null;
  }
}
