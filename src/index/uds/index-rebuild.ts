/**
 * Rebuilds volume index and page map from the chapters on disk, oldest first, while names are looked up
 * and posted beside it (FORMAT §9.8).
 *
 * - An entry of a newer chapter is never replaced by an older one: names posted meanwhile stay where
 *   they are.
 * - An entry that may be another name's is checked against that chapter's records. Between the check and
 *   the change nothing else may have changed the entry; else it is checked again.
 */
import { VdoError } from '../../base/errors.ts';
import { CHAPTER_PAGE_SIZE, RECORD_SIZE, RECORDS_PER_PAGE } from '../../format/chapter-page.ts';
import { checkIndexPages, pageOffset, type ChapterRange } from './chapter-scan.ts';
import { ChapterStore, turn, volumeIndexRows } from './chapter-store.ts';
import { EntrySettler } from './entry-settler.ts';
import type { IndexPageMap } from './index-page-map.ts';
import { physicalChapter } from './index-geometry.ts';
import type { IndexRegion } from './index-region.ts';
import type { OpenChapter } from './open-chapter.ts';
import type { VolumeIndex } from './volume-index.ts';
import { REPLAY_SEARCH } from './zone.ts';

/** Pages kept for the checks: they come in no order, and are few. */
const CACHE_PAGES = 64;
/** Record pages replayed before others have a turn. */
const PAGES_PER_TURN = 4;
const NAME_SIZE = 16;

export interface RebuildParts {
  readonly region: IndexRegion;
  readonly range: ChapterRange;
  readonly volumeIndex: VolumeIndex;
  readonly pageMap: IndexPageMap;
  /** The chapter that is open meanwhile: number `range.newest`. */
  readonly openChapter: OpenChapter;
}

export class IndexRebuild {
  readonly #parts: RebuildParts;
  readonly #settler: EntrySettler;
  readonly #names = new Uint8Array(RECORDS_PER_PAGE * NAME_SIZE);
  readonly #found = volumeIndexRows(RECORDS_PER_PAGE);
  readonly #result = new Uint8Array(RECORDS_PER_PAGE);
  #stopped = false;
  /** Chapters replayed so far. */
  chaptersDone = 0;
  /** Chapters left out because they are damaged. */
  chaptersBad = 0;

  constructor(parts: RebuildParts) {
    const { region, volumeIndex, pageMap, openChapter, range } = parts;
    this.#parts = parts;
    this.#settler = new EntrySettler({
      volumeIndex,
      store: new ChapterStore(region, pageMap, CACHE_PAGES, RECORDS_PER_PAGE),
      inMemory: (chapter) => (chapter === range.newest ? openChapter : null),
      capacity: RECORDS_PER_PAGE,
    });
  }

  get chapters(): number {
    const { oldest, newest } = this.#parts.range;
    return newest - oldest;
  }

  /** Ends `run` before its time. */
  stop(): void {
    this.#stopped = true;
  }

  /** Replays every chapter. True when all are done, false when stopped. Fails with `Io`. */
  async run(): Promise<boolean> {
    const { range } = this.#parts;
    let next = this.#read(range.oldest);
    for (let chapter = range.oldest; chapter < range.newest; chapter++) {
      const pages = await next;
      // The next chapter is read while this one is replayed.
      if (chapter + 1 < range.newest) {
        next = this.#read(chapter + 1);
        next.catch(() => undefined);
      }
      if (!(await this.#replay(chapter, pages))) return false;
      this.chaptersDone++;
    }
    return true;
  }

  async #read(chapter: number): Promise<Uint8Array> {
    const { region } = this.#parts;
    const slot = physicalChapter(region.geometry, chapter);
    const bytes = new Uint8Array(region.geometry.pagesPerChapter * CHAPTER_PAGE_SIZE);
    await region.storage.read([{ offset: pageOffset(region, slot, 0), bytes }]);
    return bytes;
  }

  async #replay(chapter: number, pages: Uint8Array): Promise<boolean> {
    const { region, pageMap } = this.#parts;
    const { indexPagesPerChapter, recordPagesPerChapter } = region.geometry;
    const slot = physicalChapter(region.geometry, chapter);
    const info = checkIndexPages(region, slot, pages);
    if (info?.chapter !== chapter) {
      this.chaptersBad++;
      return !this.#stopped;
    }
    pageMap.set(chapter, slot, info.lastLists);
    for (let page = 0; page < recordPagesPerChapter; page++) {
      if (page % PAGES_PER_TURN === 0) await turn();
      if (this.#stopped) return false;
      this.#takeNames(pages, (indexPagesPerChapter + page) * CHAPTER_PAGE_SIZE);
      await this.#replayPage(chapter);
    }
    return true;
  }

  #takeNames(pages: Uint8Array, start: number): void {
    const names = this.#names;
    for (let i = 0; i < RECORDS_PER_PAGE; i++) {
      const from = start + i * RECORD_SIZE;
      const to = i * NAME_SIZE;
      for (let k = 0; k < NAME_SIZE; k++) names[to + k] = pages[from + k]!;
    }
  }

  async #replayPage(chapter: number): Promise<void> {
    const { volumeIndex } = this.#parts;
    volumeIndex.replay(this.#names, RECORDS_PER_PAGE, chapter, this.#found, this.#result);
    for (let i = 0; i < RECORDS_PER_PAGE; i++) {
      if (this.#result[i] !== REPLAY_SEARCH) continue;
      this.#settler.add(this.#names, i * NAME_SIZE, this.#found.chapter[i]!);
    }
    if (this.#settler.waiting > 0) await this.#settler.settle(chapter);
  }
}

/** What a rebuild that met damage says. */
export function damagedChapters(count: number): VdoError {
  return new VdoError(
    'Corrupt',
    `${count} chapters of the index are damaged: what they knew is forgotten`,
  );
}
