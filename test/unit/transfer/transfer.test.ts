/** Images in and out: zeros unmap, sizes of any alignment, sparse results, ranges, a stop halfway. */
import { mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable, Writable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_SIZE, MiB } from '../../../src/base/constants.ts';
import { exportToFile, exportToStream } from '../../../src/transfer/export-image.ts';
import { sizesToFit, treePagesFor } from '../../../src/transfer/fit.ts';
import {
  checkDifferent,
  openImageSource,
  type ImageSource,
} from '../../../src/transfer/image-source.ts';
import { importImage } from '../../../src/transfer/import-image.ts';
import { planFormat } from '../../../src/volume/format-plan.ts';
import { openVolumeOn } from '../../../src/volume/open.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { joined, noise, noiseRun, QUIET, tinyVolume } from '../../support/volumes.ts';
import { closeAndAudit, expectBlock, statistic, TINY_SIZE } from '../data-path/support.ts';

const PLAIN = { compression: false } as const;

let directory: string;
beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'uvdo-transfer-'))));
afterEach(() => rm(directory, { recursive: true, force: true }));

/** A source in memory, in chunks of 1 MiB. */
function sourceOf(bytes: Uint8Array, size: number | null = bytes.length): ImageSource {
  return {
    path: 'memory',
    size,
    fd: null,
    async *chunks() {
      for (let at = 0; at < bytes.length; at += MiB) yield bytes.subarray(at, at + MiB);
    },
    close: () => Promise.resolve(),
  };
}

async function contentOf(volume: Volume, offset: number, length: number): Promise<Buffer> {
  return Buffer.from(await volume.read(offset, length));
}

describe('an import', () => {
  test.for([1, 511, 4095, 4096, 4097, 5000, MiB - 1, MiB, MiB + 1])(
    'of %i bytes writes those and leaves the rest of the last block',
    async (length) => {
      const { volume, storage } = await tinyVolume(PLAIN);
      const before = noiseRun(9, 258);
      await volume.write(0, before);
      const image = noise(1, Math.ceil(length / 4) * 4).subarray(0, length);
      const done = await importImage(volume, sourceOf(image), { at: BLOCK_SIZE, isFresh: false });
      expect(done).toEqual({ bytes: length, zeroBlocks: 0 });
      const expected = Buffer.from(before);
      expected.set(image, BLOCK_SIZE);
      expect((await contentOf(volume, 0, before.length)).equals(expected)).toBe(true);
      await closeAndAudit(volume, storage);
    },
  );

  test('unmaps where the image is zero and something was mapped', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, noiseRun(1, 20));
    const image = new Uint8Array(10 * BLOCK_SIZE + 100);
    image.set(noise(50), 3 * BLOCK_SIZE);
    image.set(noise(51), 7 * BLOCK_SIZE);
    const done = await importImage(volume, sourceOf(image), { at: 2 * BLOCK_SIZE, isFresh: false });
    expect(done.zeroBlocks).toBe(9);
    await volume.flush();
    const expected = Buffer.from(noiseRun(1, 20));
    expected.set(image, 2 * BLOCK_SIZE);
    expect((await contentOf(volume, 0, expected.length)).equals(expected)).toBe(true);
    // Eight whole blocks were unmapped, the hundred bytes at the end only zeroed.
    expect(statistic(volume, 'logicalBlocksUsed')).toBe(12);
    await closeAndAudit(volume, storage);
  });

  test('into a fresh volume maps nothing for zeros', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    const image = joined(noise(1), new Uint8Array(5 * BLOCK_SIZE), noise(2));
    await importImage(volume, sourceOf(image), { at: 0, isFresh: true });
    await volume.flush();
    expect(statistic(volume, 'logicalBlocksUsed')).toBe(2);
    await expectBlock(volume, 6, noise(2));
    await closeAndAudit(volume, storage);
  });

  test('of the image that is there already shares all of it, though parts move', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await importImage(volume, sourceOf(noiseRun(1, 300)), { at: 0, isFresh: true });
    await volume.flush();
    await importImage(volume, sourceOf(noiseRun(1, 300)), { at: 7 * BLOCK_SIZE, isFresh: false });
    await volume.flush();
    expect(statistic(volume, 'dataBlocksUsed')).toBe(300);
    await closeAndAudit(volume, storage);
  });

  test('that does not fit is refused before anything is written, if its size is known', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    const image = new Uint8Array(BLOCK_SIZE + 1);
    image[0] = 1;
    const at = TINY_SIZE - BLOCK_SIZE;
    const fails = { code: 'OutOfRange' };
    await expect(
      importImage(volume, sourceOf(image), { at, isFresh: false }),
    ).rejects.toMatchObject(fails);
    await expect(
      importImage(volume, sourceOf(image, null), { at, isFresh: false }),
    ).rejects.toMatchObject(fails);
    await expect(
      importImage(volume, sourceOf(image), { at: 5, isFresh: false }),
    ).rejects.toMatchObject({ code: 'InvalidArgument' });
    expect(statistic(volume, 'logicalBlocksUsed')).toBe(0);
    await closeAndAudit(volume, storage);
  });

  test('reports progress and stops where it is told to', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    const abort = new AbortController();
    const seen: number[] = [];
    const stopped = importImage(volume, sourceOf(noiseRun(1, 1024)), {
      at: 0,
      isFresh: true,
      signal: abort.signal,
      onProgress: (bytes) => {
        seen.push(bytes);
        if (seen.length === 2) abort.abort(new Error('enough'));
      },
    });
    await expect(stopped).rejects.toThrow('enough');
    expect(seen).toEqual([MiB, 2 * MiB]);
    await closeAndAudit(volume, storage);
    const again = await openVolumeOn(storage, QUIET);
    await expectBlock(again, 511, noise(100_511));
    await again.close();
  });
});

