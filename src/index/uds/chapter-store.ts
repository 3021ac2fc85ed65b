/**
 * The ring of closed chapters on disk: finds records of many names at once, and writes a chapter
 * (FORMAT §9.6).
 *
 * - An index page is used only if it is the chapter's that is asked for and agrees with the index page
 *   map. Whatever disagrees is damage: it is told, and the name counts as not there.
 * - Records are found by their whole name. Pages of a chapter that is being replaced can mislead nobody.
 * - A chapter is written index pages first, then record pages, then flushed.
 */
import { BLOCK_SIZE } from '../../base/constants.ts';
import { VdoError } from '../../base/errors.ts';
import {
  CHAPTER_PAGE_SIZE,
  encodeRecordPage,
  findRecord,
  indexPageChapter,
  readIndexPageHeader,
  RECORD_SIZE,
  RECORDS_PER_PAGE,
} from '../../format/chapter-page.ts';
import {
  chapterIndexSteps,
  searchIndexPage,
  type ChapterContents,
  type ChapterIndexPages,
} from './chapter-index.ts';
import type { IndexPageMap } from './index-page-map.ts';
import { physicalChapter, type IndexGeometry } from './index-geometry.ts';
import type { IndexRegion } from './index-region.ts';
import { recordPbn, recordState, type OpenChapter } from './open-chapter.ts';
import { ChapterPageCache } from './page-cache.ts';
import { chapterList } from './record-name.ts';
import type { VolumeIndexRows } from './volume-index.ts';

const BLOCKS_PER_PAGE = CHAPTER_PAGE_SIZE / BLOCK_SIZE;
/** Record pages made and written at a time: 1 MiB. */
const WRITE_PAGES = 32;

/** As the chapter of a query: it is not to be looked for on disk. */
export const NOWHERE = -1;

/** Columns for what the volume index says of so many names. */
export function volumeIndexRows(count: number): VolumeIndexRows {
  return { entry: new Uint8Array(count), chapter: new Float64Array(count) };
}

/** What was asked for and found: columns, one row a name. */
export class ChapterQueries {
  count = 0;
  /** 16 bytes each. */
  readonly names: Uint8Array;
  /** Chapter to look in. */
  readonly chapter: Float64Array;
  /** Row of the asker. */
  readonly row: Int32Array;
  /** 1 where the record is there. */
  readonly found: Uint8Array;
  readonly pbn: Float64Array;
  readonly state: Uint8Array;
  /** Record page to look on; −1 where the chapter's index is to say. */
  readonly recordPage: Int32Array;
  /** What the volume index is to do with the entry, if the name is posted. */
  readonly action: Uint8Array;

  constructor(capacity: number) {
    this.names = new Uint8Array(capacity * 16);
    this.chapter = new Float64Array(capacity);
    this.row = new Int32Array(capacity);
    this.found = new Uint8Array(capacity);
    this.pbn = new Float64Array(capacity);
    this.state = new Uint8Array(capacity);
    this.recordPage = new Int32Array(capacity);
    this.action = new Uint8Array(capacity);
  }

  add(names: Uint8Array, at: number, chapter: number, row: number, recordPage = -1): void {
    const to = this.count * 16;
    for (let i = 0; i < 16; i++) this.names[to + i] = names[at + i]!;
    this.chapter[this.count] = chapter;
    this.recordPage[this.count] = recordPage;
    this.row[this.count++] = row;
  }

  /** Adds a name whose location is known. */
  addAt(names: Uint8Array, at: number, pbn: number, state: number, action: number): void {
    this.action[this.count] = action;
    this.pbn[this.count] = pbn;
    this.state[this.count] = state;
    this.add(names, at, NOWHERE, this.count);
  }
}

export class ChapterStore {
  readonly #region: IndexRegion;
  readonly #geometry: IndexGeometry;
  readonly #map: IndexPageMap;
  readonly #cache: ChapterPageCache;
  readonly #frame: Int32Array;
  /** The first damage that was seen, or null. */
  damage: VdoError | null = null;

  constructor(region: IndexRegion, map: IndexPageMap, cachePages: number, maxRows: number) {
    this.#region = region;
    this.#geometry = region.geometry;
    this.#map = map;
    this.#cache = new ChapterPageCache(region.storage, region.volumeStart, cachePages);
    this.#frame = new Int32Array(maxRows);
  }

  get memoryBytes(): number {
    return this.#cache.memoryBytes;
  }

  get pagesRead(): number {
    return this.#cache.pagesRead;
  }

