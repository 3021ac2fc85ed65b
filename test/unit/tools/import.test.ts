/** `uvdo import`: into a volume with something in it, at an offset, through each index. */
import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { encodeSuperBlock } from '../../../src/format/super-block.ts';
import { openFileStorage } from '../../../src/storage/file-storage.ts';
import { formatVolume } from '../../../src/volume/format.ts';
import { readLabels } from '../../../src/volume/labels.ts';
import { auditVolume } from '../../model/audit.ts';
import { noise, noiseRun, TINY_FORMAT } from '../../support/volumes.ts';
import { scribble, temporaryDirectory, TINY_SIZE, uvdo } from './support.ts';

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
const at = (name: string): string => join(directory.path, name);
beforeEach(async () => {
  directory = await temporaryDirectory();
  await formatVolume(at('v.vdo'), { ...TINY_FORMAT, size: TINY_SIZE });
});
afterEach(async () => {
  // Each command line listens to the end of its process, which is not the end of this one.
  for (const signal of ['SIGINT', 'SIGTERM']) process.removeAllListeners(signal);
  await directory.remove();
});

async function put(name: string, bytes: Uint8Array): Promise<string> {
  await writeFile(at(name), bytes);
  return at(name);
}

/** The logical image, and a clean audit. */
async function imageOf(blocks: number): Promise<Buffer> {
  const storage = await openFileStorage(at('v.vdo'), { readOnly: true });
  expect((await auditVolume(storage)).errors).toEqual([]);
  await storage.close();
  const length = String(blocks * BLOCK_SIZE);
  const done = await uvdo('export', at('v.vdo'), at('out.img'), '--length', length);
  expect(done.status).toBe(0);
  return readFile(at('out.img'));
}

async function importJson(...args: string[]): Promise<Record<string, unknown>> {
  const done = await uvdo('import', at('v.vdo'), ...args, '--json');
  expect([done.status, done.err]).toEqual([0, '']);
  return JSON.parse(done.out) as Record<string, unknown>;
}

describe('import', () => {
  test('over old data: zeros unmap, equal blocks are shared, the rest is replaced', async () => {
    const old = Buffer.from(noiseRun(1, 20));
    await importJson(await put('old.img', old));
    const image = Buffer.from(noiseRun(2, 10));
    image.fill(0, 2 * BLOCK_SIZE, 5 * BLOCK_SIZE);
    image.set(old.subarray(0, BLOCK_SIZE), 7 * BLOCK_SIZE);
    const report = await importJson(await put('new.img', image), '--at', '16K');
    expect(report).toMatchObject({
      bytes: image.length,
      sources: [{ path: at('new.img'), offset: 4 * BLOCK_SIZE, bytes: image.length }],
      zeroBlocks: 3,
      duplicateBlocks: 1,
      storedBlocks: 6,
      compressedBlocks: 0,
    });
    const expected = Buffer.from(old);
    expected.set(image, 4 * BLOCK_SIZE);
    expect((await imageOf(20)).equals(expected)).toBe(true);
    const stats = JSON.parse((await uvdo('stats', at('v.vdo'), '--json')).out) as object;
    expect(stats).toMatchObject({ logicalBlocksUsed: 17, dataBlocksUsed: 16 });
  });

  test('through the level index, the default, finds what earlier runs stored', async () => {
    await importJson(await put('a.img', noiseRun(1, 30)));
    expect((await stat(`${at('v.vdo')}.index`)).isDirectory()).toBe(true);
    const second = await importJson(at('a.img'), '--at', '1M');
    expect(second).toMatchObject({ duplicateBlocks: 30, storedBlocks: 0 });
    // Without it everything is new, and nothing breaks.
    await rm(`${at('v.vdo')}.index`, { recursive: true });
    expect(await importJson(at('a.img'), '--at', '2M')).toMatchObject({ storedBlocks: 30 });
    for (const index of ['memory', 'off']) {
      const report = await importJson(at('a.img'), '--at', '3M', '--index', index);
      expect(report).toMatchObject({ storedBlocks: 30, duplicateBlocks: 0 });
    }
    const image = await imageOf(30);
    expect(image.equals(noiseRun(1, 30))).toBe(true);
  });

  test('fills a last partial block with what was there', async () => {
    await importJson(await put('a.img', noise(1)));
    await importJson(await put('b.img', Buffer.from('hello')));
    const expected = Buffer.from(noise(1));
    expected.write('hello');
    expect((await imageOf(1)).equals(expected)).toBe(true);
  });

  test('that runs out of space fails, with a clean volume that holds what was reported so far', async () => {
    const source = await put('a.img', noiseRun(1, 2100));
    const done = await uvdo('import', at('v.vdo'), source);
    expect(done.status).toBe(1);
    expect(done.err).toContain('no physical block is free');
    expect(done.err.split('\n')).toHaveLength(2);
    const image = await imageOf(1024);
    expect(image.equals(noiseRun(1, 2100).subarray(0, 1024 * BLOCK_SIZE))).toBe(true);
  });

  test('beyond the end, at odd places, or of nothing is refused', async () => {
    const source = await put('a.img', noiseRun(1, 2));
    const cases: readonly (readonly [number, readonly string[]])[] = [
      [1, [source, '--at', String(3999 * BLOCK_SIZE)]],
      [2, [source, '--at', '100']],
      [2, [source, '--at', 'there']],
      [2, [at('v.vdo')]],
      [1, [at('none')]],
      [2, [source, '--index', 'best']],
    ];
    for (const [status, args] of cases) {
      const outcome = await uvdo('import', at('v.vdo'), ...args);
      expect([outcome.status, args]).toEqual([status, args]);
      expect(outcome.err.split('\n')).toHaveLength(2);
    }
    const image = await imageOf(4000);
    expect(image.every((byte) => byte === 0)).toBe(true);
  });

  test('into a volume in need of attention ends with status 3', async () => {
    const storage = await openFileStorage(at('v.vdo'));
    const { superBlock } = await readLabels(storage);
    await storage.close();
    await scribble(at('v.vdo'), [[1, encodeSuperBlock({ ...superBlock, state: 3 })]]);
    const done = await uvdo('import', at('v.vdo'), await put('a.img', noise(1)));
    expect(done.status).toBe(3);
    expect(done.err.split('\n')).toHaveLength(2);
  });

  test('reports for people, too', async () => {
    const source = await put('a.img', Buffer.concat([noiseRun(1, 3), new Uint8Array(BLOCK_SIZE)]));
    const done = await uvdo('import', at('v.vdo'), source);
    expect(done.out).toContain(`${source}: 16 KiB at byte 0`);
    expect(done.out).toContain('4 blocks: 1 zero, 0 duplicate');
    expect(done.out).toContain('stored in 3 blocks, 12 KiB (1.33 : 1)');
  });
});