describe('an export', () => {
  test('to a file is the image, holes as holes', async () => {
    const { volume, storage } = await tinyVolume();
    await volume.write(BLOCK_SIZE, noise(1));
    await volume.write(3000 * BLOCK_SIZE, joined(noise(2), new Uint8Array(BLOCK_SIZE), noise(3)));
    const path = join(directory, 'out.img');
    await exportToFile(volume, path, { from: 0, length: volume.size });
    const found = await readFile(path);
    expect(found.equals(await contentOf(volume, 0, volume.size))).toBe(true);
    expect((await stat(path)).blocks * 512).toBeLessThan(64 * 1024);
    await closeAndAudit(volume, storage);
  });

  test.for([
    [0, 1],
    [100, 5000],
    [BLOCK_SIZE, BLOCK_SIZE],
    [4095, 3 * MiB + 2],
    [TINY_SIZE - 1, 1],
    [500, 0],
  ] as const)('of a range from %i, %i bytes long', async ([from, length]) => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, noiseRun(1, 800));
    await volume.write(TINY_SIZE - BLOCK_SIZE, noise(3));
    const path = join(directory, 'out.img');
    await exportToFile(volume, path, { from, length });
    const expected = await contentOf(volume, from, length);
    expect((await readFile(path)).equals(expected)).toBe(true);
    const pieces: Buffer[] = [];
    const stream = new Writable({
      highWaterMark: 1000,
      write: (chunk: Buffer, _encoding, done) => {
        pieces.push(Buffer.from(chunk));
        setImmediate(done);
      },
    });
    await exportToStream(volume, stream, { from, length });
    stream.end();
    await new Promise((resolve) => stream.on('finish', resolve));
    expect(Buffer.concat(pieces).equals(expected)).toBe(true);
    await closeAndAudit(volume, storage);
  });

  test('replaces what was in the file', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, noise(1));
    const path = join(directory, 'out.img');
    await writeFile(path, Buffer.alloc(50_000, 7));
    await exportToFile(volume, path, { from: 0, length: 3 * BLOCK_SIZE });
    expect((await readFile(path)).equals(await contentOf(volume, 0, 3 * BLOCK_SIZE))).toBe(true);
    await closeAndAudit(volume, storage);
  });

  test('counts up to its length, and stops where it is told to', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, noiseRun(1, 1600));
    const seen: number[] = [];
    const path = join(directory, 'out.img');
    const options = { from: 0, length: 1600 * BLOCK_SIZE };
    await exportToFile(volume, path, { ...options, onProgress: (bytes) => seen.push(bytes) });
    expect(seen.at(-1)).toBe(1600 * BLOCK_SIZE);
    expect([...seen].sort((a, b) => a - b)).toEqual(seen);
    const abort = new AbortController();
    const stopped = exportToFile(volume, path, {
      ...options,
      signal: abort.signal,
      onProgress: () => abort.abort(new Error('enough')),
    });
    await expect(stopped).rejects.toThrow('enough');
    await closeAndAudit(volume, storage);
  });
});

