import { mkdtemp, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BLOCK_SIZE, GiB, MiB, PiB, TiB } from '../../../src/base/constants.ts';
import { VdoError, type VdoCode } from '../../../src/base/errors.ts';
import { decodeGeometryBlock } from '../../../src/format/geometry-block.ts';
import { decodeSuperBlock, encodeSuperBlock } from '../../../src/format/super-block.ts';
import { lockFile } from '../../../src/storage/file-lock.ts';
import { openFileStorage } from '../../../src/storage/file-storage.ts';
import { MemoryStorage } from '../../../src/storage/memory-storage.ts';
import type { Extent } from '../../../src/storage/storage.ts';
import { formatStorage, formatVolume } from '../../../src/volume/format.ts';
import { planFormat, type FormatOptions } from '../../../src/volume/format-plan.ts';
import { readLabels, superBlockOffset } from '../../../src/volume/labels.ts';
import { GEOMETRY, NONCE, SUPER_BLOCK, codeOf } from '../format/support.ts';

const TINY: FormatOptions = {
  noIndex: true,
  slabSize: 1024 * BLOCK_SIZE,
  slabJournalBlocks: 16,
  recoveryJournalBlocks: 64,
};
const TINY_SIZE = 2238 * BLOCK_SIZE;

async function failure(promise: Promise<unknown>): Promise<VdoCode> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof VdoError)) throw new Error(`no VdoError: ${String(error)}`);
  return error.code;
}

async function blockAt(storage: MemoryStorage, offset: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(BLOCK_SIZE);
  await storage.read([{ offset, bytes }]);
  return bytes;
}

/** A storage that keeps a list of what is done to it. */
class Recorder extends MemoryStorage {
  readonly log: string[] = [];
  failAfter = Infinity;

  override async write(extents: readonly Extent[]): Promise<void> {
    for (const { offset } of extents) {
      if (this.log.length >= this.failAfter) throw new VdoError('Io', 'failed on purpose');
      this.log.push(`write ${offset / BLOCK_SIZE}`);
    }
    return super.write(extents);
  }

  override async flush(): Promise<void> {
    this.log.push('flush');
    return super.flush();
  }
}

