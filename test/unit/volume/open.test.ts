/** Opening: what is refused, what is written, and damage that is met later. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { VdoError } from '../../../src/base/errors.ts';
import { formatPage, setEntry, setInitialized } from '../../../src/format/block-map-page.ts';
import { encodeGeometryBlock } from '../../../src/format/geometry-block.ts';
import { readSummaryEntry, setSummaryEntry } from '../../../src/format/slab-summary.ts';
import { CLEAN, DIRTY, encodeSuperBlock, NEW } from '../../../src/format/super-block.ts';
import { MemoryStorage } from '../../../src/storage/memory-storage.ts';
import { formatVolume } from '../../../src/volume/format.ts';
import { readLabels } from '../../../src/volume/labels.ts';
import { openVolume, openVolumeOn, type OpenOptions } from '../../../src/volume/open.ts';
import { auditVolume } from '../../model/audit.ts';
import {
  joined,
  noise,
  noiseRun,
  QUIET,
  squashy,
  TINY_BLOCKS,
  TINY_FORMAT,
  tinyStorage,
  tinyVolume,
  WatchedStorage,
} from '../../support/volumes.ts';
import { closeAndAudit, expectBlock, FIRST, statistic } from '../data-path/support.ts';

const PLAIN = { compression: false } as const;
const READ_ONLY: OpenOptions = { ...QUIET, readOnly: true };

/** A volume with something in it, closed. */
async function filled(options: OpenOptions = PLAIN): Promise<WatchedStorage> {
  const { volume, storage } = await tinyVolume(options);
  await volume.write(0, joined(noise(1), noise(2), squashy(3), squashy(4)));
  await volume.write(812 * BLOCK_SIZE, noise(5));
  await volume.close();
  return storage;
}

async function setState(storage: WatchedStorage, state: number): Promise<void> {
  const { superBlock } = await readLabels(storage);
  storage.scribble(1, encodeSuperBlock({ ...superBlock, state: state as typeof CLEAN }));
}

describe('the state', () => {
  test('goes NEW → DIRTY → CLEAN → DIRTY → CLEAN, with zone count 1', async () => {
    const storage = await tinyStorage();
    const states: number[] = [];
    const look = async (): Promise<void> => {
      states.push((await readLabels(storage)).superBlock.state);
    };
    await look();
    for (let i = 0; i < 2; i++) {
      const volume = await openVolumeOn(storage, QUIET);
      await look();
      await volume.write(0, noise(i));
      await volume.close();
      await look();
    }
    expect(states).toEqual([NEW, DIRTY, CLEAN, DIRTY, CLEAN]);
    expect((await readLabels(storage)).superBlock).toMatchObject({
      zoneCount: 1,
      logicalBlocksUsed: 1,
      blockMapDataBlocks: 4,
      journalStart: 3,
    });
  });

  test.for([
    [3, 'ReadOnly'],
    [4, 'RecoveryNeeded'],
    [7, 'RecoveryNeeded'],
  ] as const)('%i wants a rebuild: read as it stands, never written', async ([state, code]) => {
    const storage = await filled();
    await setState(storage, state);
    const calls = await storage.during(async () => {
      await expect(openVolumeOn(storage, QUIET)).rejects.toMatchObject({ code });
      const volume = await openVolumeOn(storage, READ_ONLY);
      await expectBlock(volume, 812, noise(5));
      expect(volume.notice).toMatch(/as it stands/);
      expect(volume.statistics()['mode']).toBe('read-only');
      await volume.close();
    });
    expect(calls.filter(({ kind }) => kind !== 'read')).toEqual([]);
  });

  test('5 goes on with scrubbing, without a replay and without a recovery counted', async () => {
    const storage = await filled();
    await setState(storage, 5);
    const volume = await openVolumeOn(storage, QUIET);
    await expectBlock(volume, 812, noise(5));
    await closeAndAudit(volume, storage);
    expect((await readLabels(storage)).superBlock).toMatchObject({
      state: CLEAN,
      completeRecoveries: 0,
    });
  });

  test('goes on counting from run to run', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, noiseRun(1, 300));
    await closeAndAudit(volume, storage);
    const again = await openVolumeOn(storage, { ...QUIET, ...PLAIN });
    expect(statistic(again, 'logicalBlocksUsed')).toBe(300);
    expect(statistic(again, 'dataBlocksUsed')).toBe(300);
    await again.write(300 * BLOCK_SIZE, noiseRun(2, 10));
    await again.discard(0, 5 * BLOCK_SIZE);
    await closeAndAudit(again, storage);
    const third = await openVolumeOn(storage, QUIET);
    expect(statistic(third, 'logicalBlocksUsed')).toBe(305);
    const run = noiseRun(2, 10);
    await expectBlock(third, 309, run.subarray(9 * BLOCK_SIZE));
    await closeAndAudit(third, storage);
  });
});

