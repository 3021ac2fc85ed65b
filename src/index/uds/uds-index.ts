/**
 * dm-vdo's deduplication index in its place in the volume, for whole batches (docs/INDEX.md).
 *
 * - New records go to the open chapter. What is found in an older one is copied there with its old
 *   location, so that what is in use is not forgotten.
 * - dm-vdo posts a name with the block it has just allocated, in one step. Here blocks are allocated
 *   late, so a name is looked up first and posted once its block is stored: two calls, the same records.
 * - While the index is rebuilt, lookups and posts are served from what is known; what exceeds the open
 *   chapter then is dropped.
 * - It is advice. Whatever goes wrong is told once (`warning`), and makes it know less, no more.
 * - A save exists on disk only while it is true. An index that saw damage saves nothing, so that the
 *   next start rebuilds it.
 */
import { RECORD_NAME_SIZE } from '../../base/constants.ts';
import { VdoError } from '../../base/errors.ts';
import { RECORD_SIZE } from '../../format/chapter-page.ts';
import type { Advice, HashIndex, IndexStatistics } from '../hash-index.ts';
import { ChapterQueries, ChapterStore, volumeIndexRows } from './chapter-store.ts';
import { CurrentChapters } from './current-chapters.ts';
import { EntrySettler } from './entry-settler.ts';
import { IndexLookup } from './index-lookup.ts';
import type { IndexPageMap } from './index-page-map.ts';
import { damagedChapters, IndexRebuild } from './index-rebuild.ts';
import type { IndexRegion } from './index-region.ts';
import type { IndexSaves } from './index-saves.ts';
import { writeRecordData, type OpenChapter } from './open-chapter.ts';
import { SparseCache } from './sparse-cache.ts';
import { saveVolumeIndex } from './volume-index-save.ts';
import type { VolumeIndex } from './volume-index.ts';
import { NO_ENTRY, PUT_NOTHING, PUT_OVERFLOW, PUT_SET, REPLAY_SEARCH } from './zone.ts';

/** Names handled at a time. */
export const MAX_ROWS = 2048;

export interface UdsIndexParts {
  readonly region: IndexRegion;
  readonly saves: IndexSaves;
  readonly volumeIndex: VolumeIndex;
  readonly pageMap: IndexPageMap;
  readonly openChapter: OpenChapter;
  /** Number of the open chapter, and of the oldest one that is remembered. */
  readonly newest: number;
  readonly oldest: number;
  /** Chapters are to be replayed in the background. */
  readonly rebuild: boolean;
  /** A save would say something new even if nothing happens. */
  readonly changed: boolean;
  readonly warning: VdoError | null;
  readonly cachePages: number;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

export interface RebuildProgress {
  readonly chaptersDone: number;
  readonly chapters: number;
}

export class UdsIndex implements HashIndex {
  readonly kind = 'uds';
  readonly #parts: UdsIndexParts;
  readonly #volumeIndex: VolumeIndex;
  readonly #store: ChapterStore;
  readonly #current: CurrentChapters;
  readonly #lookups: IndexLookup;
  readonly #settler: EntrySettler;
  readonly #sparse: SparseCache | null;
  #rebuild: IndexRebuild | null = null;
  #rebuilt: Promise<void> = Promise.resolve();
  #warning: VdoError | null;
  #failed = false;
  #changed: boolean;
  #closed: Promise<void> | null = null;
  readonly #found = volumeIndexRows(MAX_ROWS);
  readonly #guessed = volumeIndexRows(MAX_ROWS);
  readonly #result = new Uint8Array(MAX_ROWS);
  /** Names that were added to the open chapter, for the volume index. */
  readonly #posts = new ChapterQueries(MAX_ROWS);
  #queries = 0;
  #updatesFound = 0;
  #updatesNotFound = 0;
  #dropped = 0;