describe('formatStorage', () => {
  test('writes the very labels of dm-vdo’s own tool', async () => {
    const storage = new MemoryStorage(5 * GiB);
    const slabSize = 8192 * BLOCK_SIZE;
    const result = await formatStorage(storage, { slabSize, nonce: NONCE, uuid: GEOMETRY.uuid });
    expect(result).toEqual({
      geometry: GEOMETRY,
      superBlock: SUPER_BLOCK,
      slabs: 73,
      slabSizeAdjusted: false,
    });
    expect(decodeGeometryBlock(await blockAt(storage, 0))).toEqual(GEOMETRY);
    expect(decodeSuperBlock(await blockAt(storage, 679128 * BLOCK_SIZE))).toEqual(SUPER_BLOCK);
    expect(await readLabels(storage)).toEqual({ geometry: GEOMETRY, superBlock: SUPER_BLOCK });
    expect(storage.usedBytes).toBeLessThan(MiB);
  });

  test('the largest volumes, for every slab size that can hold them', async () => {
    for (let bits = 13; bits <= 23; bits++) {
      const slabSize = 2 ** bits * BLOCK_SIZE;
      const size = Math.min(256 * TiB, 8192 * slabSize);
      const storage = new MemoryStorage(size);
      const { superBlock, slabs } = await formatStorage(storage, {
        slabSize,
        logicalSize: 4 * PiB,
        ...(size < 100 * GiB ? { noIndex: true } : { indexMemory: bits > 20 ? 1024 : 0.25 }),
        sparseIndex: bits === 23,
      });
      expect(superBlock.physicalBlocks).toBe(size / BLOCK_SIZE);
      expect(superBlock.logicalBlocks).toBe(2 ** 40);
      expect(slabs).toBeGreaterThan(bits > 20 ? 500 : 8000);
      expect((await readLabels(storage)).superBlock).toEqual(superBlock);
    }
  });

  test('a default logical size for the largest volume; limits are exact', async () => {
    const plan = planFormat(256 * TiB, { slabSize: 32 * GiB });
    expect(plan.superBlock.logicalBlocks).toBeLessThan(2 ** 36);
    expect(plan.slabs).toBe(8191);
    expect(codeOf(() => planFormat(256 * TiB + 4096, {}))).toBe('InvalidArgument');
    const logicalSize = 4 * PiB + 4096;
    expect(codeOf(() => planFormat(5 * GiB, { logicalSize }))).toBe('InvalidArgument');
    expect(planFormat(720213 * BLOCK_SIZE, {}).superBlock.logicalBlocks).toBe(7776);
    expect(() => planFormat(720213 * BLOCK_SIZE - 1, {})).toThrow('at least 2949992448 bytes');
    expect(planFormat(41086 * BLOCK_SIZE, { noIndex: true }).slabs).toBe(1);
  });

  test('without a slab size it suits the device', () => {
    const chosen = (size: number) => {
      const { superBlock, slabSizeAdjusted } = planFormat(size, { noIndex: true });
      return [Math.log2(superBlock.slabSize), slabSizeAdjusted];
    };
    expect(chosen(10 * TiB)).toEqual([19, false]);
    expect(chosen(3 * GiB)).toEqual([19, false]);
    expect(chosen(2 * GiB)).toEqual([18, true]);
    expect(chosen(41086 * BLOCK_SIZE)).toEqual([13, true]);
    expect(chosen(20 * TiB)).toEqual([20, true]);
    expect(chosen(256 * TiB)).toEqual([23, true]);
  });

  test.each<[string, FormatOptions]>([
    ['slab size that is no power of two', { slabSize: 48 * MiB }],
    ['slab size below 32 MiB', { slabSize: 16 * MiB }],
    ['slab size above 32 GiB', { slabSize: 64 * GiB }],
    ['slab larger than the device', { slabSize: 8 * GiB }],
    ['logical size of half blocks', { logicalSize: 4096 * 3 + 512 }],
    ['logical size 0', { logicalSize: 0 }],
    ['index memory 0.3', { indexMemory: 0.3 }],
    ['index larger than the device', { indexMemory: 4 }],
    ['index memory without index', { indexMemory: 1, noIndex: true }],
    ['sparse index without index', { sparseIndex: true, noIndex: true }],
    ['short nonce', { nonce: new Uint8Array(7) }],
    ['short UUID', { uuid: new Uint8Array(4) }],
    ['slab journal larger than the slab', { ...TINY, slabJournalBlocks: 2000 }],
    ['recovery journal of 100 blocks', { ...TINY, recoveryJournalBlocks: 100 }],
  ])('refuses a %s and touches nothing', async (_name, options) => {
    const storage = new MemoryStorage(5 * GiB);
    expect(await failure(formatStorage(storage, options))).toBe('InvalidArgument');
    expect(storage.usedBytes).toBe(0);
  });

  test('no default logical size for less than 180 data blocks; one given will do', async () => {
    const options = { ...TINY, slabSize: 128 * BLOCK_SIZE };
    const size = (2 + 60 + 64 + 64 + 128) * BLOCK_SIZE;
    expect(() => planFormat(size, options)).toThrow('too small for a default logical size');
    const storage = new MemoryStorage(size);
    const { superBlock } = await formatStorage(storage, { ...options, logicalSize: 40960 });
    expect(superBlock.logicalBlocks).toBe(10);
  });

  test('labels go last, each behind a flush', async () => {
    const storage = new Recorder(TINY_SIZE);
    // Something nonzero where it matters: block 0, a root, the journal, the summary.
    for (const block of [0, 30, 2238 - 100, 2237]) {
      await storage.write([{ offset: block * BLOCK_SIZE, bytes: new Uint8Array(4096).fill(7) }]);
    }
    storage.log.length = 0;
    await formatStorage(storage, TINY);
    expect(storage.log).toEqual([
      'write 0',
      'flush',
      `write ${2238 - 64 - 64}`,
      `write ${2238 - 64}`,
      'write 1',
      'flush',
      'write 0',
      'flush',
    ]);
    for (const block of [30, 2238 - 100, 2237]) {
      expect((await blockAt(storage, block * BLOCK_SIZE)).every((byte) => byte === 0)).toBe(true);
    }
  });

  test('a format that fails anywhere leaves no volume', async () => {
    const image = new Recorder(TINY_SIZE);
    await formatStorage(image, TINY);
    const operations = image.log.length;
    for (let failAfter = 0; failAfter < operations; failAfter++) {
      const storage = new Recorder(TINY_SIZE);
      await formatStorage(storage, TINY);
      storage.log.length = 0;
      storage.failAfter = failAfter;
      const result = await formatStorage(storage, { ...TINY, force: true }).catch(() => undefined);
      if (result !== undefined) continue;
      const expected = failAfter === 0 ? 'none' : 'NotVdo';
      const block = await blockAt(storage, 0);
      expect(codeOf(() => decodeGeometryBlock(block))).toBe(expected);
    }
  });

  test('a nonce is not used twice on one storage', async () => {
    const storage = new MemoryStorage(TINY_SIZE);
    const options = { ...TINY, nonce: NONCE, force: true };
    await formatStorage(storage, options);
    expect(await failure(formatStorage(storage, options))).toBe('InvalidArgument');
    await formatStorage(storage, { ...TINY, force: true });
    await formatStorage(storage, options);
  });

  const latin = (text: string) => new Uint8Array(Buffer.from(text, 'latin1'));
  test.each<[string, number, string]>([
    ['dm-vdo', 0, 'dmvdo001'],
    ['ext4', 1080, '\x53\xef'],
    ['XFS', 0, 'XFSB'],
    ['btrfs', 65600, '_BHRfS_M'],
    ['swap', 4086, 'SWAPSPACE2'],
    ['LVM', 512, 'LABELONE'],
    ['LUKS', 0, 'LUKS\xba\xbe'],
    ['ISO 9660', 32769, 'CD001'],
    ['SquashFS', 0, 'hsqs'],
    ['NTFS', 3, 'NTFS    '],
    ['FAT', 82, 'FAT32   '],
    ['ZFS', 131072 + 5 * 1024, '\x0c\xb1\xba\x00\x00\x00\x00\x00'],
    ['RAID', 4096, '\xfc\x4e\x2b\xa9'],
    ['RAID', TINY_SIZE - 8192, '\xfc\x4e\x2b\xa9'],
    ['RAID', Math.floor(TINY_SIZE / 65536) * 65536 - 65536, '\xfc\x4e\x2b\xa9'],
    ['qcow2', 0, 'QFI\xfb'],
    ['GPT', 512, 'EFI PART'],
    ['GPT', TINY_SIZE - 512, 'EFI PART'],
    ['boot sector', 510, '\x55\xaa'],
  ])(
    'does not overwrite %s (at byte %i) unless forced, and then leaves no trace',
    async (name, offset, magic) => {
      const storage = new MemoryStorage(TINY_SIZE);
      await storage.write([{ offset, bytes: latin(magic) }]);
      await expect(formatStorage(storage, TINY)).rejects.toThrow(name);
      expect(await failure(formatStorage(storage, TINY))).toBe('Exists');
      const back = new Uint8Array(magic.length);
      await storage.read([{ offset, bytes: back }]);
      expect(back).toEqual(latin(magic));

      await formatStorage(storage, { ...TINY, force: true });
      await readLabels(storage);
      await storage.read([{ offset, bytes: back }]);
      if (offset > 4096) expect(back.every((byte) => byte === 0)).toBe(true);
    },
  );
});

