/**
 * Settles names whose entry in the volume index may be another name's: looks them up in the chapter that
 * the entry names, and then sets that entry, or adds one beside it.
 *
 * Reading a chapter takes time, in which others may change the entry: it is looked at again before it is
 * changed, and if it names another chapter now, so is that. An entry of a newer chapter is left alone.
 */
import { ChapterQueries, NOWHERE, volumeIndexRows, type ChapterStore } from './chapter-store.ts';
import type { OpenChapter } from './open-chapter.ts';
import type { VolumeIndex, VolumeIndexRows } from './volume-index.ts';
import { ADD, NO_ENTRY, NOTHING, PUT_SET, SET } from './zone.ts';

const NAME_SIZE = 16;

export interface SettlerParts {
  readonly volumeIndex: VolumeIndex;
  readonly store: ChapterStore;
  /** A chapter that is in memory, or null. */
  readonly inMemory: (chapter: number) => OpenChapter | null;
  /** Names that can wait. */
  readonly capacity: number;
}

export class EntrySettler {
  readonly #parts: SettlerParts;
  readonly #found: VolumeIndexRows;
  readonly #result: Uint8Array;
  readonly #action: Uint8Array;
  #queries: ChapterQueries;
  #again: ChapterQueries;
  /** Names that `settle` found to be known, since construction; and those that it did not. */
  known = 0;
  unknown = 0;

  constructor(parts: SettlerParts) {
    const { capacity } = parts;
    this.#parts = parts;
    this.#found = volumeIndexRows(capacity);
    this.#result = new Uint8Array(capacity);
    this.#action = new Uint8Array(capacity);
    this.#queries = new ChapterQueries(capacity);
    this.#again = new ChapterQueries(capacity);
  }

  get waiting(): number {
    return this.#queries.count;
  }

  /** The name at `at` has an entry that names `chapter`: to be settled. */
  add(names: Uint8Array, at: number, chapter: number): void {
    this.#enqueue(this.#queries, names, at, chapter);
  }

  /** Settles all that wait: their entries are of chapter `chapter` then, or a newer one. Fails with `Io`. */
  async settle(chapter: number): Promise<void> {
    while (this.#queries.count > 0) {
      await this.#parts.store.search(this.#queries);
      this.#decide(chapter);
      [this.#queries, this.#again] = [this.#again, this.#queries];
      this.#again.count = 0;
    }
  }

  /** Forgets what waits. */
  clear(): void {
    this.#queries.count = 0;
    this.#again.count = 0;
  }

  #decide(chapter: number): void {
    const { volumeIndex, inMemory } = this.#parts;
    const queries = this.#queries;
    const { names, count } = queries;
    volumeIndex.lookup(names, count, this.#found);
    for (let i = 0; i < count; i++) {
      const at = i * NAME_SIZE;
      const now = this.#found.chapter[i]!;
      this.#action[i] = ADD;
      if (this.#found.entry[i] === NO_ENTRY || now === chapter) continue;
      const memory = inMemory(now);
      if (memory === null && now !== queries.chapter[i]) {
        this.#enqueue(this.#again, names, at, now);
        this.#action[i] = NOTHING;
        continue;
      }
      const isHere = memory === null ? queries.found[i] === 1 : memory.find(names, at) >= 0;
      if (isHere) this.#action[i] = now > chapter ? NOTHING : SET;
    }
    volumeIndex.put(names, count, this.#action, chapter, this.#result);
    for (let i = 0; i < count; i++) {
      if (this.#action[i] === NOTHING) continue;
      if (this.#result[i] === PUT_SET) this.known++;
      else this.unknown++;
    }
  }

  #enqueue(queries: ChapterQueries, names: Uint8Array, at: number, chapter: number): void {
    const isInMemory = this.#parts.inMemory(chapter) !== null;
    queries.add(names, at, isInMemory ? NOWHERE : chapter, queries.count);
  }
}