  /** Looks every row up in its chapter. Fails with `Io`. */
  async search(queries: ChapterQueries): Promise<void> {
    queries.found.fill(0, 0, queries.count);
    await this.#inWaves(
      queries.count,
      (row) => this.#indexPageOf(queries, row),
      (row, frame) => this.#searchIndex(queries, row, frame),
    );
    await this.#inWaves(
      queries.count,
      (row) => this.#recordPageOf(queries, row),
      (row, frame) => this.#searchRecords(queries, row, this.#cache.bytes(frame)),
    );
  }

  /**
   * Writes a chapter in the background; the event loop has its turn between steps of a few
   * milliseconds. The chapter may not change meanwhile. `count` of its records are real.
   */
  async write(chapter: number, contents: OpenChapter): Promise<void> {
    const { records, count, capacity } = contents;
    const slot = physicalChapter(this.#geometry, chapter);
    const { indexPagesPerChapter, pagesPerChapter, recordPagesPerChapter } = this.#geometry;
    const first = slot * pagesPerChapter;
    const { storage } = this.#region;
    this.#cache.drop(first, first + pagesPerChapter);
    for (let i = count; i < capacity; i++) {
      records.copyWithin(i * RECORD_SIZE, (count - 1) * RECORD_SIZE, count * RECORD_SIZE);
    }
    const built = await this.#buildIndex({ chapter, records, count });
    await storage.write([{ offset: this.#offsetOf(first), bytes: built.pages }]);
    for (let page = 0; page < recordPagesPerChapter; page += WRITE_PAGES) {
      const pages = Math.min(WRITE_PAGES, recordPagesPerChapter - page);
      const bytes = encodeRecordPages(records, page, pages);
      const offset = this.#offsetOf(first + indexPagesPerChapter + page);
      await storage.write([{ offset, bytes }]);
    }
    await storage.flush();
    this.#cache.drop(first, first + pagesPerChapter);
    this.#map.set(chapter, slot, built.lastLists);
    for (let page = 0; page < indexPagesPerChapter; page++) {
      const at = page * CHAPTER_PAGE_SIZE;
      this.#cache.put(first + page, built.pages.subarray(at, at + CHAPTER_PAGE_SIZE));
    }
  }

  async #buildIndex(contents: ChapterContents): Promise<ChapterIndexPages> {
    const steps = chapterIndexSteps(this.#geometry, this.#region.volumeNonce, contents);
    for (;;) {
      const { done, value } = steps.next();
      if (done === true) return value;
      await turn();
    }
  }

  #offsetOf(page: number): number {
    return (this.#region.volumeStart + BLOCKS_PER_PAGE * (1 + page)) * BLOCK_SIZE;
  }

  /** For each row with a page: makes the page resident, then uses it; as many rows at a time as fit. */
  async #inWaves(
    count: number,
    pageOf: (row: number) => number,
    use: (row: number, frame: number) => void,
  ): Promise<void> {
    for (let first = 0; first < count;) {
      let end = first;
      for (; end < count; end++) {
        const page = pageOf(end);
        this.#frame[end] = page < 0 ? -1 : this.#cache.pin(page);
        if (page >= 0 && this.#frame[end]! < 0) break;
      }
      await this.#cache.read();
      for (let row = first; row < end; row++) {
        const frame = this.#frame[row]!;
        if (frame >= 0) use(row, frame);
      }
      this.#cache.release();
      first = end;
    }
  }

  #indexPageOf({ names, chapter, recordPage }: ChapterQueries, row: number): number {
    if (chapter[row] === NOWHERE || recordPage[row]! >= 0) return -1;
    const slot = physicalChapter(this.#geometry, chapter[row]!);
    const list = chapterList(names, row * 16, this.#geometry.chapterListBits);
    return slot * this.#geometry.pagesPerChapter + this.#map.pageOf(slot, list);
  }

  #recordPageOf({ chapter, recordPage }: ChapterQueries, row: number): number {
    if (recordPage[row]! < 0) return -1;
    const { pagesPerChapter, indexPagesPerChapter } = this.#geometry;
    const slot = physicalChapter(this.#geometry, chapter[row]!);
    return slot * pagesPerChapter + indexPagesPerChapter + recordPage[row]!;
  }

  #searchIndex(queries: ChapterQueries, row: number, frame: number): void {
    const page = this.#cache.bytes(frame);
    const chapter = queries.chapter[row]!;
    try {
      if (!this.#cache.isChecked(frame)) {
        this.#checkIndexPage(page, this.#indexPageOf(queries, row));
        this.#cache.setChecked(frame);
      }
      const own = indexPageChapter(page);
      if (own !== chapter)
        throw new VdoError('Corrupt', `its index page is that of chapter ${own}`);
      const found = searchIndexPage(this.#geometry, page, queries.names, row * 16);
      if (found >= this.#geometry.recordPagesPerChapter) {
        throw new VdoError('Corrupt', 'a chapter index names a page that is not there');
      }
      queries.recordPage[row] = found;
    } catch (error) {
      if (!(error instanceof VdoError)) throw error;
      this.damage ??= new VdoError('Corrupt', `chapter ${chapter}: ${error.message}`, { chapter });
    }
  }

  /** Makes sure that an index page is sound, and where the page map has it. */
  #checkIndexPage(page: Uint8Array, number: number): void {
    const { firstList, lists } = readIndexPageHeader(page, this.#region.volumeNonce);
    const slot = Math.floor(number / this.#geometry.pagesPerChapter);
    if (!this.#map.agrees(slot, number - slot * this.#geometry.pagesPerChapter, firstList, lists)) {
      throw new VdoError('Corrupt', 'an index page holds other lists than the page map says');
    }
  }

  #searchRecords(queries: ChapterQueries, row: number, page: Uint8Array): void {
    const at = findRecord(page, queries.names, row * 16);
    if (at < 0) return;
    queries.found[row] = 1;
    queries.pbn[row] = recordPbn(page, at);
    queries.state[row] = recordState(page, at);
  }
}

/** Lets everything else that waits go first. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function encodeRecordPages(records: Uint8Array, first: number, pages: number): Uint8Array {
  const bytes = new Uint8Array(pages * CHAPTER_PAGE_SIZE);
  for (let i = 0; i < pages; i++) {
    const from = (first + i) * RECORDS_PER_PAGE * RECORD_SIZE;
    encodeRecordPage(
      records.subarray(from, from + CHAPTER_PAGE_SIZE),
      bytes.subarray(i * CHAPTER_PAGE_SIZE, (i + 1) * CHAPTER_PAGE_SIZE),
    );
  }
  return bytes;
}