describe('read-only', () => {
  test('never writes, whatever is read', async () => {
    const storage = await filled({});
    storage.before = ({ kind }) => {
      if (kind !== 'read') throw new Error('written');
    };
    const volume = await openVolumeOn(storage, READ_ONLY);
    expect(volume.readOnly).toBe(true);
    for (const [lbn, block] of [noise(1), noise(2), squashy(3), squashy(4)].entries()) {
      await expectBlock(volume, lbn, block);
    }
    await volume.read(0, volume.size);
    await volume.extents(0, volume.size);
    await volume.flush();
    const refused = { code: 'ReadOnly' };
    await expect(volume.write(0, noise(9))).rejects.toMatchObject(refused);
    await expect(volume.discard(0, BLOCK_SIZE)).rejects.toMatchObject(refused);
    await expect(volume.writeZeroes(0, BLOCK_SIZE)).rejects.toMatchObject(refused);
    await volume.close();
  });

  test('is what a read-only storage gives, a new volume included', async () => {
    const storage = await tinyStorage();
    const volume = await openVolumeOn(storage.below.clone({ readOnly: true }), QUIET);
    expect(volume.readOnly).toBe(true);
    expect((await volume.read(0, 5)).every((byte) => byte === 0)).toBe(true);
    await volume.close();
  });
});

test('a journal of one block is too short to write with, not to read', async () => {
  const storage = await tinyStorage({ recoveryJournalBlocks: 1 });
  await expect(openVolumeOn(storage, QUIET)).rejects.toMatchObject({ code: 'ReadOnly' });
  const volume = await openVolumeOn(storage, READ_ONLY);
  await volume.close();
});

describe('what a crash or an error leaves', () => {
  test('an open that fails half way leaves the volume as it was', async () => {
    const storage = await filled();
    storage.before = ({ kind }) => {
      if (kind === 'flush') throw new Error('no flush');
    };
    await expect(openVolumeOn(storage, QUIET)).rejects.toThrow('no flush');
    storage.before = () => undefined;
    const volume = await openVolumeOn(storage, QUIET);
    await expectBlock(volume, 0, noise(1));
    await closeAndAudit(volume, storage);
  });
});

describe('the summary of a run with several zones', () => {
  test('is combined, and then alike in all copies', async () => {
    const storage = await filled();
    const { superBlock } = await readLabels(storage);
    // Two zones: slab 1 counts in copy 1, and copy 0 says nonsense about it.
    storage.scribble(1, encodeSuperBlock({ ...superBlock, zoneCount: 2 }));
    const summaryAt = superBlock.partitions.slabSummary.offset;
    const copy0 = storage.block(summaryAt);
    const truth = readSummaryEntry(copy0, 1);
    storage.scribble(summaryAt + 4, Uint8Array.from(copy0));
    setSummaryEntry(copy0, 1, { ...truth, dirty: true, loadCounts: true, tailOffset: 9 });
    storage.scribble(summaryAt, copy0);
    const volume = await openVolumeOn(storage, QUIET);
    for (let zone = 0; zone < 16; zone++) {
      expect(readSummaryEntry(storage.block(summaryAt + 4 * zone), 1)).toEqual(truth);
    }
    await closeAndAudit(volume, storage);
  });
});

