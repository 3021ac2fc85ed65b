/** A file read, named and compressed ahead of its batches: the same volume as by writes, and no other end. */
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import type { FileRange } from '../../../src/device/block-device.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { joined, noise, noiseRun, random, squashy, tinyVolume } from '../../support/volumes.ts';
import { closeAndAudit, statistic } from './support.ts';

const built = existsSync(new URL('../../../dist/src/workers/worker.js', import.meta.url));
const THREADS = [0, ...(built ? [1, 2] : [])];

const directory = mkdtempSync(join(tmpdir(), 'uvdo-ingest-'));
afterAll(() => rmSync(directory, { recursive: true }));

/** Zeros, noise, fragments of all sizes, and copies of what came before, near and far. */
function imageOf(blocks: number, seed: number): Buffer {
  const next = random(seed);
  const image: Uint8Array[] = [];
  for (let i = 0; i < blocks; i++) {
    const what = next();
    if (what < 0.2) image.push(new Uint8Array(BLOCK_SIZE));
    else if (what < 0.4 && i > 0) image.push(image[Math.floor(next() * i)]!);
    else if (what < 0.6) image.push(noise(seed * 10_000 + i));
    else image.push(squashy(seed * 10_000 + i, 100 + 4 * Math.floor(next() * 900)));
  }
  return Buffer.concat(image);
}

let files = 0;
async function withFile<T>(bytes: Uint8Array, body: (fd: number) => Promise<T>): Promise<T> {
  const path = join(directory, `source-${files++}`);
  writeFileSync(path, bytes);
  const fd = openSync(path, 'r');
  try {
    return await body(fd);
  } finally {
    closeSync(fd);
  }
}

/** Ingests `bytes` at block `lbn`; returns what came, and the blocks that were told to be zeros. */
async function ingest(
  volume: Volume,
  bytes: Uint8Array,
  lbn: number,
  over: Partial<FileRange> = {},
) {
  const zeros: number[] = [];
  let told = lbn * BLOCK_SIZE;
  const onBlocks = (offset: number, isZero: Uint8Array): void => {
    expect(offset).toBe(told);
    told += isZero.length * BLOCK_SIZE;
    isZero.forEach((flag, i) => flag === 1 && zeros.push(offset / BLOCK_SIZE + i));
  };
  const offset = lbn * BLOCK_SIZE;
  const done = await withFile(bytes, (fd) =>
    volume.ingest({ fd, from: 0, length: bytes.length, offset, onBlocks, ...over }),
  );
  return { done, zeros, told: told - offset };
}

