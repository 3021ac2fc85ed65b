/** The library's `measure`: options, progress, aborts, samples, shifts, what sources share. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_SIZE, MiB } from '../../../src/base/constants.ts';
import { measure, type MeasureProgress } from '../../../src/measure/measurement.ts';
import { SharedMatrix, SourceSets } from '../../../src/measure/source-sets.ts';
import { serve } from '../../../src/nbd/server.ts';
import { MemoryStorage } from '../../../src/storage/memory-storage.ts';
import { MemoryDevice } from '../../support/memory-device.ts';
import { joined, noise, noiseRun, random, squashy } from '../../support/volumes.ts';

let directory: string;
beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'uvdo-measure-'))));
afterEach(() => rm(directory, { recursive: true }));
const at = (name: string): string => join(directory, name);

async function put(name: string, bytes: Uint8Array): Promise<string> {
  await writeFile(at(name), bytes);
  return at(name);
}

describe('measure', () => {
  test('gives the same with and without threads, in any piece', async () => {
    const blocks = Array.from({ length: 5000 }, (_, i) =>
      i % 3 === 0 ? squashy(i % 700, 100 + (i % 2000)) : noise(i % 900),
    );
    const image = await put('image', joined(...blocks));
    const shown: MeasureProgress[] = [];
    const options = { onProgress: (progress: MeasureProgress) => void shown.push(progress) };
    const inline = await measure([image], { ...options, workers: 0 });
    const threads = await measure([image], { workers: 2 });
    async function* pieces() {
      for (const block of blocks) yield block;
    }
    const piped = await measure(['-'], { input: pieces() });
    for (const other of [threads, piped]) {
      const apart = { seconds: 0, sources: [], topFiles: [], windowBytes: 0 };
      expect({ ...other, ...apart }).toEqual({ ...inline, ...apart });
    }
    expect(shown.at(-1)).toMatchObject({
      bytes: 5000 * BLOCK_SIZE,
      totalBytes: 5000 * BLOCK_SIZE,
      blocks: 5000,
    });
    const plain = await measure([image], { compression: false });
    expect(plain.uniqueBlocks).toBe(inline.uniqueBlocks);
    expect(plain.storedBlocks).toBe(inline.uniqueBlocks);
  });

  test('samples contents, and its interval holds the truth', async () => {
    const next = random(4);
    const run = noiseRun(1, 3000);
    const copies = Array.from({ length: 3000 }, () => {
      const from = Math.floor(next() * 3000) * BLOCK_SIZE;
      return run.subarray(from, from + BLOCK_SIZE);
    });
    const image = await put('image', joined(run, ...copies));
    const exact = await measure([image]);
    const part = await measure([image], { sample: 8 });
    expect(exact.uniqueBlocks).toBe(3000);
    const [low, high] = part.sample!.uniqueBlocks;
    expect(part.sample!.oneIn).toBe(8);
    expect(low).toBeLessThan(3000);
    expect(high).toBeGreaterThan(3000);
    expect(part.uniqueBlocks).toBeGreaterThan(low);
    expect(part.uniqueBlocks + part.duplicateBlocks).toBe(6000);
    await expect(measure([image], { sample: 0 })).rejects.toMatchObject({
      code: 'InvalidArgument',
    });
  });

  test('finds content that lies shifted by sectors', async () => {
    const content = noiseRun(5, 600);
    const shifted = joined(noise(77).subarray(0, 1024), content);
    const images = [await put('a', content), await put('b', shifted)];
    const { alignment } = await measure(images, { alignment: true });
    const found = alignment!.sources[1]!;
    expect(found.best).toBe(1024);
    const at1024 = found.shifts.find(({ bytes }) => bytes === 1024)!.blocks;
    expect(Math.abs(at1024 / 599 - 1)).toBeLessThan(0.5);
    expect(found.shifts[0]!.blocks).toBe(0);
  });

  test('ends when told to, in the midst of a stream that waits', async () => {
    const abort = new AbortController();
    let isDestroyed = false;
    let release = (): void => undefined;
    const input = {
      async *[Symbol.asyncIterator]() {
        yield noise(1);
        setTimeout(() => abort.abort(new Error('enough')), 20);
        await new Promise<void>((resolve) => (release = resolve));
      },
      destroy() {
        isDestroyed = true;
        release();
      },
    };
    await expect(measure(['-'], { input, signal: abort.signal })).rejects.toThrow('enough');
    expect(isDestroyed).toBe(true);
  });

  test('reads the export of a server, and only what is in it', async () => {
    const device = new MemoryDevice(100 * MiB);
    device.bytes.set(joined(noise(1), noise(1), squashy(2)), 50 * MiB);
    const server = await serve([{ name: 'disk', volume: device }], { socket: at('socket') });
    try {
      const result = await measure([`nbd+unix:///disk?socket=${at('socket')}`]);
      expect(result).toMatchObject({
        bytes: 100 * MiB,
        blocks: 25600,
        zeroBlocks: 25597,
        uniqueBlocks: 2,
        duplicateBlocks: 1,
      });
    } finally {
      await server.close();
    }
  });

  test('reads URIs through whoever opens them', async () => {
    const storage = new MemoryStorage(8 * BLOCK_SIZE);
    await storage.write([{ offset: BLOCK_SIZE, bytes: joined(noise(1), noise(1), squashy(2)) }]);
    const result = await measure(['nbd://host/disk'], { openUri: () => Promise.resolve(storage) });
    expect(result).toMatchObject({ blocks: 8, zeroBlocks: 5, uniqueBlocks: 2, duplicateBlocks: 1 });
  });

  test('tells a file that ends while it is read, and keeps what came before', async () => {
    const storage = new MemoryStorage(4 * BLOCK_SIZE);
    const failing = Object.assign(Object.create(storage) as MemoryStorage, {
      read: () => Promise.reject(new Error('broken')),
      close: () => Promise.resolve(),
    });
    Object.defineProperty(failing, 'size', { value: 4 * BLOCK_SIZE });
    const problems: string[] = [];
    const result = await measure(['nbd://x/y', await put('good', noise(1))], {
      openUri: () => Promise.resolve(failing),
      onProblem: (path) => void problems.push(path),
    });
    expect(problems).toEqual(['nbd://x/y']);
    expect(result).toMatchObject({ errors: 1, blocks: 1, uniqueBlocks: 1 });
  });
});

describe('sets of sources', () => {
  test('are told apart, joined, and make a matrix', () => {
    const sets = new SourceSets(3);
    const ab = sets.with(sets.with(0, 0), 1);
    expect(sets.with(ab, 1)).toBe(ab);
    expect(sets.with(sets.with(0, 1), 0)).toBe(ab);
    const all = sets.union(ab, sets.of([2, 1]));
    expect(sets.members(all)).toEqual([0, 1, 2]);
    const matrix = new SharedMatrix(sets, 3);
    matrix.add(ab);
    matrix.add(ab);
    matrix.add(all);
    matrix.add(sets.of([2]));
    expect(matrix.finish()).toEqual([
      [3, 3, 1],
      [3, 3, 1],
      [1, 1, 2],
    ]);
  });
});
