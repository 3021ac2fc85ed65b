/**
 * Pages of closed chapters in memory: a bounded cache that is asked for many pages at once and reads
 * those it lacks in one vector.
 *
 * - Pages are numbered through the whole ring: slot · pages per chapter + page.
 * - `pin` names what is needed, `read` makes it resident, `release` lets go. Pinned pages are not
 *   replaced; of the others the one not used for longest goes (CLOCK).
 * - One user at a time: from the first `pin` to `release` nobody else may pin.
 */
import { assert } from '../../base/assert.ts';
import { BLOCK_SIZE } from '../../base/constants.ts';
import { NumberMap } from '../../base/number-map.ts';
import { CHAPTER_PAGE_SIZE } from '../../format/chapter-page.ts';
import type { Extent, Storage } from '../../storage/storage.ts';

const NO_PAGE = -1;
const BLOCKS_PER_PAGE = CHAPTER_PAGE_SIZE / BLOCK_SIZE;

export class ChapterPageCache {
  readonly #storage: Storage;
  readonly #volumeStart: number;
  readonly #frames: number;
  readonly #views: readonly Uint8Array[];
  readonly #map: NumberMap;
  /** Page in each frame, or −1. */
  readonly #page: Float64Array;
  readonly #pinned: Uint8Array;
  readonly #used: Uint8Array;
  /** 1 where the user has found the page to be what it should be. */
  readonly #checked: Uint8Array;
  readonly #pins: Int32Array;
  #pinCount = 0;
  /** Frames whose page is still to be read. */
  #missing: number[] = [];
  #hand = 0;
  #touched = 0;
  pagesRead = 0;

  /** `volumeStart`: first block of the ring. Takes 32 KiB for each frame, once it is used. */
  constructor(storage: Storage, volumeStart: number, frames: number) {
    this.#storage = storage;
    this.#volumeStart = volumeStart;
    this.#frames = frames;
    const bytes = new Uint8Array(frames * CHAPTER_PAGE_SIZE);
    this.#views = Array.from({ length: frames }, (_, frame) =>
      bytes.subarray(frame * CHAPTER_PAGE_SIZE, (frame + 1) * CHAPTER_PAGE_SIZE),
    );
    this.#map = new NumberMap(frames);
    this.#page = new Float64Array(frames).fill(NO_PAGE);
    this.#pinned = new Uint8Array(frames);
    this.#used = new Uint8Array(frames);
    this.#checked = new Uint8Array(frames);
    this.#pins = new Int32Array(frames);
  }

  /** Bytes that were ever used. */
  get memoryBytes(): number {
    return this.#touched * CHAPTER_PAGE_SIZE;
  }

  /** Makes sure that the page stays, or is read; its frame, or −1 when every frame is pinned. */
  pin(page: number): number {
    let frame = this.#map.get(page);
    if (frame < 0) {
      frame = this.#victim();
      if (frame < 0) return -1;
      this.#map.set(page, frame);
      this.#page[frame] = page;
      this.#missing.push(frame);
    }
    if (this.#pinned[frame] === 0) {
      this.#pinned[frame] = 1;
      this.#pins[this.#pinCount++] = frame;
    }
    this.#used[frame] = 1;
    return frame;
  }

  /** Reads the pinned pages that are missing. On an error all of those are forgotten, and unpinned. */
  async read(): Promise<void> {
    if (this.#missing.length === 0) return;
    const missing = this.#missing.sort((a, b) => this.#page[a]! - this.#page[b]!);
    this.#missing = [];
    const extents = missing.map((frame): Extent => this.#extent(frame));
    try {
      await this.#storage.read(extents);
      this.pagesRead += missing.length;
    } catch (error) {
      for (const frame of missing) this.#forget(frame);
      this.release();
      throw error;
    }
  }

  /** Ends the use of all that is pinned. */
  release(): void {
    for (const frame of this.#missing) this.#forget(frame);
    this.#missing = [];
    for (let i = 0; i < this.#pinCount; i++) this.#pinned[this.#pins[i]!] = 0;
    this.#pinCount = 0;
  }

  /** The bytes of a pinned page's frame. */
  bytes(frame: number): Uint8Array {
    return this.#views[frame]!;
  }

  /** Whether `setChecked` was called since the page was read. */
  isChecked(frame: number): boolean {
    return this.#checked[frame] === 1;
  }

  setChecked(frame: number): void {
    this.#checked[frame] = 1;
  }

  /** Takes over a page that was just written, if there is room. */
  put(page: number, bytes: Uint8Array): void {
    const known = this.#map.get(page);
    const frame = known >= 0 ? known : this.#victim();
    if (frame < 0) return;
    this.#map.set(page, frame);
    this.#page[frame] = page;
    this.#used[frame] = 1;
    this.#checked[frame] = 0;
    this.bytes(frame).set(bytes);
  }

  /** Forgets pages `first` … `end` − 1, none of them pinned. */
  drop(first: number, end: number): void {
    for (let page = first; page < end; page++) {
      const frame = this.#map.get(page);
      if (frame < 0) continue;
      assert(this.#pinned[frame] === 0, 'a pinned page is not dropped');
      this.#forget(frame);
    }
  }

  #forget(frame: number): void {
    this.#map.delete(this.#page[frame]!);
    this.#page[frame] = NO_PAGE;
    this.#used[frame] = 0;
    this.#checked[frame] = 0;
  }

  #victim(): number {
    if (this.#pinCount === this.#frames) return -1;
    for (let steps = 0; steps <= 2 * this.#frames; steps++) {
      const frame = this.#hand;
      this.#hand = (frame + 1) % this.#frames;
      this.#touched = Math.max(this.#touched, frame + 1);
      if (this.#pinned[frame] !== 0) continue;
      if (this.#used[frame] !== 0) {
        this.#used[frame] = 0;
        continue;
      }
      if (this.#page[frame] !== NO_PAGE) this.#forget(frame);
      return frame;
    }
    return -1;
  }

  #extent(frame: number): Extent {
    const block = this.#volumeStart + BLOCKS_PER_PAGE * (1 + this.#page[frame]!);
    return { offset: block * BLOCK_SIZE, bytes: this.bytes(frame) };
  }
}
