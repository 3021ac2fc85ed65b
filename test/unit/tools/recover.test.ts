/** `uvdo recover`, and what the other commands say of a volume that was not closed. */
import { copyFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { formatVolume } from '../../../src/volume/format.ts';
import { openVolume } from '../../../src/volume/open.ts';
import { noise, QUIET, TINY_BLOCKS, TINY_FORMAT } from '../../support/volumes.ts';
import { temporaryDirectory, uvdo } from './support.ts';

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
let path: string;

/** A volume killed after a flush. */
beforeEach(async () => {
  directory = await temporaryDirectory();
  path = join(directory.path, 'killed.vdo');
  const live = join(directory.path, 'live.vdo');
  await formatVolume(live, { ...TINY_FORMAT, size: TINY_BLOCKS * BLOCK_SIZE });
  const volume = await openVolume(live, { ...QUIET, compression: false });
  await volume.write(0, noise(1));
  await volume.write(5000 * 512, noise(2));
  await volume.flush();
  await copyFile(live, path);
  await volume.close();
});

afterEach(() => directory.remove());

test('recovers, tells what it did, and then finds nothing to do', async () => {
  const { status, out } = await uvdo('recover', path, '--json');
  expect(status).toBe(0);
  expect(JSON.parse(out)).toMatchObject({
    path,
    recovered: true,
    entries: 6,
    slabs: 1,
    state: 'clean',
  });
  expect(await uvdo('info', path)).toMatchObject({ status: 0 });
  const again = await uvdo('recover', path);
  expect(again).toMatchObject({ status: 0, out: `${path}: clean, nothing to recover\n` });
  const volume = await openVolume(path, { readOnly: true });
  expect(Buffer.compare(await volume.read(0, BLOCK_SIZE), noise(1))).toBe(0);
  await volume.close();
});

test('info says what to do; stats and export replay in memory and write nothing', async () => {
  const before = await readFile(path);
  const info = await uvdo('info', path);
  expect(info.status).toBe(3);
  expect(info.err).toMatch(/is dirty: it was not closed.*uvdo recover/);
  const stats = await uvdo('stats', path, '--json');
  expect(stats.status).toBe(0);
  expect(stats.err).toMatch(/6 journal entries replayed in memory, nothing written/);
  expect(JSON.parse(stats.out)).toMatchObject({
    mode: 'normal',
    logicalBlocksUsed: 2,
    dataBlocksUsed: 2,
  });
  const image = join(directory.path, 'image');
  const exported = await uvdo('export', path, image);
  expect(exported.status).toBe(0);
  expect((await readFile(image)).subarray(0, BLOCK_SIZE).equals(noise(1))).toBe(true);
  expect((await readFile(path)).equals(before)).toBe(true);
});

test('a volume in use is left alone', async () => {
  const volume = await openVolume(path, QUIET);
  expect(await uvdo('recover', path)).toMatchObject({ status: 1, out: '' });
  await volume.close();
});