  constructor(parts: UdsIndexParts) {
    const { region, saves, volumeIndex, pageMap, openChapter, newest, oldest } = parts;
    this.#parts = parts;
    this.#volumeIndex = volumeIndex;
    this.#store = new ChapterStore(region, pageMap, parts.cachePages, MAX_ROWS);
    this.#current = new CurrentChapters({
      geometry: region.geometry,
      store: this.#store,
      saves,
      volumeIndex,
      openChapter,
      newest,
      oldest,
      failed: (error) => this.#fail('writing', error),
    });
    this.#sparse = region.geometry.sparse ? new SparseCache(region) : null;
    this.#lookups = new IndexLookup({
      geometry: region.geometry,
      volumeIndex,
      store: this.#store,
      current: this.#current,
      sparse: this.#sparse,
      capacity: MAX_ROWS,
    });
    this.#settler = new EntrySettler({
      volumeIndex,
      store: this.#store,
      inMemory: (chapter) => this.#current.inMemory(chapter),
      capacity: MAX_ROWS,
    });
    this.#warning = parts.warning;
    this.#changed = parts.changed;
    if (parts.rebuild) this.#startRebuild();
  }

  get warning(): VdoError | null {
    return this.#warning ?? this.#store.damage;
  }

  /** How far a rebuild has come, or null while there is none. */
  get rebuildProgress(): RebuildProgress | null {
    if (this.#rebuild === null) return null;
    const { chaptersDone, chapters } = this.#rebuild;
    return { chaptersDone, chapters };
  }

  rebuilt(): Promise<void> {
    return this.#rebuilt;
  }

  /** The numbers of the open chapter and of the oldest one. */
  get chapters(): { readonly newest: number; readonly oldest: number } {
    return { newest: this.#current.newest, oldest: this.#current.oldest };
  }

  /** Resolves when nothing goes on in the background: no rebuild, no chapter being written. */
  async settled(): Promise<void> {
    await this.#rebuilt;
    await this.#current.settled();
  }

  lookup(names: Uint8Array, count: number, advice: Advice): Promise<void> | void {
    for (let first = 0; first < count; first += MAX_ROWS) {
      const end = Math.min(count, first + MAX_ROWS);
      if (!this.#begin(names, first, end, advice)) {
        return this.#lookupRest(names, first, count, advice);
      }
    }
  }

  /** What the volume index has an entry for, whether or not the chapter will confirm it. */
  mayHold(names: Uint8Array, count: number, result: Uint8Array): void {
    for (let first = 0; first < count; first += MAX_ROWS) {
      const rows = Math.min(MAX_ROWS, count - first);
      const from = first * RECORD_NAME_SIZE;
      const some = names.subarray(from, from + rows * RECORD_NAME_SIZE);
      this.#volumeIndex.lookup(some, rows, this.#guessed);
      for (let i = 0; i < rows; i++) {
        result[first + i] = this.#guessed.entry[i] === NO_ENTRY ? 0 : 1;
      }
    }
  }

  async update(names: Uint8Array, count: number, locations: Advice): Promise<void> {
    for (let first = 0; first < count && !this.#failed;) {
      if (!(await this.#makeRoom())) {
        this.#dropped += count - first;
        return;
      }
      first = this.#record(names, first, Math.min(count, first + MAX_ROWS), locations);
      if (this.#settler.waiting > 0) await this.#settle();
      this.#current.closeIfFull();
    }
  }

  statistics(): IndexStatistics {
    const { records, collisions, discarded, residentBytes } = this.#volumeIndex.statistics();
    return {
      entriesIndexed: records,
      queriesFound: this.#lookups.found,
      queriesNotFound: this.#queries - this.#lookups.found,
      updatesFound: this.#updatesFound + this.#settler.known,
      updatesNotFound: this.#updatesNotFound + this.#settler.unknown,
      entriesDiscarded: discarded + this.#dropped,
      collisionEntries: collisions,
      chaptersToReplay:
        this.#rebuild === null ? 0 : this.#rebuild.chapters - this.#rebuild.chaptersDone,
      memoryBytes:
        residentBytes +
        this.#current.memoryBytes +
        this.#store.memoryBytes +
        (this.#sparse?.memoryBytes ?? 0) +
        this.#parts.pageMap.memoryBytes,
    };
  }

  /** Saves, unless there is nothing new or nothing true to save. Never fails: `warning` says why not. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const interrupted = this.#rebuild !== null;
    this.#rebuild?.stop();
    await this.#rebuilt;
    await this.#current.settled();
    if (this.#failed || interrupted || !this.#changed) return;
    try {
      if (this.#store.damage !== null) await this.#parts.saves.invalidate();
      else await this.#save();
    } catch (error) {
      this.#fail('saving', error);
    }
  }

  async #save(): Promise<void> {
    const { saves, region, pageMap, now } = this.#parts;
    const { newest, oldest, open } = this.#current;
    await saves.write({
      newest,
      oldest,
      openChapter: open,
      pageMap,
      volumeIndex: saveVolumeIndex(this.#volumeIndex, region.volumeNonce),
      now: now(),
    });
  }

  async #lookupRest(
    names: Uint8Array,
    start: number,
    count: number,
    advice: Advice,
  ): Promise<void> {
    for (let first = start; ;) {
      try {
        await this.#lookups.finish(advice);
        await this.#refresh();
      } catch (error) {
        this.#fail('reading', error);
      }
      do {
        first += MAX_ROWS;
        if (first >= count) return;
      } while (this.#begin(names, first, Math.min(count, first + MAX_ROWS), advice));
    }
  }

  /** Looks rows up in memory; false if that was not all. */
  #begin(names: Uint8Array, first: number, end: number, advice: Advice): boolean {
    advice.pbn.fill(0, first, end);
    advice.state.fill(0, first, end);
    this.#queries += end - first;
    if (this.#failed) return true;
    this.#changed = true;
    return this.#lookups.begin(names, first, end, advice);
  }

  /** Records in the open chapter what was found in older ones. */
  async #refresh(): Promise<void> {
    const { names, pbn, state, action, count } = this.#lookups.posts;
    for (let first = 0; first < count && !this.#failed;) {
      if (!(await this.#makeRoom())) return;
      const { open, newest } = this.#current;
      const rows = Math.min(count - first, open.capacity - open.count);
      const some = names.subarray(first * RECORD_NAME_SIZE, (first + rows) * RECORD_NAME_SIZE);
      this.#volumeIndex.put(some, rows, action.subarray(first), newest, this.#result);
      for (let i = 0; i < rows; i++) {
        const result = this.#result[i];
        if (result === PUT_OVERFLOW || result === PUT_NOTHING) continue;
        const at = i * RECORD_NAME_SIZE;
        if (open.find(some, at) >= 0) continue;
        const record = open.append(some, at) * RECORD_SIZE;
        writeRecordData(open.records, record, pbn[first + i]!, state[first + i]!);
      }
      first += rows;
      this.#current.closeIfFull();
    }
  }

  /** Makes sure that the open chapter has room; false where it cannot get any. */
  async #makeRoom(): Promise<boolean> {
    while (this.#current.open.isFull) {
      if (!this.#current.mayClose || this.#failed) return false;
      await this.#current.close();
    }
    return true;
  }

  /**
   * Records rows in the open chapter until it is full; returns the row to go on with. Names whose entry
   * may be another's are handed to the settler.
   */
  #record(names: Uint8Array, first: number, end: number, locations: Advice): number {
    const { open, newest } = this.#current;
    const posts = this.#posts;
    posts.count = 0;
    this.#changed = true;
    let row = first;
    for (; row < end; row++) {
      const at = row * RECORD_NAME_SIZE;
      const pbn = locations.pbn[row]!;
      let number = open.find(names, at);
      if (number >= 0) this.#updatesFound++;
      else if (pbn === 0) {
        this.#forget(names, at);
        continue;
      } else {
        if (open.isFull) break;
        number = open.append(names, at);
        posts.add(names, at, newest, row);
      }
      writeRecordData(open.records, number * RECORD_SIZE, pbn, locations.state[row]!);
    }
    this.#volumeIndex.replay(posts.names, posts.count, newest, this.#found, this.#result);
    for (let i = 0; i < posts.count; i++) {
      const result = this.#result[i];
      if (result === REPLAY_SEARCH) {
        this.#settler.add(posts.names, i * RECORD_NAME_SIZE, this.#found.chapter[i]!);
      } else if (result === PUT_SET) this.#updatesFound++;
      else this.#updatesNotFound++;
    }
    return row;
  }

  /** A name that lies nowhere now. */
  #forget(names: Uint8Array, at: number): void {
    this.#volumeIndex.remove(names.subarray(at, at + RECORD_NAME_SIZE), 1, this.#result);
    if (this.#result[0] === 1) this.#updatesFound++;
    else this.#updatesNotFound++;
  }

  async #settle(): Promise<void> {
    try {
      await this.#settler.settle(this.#current.newest);
    } catch (error) {
      this.#settler.clear();
      this.#fail('reading', error);
    }
  }

  #startRebuild(): void {
    const { region, volumeIndex, pageMap, openChapter, newest, oldest } = this.#parts;
    const range = { oldest, newest };
    const rebuild = new IndexRebuild({ region, range, volumeIndex, pageMap, openChapter });
    this.#rebuild = rebuild;
    this.#current.mayClose = false;
    this.#rebuilt = rebuild.run().then(
      (done) => {
        if (!done) return;
        if (rebuild.chaptersBad > 0) this.#warning ??= damagedChapters(rebuild.chaptersBad);
        this.#rebuild = null;
        this.#current.mayClose = true;
        this.#current.closeIfFull();
      },
      (error: unknown) => this.#fail('rebuilding', error),
    );
  }

  #fail(doing: string, error: unknown): void {
    this.#failed = true;
    this.#warning ??= new VdoError(
      'Io',
      `${doing} the index failed: it is not used any more (${error instanceof Error ? error.message : String(error)})`,
      {},
      error,
    );
  }
}
