/** Discards, and what is known about each part of a volume. */
import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { joined, noise, noiseRun, squashy, tinyVolume } from '../../support/volumes.ts';
import {
  closeAndAudit,
  expectBlock,
  statistic,
  TINY_SIZE as SIZE,
  Twin,
} from '../data-path/support.ts';

const PLAIN = { compression: false } as const;

describe('discards', () => {
  test.for([
    ['whole blocks', BLOCK_SIZE, 3 * BLOCK_SIZE],
    ['part of a block', 100, 50],
    ['the edges of two blocks', 4000, 200],
    ['whole blocks and both edges', 4000, 2 * BLOCK_SIZE + 200],
    ['from the middle to the end', 10 * BLOCK_SIZE + 1, SIZE - 10 * BLOCK_SIZE - 1],
    ['everything', 0, SIZE],
    ['nothing', 4096, 0],
    ['nothing in the middle', 100, 0],
  ] as const)('of %s read as zeros, and nothing else does', async ([, offset, length]) => {
    const twin = new Twin(await tinyVolume());
    await twin.write(0, joined(noiseRun(1, 10), squashy(1), squashy(2), noise(3)));
    await twin.write(900 * BLOCK_SIZE, noise(5));
    await twin.volume.flush();
    await twin.discard(offset, length);
    await twin.check(0, 20 * BLOCK_SIZE);
    await twin.check(899 * BLOCK_SIZE, 3 * BLOCK_SIZE);
    await twin.end();
  });

  test('of much let others have their turns between', async () => {
    const { volume, storage } = await tinyVolume(PLAIN, { logicalSize: 2 ** 30 });
    const leaves = 40;
    for (let page = 0; page < leaves; page++) {
      await volume.write(page * 812 * BLOCK_SIZE, noise(page));
    }
    await volume.flush();
    let isDone = false;
    const discarded = volume.discard(0, 2 ** 30).then(() => (isDone = true));
    const seen: boolean[] = [];
    for (let page = leaves - 1; page >= leaves - 3; page--) {
      await expectBlock(volume, page * 812, noise(page));
      seen.push(isDone);
    }
    expect(seen).toEqual([false, false, false]);
    await volume.flush();
    await discarded;
    for (let page = 0; page < leaves; page++) {
      await expectBlock(volume, page * 812, new Uint8Array(BLOCK_SIZE));
    }
    expect(statistic(volume, 'dataBlocksUsed')).toBe(0);
    await closeAndAudit(volume, storage);
  });

  test('under way end before the volume is closed', async () => {
    const { volume, storage } = await tinyVolume(PLAIN, { logicalSize: 2 ** 30 });
    for (let page = 0; page < 40; page++) await volume.write(page * 812 * BLOCK_SIZE, noise(page));
    await volume.flush();
    const discarded = volume.discard(0, 2 ** 30);
    await Promise.all([closeAndAudit(volume, storage), discarded]);
    await expect(volume.discard(0, BLOCK_SIZE)).rejects.toMatchObject({ code: 'Closed' });
  });

  test('give blocks back, of a whole volume in one call', async () => {
    const { volume, storage } = await tinyVolume(PLAIN, {
      recoveryJournalBlocks: 4,
      slabJournalBlocks: 8,
    });
    for (let page = 0; page < 4; page++) {
      await volume.write(page * 812 * BLOCK_SIZE, noiseRun(page, 400));
    }
    await volume.discard(0, SIZE);
    await volume.flush();
    expect(statistic(volume, 'dataBlocksUsed')).toBe(0);
    expect(statistic(volume, 'logicalBlocksUsed')).toBe(0);
    expect(statistic(volume, 'blocks.discarded')).toBe(1600);
    await closeAndAudit(volume, storage);
  });

  test('of a hole cost nothing, however long, on a volume of 256 TiB', async () => {
    const { volume, storage } = await tinyVolume(PLAIN, { logicalSize: 2 ** 48 });
    await volume.write(2 ** 47, noise(1));
    await volume.flush();
    const entries = statistic(volume, 'journal.entries.started');
    await volume.discard(0, 2 ** 47);
    await volume.flush();
    expect(statistic(volume, 'journal.entries.started')).toBe(entries);
    await expectBlock(volume, 2 ** 35, noise(1));
    await volume.discard(0, 2 ** 48);
    await volume.flush();
    expect(statistic(volume, 'dataBlocksUsed')).toBe(0);
    await closeAndAudit(volume, storage);
  });

  test('writeZeroes unmaps as well', async () => {
    const twin = new Twin(await tinyVolume(PLAIN));
    await twin.write(0, noiseRun(1, 10));
    twin.bytes.fill(0, 2000, 2000 + 4 * BLOCK_SIZE);
    await twin.volume.writeZeroes(2000, 4 * BLOCK_SIZE, { fua: true });
    await twin.check(0, 10 * BLOCK_SIZE);
    expect(statistic(twin.volume, 'logicalBlocksUsed')).toBe(7);
    await twin.end();
  });
});

describe('extents', () => {
  test('tell holes, zeros and data apart, waiting fragments included', async () => {
    const { volume, storage } = await tinyVolume();
    await volume.write(2 * BLOCK_SIZE, joined(squashy(1), noise(2), new Uint8Array(BLOCK_SIZE)));
    await volume.write(812 * BLOCK_SIZE, noise(3));
    const expected = [
      [0, 2, 'hole'],
      [2, 4, 'data'],
      [4, 5, 'zero'],
      [5, 812, 'hole'],
      [812, 813, 'data'],
      [813, 4000, 'hole'],
    ].map(([from, to, kind]) => ({
      offset: (from as number) * BLOCK_SIZE,
      length: ((to as number) - (from as number)) * BLOCK_SIZE,
      kind,
    }));
    expect(await volume.extents(0, SIZE)).toEqual(expected);
    await volume.flush();
    expect(await volume.extents(0, SIZE)).toEqual(expected);
    await closeAndAudit(volume, storage);
  });

  test('cover exactly what was asked for, of any alignment', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(BLOCK_SIZE, noise(1));
    expect(await volume.extents(4000, 200)).toEqual([
      { offset: 4000, length: 96, kind: 'hole' },
      { offset: 4096, length: 104, kind: 'data' },
    ]);
    expect(await volume.extents(5000, 1)).toEqual([{ offset: 5000, length: 1, kind: 'data' }]);
    expect(await volume.extents(5000, 0)).toEqual([]);
    expect(await volume.extents(SIZE, 0)).toEqual([]);
    await closeAndAudit(volume, storage);
  });
});