describe('damage', () => {
  /** The leaf of logical block 0. */
  const LEAF = FIRST + 3;

  /** Overwrites the leaf of logical block 0 with a page made by `change`. */
  async function damageLeaf(
    storage: WatchedStorage,
    change: (page: Uint8Array) => void,
  ): Promise<void> {
    const page = storage.block(LEAF);
    change(page);
    storage.scribble(LEAF, page);
  }

  test('a leaf with the number of another block: its reads fail, all others go on', async () => {
    const storage = await filled();
    const { superBlock } = await readLabels(storage);
    await damageLeaf(storage, (page) => formatPage(page, superBlock.nonce, 77, true));
    const volume = await openVolumeOn(storage, READ_ONLY);
    await expect(volume.read(0, 1)).rejects.toMatchObject({ code: 'Corrupt' });
    await expectBlock(volume, 812, noise(5));
    const together = [volume.read(0, 1), volume.read(812 * BLOCK_SIZE, BLOCK_SIZE)];
    const outcomes = await Promise.allSettled(together);
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'fulfilled']);
    await volume.close();
  });

  test('such a leaf makes a writable volume read-only at the first write to it', async () => {
    const storage = await filled();
    const { superBlock } = await readLabels(storage);
    await damageLeaf(storage, (page) => formatPage(page, superBlock.nonce, 77, true));
    const volume = await openVolumeOn(storage, QUIET);
    await volume.write(0, noise(9));
    await expect(volume.flush()).rejects.toMatchObject({ code: 'Corrupt' });
    expect(volume.failure!.cause).toMatchObject({ code: 'Corrupt' });
    await expectBlock(volume, 812, noise(5));
    await expect(volume.close()).rejects.toMatchObject({ code: 'Corrupt' });
  });

  test.for([
    ['of another volume', (page: Uint8Array) => page.fill(9, 8, 16)],
    ['that is not initialized', (page: Uint8Array) => setInitialized(page, false)],
    ['of zeros', (page: Uint8Array) => page.fill(0)],
    ['of noise', (page: Uint8Array) => page.set(noise(5))],
  ] as const)('a leaf %s reads as empty', async ([, change]) => {
    const storage = await filled();
    await damageLeaf(storage, change);
    const volume = await openVolumeOn(storage, READ_ONLY);
    expect((await volume.read(0, 8192)).every((byte) => byte === 0)).toBe(true);
    await volume.close();
  });

  test.for([
    ['out of the volume', 2 ** 30, 1],
    ['into slab metadata', FIRST + 1010, 1],
    ['compressed, in block 0', 0, 3],
    ['unmapped, with a block', FIRST + 4, 0],
  ] as const)('a mapping %s fails reads of that block alone', async ([, pbn, state]) => {
    const storage = await filled();
    await damageLeaf(storage, (page) => setEntry(page, 1, pbn, state));
    const volume = await openVolumeOn(storage, { ...QUIET, ...PLAIN });
    await expect(volume.read(BLOCK_SIZE, 1)).rejects.toMatchObject({ code: 'BadMapping' });
    await expectBlock(volume, 0, noise(1));
    // A write of the whole block does away with it.
    await volume.write(BLOCK_SIZE, noise(8));
    await expectBlock(volume, 1, noise(8));
    await volume.flush();
    expect(volume.failure).toBeNull();
    await volume.close();
  });

  test('a mapping to a block without references is found before it does harm', async () => {
    const storage = await filled();
    await damageLeaf(storage, (page) => setEntry(page, 1, FIRST + 500, 1));
    const volume = await openVolumeOn(storage, QUIET);
    await volume.write(BLOCK_SIZE, noise(8));
    await expect(volume.flush()).rejects.toMatchObject({ code: 'Corrupt' });
    expect(volume.failure!.cause).toMatchObject({ code: 'Corrupt' });
    await expect(volume.close()).rejects.toBeInstanceOf(VdoError);
  });

  test('an interior page that names no data block: BadMapping', async () => {
    const storage = await filled();
    const page = storage.block(FIRST + 2);
    setEntry(page, 0, 5, 1);
    storage.scribble(FIRST + 2, page);
    const volume = await openVolumeOn(storage, READ_ONLY);
    await expect(volume.read(0, 1)).rejects.toMatchObject({ code: 'BadMapping' });
    await expectBlock(volume, 812, noise(5));
    await volume.close();
  });

  test('a slot of a compressed block that does not expand: Corrupt', async () => {
    const storage = await filled({});
    const volume = await openVolumeOn(storage, READ_ONLY);
    const compressed = Array.from({ length: 60 }, (_, i) => FIRST + i).find((pbn) => {
      const block = storage.block(pbn);
      return block[0] === 1 && block[4] === 0 && block[8]! + block[9]! > 0 && block[32] === 0;
    })!;
    storage.scribble(compressed, noise(3));
    await expect(volume.read(2 * BLOCK_SIZE, 1)).rejects.toMatchObject({ code: 'Corrupt' });
    await expectBlock(volume, 0, noise(1));
    await volume.close();
  });
});

