/**
 * The pages of a closed chapter: index pages, which say on which record page a name lies, and
 * record pages, which hold the records (FORMAT §9.6).
 *
 * ```
 * index page    0  volume nonce   8  chapter   16  first list   18  lists, n
 *               bit 160: n + 1 fields of 19 bits, the bit at which each list begins, and the end
 *               then the lists, bit after bit; the last seven bytes are ff
 * record page   1024 records of 32 bytes, a binary tree by name: the children of n are 2n + 1, 2n + 2
 * ```
 */
import { bytesEqual, getU16, getU32, getU64 } from '../base/bytes.ts';
import { RECORD_NAME_SIZE } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import { raw, struct, u16, u64 } from './struct.ts';

export const CHAPTER_PAGE_SIZE = 32768;
/** Bytes of a record: name, then data. */
export const RECORD_SIZE = 32;
const RECORD_WORDS = RECORD_SIZE / 4;
export const RECORDS_PER_PAGE = CHAPTER_PAGE_SIZE / RECORD_SIZE;

export const chapterIndexHeader = struct(
  'ChapterIndexHeader',
  {
    nonce: raw(8, 'volume nonce of the index'),
    chapter: u64('number of the chapter'),
    firstList: u16('first delta list of the page'),
    lists: u16('lists on the page, n'),
  },
  20,
);

const OFFSET_BITS = 19;
const OFFSET_MASK = (1 << OFFSET_BITS) - 1;
const OFFSETS_AT_BIT = chapterIndexHeader.size * 8;
const GUARD_SIZE = 7;
const END_BIT = (CHAPTER_PAGE_SIZE - GUARD_SIZE) * 8;
const MAX_LISTS = Math.floor(((CHAPTER_PAGE_SIZE - chapterIndexHeader.size) * 8) / OFFSET_BITS);
/** Bits of a page for lists and their offsets. */
export const INDEX_PAGE_BITS = END_BIT - OFFSETS_AT_BIT - OFFSET_BITS;
/** Bits that a list takes beside its own. */
export const LIST_OVERHEAD_BITS = OFFSET_BITS;

export interface ChapterIndexHeader {
  readonly nonce: Uint8Array;
  readonly chapter: number;
  readonly firstList: number;
  readonly lists: number;
}

/** Bit at which list `index` of the page begins; for index = lists, at which the last one ends. */
export function listOffset(page: Uint8Array, index: number): number {
  const bit = OFFSETS_AT_BIT + index * OFFSET_BITS;
  return (getU32(page, bit >>> 3) >>> (bit & 7)) & OFFSET_MASK;
}

/** Begins a page for lists of these sizes in bits; returns the bit at which the first one begins. */
export function beginIndexPage(
  page: Uint8Array,
  header: ChapterIndexHeader,
  sizes: Uint32Array,
): number {
  page.fill(0);
  chapterIndexHeader.write(page, header);
  page.fill(0xff, CHAPTER_PAGE_SIZE - GUARD_SIZE);
  const start = OFFSETS_AT_BIT + OFFSET_BITS * (header.lists + 1);
  let offset = start;
  for (let i = 0; i <= header.lists; i++) {
    const bit = OFFSETS_AT_BIT + i * OFFSET_BITS;
    putBits(page, bit, offset, OFFSET_BITS);
    if (i < header.lists) offset += sizes[header.firstList + i]!;
  }
  return start;
}

/**
 * The header of an index page whose offsets are in order. Fails with `Corrupt`. The lists themselves
 * are not looked at.
 */
export function readIndexPageHeader(page: Uint8Array, nonce: Uint8Array): ChapterIndexHeader {
  const header = chapterIndexHeader.read(page);
  const wrong = (what: string): VdoError =>
    new VdoError('Corrupt', `a chapter index page of the index: ${what}`);
  if (!bytesEqual(header.nonce, nonce)) throw wrong('it belongs to another index');
  if (Number.isNaN(header.chapter)) throw wrong('its chapter is out of range');
  if (header.lists > MAX_LISTS) throw wrong(`it has ${header.lists} lists`);
  let before = OFFSETS_AT_BIT + OFFSET_BITS * (header.lists + 1);
  if (listOffset(page, 0) !== before) throw wrong('its lists begin elsewhere');
  for (let i = 1; i <= header.lists; i++) {
    const offset = listOffset(page, i);
    if (offset < before) throw wrong('its lists are out of order');
    before = offset;
  }
  if (before > END_BIT) throw wrong('its lists exceed it');
  for (let at = CHAPTER_PAGE_SIZE - GUARD_SIZE; at < CHAPTER_PAGE_SIZE; at++) {
    if (page[at] !== 0xff) throw wrong('its guard is missing');
  }
  return header;
}

