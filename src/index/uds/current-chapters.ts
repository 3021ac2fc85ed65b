/**
 * The chapters in memory: the open one, and the one before it while it is written out.
 *
 * - A full chapter is closed: it becomes the writing one, and an empty one is opened with the next
 *   number. Who closes a chapter while another is written waits for that.
 * - The first chapter that is closed makes the last save invalid, before any of its pages is written:
 *   the save's page map would be wrong.
 * - No chapter is closed while the index is rebuilt: its slot may be that of one still to be replayed.
 */
import { assert } from '../../base/assert.ts';
import type { ChapterStore } from './chapter-store.ts';
import { chaptersToExpire, type IndexGeometry } from './index-geometry.ts';
import type { IndexSaves } from './index-saves.ts';
import { OpenChapter } from './open-chapter.ts';
import type { VolumeIndex } from './volume-index.ts';

export interface CurrentChaptersParts {
  readonly geometry: IndexGeometry;
  readonly store: ChapterStore;
  readonly saves: IndexSaves;
  readonly volumeIndex: VolumeIndex;
  readonly openChapter: OpenChapter;
  readonly newest: number;
  readonly oldest: number;
  /** Told once what went wrong when a chapter was written. */
  readonly failed: (error: unknown) => void;
}

interface WritingChapter {
  readonly number: number;
  readonly contents: OpenChapter;
  readonly done: Promise<void>;
}

export class CurrentChapters {
  readonly #parts: CurrentChaptersParts;
  #open: OpenChapter;
  #spare: OpenChapter | null = null;
  #writing: WritingChapter | null = null;
  #newest: number;
  #oldest: number;
  #saveIsInvalid = false;
  /** Whether a full chapter may be closed. */
  mayClose = true;
  /** Chapters written since the index was opened. */
  written = 0;

  constructor(parts: CurrentChaptersParts) {
    this.#parts = parts;
    this.#open = parts.openChapter;
    this.#newest = parts.newest;
    this.#oldest = parts.oldest;
  }

  get open(): OpenChapter {
    return this.#open;
  }

  /** Number of the open chapter. */
  get newest(): number {
    return this.#newest;
  }

  /** Number of the oldest chapter that is remembered. */
  get oldest(): number {
    return this.#oldest;
  }

  get memoryBytes(): number {
    const other = this.#spare ?? this.#writing?.contents;
    return this.#open.memoryBytes + (other?.memoryBytes ?? 0);
  }

  /** The chapter of this number, if it is in memory. */
  inMemory(chapter: number): OpenChapter | null {
    if (chapter === this.#newest) return this.#open;
    return this.#writing !== null && chapter === this.#writing.number
      ? this.#writing.contents
      : null;
  }

  /** Closes the open chapter if it is full and nothing has to be waited for. */
  closeIfFull(): void {
    if (this.#open.isFull && this.#writing === null && this.mayClose) this.#close();
  }

  /** Closes the open chapter, which is full, as soon as the one before it is written. */
  async close(): Promise<void> {
    await this.settled();
    this.closeIfFull();
  }

  /** Resolves when no chapter is being written. */
  async settled(): Promise<void> {
    while (this.#writing !== null) await this.#writing.done;
  }

  #close(): void {
    const { geometry, volumeIndex } = this.#parts;
    const number = this.#newest;
    const contents = this.#open;
    assert(this.#writing === null && contents.count > 0, 'one chapter is written at a time');
    this.#open = this.#spare ?? new OpenChapter(contents.capacity);
    this.#spare = null;
    this.#newest = number + 1;
    this.#oldest += chaptersToExpire(geometry, this.#newest);
    volumeIndex.openChapter(this.#newest);
    const done = this.#write(number, contents).then(
      () => this.#written(contents),
      (error: unknown) => {
        this.#writing = null;
        this.#parts.failed(error);
      },
    );
    this.#writing = { number, contents, done };
  }

  /** In one step: as long as the chapter counts as being in memory, its records are there. */
  #written(contents: OpenChapter): void {
    this.#writing = null;
    contents.clear();
    this.#spare = contents;
    this.written++;
    this.closeIfFull();
  }

  async #write(number: number, contents: OpenChapter): Promise<void> {
    if (!this.#saveIsInvalid) {
      await this.#parts.saves.invalidate();
      this.#saveIsInvalid = true;
    }
    await this.#parts.store.write(number, contents);
  }
}