describe('a volume with an offset', () => {
  test('is written where its blocks lie, and audits clean', async () => {
    // As converted volumes have it: every stored block number is 40 more than the device's.
    const shift = 40;
    const whole = await tinyStorage();
    const storage = new WatchedStorage(new MemoryStorage((TINY_BLOCKS + shift) * BLOCK_SIZE));
    for (let pbn = 0; pbn < TINY_BLOCKS; pbn++) storage.scribble(pbn, whole.block(pbn));
    const { geometry, superBlock } = await readLabels(storage);
    const moved = { ...geometry, bioOffset: shift, indexStart: 1 + shift, dataStart: 1 + shift };
    const partitions = Object.fromEntries(
      Object.entries(superBlock.partitions).map(([name, { offset, count }]) => [
        name,
        { offset: offset + shift, count },
      ]),
    ) as unknown as typeof superBlock.partitions;
    storage.scribble(0, encodeGeometryBlock(moved));
    storage.scribble(
      1,
      encodeSuperBlock({
        ...superBlock,
        partitions,
        firstFree: superBlock.firstFree + shift,
        lastFree: superBlock.lastFree + shift,
        physicalBlocks: superBlock.physicalBlocks + shift,
        firstBlock: superBlock.firstBlock + shift,
        lastBlock: superBlock.lastBlock + shift,
        rootOrigin: superBlock.rootOrigin + shift,
      }),
    );
    const volume = await openVolumeOn(storage, { ...QUIET, ...PLAIN });
    await volume.write(0, noise(1));
    await closeAndAudit(volume, storage);
    expect(Buffer.compare(storage.block(FIRST + 4), noise(1))).toBe(0);
    const again = await openVolumeOn(storage, READ_ONLY);
    await expectBlock(again, 0, noise(1));
    await again.close();
  });
});

describe('a file', () => {
  let directory: string;
  beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'uvdo-open-'))));
  afterEach(() => rm(directory, { recursive: true, force: true }));

  test('is locked while it is open, for writers and readers, and free again after', async () => {
    const path = join(directory, 'disk.vdo');
    await formatVolume(path, { ...TINY_FORMAT, size: TINY_BLOCKS * BLOCK_SIZE });
    const volume = await openVolume(path, { ...QUIET, index: 'level' });
    await expect(openVolume(path, QUIET)).rejects.toMatchObject({ code: 'Busy' });
    await expect(openVolume(path, READ_ONLY)).rejects.toMatchObject({ code: 'Busy' });
    await volume.write(0, noise(1));
    await volume.close();
    const reader = await openVolume(path, READ_ONLY);
    await expectBlock(reader, 0, noise(1));
    await reader.close();
    // The level index remembers over the restart.
    const again = await openVolume(path, { ...QUIET, index: 'level' });
    await again.write(5 * BLOCK_SIZE, noise(1));
    await again.flush();
    expect(statistic(again, 'dataBlocksUsed')).toBe(1);
    await again.close();
  });

  test('that is no volume, or not there, is refused and left alone', async () => {
    await expect(openVolume(join(directory, 'none'), QUIET)).rejects.toBeInstanceOf(VdoError);
    await expect(openVolume('/dev/null', QUIET)).rejects.toBeInstanceOf(VdoError);
  });

  test('a failed open gives the lock back', async () => {
    const path = join(directory, 'disk.vdo');
    await formatVolume(path, { ...TINY_FORMAT, size: TINY_BLOCKS * BLOCK_SIZE });
    const failing = openVolume(path, { ...QUIET, index: 'level', indexCapacity: 1 });
    await (await failing).close();
    for (let i = 0; i < 2; i++) {
      await expect(
        openVolumeOn((await tinyStorage()).below, { ...QUIET, index: 'level' }),
      ).rejects.toMatchObject({ code: 'InvalidArgument' });
    }
    await (await openVolume(path, QUIET)).close();
  });
});

test('options beyond their limits are brought within', async () => {
  const { volume, storage } = await tinyVolume({
    cachePages: 1,
    batchBlocks: 100_000,
    packerBins: 0,
  });
  expect(volume.statistics()['capacities']).toMatchObject({
    batchBlocks: 2048,
    packerBins: 1,
    blockMapCachePages: 8,
  });
  await volume.write(0, noise(1));
  await volume.close();
  expect((await auditVolume(storage)).errors).toEqual([]);
});
