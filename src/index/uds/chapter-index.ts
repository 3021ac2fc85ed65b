/**
 * The index of a closed chapter, from a name to the record page that holds it: delta lists, spread
 * over a fixed number of pages (FORMAT §9.6).
 *
 * - Lists lie on pages in order; what does not fit in all of them is left out, list by list: the
 *   records are then still there, only not found.
 * - Of names with the same list and address the first to arrive is the base entry; each later one
 *   went in directly behind it, with the whole name.
 */
import { assert } from '../../base/assert.ts';
import { getU32 } from '../../base/bytes.ts';
import { RECORD_NAME_SIZE } from '../../base/constants.ts';
import { VdoError } from '../../base/errors.ts';
import {
  beginIndexPage,
  CHAPTER_PAGE_SIZE,
  INDEX_PAGE_BITS,
  indexPageFirstList,
  indexPageLists,
  LIST_OVERHEAD_BITS,
  listOffset,
  RECORD_SIZE,
  RECORDS_PER_PAGE,
} from '../../format/chapter-page.ts';
import { deltaBits, setBits, writeDelta } from './delta-code.ts';
import type { IndexGeometry } from './index-geometry.ts';
import { chapterAddress, chapterList } from './record-name.ts';

/** A key: list, then address, then the number of the record. 52 bits, so that numbers sort natively. */
const NUMBER_RANGE = 2 ** 18;
const ADDRESS_RANGE = 2 ** 22;
const LIST_RANGE = ADDRESS_RANGE * NUMBER_RANGE;
const MAX_LIST_BITS = 65535;
const NAME_BITS = RECORD_NAME_SIZE * 8;
/** Work between two turns of others: about two milliseconds. */
const RECORDS_PER_STEP = 16384;
const LISTS_PER_STEP = 128;
const PAGE_BITS = CHAPTER_PAGE_SIZE * 8;

const numberOf = (key: number): number => key % NUMBER_RANGE;
const addressOf = (key: number): number => Math.floor(key / NUMBER_RANGE) % ADDRESS_RANGE;

export interface ChapterContents {
  readonly chapter: number;
  /** A whole chapter of records in order of arrival: record i goes to page i / 1024. */
  readonly records: Uint8Array;
  /** The first so many are to be found; the others are copies. */
  readonly count: number;
}

export interface ChapterIndexPages {
  /** All index pages, one after another. */
  readonly pages: Uint8Array;
  /** Last list of each page but the last. */
  readonly lastLists: Uint16Array;
  /** Records that are not in the index for want of room. */
  readonly discarded: number;
}

/** Builds the index pages of a chapter. About 0.3 µs a record. */
export function buildChapterIndex(
  geometry: IndexGeometry,
  nonce: Uint8Array,
  contents: ChapterContents,
): ChapterIndexPages {
  const steps = chapterIndexSteps(geometry, nonce, contents);
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
}

/** The same in steps of a few milliseconds, for those who have other things to do. */
export function* chapterIndexSteps(
  geometry: IndexGeometry,
  nonce: Uint8Array,
  contents: ChapterContents,
): Generator<void, ChapterIndexPages> {
  const builder = new Builder(geometry, nonce, contents);
  yield* builder.sortKeys();
  return yield* builder.build();
}

/** Where a number is in a sorted array, or would be. */
function positionOf(sorted: readonly number[], value: number): number {
  let [from, to] = [0, sorted.length];
  while (from < to) {
    const middle = (from + to) >>> 1;
    if (sorted[middle]! < value) from = middle + 1;
    else to = middle;
  }
  return from;
}

class Builder {
  readonly #geometry: IndexGeometry;
  readonly #nonce: Uint8Array;
  readonly #contents: ChapterContents;
  /** Keys in order; those of list l at #start[l] … #end[l] − 1. */
  readonly #keys: Float64Array;
  readonly #start: Uint32Array;
  readonly #end: Uint32Array;
  readonly #bits: Uint32Array;
  #discarded = 0;

