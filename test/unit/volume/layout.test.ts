import { describe, expect, test } from 'vitest';
import {
  computeLayout,
  defaultLogicalBlocks,
  isPowerOfTwo,
  minimumPhysicalBlocks,
  slabConfig,
} from '../../../src/volume/layout.ts';
import {
  indexGigabytes,
  indexMemorySetting,
  indexRegionBlocks,
} from '../../../src/volume/index-region.ts';
import { codeOf } from '../format/support.ts';

describe('index region', () => {
  test.each([
    [-256, false, 679127],
    [-512, false, 1366399],
    [-768, false, 2053669],
    [1, false, 2732747],
    [2, false, 5496229],
    [3, false, 8294557],
    [4, false, 11058007],
    [1024, false, 2972616243],
    [-256, true, 5822251],
    [-512, true, 11726359],
    [-768, true, 17630467],
    [1, true, 23452645],
  ])('setting %i, sparse %s: %i blocks', (setting, sparse, blocks) => {
    expect(indexRegionBlocks(setting, sparse)).toBe(blocks);
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

  test('reduced settings take one chapter less', () => {
    for (const [normal, reduced] of [
      [-256, -1280],
      [-512, -1536],
      [-768, -1792],
      [1, 0x1001],
      [1024, 0x1400],
    ] as const) {
      const less = indexRegionBlocks(normal, false) - indexRegionBlocks(reduced, false);
      // A chapter: record and index pages of eight blocks; saves shrink by a block or two.
      expect(less).toBeGreaterThanOrEqual(8 * 66);
      expect(less).toBeLessThan(8 * 300);
      expect(indexGigabytes(reduced)).toBe(indexGigabytes(normal));
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
});

describe('slabs', () => {
  test('the two documented divisions', () => {
    expect(slabConfig(8192, 224)).toEqual({
      blocks: 8192,
      dataBlocks: 7966,
      referenceBlocks: 2,
      journalBlocks: 224,
      flushingThreshold: 168,
      blockingThreshold: 208,
      scrubbingThreshold: 222,
    });
    expect(slabConfig(1024, 16)).toEqual({
      blocks: 1024,
      dataBlocks: 1007,
      referenceBlocks: 1,
      journalBlocks: 16,
      flushingThreshold: 12,
      blockingThreshold: 14,
      scrubbingThreshold: 14,
    });
  });

  test('small slabs use a power of two; the smallest journal still has thresholds', () => {
    expect(slabConfig(512, 224).dataBlocks).toBe(256);
    const tiny = slabConfig(8, 2);
    expect(tiny.dataBlocks).toBe(4);
    expect([tiny.flushingThreshold, tiny.blockingThreshold, tiny.scrubbingThreshold]).toEqual([
      2, 2, 2,
    ]);
  });

  test('every legal size adds up', () => {
    for (let slabBits = 8; slabBits <= 23; slabBits++) {
      const slab = slabConfig(2 ** slabBits, 224);
      const sum = slab.dataBlocks + slab.referenceBlocks + slab.journalBlocks;
      if (slabBits >= 10) expect(sum).toBe(2 ** slabBits);
      expect(slab.referenceBlocks * 4032).toBeGreaterThanOrEqual(slab.dataBlocks);
    }
  });

  test('impossible slabs are refused', () => {
    for (const [blocks, journal] of [
      [0, 2],
      [1000, 224],
      [2 ** 24, 224],
      [128, 224],
      [1024, 1],
      [1024, 1024],
      [1024, 1023],
      [1024, 2.5],
    ] as const) {
      expect(
        codeOf(() => slabConfig(blocks, journal)),
        `${blocks}/${journal}`,
      ).toBe('InvalidArgument');
    }
    expect([1, 2, 2 ** 40, 3, 0, -4, 2.5].map(isPowerOfTwo)).toEqual([
      true,
      true,
      true,
      false,
      false,
      false,
      false,
    ]);
  });
});

describe('layout', () => {
  const sizes = { dataStart: 679128, slabBlocks: 8192, slabJournalBlocks: 224 };
  const standard = { ...sizes, recoveryJournalBlocks: 32768 };

  test('5 GiB with slabs of 8192 blocks', () => {
    const layout = computeLayout({ ...standard, physicalBlocks: 1310720 });
    expect(layout.partitions).toEqual({
      blockMap: { offset: 679129, count: 60 },
      slabDepot: { offset: 679189, count: 598699 },
      recoveryJournal: { offset: 1277888, count: 32768 },
      slabSummary: { offset: 1310656, count: 64 },
    });
    expect([layout.firstBlock, layout.lastBlock, layout.slabs]).toEqual([679189, 1277205, 73]);
    expect(defaultLogicalBlocks(73, 7966)).toBe(580622);
    const grown = computeLayout({ ...standard, physicalBlocks: 2000000 });
    expect(grown.lastBlock).toBe(1965333);
    expect(grown.partitions.recoveryJournal.offset).toBe(1967168);
    expect(grown.partitions.slabSummary.offset).toBe(1999936);
  });

  test('the smallest volume, and one block less', () => {
    expect(minimumPhysicalBlocks(standard)).toBe(720213);
    expect(computeLayout({ ...standard, physicalBlocks: 720213 }).slabs).toBe(1);
    expect(defaultLogicalBlocks(1, 7966)).toBe(7776);
    const tooSmall = () => computeLayout({ ...standard, physicalBlocks: 720212 });
    expect(codeOf(tooSmall)).toBe('InvalidArgument');
    expect(tooSmall).toThrow('2949992448 bytes');
    expect(codeOf(() => computeLayout({ ...standard, physicalBlocks: 10 }))).toBe(
      'InvalidArgument',
    );
  });

  test('volumes without an index: 2238 and 41086 blocks', () => {
    const tiny = computeLayout({
      dataStart: 1,
      slabBlocks: 1024,
      slabJournalBlocks: 16,
      recoveryJournalBlocks: 64,
      physicalBlocks: 2238,
    });
    expect([tiny.slabs, tiny.firstBlock, tiny.lastBlock]).toEqual([2, 62, 2110]);
    const plain = { ...standard, dataStart: 1 };
    expect(minimumPhysicalBlocks(plain)).toBe(41086);
  });

  test('too many slabs, too large, odd journals', () => {
    const least = { ...standard, dataStart: 1 };
    const limit = minimumPhysicalBlocks(least) + 8191 * 8192;
    expect(computeLayout({ ...least, physicalBlocks: limit + 8191 }).slabs).toBe(8192);
    expect(() => computeLayout({ ...least, physicalBlocks: limit + 8192 })).toThrow('too many');
    const large = { ...least, slabBlocks: 2 ** 23, physicalBlocks: 2 ** 36 };
    expect(computeLayout(large).slabs).toBe(8191);
    expect(() => computeLayout({ ...large, physicalBlocks: 2 ** 36 + 1 })).toThrow('256T');
    expect(() => computeLayout({ ...large, recoveryJournalBlocks: 100 })).toThrow('power of two');
  });

  test('a default logical size needs at least 180 data blocks', () => {
    expect(defaultLogicalBlocks(1, 170)).toBeLessThanOrEqual(0);
    expect(defaultLogicalBlocks(2, 1007)).toBe(1831);
  });
});
