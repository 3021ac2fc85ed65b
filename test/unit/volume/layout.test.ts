import { describe, expect, test } from 'vitest';
import {
  computeLayout,
  defaultLogicalBlocks,
  isPowerOfTwo,
  minimumPhysicalBlocks,
  slabConfig,
} from '../../../src/volume/layout.ts';
import { codeOf } from '../format/support.ts';

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