/** Chapter, first list and number of lists, unchecked: for pages whose header was read before. */
export const indexPageChapter = (page: Uint8Array): number => getU64(page, 8);
export const indexPageFirstList = (page: Uint8Array): number => getU16(page, 16);
export const indexPageLists = (page: Uint8Array): number => getU16(page, 18);

/** Sets `count` ≤ 25 bits at bit `bit`, which are zero before. */
export function putBits(bytes: Uint8Array, bit: number, value: number, count: number): void {
  let rest = value << (bit & 7);
  let at = bit >>> 3;
  bytes[at]! |= rest;
  for (let left = count + (bit & 7) - 8; left > 0; left -= 8) {
    rest >>>= 8;
    bytes[++at]! |= rest;
  }
}

/** Position in a record page of the k-th record by name. */
export const TREE_POSITION: Uint16Array = treePositions();

function treePositions(): Uint16Array {
  const positions = new Uint16Array(RECORDS_PER_PAGE);
  let next = 0;
  const fill = (node: number): void => {
    if (node >= RECORDS_PER_PAGE) return;
    fill(2 * node + 1);
    positions[next++] = node;
    fill(2 * node + 2);
  };
  fill(0);
  return positions;
}

const swap = (word: number): number =>
  ((word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24)) >>> 0;

/** Sign of the comparison of two names, byte by byte. */
export function compareNames(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number): number {
  for (let i = 0; i < RECORD_NAME_SIZE; i += 4) {
    const left = getU32(a, aAt + i);
    const right = getU32(b, bAt + i);
    if (left !== right) return swap(left) < swap(right) ? -1 : 1;
  }
  return 0;
}

/** Byte in a record page at which the record with this name begins, or −1. */
export function findRecord(page: Uint8Array, names: Uint8Array, nameAt: number): number {
  for (let node = 0; node < RECORDS_PER_PAGE;) {
    const at = node * RECORD_SIZE;
    const order = compareNames(names, nameAt, page, at);
    if (order === 0) return at;
    node = 2 * node + (order < 0 ? 1 : 2);
  }
  return -1;
}

const keys = new Float64Array(RECORDS_PER_PAGE);

/**
 * Makes a record page of 1024 records in any order, both aligned to four bytes. About 0.1 ms.
 */
export function encodeRecordPage(records: Uint8Array, page: Uint8Array): void {
  const source = wordsOf(records);
  const target = wordsOf(page);
  // 42 bits of the name above the record's index sort natively; the rare ties are settled after.
  for (let i = 0; i < RECORDS_PER_PAGE; i++) {
    const high = swap(source[i * RECORD_WORDS]!);
    const low = swap(source[i * RECORD_WORDS + 1]!) >>> 22;
    keys[i] = (high * 1024 + low) * RECORDS_PER_PAGE + i;
  }
  keys.sort();
  for (let k = 1; k < RECORDS_PER_PAGE; k++) {
    for (let j = k; j > 0 && isAfter(records, keys[j - 1]!, keys[j]!); j--) {
      const moved = keys[j]!;
      keys[j] = keys[j - 1]!;
      keys[j - 1] = moved;
    }
  }
  for (let k = 0; k < RECORDS_PER_PAGE; k++) {
    const from = (keys[k]! % RECORDS_PER_PAGE) * RECORD_WORDS;
    const to = TREE_POSITION[k]! * RECORD_WORDS;
    for (let i = 0; i < RECORD_WORDS; i++) target[to + i] = source[from + i]!;
  }
}

function wordsOf(page: Uint8Array): Uint32Array {
  return new Uint32Array(page.buffer, page.byteOffset, CHAPTER_PAGE_SIZE / 4);
}

/** Whether the record of key `a` belongs behind that of key `b` ≥ `a`: only possible in a tie. */
function isAfter(records: Uint8Array, a: number, b: number): boolean {
  const left = Math.floor(a / RECORDS_PER_PAGE);
  if (left !== Math.floor(b / RECORDS_PER_PAGE)) return false;
  const aAt = (a % RECORDS_PER_PAGE) * RECORD_SIZE;
  const bAt = (b % RECORDS_PER_PAGE) * RECORD_SIZE;
  return compareNames(records, aAt, records, bAt) > 0;
}
