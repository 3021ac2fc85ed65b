import { describe, expect, test } from 'vitest';
import {
  chaptersToExpire,
  indexGeometry,
  indexGigabytes,
  indexMemorySetting,
  indexRegionBlocks,
  isSparseChapter,
  makeIndexGeometry,
  maxZoneBits,
  physicalChapter,
  zoneMemory,
} from '../../../../src/index/uds/index-geometry.ts';
import { codeOf } from '../../format/support.ts';

/** setting, sparse: chapters, lists (two if sparse), chapter bits, volume, VI, map, open chapter, save, total */
type Row = [number, boolean, number, number[], number[], ...number[]];
const TABLE: Row[] = [
  [-256, false, 1024, [262144], [10], 573448, 52321, 3, 513, 52838, 679127],
  [-1280, false, 1023, [262144], [10], 572888, 52321, 3, 513, 52838, 678567],
  [-512, false, 1024, [524288], [10], 1155080, 104625, 7, 1025, 105658, 1366399],
  [-1536, false, 1023, [524288], [10], 1153952, 104625, 6, 1025, 105657, 1365269],
  [-768, false, 1024, [786432], [10], 1736712, 156929, 10, 1537, 158477, 2053669],
  [-1792, false, 1023, [786432], [10], 1735016, 156929, 10, 1537, 158477, 2051973],
  [1, false, 1024, [1048576], [10], 2310152, 209233, 13, 2049, 211296, 2732747],
  [0x1001, false, 1023, [1048576], [10], 2307896, 209233, 13, 2049, 211296, 2730491],
  [2, false, 2048, [2097152], [11], 4620296, 435889, 26, 2049, 437965, 5496229],
  [3, false, 3072, [3145728], [12], 6930440, 679969, 38, 2049, 682057, 8294557],
  [4, false, 4096, [4194304], [12], 9240584, 906609, 51, 2049, 908710, 11058007],
  [8, false, 8192, [8388608], [13], 18481160, 1882945, 101, 2049, 1885096, 22251355],
  [16, false, 16384, [16777216], [14], 36962312, 3905329, 201, 2049, 3907580, 44777475],
  [
    1024,
    false,
    1048576,
    [1073741824],
    [20],
    2365587464,
    303499537,
    12801,
    2049,
    303514388,
    2972616243,
  ],
  [-256, true, 10240, [126976, 81920], [9, 14], 5734408, 43380, 26, 513, 43920, 5822251],
  [-1280, true, 10239, [126976, 81920], [9, 14], 5733848, 43380, 26, 513, 43920, 5821691],
  [-512, true, 10240, [253952, 163840], [9, 14], 11550728, 86727, 61, 1025, 87814, 11726359],
  [-768, true, 10240, [380928, 245760], [9, 14], 17367048, 130074, 96, 1537, 131708, 17630467],
  [1, true, 10240, [507904, 327680], [9, 14], 23101448, 173421, 126, 2049, 175597, 23452645],
  [2, true, 20480, [1015808, 655360], [10, 15], 46202888, 360697, 251, 2049, 362998, 46928887],
  [4, true, 40960, [2031616, 1310720], [11, 16], 92405768, 749153, 501, 2049, 751704, 93909179],
  [
    16,
    true,
    163840,
    [8126464, 5242880],
    [13, 18],
    369623048,
    3218865,
    2001,
    2049,
    3222916,
    376068883,
  ],
];

