/** Ranges read ahead: the same bytes as reads give, in any pieces; and no other errors. */
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { VdoError } from '../../../src/base/errors.ts';
import type { ByteRange } from '../../../src/device/block-device.ts';
import { formatVolume } from '../../../src/volume/format.ts';
import { openVolume } from '../../../src/volume/open.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { noise, random, squashy, TINY_FORMAT } from '../../support/volumes.ts';

const built = existsSync(new URL('../../../dist/src/workers/worker.js', import.meta.url));
const directory = mkdtempSync(join(tmpdir(), 'uvdo-extract-'));
const path = join(directory, 'volume');
const BLOCKS = 1500;
let expected: Buffer;

/** Holes, zeros, noise in runs, fragments, and copies of what came before. */
beforeAll(async () => {
  await formatVolume(path, { ...TINY_FORMAT, size: 3 * 1024 * BLOCK_SIZE });
  const volume = await openVolume(path, { index: 'memory', workers: 0 });
  expected = Buffer.alloc(volume.size);
  const next = random(5);
  for (let lbn = 0; lbn < BLOCKS;) {
    const what = next();
    const run = 1 + Math.floor(next() * 12);
    for (let i = 0; i < run && lbn < BLOCKS; i++, lbn++) {
      if (what < 0.15) continue;
      const at = lbn * BLOCK_SIZE;
      if (what < 0.4) expected.set(noise(lbn), at);
      else if (what < 0.8) expected.set(squashy(lbn, 200 + 4 * Math.floor(next() * 700)), at);
      else if (lbn > 50) expected.copyWithin(at, at - 50 * BLOCK_SIZE, at - 49 * BLOCK_SIZE);
      await volume.write(at, expected.subarray(at, at + BLOCK_SIZE));
    }
  }
  await volume.close();
});
afterAll(() => rmSync(directory, { recursive: true }));

async function withReader<T>(workers: number, body: (volume: Volume) => Promise<T>): Promise<T> {
  const volume = await openVolume(path, { readOnly: true, workers });
  try {
    return await body(volume);
  } finally {
    await volume.close();
  }
}

async function* listed(ranges: readonly ByteRange[]): AsyncGenerator<ByteRange> {
  for (const range of ranges) {
    await Promise.resolve();
    yield range;
  }
}

async function drained(extents: AsyncGenerator<unknown>): Promise<void> {
  for await (const extent of extents) expect(extent).toBeDefined();
}

/** Ranges of any alignment, in any order, up to two mebibytes. */
function ranges(seed: number, size: number): ByteRange[] {
  const next = random(seed);
  return Array.from({ length: 40 }, () => {
    const offset = Math.floor(next() * (size - 1));
    const limit = Math.min(size - offset, 2 ** Math.floor(1 + next() * 21));
    return { offset, length: 1 + Math.floor(next() * (limit - 1)) };
  });
}

describe.skipIf(!built)('reading ahead', () => {
  test.each([1, 2])('gives what reads give, with %i workers', async (workers) => {
    await withReader(workers, async (volume) => {
      for (let seed = 1; seed <= 5; seed++) {
        const wanted = ranges(seed, volume.size);
        let i = 0;
        for await (const { offset, bytes } of volume.readAhead(listed(wanted))!) {
          const { length, offset: at } = wanted[i++]!;
          expect([offset, bytes.length]).toEqual([at, length]);
          expect(Buffer.compare(bytes, expected.subarray(at, at + length))).toBe(0);
        }
        expect(i).toBe(wanted.length);
      }
    });
  });

  test('is for one at a time, may be left early, and can begin again', async () => {
    await withReader(1, async (volume) => {
      const all = { offset: 0, length: 2 ** 20 };
      const first = volume.readAhead(listed(Array<ByteRange>(20).fill(all)))!;
      await first.next();
      expect(volume.readAhead(listed([all]))).toBeNull();
      await first.return(undefined);
      let seen = 0;
      for await (const { bytes } of volume.readAhead(listed([all]))!) {
        seen++;
        expect(Buffer.compare(bytes, expected.subarray(0, 2 ** 20))).toBe(0);
      }
      expect(seen).toBe(1);
    });
  });

  test('is not offered where it would be no better', async () => {
    await withReader(0, (volume) => {
      expect(volume.readAhead(listed([]))).toBeNull();
      return Promise.resolve();
    });
  });

  test('refuses what is out of range', async () => {
    await withReader(1, async (volume) => {
      const beyond = volume.readAhead(listed([{ offset: volume.size - 1, length: 2 }]))!;
      await expect(beyond.next()).rejects.toMatchObject({ code: 'OutOfRange' });
    });
  });
});

describe.skipIf(!built)('of a damaged volume', () => {
  const DAMAGE = ['scribbled over', 'cut short'] as const;

  test.each(DAMAGE)('%s, reading ahead fails as a read does', async (damage) => {
    const whole = statSync(path).size;
    await withReader(1, async (volume) => {
      // All data blocks become something that no compressed block can be; or are gone.
      if (damage === 'cut short') truncateSync(path, whole / 3);
      else {
        const fd = openSync(path, 'r+');
        const garbage = Buffer.alloc(BLOCK_SIZE, 0xff);
        for (let block = 70; block < 1070; block++)
          writeSync(fd, garbage, 0, BLOCK_SIZE, block * BLOCK_SIZE);
        closeSync(fd);
      }
      const failure = async (run: () => Promise<unknown>): Promise<string> => {
        try {
          await run();
        } catch (error) {
          return (error as VdoError).code;
        }
        return 'none';
      };
      let same = 0;
      for (let at = 0; at < BLOCKS; at += 100) {
        const range = { offset: at * BLOCK_SIZE, length: 100 * BLOCK_SIZE };
        const asRead = await failure(() => volume.read(range.offset, range.length));
        expect(await failure(() => drained(volume.readAhead(listed([range]))!))).toBe(asRead);
        if (asRead !== 'none') same++;
      }
      expect(same).toBeGreaterThan(5);
    });
  });
});
