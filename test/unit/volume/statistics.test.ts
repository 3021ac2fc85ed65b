/** Statistics: every number after a known story, and what they say of savings. */
import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { openVolumeOn } from '../../../src/volume/open.ts';
import { savingsOf } from '../../../src/volume/statistics.ts';
import { joined, noise, QUIET, squashy, TINY_BLOCKS, tinyVolume } from '../../support/volumes.ts';
import { closeAndAudit, SLAB_DATA } from '../data-path/support.ts';

describe('statistics', () => {
  test('of a fresh volume', async () => {
    const { volume, storage } = await tinyVolume();
    expect(volume.statistics()).toMatchObject({
      version: 36,
      dataBlocksUsed: 0,
      overheadBlocksUsed: TINY_BLOCKS - 2 * SLAB_DATA,
      logicalBlocksUsed: 0,
      physicalBlocks: TINY_BLOCKS,
      logicalBlocks: 4000,
      blockMapCacheSize: 64 * BLOCK_SIZE,
      mode: 'normal',
      allocator: { slabCount: 2, slabsOpened: 0, slabsReopened: 0 },
      savings: { logicalUsed: 0, dataBlocksUsed: 0, ratio: 1, percent: 0 },
    });
    await closeAndAudit(volume, storage);
  });

  test('after zeros, duplicates, fragments, a partial write, a discard and a read', async () => {
    const { volume, storage } = await tinyVolume();
    const zero = new Uint8Array(BLOCK_SIZE);
    await volume.write(0, joined(noise(1), noise(1), zero, squashy(2), squashy(3), squashy(2)));
    await volume.flush();
    expect(volume.statistics()).toMatchObject({
      dataBlocksUsed: 2,
      logicalBlocksUsed: 6,
      overheadBlocksUsed: TINY_BLOCKS - 2 * SLAB_DATA + 4,
      packer: {
        compressedFragmentsWritten: 2,
        compressedBlocksWritten: 1,
        compressedFragmentsInPacker: 0,
      },
      allocator: { slabsOpened: 1 },
      // Four tree pages and six mappings.
      journal: {
        entries: { started: 10, written: 10, committed: 10 },
        blocks: { started: 1, written: 1, committed: 1 },
      },
      hashLock: { concurrentDataMatches: 2, concurrentHashCollisions: 0 },
      flushOut: 2,
      index: { kind: 'memory', entriesIndexed: 3, queriesFound: 0, queriesNotFound: 3 },
      blocks: { written: 6, zero: 1, duplicate: 2, stored: 2, partial: 0, discarded: 0 },
      savings: { logicalUsed: 6, dataBlocksUsed: 2, ratio: 3 },
    });

    await volume.write(10 * BLOCK_SIZE, noise(1));
    await volume.write(100, Uint8Array.of(1));
    await volume.discard(3 * BLOCK_SIZE, 3 * BLOCK_SIZE);
    await volume.read(0, 2 * BLOCK_SIZE);
    await volume.flush();
    expect(volume.statistics()).toMatchObject({
      // Of noise(1) two references are left, the changed copy is new, the fragments are gone.
      dataBlocksUsed: 2,
      logicalBlocksUsed: 4,
      hashLock: { dedupeAdviceValid: 1 },
      blocks: { written: 8, partial: 1, discarded: 3, read: 3 },
    });
    await closeAndAudit(volume, storage);

    const again = await openVolumeOn(storage, QUIET);
    expect(again.statistics()).toMatchObject({
      dataBlocksUsed: 2,
      logicalBlocksUsed: 4,
      overheadBlocksUsed: TINY_BLOCKS - 2 * SLAB_DATA + 4,
      journal: { entries: { started: 0 } },
    });
    await closeAndAudit(again, storage);
  });

  test('count freed blocks as free while they are still held', async () => {
    const { volume, storage } = await tinyVolume();
    await volume.write(0, joined(noise(1), noise(2)));
    await volume.flush();
    await volume.discard(0, BLOCK_SIZE);
    expect(volume.statistics()).toMatchObject({ dataBlocksUsed: 1, logicalBlocksUsed: 1 });
    await closeAndAudit(volume, storage);
  });

  test('consist of numbers and texts only', async () => {
    const { volume, storage } = await tinyVolume();
    const check = (value: unknown): void => {
      if (typeof value === 'object') for (const part of Object.values(value!)) check(part);
      else if (typeof value === 'number') expect(Number.isFinite(value)).toBe(true);
      else expect(value).toBeTypeOf('string');
    };
    check(volume.statistics());
    await closeAndAudit(volume, storage);
  });
});

describe('savings', () => {
  test.for([
    [0, 0, 1, 0],
    [10, 10, 1, 0],
    [10, 5, 2, 50],
    [10, 0, 10, 100],
    [4, 8, 0.5, -100],
  ] as const)('of %i logical in %i physical blocks', ([logical, physical, ratio, percent]) => {
    expect(savingsOf(logical, physical)).toEqual({
      logicalUsed: logical,
      dataBlocksUsed: physical,
      ratio,
      percent,
    });
  });
});