describe('geometry of an index', () => {
  test.each(TABLE)('setting %i, sparse %s', (...row) => {
    const [setting, sparse, chapters, lists, bits, ...blocks] = row;
    const geometry = indexGeometry(setting, sparse);
    expect(geometry.chapters).toBe(chapters);
    expect(geometry.reduced).toBe(chapters % 2 === 1);
    expect(geometry.subIndexes.map((sub) => sub.lists)).toEqual(lists);
    expect(geometry.subIndexes.map((sub) => sub.chapterBits)).toEqual(bits);
    for (const { code } of geometry.subIndexes) {
      expect(code).toEqual({ minBits: 12, minKeys: 1268, incrementKeys: 2828 });
    }
    expect([
      geometry.volumeBlocks,
      geometry.volumeIndexBlocks,
      geometry.pageMapBlocks,
      geometry.openChapterBlocks,
      geometry.saveBlocks,
      geometry.totalBlocks,
    ]).toEqual(blocks);
  });

  test.each([
    [-256, 64, 65536, 6, 1024, 6, 70],
    [-512, 128, 131072, 7, 2048, 13, 141],
    [-768, 192, 196608, 8, 4096, 20, 212],
    [1, 256, 262144, 8, 4096, 26, 282],
    [1024, 256, 262144, 8, 4096, 26, 282],
  ])('chapters of setting %i', (setting, recordPages, records, payload, lists, indexPages, all) => {
    const geometry = indexGeometry(setting, false);
    expect(geometry.recordPagesPerChapter).toBe(recordPages);
    expect(geometry.recordsPerChapter).toBe(records);
    expect(geometry.chapterPayloadBits).toBe(payload);
    expect(geometry.chapterLists).toBe(lists);
    expect(geometry.indexPagesPerChapter).toBe(indexPages);
    expect(geometry.pagesPerChapter).toBe(all);
    expect(geometry.chapterCode).toEqual({ minBits: 16, minKeys: 20110, incrementKeys: 45426 });
  });

  test('memory of zones, and when they expire early', () => {
    const [dense] = indexGeometry(-256, false).subIndexes;
    expect(zoneMemory(dense!, 1)).toBe(209780736);
    expect(maxZoneBits(dense!, 1)).toBe(1599084960);
    expect(zoneMemory(dense!, 4) * 4).toBeGreaterThanOrEqual(209780736 - 65536);
    expect(dense!.saveSize).toBe(80 + 17 * 262144 + 209780736);
  });

  test('every size has a setting, every setting a size; more memory, more blocks', () => {
    let previous = [0, 0];
    for (const gigabytes of [0.25, 0.5, 0.75, 1, 2, 7, 64, 100, 511, 1024]) {
      const setting = indexMemorySetting(gigabytes);
      expect(indexGigabytes(setting)).toBe(gigabytes);
      const now = [indexRegionBlocks(setting, false), indexRegionBlocks(setting, true)];
      expect(now[0]).toBeGreaterThan(previous[0]!);
      expect(now[1]).toBeGreaterThan(previous[1]!);
      expect(now.every(Number.isSafeInteger)).toBe(true);
      previous = now;
    }
  });

  test('unknown sizes and settings are refused', () => {
    for (const gigabytes of [0, 0.3, 1.5, -1, 1025, NaN]) {
      expect(codeOf(() => indexMemorySetting(gigabytes))).toBe('InvalidArgument');
    }
    for (const setting of [0, -1, 1025, 0x1000, 0x1401, -1281]) {
      expect(codeOf(() => indexRegionBlocks(setting, false))).toBe('InvalidArgument');
      expect(indexGigabytes(setting)).toBeUndefined();
    }
  });

  test('shapes that no setting gives', () => {
    const tiny = makeIndexGeometry({ recordPages: 16, chapters: 8, sparseChapters: 0 });
    expect(tiny.recordsPerChapter).toBe(16384);
    expect(tiny.subIndexes[0]!.lists).toBe(512);
    expect(tiny.indexPagesPerChapter).toBe(2);
  });
});

describe('chapters', () => {
  const dense = indexGeometry(-256, false);
  const reduced = indexGeometry(-1280, false);

  test('lie in a ring', () => {
    expect([0, 1023, 1024, 5000].map((vcn) => physicalChapter(dense, vcn))).toEqual([
      0, 1023, 0, 904,
    ]);
    expect([0, 1022, 1023, 1024].map((vcn) => physicalChapter(reduced, vcn))).toEqual([
      0, 1022, 0, 1,
    ]);
  });

  test('of a converted volume lie where they were moved', () => {
    const converted = { ...reduced, remapping: { virtual: 5000, physical: 7 } };
    const slots = [5000, 5001, 5007, 5008, 4999, 3977, 100].map((vcn) =>
      physicalChapter(converted, vcn),
    );
    expect(slots).toEqual([7, 0, 6, 8, 1022, 0, 0]);
    const expired = [100, 1023, 6022, 6023, 6024, 6029, 6030, 6031].map((newest) =>
      chaptersToExpire(converted, newest),
    );
    expect(expired).toEqual([0, 1, 1, 2, 1, 1, 0, 1]);
  });

  test('none is forgotten before the ring is full, then one by one', () => {
    expect([0, 1023, 1024, 9999].map((newest) => chaptersToExpire(dense, newest))).toEqual([
      0, 0, 1, 1,
    ]);
  });

  test('become sparse when more than the dense ones exist', () => {
    const sparse = indexGeometry(-256, true);
    expect(sparse.denseChapters).toBe(512);
    expect(isSparseChapter(sparse, 0, 0, 511)).toBe(false);
    expect(isSparseChapter(sparse, 0, 0, 512)).toBe(true);
    expect(isSparseChapter(sparse, 1, 0, 512)).toBe(false);
    expect(isSparseChapter(dense, 0, 0, 2000)).toBe(false);
  });
});
