/** Reads that wait for nothing: what they fill in is what `read` gives; what they cannot do they leave. */
import { expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import {
  noise,
  QUIET,
  random,
  squashy,
  tinyStorage,
  WatchedStorage,
} from '../../support/volumes.ts';
import { openVolumeOn } from '../../../src/volume/open.ts';
import { MemoryStorage } from '../../../src/storage/memory-storage.ts';
import type { Volume } from '../../../src/volume/volume.ts';

const BLOCKS = 600;

async function freshVolume(): Promise<{ volume: Volume; storage: MemoryStorage }> {
  const { below } = await tinyStorage();
  return { volume: await openVolumeOn(below, QUIET), storage: below };
}

const block = (volume: Volume, lbn: number): Uint8Array | null => {
  const into = new Uint8Array(BLOCK_SIZE).fill(0xaa);
  return volume.readNow(lbn * BLOCK_SIZE, into) ? into : null;
};

/** When no job is left. */
async function settled(volume: Volume): Promise<void> {
  await volume.read(0, BLOCK_SIZE);
  await new Promise((resolve) => setImmediate(resolve));
}

test('fragments that wait, compressed blocks, plain ones and zeros read as they are', async () => {
  const { volume } = await freshVolume();
  const next = random(3);
  const expected = new Map<number, Uint8Array>();
  let now = 0;
  for (let round = 0; round < 40; round++) {
    for (let i = 0; i < 20; i++) {
      const lbn = Math.floor(next() * BLOCKS);
      const what = next();
      const bytes =
        what < 0.1 ? new Uint8Array(BLOCK_SIZE) : what < 0.4 ? noise(lbn) : squashy(lbn + round * BLOCKS, 900); // prettier-ignore
      await volume.write(lbn * BLOCK_SIZE, bytes);
      expected.set(lbn, bytes);
    }
    if (round % 3 === 0) await volume.flush();
    // The leaf is there once a job has used it.
    await settled(volume);
    for (let i = 0; i < 50; i++) {
      const lbn = Math.floor(next() * BLOCKS);
      const read = block(volume, lbn);
      if (read === null) continue;
      now++;
      expect(Buffer.compare(read, expected.get(lbn) ?? new Uint8Array(BLOCK_SIZE))).toBe(0);
    }
  }
  expect(now).toBe(40 * 50);
  await volume.close();
  expect(block(volume, 0)).toBeNull();
});

test('a write that was answered comes first, and so it is left', async () => {
  const { volume } = await freshVolume();
  await volume.write(0, noise(1));
  await settled(volume);
  expect(block(volume, 0)).toEqual(noise(1));
  const written = volume.write(0, noise(2));
  expect(block(volume, 0)).toBeNull();
  await written;
  await settled(volume);
  expect(block(volume, 0)).toEqual(noise(2));
  await volume.close();
});

test('what is out of range, not one whole block, or not in memory is left', async () => {
  const { volume, storage } = await freshVolume();
  await volume.write(0, noise(1));
  await volume.flush();
  expect(volume.readNow(-BLOCK_SIZE, new Uint8Array(BLOCK_SIZE))).toBe(false);
  expect(volume.readNow(volume.size, new Uint8Array(BLOCK_SIZE))).toBe(false);
  expect(volume.readNow(1, new Uint8Array(BLOCK_SIZE))).toBe(false);
  expect(volume.readNow(0, new Uint8Array(100))).toBe(false);
  expect(volume.readNow(0, new Uint8Array(2 * BLOCK_SIZE))).toBe(false);
  // A leaf that was never used.
  expect(block(volume, 3000)).toBeNull();
  await volume.flush();
  const again = await openVolumeOn(storage.clone(), { ...QUIET, readOnly: true });
  expect(block(again, 0)).toBeNull();
  await settled(again);
  expect(block(again, 0)).toEqual(noise(1));
  await again.close();
  await volume.close();
});

test('a storage that cannot is asked for nothing', async () => {
  const { below } = await tinyStorage();
  const volume = await openVolumeOn(new WatchedStorage(below), QUIET);
  await volume.write(0, noise(1));
  await settled(volume);
  expect(block(volume, 0)).toBeNull();
  await volume.close();
});

test('a damaged fragment is left to the read that tells of it', async () => {
  const { volume, storage } = await freshVolume();
  for (let lbn = 0; lbn < 6; lbn++) await volume.write(lbn * BLOCK_SIZE, squashy(lbn, 600));
  await volume.flush();
  await settled(volume);
  expect(block(volume, 2)).toEqual(squashy(2, 600));
  const garbage = new Uint8Array(1500 * BLOCK_SIZE).fill(0xff);
  storage.writeSync([{ offset: 62 * BLOCK_SIZE, bytes: garbage.subarray(0, 100 * BLOCK_SIZE) }]);
  expect(block(volume, 2)).toBeNull();
  await expect(volume.read(2 * BLOCK_SIZE, BLOCK_SIZE)).rejects.toMatchObject({ code: 'Corrupt' });
});