describe('readLabels', () => {
  async function tiny(): Promise<MemoryStorage> {
    const storage = new MemoryStorage(TINY_SIZE);
    await formatStorage(storage, TINY);
    return storage;
  }

  test('a storage that is too short is truncated', async () => {
    const storage = await tiny();
    const { geometry } = await readLabels(storage);
    for (const [size, code] of [
      [0, 'NotVdo'],
      [4096, 'Truncated'],
      [TINY_SIZE - 1, 'Truncated'],
      [TINY_SIZE, undefined],
      [TINY_SIZE + 5, undefined],
    ] as const) {
      const copy = new MemoryStorage(size);
      for (const offset of [0, superBlockOffset(geometry)]) {
        if (offset + 4096 > size) continue;
        await copy.write([{ offset, bytes: await blockAt(storage, offset) }]);
      }
      if (code === undefined) await readLabels(copy);
      else expect(await failure(readLabels(copy))).toBe(code);
    }
  });

  test('labels that contradict each other are corrupt', async () => {
    const storage = await tiny();
    const { superBlock: good } = await readLabels(storage);
    const { partitions, slab } = good;
    const wrong = [
      { nonce: new Uint8Array(8) },
      { physicalBlocks: good.physicalBlocks + 1 },
      { lastBlock: good.lastBlock + 1 },
      { lastBlock: good.lastBlock + 1024 },
      { slab: { ...slab, dataBlocks: slab.dataBlocks - 1 } },
      { slab: { ...slab, referenceBlocks: 2 } },
      { slab: { ...slab, blockingThreshold: 100 } },
      {
        partitions: {
          ...partitions,
          slabSummary: { ...partitions.slabSummary, offset: partitions.slabSummary.offset - 1 },
        },
      },
    ];
    for (const change of wrong) {
      const bytes = encodeSuperBlock({ ...good, ...change });
      await storage.write([{ offset: BLOCK_SIZE, bytes }]);
      expect(await failure(readLabels(storage)), JSON.stringify(change)).toBe('Corrupt');
    }
    const partitionOrder = [0, 3, 2, 1];
    await storage.write([
      { offset: BLOCK_SIZE, bytes: encodeSuperBlock({ ...good, partitionOrder }) },
    ]);
    expect((await readLabels(storage)).superBlock.partitionOrder).toEqual(partitionOrder);
  });

  test('with a bio offset everything lies that much earlier', async () => {
    const { encodeGeometryBlock } = await import('../../../src/format/geometry-block.ts');
    const { geometry, superBlock } = planFormat(TINY_SIZE + 100 * BLOCK_SIZE, TINY);
    const shift = (p: { offset: number; count: number }) => ({ ...p, offset: p.offset + 100 });
    const { blockMap, slabDepot, recoveryJournal, slabSummary } = superBlock.partitions;
    const shifted = {
      ...superBlock,
      firstBlock: superBlock.firstBlock + 100,
      lastBlock: superBlock.lastBlock + 100,
      rootOrigin: superBlock.rootOrigin + 100,
      partitions: {
        blockMap: shift(blockMap),
        slabDepot: { offset: slabDepot.offset + 100, count: slabDepot.count - 100 },
        recoveryJournal,
        slabSummary,
      },
    };
    const storage = new MemoryStorage(TINY_SIZE + 100 * BLOCK_SIZE);
    const moved = { ...geometry, bioOffset: 100, indexStart: 101, dataStart: 101 };
    await storage.write([
      { offset: 0, bytes: encodeGeometryBlock(moved) },
      { offset: BLOCK_SIZE, bytes: encodeSuperBlock(shifted) },
    ]);
    const labels = await readLabels(storage);
    expect(superBlockOffset(labels.geometry)).toBe(BLOCK_SIZE);
    expect(labels.superBlock.firstBlock).toBe(162);
  });
});