  constructor(geometry: IndexGeometry, nonce: Uint8Array, contents: ChapterContents) {
    const { chapterLists, recordsPerChapter } = geometry;
    assert(contents.count <= recordsPerChapter && recordsPerChapter <= NUMBER_RANGE, 'chapter');
    this.#geometry = geometry;
    this.#nonce = nonce;
    this.#contents = contents;
    this.#keys = new Float64Array(contents.count);
    this.#start = new Uint32Array(chapterLists + 1);
    this.#end = new Uint32Array(chapterLists);
    this.#bits = new Uint32Array(chapterLists);
  }

  /** Puts the keys in order: by list first, then each list for itself. */
  *sortKeys(): Generator<void> {
    const { chapterLists, chapterListBits } = this.#geometry;
    const { records, count } = this.#contents;
    const lists = new Uint16Array(count);
    for (let i = 0; i < count; i++) {
      lists[i] = chapterList(records, i * RECORD_SIZE, chapterListBits);
      this.#start[lists[i]! + 1]!++;
      if (i % RECORDS_PER_STEP === 0) yield;
    }
    for (let list = 0; list < chapterLists; list++) {
      this.#start[list + 1]! += this.#start[list]!;
      this.#end[list] = this.#start[list]!;
    }
    for (let i = 0; i < count; i++) {
      const list = lists[i]!;
      const address = chapterAddress(records, i * RECORD_SIZE);
      this.#keys[this.#end[list]!++] = list * LIST_RANGE + address * NUMBER_RANGE + i;
      if (i % RECORDS_PER_STEP === 0) yield;
    }
    for (let list = 0; list < chapterLists; list++) {
      this.#keys.subarray(this.#start[list]!, this.#end[list]!).sort();
      this.#bits[list] = this.#sizeOf(list);
      if (this.#bits[list]! > MAX_LIST_BITS) this.#shorten(list);
      if (list % LISTS_PER_STEP === 0) yield;
    }
  }

  *build(): Generator<void, ChapterIndexPages> {
    const { indexPagesPerChapter, chapterLists } = this.#geometry;
    const pages = new Uint8Array(indexPagesPerChapter * CHAPTER_PAGE_SIZE);
    const lastLists = new Uint16Array(indexPagesPerChapter - 1);
    let firstList = 0;
    for (let number = 0; number < indexPagesPerChapter; number++) {
      const isLast = number === indexPagesPerChapter - 1;
      const lists = this.#fill(firstList, isLast);
      const page = pages.subarray(number * CHAPTER_PAGE_SIZE, (number + 1) * CHAPTER_PAGE_SIZE);
      this.#encodePage(page, firstList, lists);
      yield;
      firstList += lists;
      if (!isLast) lastLists[number] = firstList - 1;
    }
    assert(firstList === chapterLists, 'every list of a chapter is on a page');
    return { pages, lastLists, discarded: this.#discarded };
  }

  /** How many lists go on a page; lists that fit nowhere are emptied. */
  #fill(firstList: number, isLast: boolean): number {
    const { chapterLists } = this.#geometry;
    for (;;) {
      let room = INDEX_PAGE_BITS;
      let list = firstList;
      while (list < chapterLists && LIST_OVERHEAD_BITS + this.#bits[list]! <= room) {
        room -= LIST_OVERHEAD_BITS + this.#bits[list]!;
        list++;
      }
      if (list === chapterLists || (!isLast && list > firstList)) return list - firstList;
      while (list > firstList && this.#bits[list] === 0) list--;
      assert(this.#bits[list]! > 0, 'empty lists fit on a page');
      this.#discarded += this.#end[list]! - this.#start[list]!;
      this.#end[list] = this.#start[list]!;
      this.#bits[list] = 0;
    }
  }

  #sizeOf(list: number): number {
    const { chapterCode, chapterPayloadBits } = this.#geometry;
    const start = this.#start[list]!;
    const end = this.#end[list]!;
    let size = 0;
    let before = 0;
    for (let k = start; k < end; k++) {
      const address = addressOf(this.#keys[k]!);
      size += chapterPayloadBits + deltaBits(chapterCode, address - before);
      if (k > start && address === before) size += NAME_BITS;
      before = address;
    }
    return size;
  }

  /** Enters a list that is too long once more, in order of arrival: what finds no room stays out. */
  #shorten(list: number): void {
    const { chapterCode, chapterPayloadBits } = this.#geometry;
    const start = this.#start[list]!;
    const all = this.#keys.slice(start, this.#end[list]!);
    const byArrival = all.slice().sort((a, b) => numberOf(a) - numberOf(b));
    const deltaSize = (delta: number): number => deltaBits(chapterCode, delta);
    const addresses: number[] = [];
    const kept: number[] = [];
    let size = 0;
    for (const key of byArrival) {
      const address = addressOf(key);
      const at = positionOf(addresses, address);
      const isCollision = addresses[at] === address;
      let more = chapterPayloadBits;
      if (isCollision) more += deltaSize(0) + NAME_BITS;
      else {
        const before = at === 0 ? 0 : addresses[at - 1]!;
        more += deltaSize(address - before);
        const after = addresses[at];
        if (after !== undefined) more += deltaSize(after - address) - deltaSize(after - before);
      }
      if (size + more > MAX_LIST_BITS) continue;
      size += more;
      kept.push(key);
      if (!isCollision) addresses.splice(at, 0, address);
    }
    this.#keys.set(Float64Array.from(kept).sort(), start);
    this.#end[list] = start + kept.length;
    this.#bits[list] = this.#sizeOf(list);
    this.#discarded += all.length - kept.length;
  }

  #encodePage(page: Uint8Array, firstList: number, lists: number): void {
    const header = { nonce: this.#nonce, chapter: this.#contents.chapter, firstList, lists };
    let bit = beginIndexPage(page, header, this.#bits);
    for (let list = firstList; list < firstList + lists; list++) {
      const end = this.#end[list]!;
      let before = 0;
      for (let k = this.#start[list]!; k < end;) {
        const address = addressOf(this.#keys[k]!);
        let last = k;
        while (last + 1 < end && addressOf(this.#keys[last + 1]!) === address) last++;
        bit = this.#encodeEntry(page, bit, k, address - before);
        for (let other = last; other > k; other--) bit = this.#encodeCollision(page, bit, other);
        before = address;
        k = last + 1;
      }
    }
  }

  #encodeEntry(page: Uint8Array, bit: number, k: number, delta: number): number {
    const { chapterCode, chapterPayloadBits } = this.#geometry;
    const recordPage = Math.floor(numberOf(this.#keys[k]!) / RECORDS_PER_PAGE);
    setBits(page, bit, chapterPayloadBits, recordPage);
    return writeDelta(page, bit + chapterPayloadBits, chapterCode, delta);
  }

  #encodeCollision(page: Uint8Array, bit: number, k: number): number {
    const { records } = this.#contents;
    const name = numberOf(this.#keys[k]!) * RECORD_SIZE;
    const at = this.#encodeEntry(page, bit, k, 0);
    for (let i = 0; i < RECORD_NAME_SIZE; i++) setBits(page, at + i * 8, 8, records[name + i]!);
    return at + NAME_BITS;
  }
}

/** The entry that `readEntry` read last. */
const entry = { recordPage: 0, delta: 0 };

/**
 * Reads the entry at `bit` of an index page into `entry`, up to the name that follows a collision;
 * returns the bit behind it. In a damaged list that is beyond its end, but never far.
 */
function readEntry(
  { chapterPayloadBits, chapterCode }: IndexGeometry,
  page: Uint8Array,
  bit: number,
) {
  const { minBits, minKeys, incrementKeys } = chapterCode;
  const word = getU32(page, bit >>> 3) >>> (bit & 7);
  entry.recordPage = word & ((1 << chapterPayloadBits) - 1);
  const field = (word >>> chapterPayloadBits) & ((1 << minBits) - 1);
  let next = bit + chapterPayloadBits + minBits;
  entry.delta = field;
  if (field < minKeys) return next;
  // Zeros up to a one. The guard behind the lists is all ones.
  let zeros = 0;
  for (; next < PAGE_BITS; next++, zeros++) {
    if (((page[next >>> 3]! >>> (next & 7)) & 1) !== 0) break;
  }
  entry.delta += zeros * incrementKeys;
  return next + 1;
}

/** Whether the 16 bytes at `bit` of an index page are the name at `at` of `names`. */
function nameEquals(page: Uint8Array, bit: number, names: Uint8Array, at: number): boolean {
  const shift = bit & 7;
  let from = bit >>> 3;
  for (let i = 0; i < RECORD_NAME_SIZE; i++, from++) {
    const byte = ((page[from]! | ((page[from + 1] ?? 0) << 8)) >>> shift) & 0xff;
    if (byte !== names[at + i]) return false;
  }
  return true;
}

/**
 * The record page on which the name at `at` of `names` may lie, or −1. `page` is the index page that
 * holds its list. Fails with `Corrupt` where the list does not end where it should. One loop over plain
 * numbers, since every hit in a chapter on disk runs it: some 10 ns an entry, of which 32 are read on average.
 */
export function searchIndexPage(
  geometry: IndexGeometry,
  page: Uint8Array,
  names: Uint8Array,
  at: number,
): number {
  const { chapterPayloadBits: payloadBits, chapterCode, chapterListBits } = geometry;
  const { minBits, minKeys, incrementKeys } = chapterCode;
  const list = chapterList(names, at, chapterListBits) - indexPageFirstList(page);
  assert(list >= 0 && list < indexPageLists(page), 'the list is on this page');
  const start = listOffset(page, list);
  const end = listOffset(page, list + 1);
  const wanted = chapterAddress(names, at);
  const payloadMask = (1 << payloadBits) - 1;
  const fieldMask = (1 << minBits) - 1;
  const entryBits = payloadBits + minBits;
  let found = -1;
  let address = 0;
  let bit = start;
  while (bit < end) {
    const byte = bit >>> 3;
    const word =
      (page[byte]! | (page[byte + 1]! << 8) | (page[byte + 2]! << 16) | (page[byte + 3]! << 24)) >>>
      (bit & 7);
    const field = (word >>> payloadBits) & fieldMask;
    const isCollision = field === 0 && bit !== start;
    bit += entryBits;
    address = (address + field) | 0;
    if (field >= minKeys) {
      const zeros = zerosAt(page, bit, end);
      address = (address + Math.imul(zeros, incrementKeys)) | 0;
      bit += zeros + 1;
    }
    if (address > wanted) break;
    if (isCollision) {
      if (address === wanted && nameEquals(page, bit, names, at)) return word & payloadMask;
      bit += NAME_BITS;
    } else if (address === wanted) found = word & payloadMask;
  }
  if (bit > end) throw new VdoError('Corrupt', 'a list of a chapter index exceeds its end');
  return found;
}

/** How many zeros there are at `bit` before the next one; never far beyond `end`. */
function zerosAt(page: Uint8Array, bit: number, end: number): number {
  let zeros = 0;
  for (let next = bit; next <= end;) {
    const rest = page[next >>> 3]! >>> (next & 7);
    if (rest !== 0) return zeros + 31 - Math.clz32(rest & -rest);
    zeros += 8 - (next & 7);
    next += 8 - (next & 7);
  }
  return zeros;
}

/** Whether every list of an index page ends exactly where the next begins and names real pages. */
export function indexPageIsSound(geometry: IndexGeometry, page: Uint8Array): boolean {
  const lists = indexPageLists(page);
  for (let list = 0; list < lists; list++) {
    const start = listOffset(page, list);
    const end = listOffset(page, list + 1);
    let bit = start;
    while (bit < end) {
      const next = readEntry(geometry, page, bit);
      const isCollision = entry.delta === 0 && bit > start;
      if (entry.recordPage >= geometry.recordPagesPerChapter) return false;
      bit = isCollision ? next + NAME_BITS : next;
    }
    if (bit !== end) return false;
  }
  return true;
}