describe.each(THREADS)('with %i workers', (workers) => {
  test('a file becomes the same content, over what was there, beside other writes', async () => {
    const { volume, storage } = await tinyVolume({ workers }, {}, 2 * 2238);
    const expected = Buffer.alloc(volume.size);
    const old = imageOf(700, 1);
    await volume.write(300 * BLOCK_SIZE, old);
    expected.set(old, 300 * BLOCK_SIZE);
    const image = imageOf(1100, 2);
    const ingesting = ingest(volume, image, 100);
    const others: Promise<void>[] = [];
    for (let i = 0; i < 40; i++) {
      const block = i % 3 === 0 ? squashy(70_000 + i) : noise(70_000 + i);
      const lbn = 1300 + ((i * 7) % 100);
      expected.set(block, lbn * BLOCK_SIZE);
      others.push(volume.write(lbn * BLOCK_SIZE, block));
      if (i % 10 === 0) others.push(volume.flush());
    }
    const { done, zeros, told } = await ingesting;
    await Promise.all(others);
    expect(done).toBe(image.length);
    expect(told).toBe(image.length);
    const isZero = new Set(zeros);
    for (let i = 0; i < 1100; i++) {
      const block = image.subarray(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE);
      // Zeros are left as they are.
      if (isZero.has(100 + i)) expect(block.every((byte) => byte === 0)).toBe(true);
      else expected.set(block, (100 + i) * BLOCK_SIZE);
    }
    expect(zeros.length).toBeGreaterThan(150);
    expect(Buffer.compare(await volume.read(0, volume.size), expected)).toBe(0);
    expect(statistic(volume, 'blocks.duplicate')).toBeGreaterThan(100);
    await closeAndAudit(volume, storage);
  });

  test('it shares and packs as writes of the same blocks do', async () => {
    const image = imageOf(900, 3);
    const counts: number[][] = [];
    for (const way of ['ingest', 'write']) {
      const { volume, storage } = await tinyVolume({ workers }, {}, 2238);
      if (way === 'ingest') await ingest(volume, image, 0);
      else {
        for (let at = 0; at < image.length; at += 256 * BLOCK_SIZE) {
          await volume.write(at, image.subarray(at, at + 256 * BLOCK_SIZE));
          await volume.flush().then(() => undefined);
        }
      }
      await volume.flush();
      counts.push([statistic(volume, 'blocks.duplicate'), statistic(volume, 'dataBlocksUsed')]);
      await closeAndAudit(volume, storage);
    }
    const [[ingested, used], [written, usedByWrites]] = counts as [number[], number[]] as [
      [number, number],
      [number, number],
    ];
    expect(ingested).toBe(written);
    // The flushes between the writes emptied bins early.
    expect(used).toBeLessThanOrEqual(usedByWrites);
  });

  test('a file that ends early tells how far it came', async () => {
    const { volume, storage } = await tinyVolume({ workers });
    const image = imageOf(700, 4);
    const { done, told } = await ingest(volume, image, 0, { length: 1500 * BLOCK_SIZE });
    expect(done).toBeLessThanOrEqual(image.length);
    expect(done).toBeGreaterThanOrEqual(image.length - 64 * BLOCK_SIZE);
    expect(told).toBe(done);
    expect(Buffer.compare(await volume.read(0, done), image.subarray(0, done))).toBe(0);
    await closeAndAudit(volume, storage);
  });

  test('without space it fails, and nothing that was there is lost', async () => {
    const { volume, storage } = await tinyVolume({ workers });
    const kept = noiseRun(5, 300);
    await volume.write(0, kept);
    await expect(ingest(volume, noiseRun(6, 2500), 400)).rejects.toMatchObject({ code: 'NoSpace' });
    expect(volume.failure).toBe(null);
    expect(Buffer.compare(await volume.read(0, kept.length), kept)).toBe(0);
    await volume.discard(400 * BLOCK_SIZE, 2500 * BLOCK_SIZE);
    const image = joined(...Array.from({ length: 300 }, (_, i) => noise(800_000 + i)));
    await ingest(volume, image, 400);
    expect(Buffer.compare(await volume.read(400 * BLOCK_SIZE, image.length), image)).toBe(0);
    await closeAndAudit(volume, storage);
  });

  test('it ends when it is aborted, and what was written stays', async () => {
    const { volume, storage } = await tinyVolume({ workers });
    const image = imageOf(1400, 7);
    const abort = new AbortController();
    let told = 0;
    const onBlocks = (_: number, zeros: Uint8Array): void => {
      told += zeros.length * BLOCK_SIZE;
      if (told > 400 * BLOCK_SIZE) abort.abort(new Error('enough'));
    };
    const { signal } = abort;
    await expect(ingest(volume, image, 0, { onBlocks, signal })).rejects.toThrow('enough');
    expect(Buffer.compare(await volume.read(0, told), image.subarray(0, told))).toBe(0);
    await closeAndAudit(volume, storage);
  });
});

test('what is outside of the volume or read-only is refused', async () => {
  const { volume } = await tinyVolume();
  await expect(ingest(volume, imageOf(2, 8), 3999)).rejects.toMatchObject({ code: 'OutOfRange' });
  await volume.close();
  await expect(ingest(volume, imageOf(2, 8), 0)).rejects.toMatchObject({ code: 'Closed' });
});
