import { describe, expect, test } from 'vitest';
import { RECORD_SIZE, RECORDS_PER_PAGE } from '../../../../src/format/chapter-page.ts';
import {
  buildChapterIndex,
  indexPageIsSound,
  searchIndexPage,
} from '../../../../src/index/uds/chapter-index.ts';
import { IndexPageMap } from '../../../../src/index/uds/index-page-map.ts';
import { indexGeometry, makeIndexGeometry } from '../../../../src/index/uds/index-geometry.ts';
import type { IndexGeometry } from '../../../../src/index/uds/index-geometry.ts';
import { chapterList } from '../../../../src/index/uds/record-name.ts';
import { readIndexPageHeader } from '../../../../src/format/chapter-page.ts';
import { random, randomBytes } from '../../format/support.ts';

const NONCE = new Uint8Array(8).fill(7);
const PAGE = 32768;

/** A chapter's worth of records; `twist` changes some names. */
function chapterOf(
  geometry: IndexGeometry,
  seed: number,
  twist: (name: Uint8Array, i: number) => void = () => undefined,
): Uint8Array {
  const next = random(seed);
  const records = new Uint8Array(geometry.recordsPerChapter * RECORD_SIZE);
  for (let i = 0; i < geometry.recordsPerChapter; i++) {
    const name = records.subarray(i * RECORD_SIZE, i * RECORD_SIZE + 16);
    for (let k = 0; k < 16; k++) name[k] = next(256);
    twist(name, i);
  }
  return records;
}

interface Found {
  readonly right: number;
  readonly none: number;
  readonly wrong: number;
}

/** Looks every record up in the pages, as a reader does. */
function lookUpAll(
  geometry: IndexGeometry,
  records: Uint8Array,
  count: number,
  built: ReturnType<typeof buildChapterIndex>,
  step = 1,
): Found {
  const map = new IndexPageMap(geometry);
  map.set(5, 5, built.lastLists);
  const found = { right: 0, none: 0, wrong: 0 };
  for (let i = 0; i < count; i += step) {
    const at = i * RECORD_SIZE;
    const number = map.pageOf(5, chapterList(records, at, geometry.chapterListBits));
    const page = built.pages.subarray(number * PAGE, (number + 1) * PAGE);
    const recordPage = searchIndexPage(geometry, page, records, at);
    if (recordPage === Math.floor(i / RECORDS_PER_PAGE)) found.right++;
    else if (recordPage < 0) found.none++;
    else found.wrong++;
  }
  return found;
}

function checkPages(geometry: IndexGeometry, built: ReturnType<typeof buildChapterIndex>): void {
  const map = new IndexPageMap(geometry);
  map.set(5, 5, built.lastLists);
  for (let number = 0; number < geometry.indexPagesPerChapter; number++) {
    const page = built.pages.subarray(number * PAGE, (number + 1) * PAGE);
    const { chapter, firstList, lists } = readIndexPageHeader(page, NONCE);
    expect(chapter).toBe(5);
    expect(map.agrees(5, number, firstList, lists)).toBe(true);
    expect(indexPageIsSound(geometry, page)).toBe(true);
  }
}

describe.each([
  [
    'a sixteenth of the smallest',
    makeIndexGeometry({ recordPages: 4, chapters: 8, sparseChapters: 0 }),
  ],
  ['0.25 GB', indexGeometry(-256, false)],
  ['1 GB', indexGeometry(1, false)],
])('a chapter index, %s', (_name, geometry) => {
  test('finds every record', () => {
    const records = chapterOf(geometry, 1);
    const count = geometry.recordsPerChapter;
    const built = buildChapterIndex(geometry, NONCE, { chapter: 5, records, count });
    checkPages(geometry, built);
    expect(built.discarded).toBe(0);
    expect(lookUpAll(geometry, records, count, built)).toEqual({ right: count, none: 0, wrong: 0 });
  });

  test('does not know the copies that fill a chapter', () => {
    const records = chapterOf(geometry, 2);
    const built = buildChapterIndex(geometry, NONCE, { chapter: 5, records, count: 1500 });
    checkPages(geometry, built);
    expect(lookUpAll(geometry, records, 1500, built).right).toBe(1500);
  });
});

describe('names that agree in their bits', () => {
  const geometry = makeIndexGeometry({ recordPages: 4, chapters: 8, sparseChapters: 0 });
  const count = geometry.recordsPerChapter;

  test('are told apart by the whole name', () => {
    // Eight names to an address.
    const records = chapterOf(geometry, 3, (name, i) => {
      if (i % 9 !== 0) name.fill(i % 8, 8, 14);
      if (i % 9 !== 0) name[12] = (i >> 6) & 0xff;
    });
    const built = buildChapterIndex(geometry, NONCE, { chapter: 5, records, count });
    checkPages(geometry, built);
    const { right, wrong } = lookUpAll(geometry, records, count, built);
    expect(right + built.discarded).toBe(count);
    expect(wrong).toBe(0);
  });

  test('in lists that do not fit lose what came last, or the whole list', () => {
    const crowded = chapterOf(geometry, 4, (name, i) => {
      if (i < 3000) name.fill(1, 8, 14);
    });
    const built = buildChapterIndex(geometry, NONCE, { chapter: 5, records: crowded, count });
    checkPages(geometry, built);
    expect(built.discarded).toBeGreaterThan(0);
    const same = chapterOf(geometry, 5, (name) => name.fill(1, 8, 14));
    const all = buildChapterIndex(geometry, NONCE, { chapter: 5, records: same, count });
    checkPages(geometry, all);
    expect(lookUpAll(geometry, same, count, all).right + all.discarded).toBeGreaterThanOrEqual(
      count,
    );
  });

  test('in a list without room for another whole name leave room for a short one', () => {
    // At one address until no name of 128 bits goes in, then one at an address of its own.
    const records = chapterOf(geometry, 7, (name, i) => {
      if (i < 1000) name.fill(0, 8, 14);
      if (i === 999) name[13] = 1;
    });
    const built = buildChapterIndex(geometry, NONCE, { chapter: 5, records, count: 1000 });
    checkPages(geometry, built);
    const size = 2 + 16 + 128;
    const fit = 1 + Math.floor((65535 - 18) / size);
    expect(65535 - 18 - (fit - 1) * size).toBeGreaterThanOrEqual(18);
    expect(built.discarded).toBe(1000 - fit - 1);
    // The short one is found on the page where it lies; the others at least at their common address.
    expect(lookUpAll(geometry, records.subarray(999 * RECORD_SIZE), 1, built).none).toBe(0);
  });

  test('in one list of a whole chapter of 1 GB are cut to a list of 64 Ki bits', () => {
    const large = indexGeometry(1, false);
    const records = chapterOf(large, 6, (name) => {
      name[9] = 0;
      name[10] = name[10]! & 0x3f;
    });
    const { recordsPerChapter } = large;
    const built = buildChapterIndex(large, NONCE, {
      chapter: 5,
      records,
      count: recordsPerChapter,
    });
    checkPages(large, built);
    const { right, wrong } = lookUpAll(large, records, recordsPerChapter, built, 64);
    expect(right).toBeGreaterThan(30);
    expect(wrong).toBe(0);
    expect(recordsPerChapter - built.discarded).toBeGreaterThan(2000);
  });
});

test('random bytes in a page are called unsound, and searched without end', () => {
  const geometry = makeIndexGeometry({ recordPages: 4, chapters: 8, sparseChapters: 0 });
  const next = random(9);
  for (let i = 0; i < 50; i++) {
    const page = randomBytes(next, PAGE);
    indexPageIsSound(geometry, page);
  }
});
