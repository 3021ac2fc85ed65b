/**
 * Looks names up, a slice of a batch at a time: in the volume index, then in the chapter that it names.
 *
 * - What is in memory answers at once. The rest is asked of the chapters on disk in one go.
 * - Sparse indexes: a hook found in a sparse chapter brings that chapter into the sparse cache, and then
 *   names that the volume index does not know are looked up there. dm-vdo does so name by name; here all
 *   hooks of a slice go first.
 * - What was found outside the open chapter is left in `posts`, to be recorded there.
 */
import { RECORD_NAME_SIZE } from '../../base/constants.ts';
import { RECORD_SIZE } from '../../format/chapter-page.ts';
import type { Advice } from '../hash-index.ts';
import { ChapterQueries, volumeIndexRows, type ChapterStore } from './chapter-store.ts';
import type { CurrentChapters } from './current-chapters.ts';
import { isSparseChapter, type IndexGeometry } from './index-geometry.ts';
import { recordPbn, recordState } from './open-chapter.ts';
import { isHook } from './record-name.ts';
import type { SparseCache } from './sparse-cache.ts';
import type { VolumeIndex } from './volume-index.ts';
import { ADD, NO_ENTRY, SET } from './zone.ts';

export interface LookupParts {
  readonly geometry: IndexGeometry;
  readonly volumeIndex: VolumeIndex;
  readonly store: ChapterStore;
  readonly current: CurrentChapters;
  /** Null for dense indexes. */
  readonly sparse: SparseCache | null;
  /** Names of a slice at most. */
  readonly capacity: number;
}

export class IndexLookup {
  readonly #parts: LookupParts;
  readonly #found;
  #queries: ChapterQueries;
  /** Names that the volume index does not know, or wrongly: for the sparse cache. */
  readonly #misses: ChapterQueries;
  readonly #hooked = new Set<number>();
  /** Found records, to be copied to the open chapter; `action` says how the entry changes. */
  readonly posts: ChapterQueries;
  /** Names found, since construction. */
  found = 0;

  constructor(parts: LookupParts) {
    const { capacity } = parts;
    this.#parts = parts;
    this.#found = volumeIndexRows(capacity);
    this.#queries = new ChapterQueries(capacity);
    this.#misses = new ChapterQueries(parts.sparse === null ? 1 : capacity);
    this.posts = new ChapterQueries(capacity);
  }

  /**
   * Answers rows `first` … `end` − 1 as far as memory can, the others with 0. Returns false when `finish`
   * has to be called, or `posts` are to be recorded.
   */
  begin(names: Uint8Array, first: number, end: number, advice: Advice): boolean {
    const { volumeIndex, current, sparse } = this.#parts;
    const count = end - first;
    const some = names.subarray(first * RECORD_NAME_SIZE, end * RECORD_NAME_SIZE);
    this.#queries.count = 0;
    this.#misses.count = 0;
    this.posts.count = 0;
    volumeIndex.lookup(some, count, this.#found);
    for (let i = 0; i < count; i++) {
      const at = i * RECORD_NAME_SIZE;
      if (this.#found.entry[i] === NO_ENTRY) {
        if (sparse !== null && !isHook(some, at)) this.#misses.add(some, at, -1, first + i);
        continue;
      }
      const chapter = this.#found.chapter[i]!;
      const memory = current.inMemory(chapter);
      if (memory === null) {
        this.#queries.add(some, at, chapter, first + i);
        continue;
      }
      const number = memory.find(some, at);
      if (number < 0) {
        if (sparse !== null && !isHook(some, at)) this.#misses.add(some, at, -1, first + i);
        continue;
      }
      const pbn = recordPbn(memory.records, number * RECORD_SIZE);
      const state = recordState(memory.records, number * RECORD_SIZE);
      this.#answer(advice, first + i, pbn, state);
      if (chapter !== current.newest) this.posts.addAt(some, at, pbn, state, SET);
    }
    const searchMisses = this.#misses.count > 0 && !sparse!.isEmpty;
    return this.#queries.count === 0 && this.posts.count === 0 && !searchMisses;
  }

  /** Asks the chapters on disk for what `begin` left open. Fails with `Io`. */
  async finish(advice: Advice): Promise<void> {
    const { store, sparse, current } = this.#parts;
    if (sparse !== null) await this.#meetHooks(sparse);
    if (this.#queries.count > 0) {
      await store.search(this.#queries);
      this.#take(advice, SET);
    }
    if (sparse === null || sparse.isEmpty || this.#misses.count === 0) return;
    this.#queries.count = 0;
    const { names, row, count } = this.#misses;
    for (let i = 0; i < count; i++) {
      const at = i * RECORD_NAME_SIZE;
      if (!sparse.search(names, at, current.oldest)) continue;
      this.#queries.add(names, at, sparse.chapter, row[i]!, sparse.recordPage);
    }
    if (this.#queries.count === 0) return;
    await store.search(this.#queries);
    this.#take(advice, ADD);
  }

  /** Answers with what the chapters had; the rest may be in the sparse cache. */
  #take(advice: Advice, action: number): void {
    const { names, row, found, pbn, state, count } = this.#queries;
    for (let i = 0; i < count; i++) {
      const at = i * RECORD_NAME_SIZE;
      if (found[i] === 1) {
        this.#answer(advice, row[i]!, pbn[i]!, state[i]!);
        if (pbn[i] !== 0) this.posts.addAt(names, at, pbn[i]!, state[i]!, action);
      } else if (this.#parts.sparse !== null && action === SET && !isHook(names, at)) {
        this.#misses.add(names, at, -1, row[i]!);
      }
    }
  }

  /** Brings the sparse chapters of hooks into the sparse cache. */
  async #meetHooks(sparse: SparseCache): Promise<void> {
    const { geometry, current } = this.#parts;
    const { names, chapter, count } = this.#queries;
    const { oldest, newest } = current;
    this.#hooked.clear();
    for (let i = 0; i < count; i++) {
      if (!isHook(names, i * RECORD_NAME_SIZE)) continue;
      if (!isSparseChapter(geometry, chapter[i]!, oldest, newest)) continue;
      this.#hooked.delete(chapter[i]!);
      this.#hooked.add(chapter[i]!);
    }
    if (this.#hooked.size > 0) await sparse.include(this.#hooked, oldest);
  }

  #answer(advice: Advice, row: number, pbn: number, state: number): void {
    if (pbn === 0) return;
    advice.pbn[row] = pbn;
    advice.state[row] = state;
    this.found++;
  }
}
