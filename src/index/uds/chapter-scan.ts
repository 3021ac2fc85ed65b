/**
 * Which chapters a volume holds, from the pages alone: the way a crash leaves it (FORMAT §9.8).
 *
 * - A slot holds a chapter if all its index pages are sound, of one chapter, and that chapter belongs
 *   there. Record pages are not looked at.
 * - Chapters are written in order round the ring, so those that are there are a range; a few probes find
 *   where it ends.
 */
import { BLOCK_SIZE } from '../../base/constants.ts';
import { VdoError } from '../../base/errors.ts';
import { CHAPTER_PAGE_SIZE, readIndexPageHeader } from '../../format/chapter-page.ts';
import { indexPageIsSound } from './chapter-index.ts';
import { physicalChapter } from './index-geometry.ts';
import type { IndexRegion } from './index-region.ts';

const BLOCKS_PER_PAGE = CHAPTER_PAGE_SIZE / BLOCK_SIZE;
/** Slots without a chapter behind the newest one: more are damage. */
const MAX_BAD_SLOTS = 100;

/** Chapters `oldest` … `newest` − 1 are on disk. */
export interface ChapterRange {
  readonly oldest: number;
  readonly newest: number;
}

/** Byte on the storage at which page `page` of a slot begins. */
export function pageOffset({ geometry, volumeStart }: IndexRegion, slot: number, page: number) {
  const pages = 1 + slot * geometry.pagesPerChapter + page;
  return (volumeStart + BLOCKS_PER_PAGE * pages) * BLOCK_SIZE;
}

/** A chapter's index pages, read and checked. */
export interface ChapterIndexInfo {
  readonly chapter: number;
  /** Last list of each page but the last. */
  readonly lastLists: Uint16Array;
}

/** What index pages say that lie one after another in `pages`; null where they are no chapter of `slot`. */
export function checkIndexPages(
  region: IndexRegion,
  slot: number,
  pages: Uint8Array,
): ChapterIndexInfo | null {
  const { geometry, volumeNonce } = region;
  const { indexPagesPerChapter } = geometry;
  const lastLists = new Uint16Array(indexPagesPerChapter - 1);
  let chapter = -1;
  let next = 0;
  for (let number = 0; number < indexPagesPerChapter; number++) {
    const at = number * CHAPTER_PAGE_SIZE;
    const page = pages.subarray(at, at + CHAPTER_PAGE_SIZE);
    try {
      const header = readIndexPageHeader(page, volumeNonce);
      if (number === 0) chapter = header.chapter;
      if (header.chapter !== chapter || header.firstList !== next) return null;
      if (!indexPageIsSound(geometry, page)) return null;
      next = header.firstList + header.lists;
    } catch (error) {
      if (error instanceof VdoError) return null;
      throw error;
    }
    if (number < indexPagesPerChapter - 1) lastLists[number] = next - 1;
  }
  return physicalChapter(geometry, chapter) === slot ? { chapter, lastLists } : null;
}

/** The chapter in a slot, or −1. Fails with `Io`. */
async function probe(region: IndexRegion, slot: number): Promise<number> {
  const bytes = new Uint8Array(region.geometry.indexPagesPerChapter * CHAPTER_PAGE_SIZE);
  await region.storage.read([{ offset: pageOffset(region, slot, 0), bytes }]);
  return checkIndexPages(region, slot, bytes)?.chapter ?? -1;
}

/** Slots in use, if those are the first ones: found from the end, in steps that grow and shrink. */
async function findEnd(region: IndexRegion): Promise<number> {
  let limit = region.geometry.chapters;
  let span = 1;
  let bad = 0;
  while (limit > 0) {
    const slot = Math.max(0, limit - span);
    if ((await probe(region, slot)) < 0) {
      limit = slot;
      if (++bad > 1) span *= 2;
    } else {
      if (span === 1) break;
      span = Math.max(1, Math.floor(span / 2));
      bad = 0;
    }
  }
  return limit;
}

/** The slots in use of a volume, without the chapter that a conversion moved out of the order. */
class Ring {
  readonly #region: IndexRegion;
  readonly #limit: number;

  constructor(region: IndexRegion, limit: number) {
    this.#region = region;
    this.#limit = limit;
  }

  /** Whether the slot holds the chapter that was moved there. */
  async holdsMoved(slot: number): Promise<boolean> {
    const { virtual, physical } = this.#region.geometry.remapping;
    // In slot 0 it is where its number puts it.
    if (physical === 0 || slot !== physical) return false;
    return (await probe(this.#region, slot)) === virtual;
  }

  /** The chapter in the slot, or in the next one if it was moved there; infinite where there is none. */
  async at(slot: number): Promise<number> {
    const used = (await this.holdsMoved(slot)) ? slot + 1 : slot;
    const chapter = used < this.#limit ? await probe(this.#region, used) : -1;
    return chapter < 0 ? Infinity : chapter;
  }

  /** The newest chapter in front of a slot, round the ring. */
  async before(start: number): Promise<number> {
    let slot = start;
    for (let bad = 0; bad <= MAX_BAD_SLOTS;) {
      slot = (slot + this.#limit - 1) % this.#limit;
      const chapter = await probe(this.#region, slot);
      if (chapter < 0) bad++;
      else if (this.#limit === 1 || !(await this.holdsMoved(slot))) return chapter;
    }
    throw new VdoError('Corrupt', 'the chapters of the index are in no order');
  }
}

/** The chapters of the volume; `Corrupt` where they make no range. Fails with `Io`. */
export async function findChapters(region: IndexRegion): Promise<ChapterRange> {
  const limit = await findEnd(region);
  if (limit === 0) return { oldest: 0, newest: 0 };
  const ring = new Ring(region, limit);
  const first = await ring.at(0);
  let left = 0;
  let right = limit;
  while (left < right) {
    const middle = Math.floor((left + right) / 2);
    if ((await ring.at(middle)) >= first) left = middle + 1;
    else right = middle;
  }
  const start = left === limit ? 0 : left;
  let lowest = await ring.at(start);
  const highest = await ring.before(start);
  if (lowest > highest) {
    throw new VdoError('Corrupt', 'the chapters of the index are in no order');
  }
  // The chapter that was moved counts as long as the one behind it is there.
  const { virtual, physical } = region.geometry.remapping;
  if (virtual === lowest - 1 && (await ring.holdsMoved(physical))) lowest = virtual;
  const newest = highest + 1;
  const oldest = newest === lowest + region.geometry.chapters ? lowest + 1 : lowest;
  return { oldest, newest };
}
