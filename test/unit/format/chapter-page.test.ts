import { describe, expect, test } from 'vitest';
import {
  beginIndexPage,
  CHAPTER_PAGE_SIZE,
  compareNames,
  encodeRecordPage,
  findRecord,
  indexPageChapter,
  indexPageFirstList,
  indexPageLists,
  listOffset,
  putBits,
  readIndexPageHeader,
  RECORD_SIZE,
  RECORDS_PER_PAGE,
  TREE_POSITION,
} from '../../../src/format/chapter-page.ts';
import { codeOf, hex, random, randomBytes } from './support.ts';

const NONCE = hex('c05907ea62dfb720');

/** 1024 records, some of whose names have long prefixes in common. */
function records(seed: number): Uint8Array {
  const next = random(seed);
  const bytes = randomBytes(next, CHAPTER_PAGE_SIZE);
  for (let i = 0; i < RECORDS_PER_PAGE; i++) {
    if (next(3) === 0) continue;
    const shared = next(3) * 5;
    bytes.copyWithin(i * RECORD_SIZE, 0, shared);
  }
  return bytes;
}

describe('record pages', () => {
  test('are trees in which every record is found, and nothing else', () => {
    for (let seed = 1; seed <= 4; seed++) {
      const source = records(seed);
      const page = new Uint8Array(CHAPTER_PAGE_SIZE);
      encodeRecordPage(source, page);
      for (let k = 1; k < RECORDS_PER_PAGE; k++) {
        const before = TREE_POSITION[k - 1]! * RECORD_SIZE;
        expect(compareNames(page, before, page, TREE_POSITION[k]! * RECORD_SIZE)).toBeLessThan(0);
      }
      for (let i = 0; i < RECORDS_PER_PAGE; i++) {
        const at = findRecord(page, source, i * RECORD_SIZE);
        const record = source.subarray(i * RECORD_SIZE, (i + 1) * RECORD_SIZE);
        expect(page.subarray(at, at + RECORD_SIZE)).toEqual(record);
      }
      expect(findRecord(page, randomBytes(random(99), 16), 0)).toBe(-1);
      // Whatever the order in which records come, the page is the same.
      const again = new Uint8Array(CHAPTER_PAGE_SIZE);
      encodeRecordPage(page, again);
      expect(again).toEqual(page);
    }
  });

  test('hold copies of one record, as chapters that were not full do', () => {
    const source = records(7);
    for (let i = 1; i < 100; i++) source.copyWithin(i * RECORD_SIZE, 0, RECORD_SIZE);
    const page = new Uint8Array(CHAPTER_PAGE_SIZE);
    encodeRecordPage(source, page);
    expect(findRecord(page, source, 0)).toBeGreaterThanOrEqual(0);
    expect(findRecord(page, source, 500 * RECORD_SIZE)).toBeGreaterThanOrEqual(0);
  });
});

describe('index pages', () => {
  test('say where their lists lie', () => {
    const sizes = new Uint32Array([0, 0, 100, 0, 65535, 7]);
    const page = new Uint8Array(CHAPTER_PAGE_SIZE).fill(0x55);
    const header = { nonce: NONCE, chapter: 77, firstList: 2, lists: 4 };
    const start = beginIndexPage(page, header, sizes);
    expect(start).toBe(160 + 19 * 5);
    expect(readIndexPageHeader(page, NONCE)).toEqual(header);
    const offsets = [0, 1, 2, 3, 4].map((i) => listOffset(page, i) - start);
    expect(offsets).toEqual([0, 100, 100, 65635, 65642]);
    const plain = [indexPageChapter(page), indexPageFirstList(page), indexPageLists(page)];
    expect(plain).toEqual([77, 2, 4]);
  });

  test('begin as dm-vdo begins them', () => {
    const page = new Uint8Array(CHAPTER_PAGE_SIZE);
    beginIndexPage(
      page,
      { nonce: NONCE, chapter: 0, firstList: 0, lists: 174 },
      new Uint32Array(174),
    );
    // 160 + 19 · 175 = 0x0d9d
    expect(page.subarray(0, 22)).toEqual(hex('c05907ea62dfb720 0000000000000000 0000 ae00 9d0d'));
  });

  test('that are damaged are refused', () => {
    const good = new Uint8Array(CHAPTER_PAGE_SIZE);
    const sizes = new Uint32Array(10).fill(500);
    beginIndexPage(good, { nonce: NONCE, chapter: 1, firstList: 0, lists: 10 }, sizes);
    const damaged = (change: (page: Uint8Array) => void): string => {
      const page = good.slice();
      change(page);
      return codeOf(() => readIndexPageHeader(page, NONCE));
    };
    expect(damaged(() => undefined)).toBe('none');
    expect(damaged((page) => page.fill(9, 0, 1))).toBe('Corrupt');
    expect(damaged((page) => page.fill(255, 8, 16))).toBe('Corrupt');
    expect(damaged((page) => page.fill(255, 18, 20))).toBe('Corrupt');
    expect(damaged((page) => page.fill(11, 18, 19))).toBe('Corrupt');
    expect(damaged((page) => putBits(page, 160 + 19 * 10, 0x7ffff, 19))).toBe('Corrupt');
    expect(damaged((page) => page.fill(0, 26, 30))).toBe('Corrupt');
    expect(damaged((page) => page.fill(0, CHAPTER_PAGE_SIZE - 1))).toBe('Corrupt');
  });

  test('bits go where they belong', () => {
    for (let width = 1; width <= 25; width++) {
      for (let bit = 0; bit < 16; bit++) {
        const bytes = new Uint8Array(8);
        putBits(bytes, bit, 2 ** width - 1, width);
        const expected = (2 ** width - 1) * 2 ** bit;
        const found = bytes.reduceRight((sum, byte) => sum * 256 + byte, 0);
        expect(found).toBe(expected);
      }
    }
  });
});