describe('formatVolume', () => {
  let directory = '';
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'uvdo-format-'));
  });
  afterAll(() => rm(directory, { recursive: true, force: true }));

  test('makes a sparse file, again only by force', async () => {
    const path = join(directory, 'a.vdo');
    const { superBlock } = await formatVolume(path, { size: 5 * GiB, logicalSize: TiB });
    const { size, blocks } = await stat(path);
    expect(size).toBe(5 * GiB);
    expect(blocks * 512).toBeLessThan(MiB);
    const storage = await openFileStorage(path, { readOnly: true });
    expect((await readLabels(storage)).superBlock).toEqual(superBlock);
    await storage.close();
    expect(await failure(formatVolume(path, { size: 6 * GiB }))).toBe('Exists');
    expect((await stat(path)).size).toBe(5 * GiB);
    await formatVolume(path, { force: true });
    expect((await stat(path)).size).toBe(5 * GiB);
    await formatVolume(path, { ...TINY, size: TINY_SIZE, force: true });
    expect((await stat(path)).size).toBe(TINY_SIZE);
  });

  test('an empty file and one of zeros are free; anything else is not', async () => {
    const path = join(directory, 'b.vdo');
    await writeFile(path, '');
    expect(await failure(formatVolume(path, TINY))).toBe('InvalidArgument');
    await formatVolume(path, { ...TINY, size: TINY_SIZE });
    await truncate(path, 0);
    await writeFile(path, new Uint8Array(100_000));
    await formatVolume(path, { ...TINY, size: TINY_SIZE });
    await truncate(path, 0);
    await truncate(path, 10 * MiB);
    await formatVolume(path, TINY);
    expect((await stat(path)).size).toBe(10 * MiB);
    const other = new Uint8Array(9 * MiB);
    other[9 * MiB - 1] = 1;
    await writeFile(path, other);
    expect(await failure(formatVolume(path, { ...TINY, size: TINY_SIZE }))).toBe('Exists');
    expect((await stat(path)).size).toBe(9 * MiB);
  });

  test('a format that fails makes no file and changes none', async () => {
    const path = join(directory, 'c.vdo');
    expect(await failure(formatVolume(path, { size: MiB }))).toBe('InvalidArgument');
    expect(await failure(formatVolume(path, {}))).toBe('InvalidArgument');
    expect(await failure(formatVolume(directory, { size: GiB }))).toBe('InvalidArgument');
    expect(await failure(formatVolume(join(path, 'x'), { size: 5 * GiB }))).toBe('Io');
    await expect(stat(path)).rejects.toThrow('ENOENT');
  });

  test('a volume in use is busy, even by force', async () => {
    const path = join(directory, 'd.vdo');
    await formatVolume(path, { ...TINY, size: TINY_SIZE });
    const lock = await lockFile(path);
    expect(await failure(formatVolume(path, { ...TINY, force: true }))).toBe('Busy');
    await lock.release();
    await formatVolume(path, { ...TINY, force: true });
  });
});
