/**
 * The index page map: which delta lists lie on which index page of each chapter, for every slot of the
 * volume (FORMAT §9.4). It must agree with the pages exactly, else dm-vdo stops using the index.
 */
import { assert } from '../../base/assert.ts';
import { asBuffer, getU16, setU16 } from '../../base/bytes.ts';
import { pageMapHeader, readPageMapHeader, writePageMapHeader } from '../../format/index-save.ts';
import type { IndexGeometry } from './index-geometry.ts';

export class IndexPageMap {
  readonly #pages: number;
  readonly #lastList: number;
  /** Row s: the last list of each index page of slot s but the last. */
  readonly #rows: Uint16Array;
  /** The chapter whose pages were written last. */
  #updated = 0;

  constructor({ chapters, indexPagesPerChapter, chapterLists }: IndexGeometry) {
    this.#pages = indexPagesPerChapter;
    this.#lastList = chapterLists - 1;
    this.#rows = new Uint16Array(chapters * (indexPagesPerChapter - 1));
  }

  /** Bytes of a saved map. */
  get saveSize(): number {
    return pageMapHeader.size + this.#rows.length * 2;
  }

  /** The chapter whose row was set last. */
  get updated(): number {
    return this.#updated;
  }

  get memoryBytes(): number {
    return this.#rows.byteLength;
  }

  /** The index page of the slot that holds a list. */
  pageOf(slot: number, list: number): number {
    const row = slot * (this.#pages - 1);
    let page = 0;
    while (page < this.#pages - 1 && list > this.#rows[row + page]!) page++;
    return page;
  }

  /** Whether the map says that page `page` of the slot holds exactly these lists. */
  agrees(slot: number, page: number, firstList: number, lists: number): boolean {
    const row = slot * (this.#pages - 1);
    const first = page === 0 ? 0 : this.#rows[row + page - 1]! + 1;
    const last = page === this.#pages - 1 ? this.#lastList : this.#rows[row + page]!;
    return firstList === first && firstList + lists - 1 === last;
  }

  /** Takes over the row of a chapter that was written to the slot. */
  set(chapter: number, slot: number, lastLists: Uint16Array): void {
    assert(lastLists.length === this.#pages - 1, 'row of the index page map');
    this.#rows.set(lastLists, slot * (this.#pages - 1));
    this.#updated = chapter;
  }

  /** The saved form. */
  encode(): Uint8Array {
    const bytes = new Uint8Array(this.saveSize);
    writePageMapHeader(bytes, this.#updated);
    for (let i = 0; i < this.#rows.length; i++) {
      setU16(bytes, pageMapHeader.size + i * 2, this.#rows[i]!);
    }
    return bytes;
  }

  /** Takes over a saved map. Fails with `Corrupt`. */
  decode(bytes: Uint8Array): void {
    this.#updated = readPageMapHeader(bytes);
    const rows = asBuffer(bytes);
    for (let i = 0; i < this.#rows.length; i++) {
      this.#rows[i] = getU16(rows, pageMapHeader.size + i * 2);
    }
  }
}
