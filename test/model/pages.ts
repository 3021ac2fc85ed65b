/**
 * The block map pages of the model: resident ones, which of them are dirty, and the two ways in which a
 * checkpoint writes them.
 */
import { Damaged, type VolumeLayout } from './layout.ts';
import { formatPage, getMapping, judgePage, setMapping, slotAt, type Mapping } from './records.ts';
import type { Sabotage } from './sabotage.ts';

export interface Page {
  readonly pbn: number;
  readonly image: Buffer;
  /** The disk holds a first image that later ones may safely tear over. */
  hasFirstImage: boolean;
  dirty: boolean;
  /** Copies of it that are being written: it must not be read back from the disk meanwhile. */
  pins: number;
}

export interface PageCopy {
  readonly page: Page;
  readonly image: Buffer;
  readonly twice: boolean;
}

export class ModelPages {
  readonly #layout: VolumeLayout;
  readonly #sabotage: Sabotage | undefined;
  readonly #resident = new Map<number, Page>();

  constructor(layout: VolumeLayout, sabotage: Sabotage | undefined) {
    this.#layout = layout;
    this.#sabotage = sabotage;
  }

  get dirtyCount(): number {
    let count = 0;
    for (const { dirty } of this.#resident.values()) if (dirty) count++;
    return count;
  }

  get(pbn: number): Page | undefined {
    return this.#resident.get(pbn);
  }

  /** Takes in a page as read from disk. Throws `Damaged` for a page that is another one. */
  load(pbn: number, bytes: Buffer): Page {
    const verdict = judgePage(bytes, pbn, this.#layout.nonce);
    if (verdict === 'bad') throw new Damaged(`the engine read a bad page ${pbn}`);
    const valid = verdict === 'valid';
    const image = valid ? bytes : formatPage(pbn, this.#layout.nonce);
    return this.#add({ pbn, image, hasFirstImage: valid, dirty: false, pins: 0 });
  }

  /** A page that was just allocated; its first image is written as data of the batch. */
  create(pbn: number): Page {
    const hasFirstImage = this.#sabotage !== 'no-fresh-image';
    const image = formatPage(pbn, this.#layout.nonce);
    return this.#add({ pbn, image, hasFirstImage, dirty: false, pins: 0 });
  }

  #add(page: Page): Page {
    this.#resident.set(page.pbn, page);
    return page;
  }

  mapping(page: Page, slot: number): Mapping {
    return getMapping(page.image, slotAt(slot));
  }

  store(page: Page, slot: number, mapping: Mapping): void {
    setMapping(page.image, slotAt(slot), mapping);
    page.dirty = true;
  }

  /** Drops clean pages, each with the given probability. */
  evict(drop: () => boolean): void {
    for (const { pbn, dirty, pins } of this.#resident.values()) {
      if (!dirty && pins === 0 && drop()) this.#resident.delete(pbn);
    }
  }

  /** Copies all dirty pages; from here on only later changes make them dirty. */
  copyDirty(): PageCopy[] {
    const copies: PageCopy[] = [];
    for (const page of this.#resident.values()) {
      if (!page.dirty) continue;
      page.dirty = false;
      page.pins++;
      const twice = !page.hasFirstImage && this.#sabotage !== 'uninitialized-once';
      copies.push({ page, image: Buffer.from(page.image), twice });
    }
    return copies;
  }

  /** Adds a copy's images to what the two barriers write. */
  images(
    { page, image, twice }: PageCopy,
    first: Map<number, Uint8Array>,
    second: Map<number, Uint8Array>,
  ): void {
    const whole = Buffer.from(this.#sabotage === 'live-pages' ? page.image : image);
    whole[32] = 1;
    if (!twice) {
      first.set(page.pbn, whole);
      return;
    }
    const unfinished = Buffer.from(whole);
    unfinished[32] = 0;
    first.set(page.pbn, unfinished);
    second.set(page.pbn, whole);
  }

  /** The copies are durable. */
  finish(copies: readonly PageCopy[]): void {
    for (const { page } of copies) {
      page.hasFirstImage = true;
      page.pins--;
      if (this.#sabotage === 'dirty-mark-dropped') page.dirty = false;
    }
  }
}
