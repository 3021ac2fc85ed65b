import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE, PiB } from '../../../src/base/constants.ts';
import { MemoryStorage } from '../../../src/storage/memory-storage.ts';
import { formatStorage } from '../../../src/volume/format.ts';
import { openVolumeOn } from '../../../src/volume/open.ts';
import { Mapping } from '../../../src/device/block-device.ts';
import { QUIET, TINY_FORMAT, WatchedStorage } from '../../support/volumes.ts';
import { Random } from '../../sim/random.ts';

const noise = (seed: number): Uint8Array => {
  const random = new Random(seed + 1000);
  return Uint8Array.from({ length: BLOCK_SIZE }, () => random.below(256));
};
const squashy = (seed: number): Uint8Array => {
  const block = new Uint8Array(BLOCK_SIZE);
  block.set(noise(seed).subarray(0, 700));
  return block;
};

async function volumeOf(logicalSize: number) {
  const storage = new WatchedStorage(new MemoryStorage(2238 * BLOCK_SIZE));
  await formatStorage(storage, { ...TINY_FORMAT, logicalSize });
  return openVolumeOn(storage, QUIET);
}

describe('extents', () => {
  test('tell how blocks are held, and which are shared', async () => {
    const volume = await volumeOf(4000 * BLOCK_SIZE);
    const at = (lbn: number): number => lbn * BLOCK_SIZE;
    await volume.write(at(0), noise(1));
    await volume.write(at(1), noise(2));
    await volume.write(at(3), noise(1));
    await volume.write(at(10), new Uint8Array(BLOCK_SIZE));
    await volume.write(at(20), squashy(1));
    const mapping = async (): Promise<number[][]> =>
      (await volume.extents(0, volume.size, { mapping: true })).map((run) => [
        run.offset / BLOCK_SIZE,
        run.mapping!,
      ]);
    const { zero, stored, compressed, shared } = Mapping;
    const expected = [
      [0, stored | shared],
      [1, stored],
      [2, 0],
      [3, stored | shared],
      [4, 0],
      [10, zero],
      [11, 0],
      [20, compressed],
      [21, 0],
    ];
    expect(await mapping()).toEqual(expected);
    await volume.write(at(30), squashy(2));
    await volume.write(at(31), squashy(3));
    await volume.flush();
    const packed = await mapping();
    expect(packed.slice(0, 7)).toEqual(expected.slice(0, 7));
    expect(packed.at(-2)).toEqual([30, compressed | shared]);
    await volume.close();
  });

  test('stop after as many runs as asked for, at a border of runs', async () => {
    const volume = await volumeOf(4000 * BLOCK_SIZE);
    for (let lbn = 0; lbn < 200; lbn += 2) await volume.write(lbn * BLOCK_SIZE, noise(lbn));
    const whole = await volume.extents(0, volume.size);
    expect(whole).toHaveLength(200);
    for (const maxExtents of [1, 2, 7, 199, 200, 201]) {
      const some = await volume.extents(0, volume.size, { maxExtents });
      expect(some).toEqual(whole.slice(0, maxExtents));
    }
    const from = await volume.extents(3 * BLOCK_SIZE + 5, volume.size / 2, { maxExtents: 1 });
    expect(from).toEqual([{ offset: 3 * BLOCK_SIZE + 5, length: BLOCK_SIZE - 5, kind: 'hole' }]);
    await volume.close();
  });

  test('of four pebibytes with a block here and there take little CPU', async () => {
    const volume = await volumeOf(4 * PiB);
    const places = [0, 1e9 * BLOCK_SIZE, 2 * PiB, 4 * PiB - BLOCK_SIZE];
    for (const [i, offset] of places.entries()) await volume.write(offset, noise(i));
    const start = process.cpuUsage();
    const found = await volume.extents(0, volume.size);
    const { user, system } = process.cpuUsage(start);
    expect(found.filter(({ kind }) => kind === 'data').map(({ offset }) => offset)).toEqual(places);
    expect(found.reduce((sum, { length }) => sum + length, 0)).toBe(4 * PiB);
    // A few hundred subtrees; a walk over every group of leaves would take seconds of CPU.
    expect((user + system) / 1000).toBeLessThan(1000);
    await volume.close();
  });
});