describe('a source', () => {
  test('of a sparse file of any size gives its bytes in order', async () => {
    const path = join(directory, 'in.img');
    const file = await open(path, 'w');
    await file.write(noise(1), 0, BLOCK_SIZE, 5 * MiB - 100);
    await file.truncate(6 * MiB + 77);
    await file.close();
    const source = await openImageSource(path);
    expect(source.size).toBe(6 * MiB + 77);
    const chunks: Buffer[] = [];
    for await (const chunk of source.chunks()) chunks.push(Buffer.from(chunk));
    await source.close();
    expect(chunks.map(({ length }) => length)).toEqual([MiB, MiB, MiB, MiB, MiB, MiB, 77]);
    expect(Buffer.concat(chunks).equals(await readFile(path))).toBe(true);
  });

  test('that is empty gives nothing; one that is not there fails', async () => {
    const path = join(directory, 'empty.img');
    await writeFile(path, '');
    const source = await openImageSource(path);
    expect(source.size).toBe(0);
    for await (const chunk of source.chunks()) expect(chunk).toBeUndefined();
    await source.close();
    await expect(openImageSource(join(directory, 'none'))).rejects.toMatchObject({ code: 'Io' });
  });

  test('on standard input gives chunks of 1 MiB, whatever pieces come', async () => {
    const bytes = Buffer.from(noise(1, 3 * MiB + 500));
    const pieces: Buffer[] = [];
    for (let at = 0, size = 1; at < bytes.length; at += size, size = (size * 7) % 300_000 || 11) {
      pieces.push(bytes.subarray(at, at + size));
    }
    const stdin = Object.getOwnPropertyDescriptor(process, 'stdin')!;
    Object.defineProperty(process, 'stdin', { value: Readable.from(pieces), configurable: true });
    try {
      const source = await openImageSource('-');
      expect(source.size).toBeNull();
      const chunks: Buffer[] = [];
      for await (const chunk of source.chunks()) chunks.push(Buffer.from(chunk));
      expect(chunks.map(({ length }) => length)).toEqual([MiB, MiB, MiB, 500]);
      expect(Buffer.concat(chunks).equals(bytes)).toBe(true);
      await source.close();
    } finally {
      Object.defineProperty(process, 'stdin', stdin);
    }
  });

  test('is not the volume itself, under whatever name', async () => {
    const path = join(directory, 'a');
    await writeFile(path, 'x');
    const other = join(directory, '.', 'a');
    expect(() => checkDifferent(path, `${directory}/../${directory.split('/').at(-1)}/a`)).toThrow(
      'is the volume itself',
    );
    expect(() => checkDifferent(path, other)).toThrow('is the volume itself');
    expect(() => checkDifferent(path, '-')).not.toThrow();
    expect(() => checkDifferent(path, join(directory, 'b'))).not.toThrow();
  });
});

describe('sizes chosen to fit', () => {
  test.for([1, 811, 812, 813, 7776, 100_000, 10_000_000, 3_000_000_000])(
    'hold %i different blocks and their tree pages, without much waste',
    (blocks) => {
      const { size, slabSize } = sizesToFit(blocks, 0);
      const { superBlock, slabs } = planFormat(size, {
        noIndex: true,
        slabSize,
        logicalSize: blocks * BLOCK_SIZE,
      });
      const room = slabs * superBlock.slab.dataBlocks;
      expect(room).toBeGreaterThanOrEqual(blocks + treePagesFor(blocks));
      // One slab less would not do.
      expect(room - superBlock.slab.dataBlocks).toBeLessThan(blocks + treePagesFor(blocks));
    },
  );

  test('count the tree pages of a fully used volume', () => {
    expect(treePagesFor(812 * 60)).toBe(60 + 180);
    expect(treePagesFor(812 * 60 + 1)).toBe(120 + 180);
    expect(treePagesFor(1)).toBe(240);
  });
});
