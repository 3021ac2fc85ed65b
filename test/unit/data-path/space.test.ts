/**
 * Free space: what was acknowledged never runs out of it, what is refused was not acknowledged, and
 * what was given back can be used again.
 */
import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import type { OpenOptions } from '../../../src/volume/open.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { noise, noiseRun, random, squashy, tinyVolume } from '../../support/volumes.ts';
import { closeAndAudit, expectBlock, freeBlocks, ScriptedIndex, turns } from './support.ts';

const NO_SPACE = { code: 'NoSpace' };
const LOGICAL = 4000;

/** Writes unique blocks from lbn 0 on until `left` blocks are free; returns how many were written. */
async function fill(volume: Volume, left: number): Promise<number> {
  for (const page of [0, 1, 2, 3, 4]) await volume.write(page * 812 * BLOCK_SIZE, noise(1e6));
  await volume.flush();
  let next = 1;
  for (let free = freeBlocks(volume); free > left; free = freeBlocks(volume)) {
    const count = Math.min(256, free - left);
    for (let i = 0; i < count; i++, next++) {
      if (next % 812 === 0) next++;
      await volume.write(next * BLOCK_SIZE, noise(next));
    }
    await volume.flush();
  }
  return next;
}

describe('a full volume', () => {
  test.for([
    ['as they are', { compression: false }],
    ['compressed', { compression: true }],
    ['in tiny batches', { compression: true, batchBlocks: 4, packerBins: 2, cachePages: 8 }],
  ] as const)('refuses before it acknowledges, blocks %s', async ([, options]) => {
    const { volume, storage } = await tinyVolume(options);
    const written: number[] = [];
    let refused = 0;
    for (let lbn = 0; lbn < LOGICAL && refused < 3; lbn++) {
      await volume.write(lbn * BLOCK_SIZE, noise(lbn)).then(
        () => written.push(lbn),
        (error: unknown) => {
          expect(error).toMatchObject(NO_SPACE);
          refused++;
        },
      );
    }
    expect(refused).toBe(3);
    expect(freeBlocks(volume)).toBe(0);
    await volume.flush();
    expect(volume.failure).toBeNull();
    // Three pages of leaves, each with three interior nodes of its own.
    expect(written.length).toBe(2 * 1007 - 3 * 4);
    for (const lbn of written.filter((_, i) => i % 97 === 0))
      await expectBlock(volume, lbn, noise(lbn));
    await closeAndAudit(volume, storage);
  });

  test('refuses the part of a long write that does not fit, and keeps the rest whole', async () => {
    const { volume, storage } = await tinyVolume({ compression: false });
    const next = await fill(volume, 10);
    await expect(volume.write(next * BLOCK_SIZE, noiseRun(7, 30))).rejects.toMatchObject(NO_SPACE);
    expect(volume.failure).toBeNull();
    let kept = 0;
    const run = noiseRun(7, 30);
    for (let i = 0; i < 30; i++) {
      const found = await volume.read((next + i) * BLOCK_SIZE, BLOCK_SIZE);
      const block = run.subarray(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE);
      if (Buffer.compare(found, block) === 0) kept++;
      else expect(Buffer.compare(found, new Uint8Array(BLOCK_SIZE))).toBe(0);
    }
    expect(kept).toBe(10);
    await closeAndAudit(volume, storage);
  });

  test('still takes zeros, duplicates and what is already there', async () => {
    const { volume, storage } = await tinyVolume({ compression: false });
    const next = await fill(volume, 0);
    await volume.write(5 * BLOCK_SIZE, noise(6));
    await expectBlock(volume, 5, noise(6));
    await volume.write(next * BLOCK_SIZE, noise(9));
    await volume.write((next + 1) * BLOCK_SIZE, new Uint8Array(BLOCK_SIZE));
    await volume.write(6 * BLOCK_SIZE, noise(6));
    await volume.flush();
    await expectBlock(volume, next, noise(9));
    expect(volume.failure).toBeNull();
    await closeAndAudit(volume, storage);
  });

  test('has space again at once for what is written after a discard', async () => {
    const { volume, storage } = await tinyVolume({ compression: false });
    await fill(volume, 0);
    await expect(volume.write(8 * BLOCK_SIZE, noise(8_000))).rejects.toMatchObject(NO_SPACE);
    await volume.discard(100 * BLOCK_SIZE, 50 * BLOCK_SIZE);
    // Held until its epoch is committed: the write waits for that instead of failing.
    for (let i = 0; i < 50; i++) await volume.write((100 + i) * BLOCK_SIZE, noise(50_000 + i));
    await expect(volume.write(8 * BLOCK_SIZE, noise(8_000))).rejects.toMatchObject(NO_SPACE);
    for (let i = 0; i < 50; i++) await expectBlock(volume, 100 + i, noise(50_000 + i));
    await expectBlock(volume, 8, noise(8));
    await closeAndAudit(volume, storage);
  });

  test('takes at once what there is space for', async () => {
    const { volume, storage } = await tinyVolume({ compression: false });
    const next = await fill(volume, 3);
    expect(volume.writeNow(next * BLOCK_SIZE, noiseRun(7, 5))).toBe(3 * BLOCK_SIZE);
    expect(volume.writeNow((next + 3) * BLOCK_SIZE, noise(700_003))).toBe(0);
    await expect(volume.write((next + 3) * BLOCK_SIZE, noise(700_003))).rejects.toMatchObject(
      NO_SPACE,
    );
    await volume.flush();
    for (let i = 0; i < 3; i++) await expectBlock(volume, next + i, noise(700_000 + i));
    await closeAndAudit(volume, storage);
  });

  test('overwrites need a block before they give one back, dm-vdo does the same', async () => {
    const { volume, storage } = await tinyVolume({ compression: false });
    await fill(volume, 1);
    for (let i = 0; i < 20; i++) await volume.write((10 + i) * BLOCK_SIZE, noise(60_000 + i));
    for (let i = 0; i < 20; i++) await expectBlock(volume, 10 + i, noise(60_000 + i));
    expect(freeBlocks(volume)).toBe(1);
    await closeAndAudit(volume, storage);
  });

  test('has no space for a tree page, but zeros below pages that exist', async () => {
    const { volume, storage } = await tinyVolume({ compression: false }, { logicalSize: 2 ** 30 });
    await fill(volume, 3);
    // A new page needs four blocks: leaf and three nodes above it.
    const far = 100 * 812 * BLOCK_SIZE;
    await expect(volume.write(far, noise(1))).rejects.toMatchObject(NO_SPACE);
    await expect(volume.write(far, new Uint8Array(BLOCK_SIZE))).rejects.toMatchObject(NO_SPACE);
    await volume.discard(far, BLOCK_SIZE);
    expect(freeBlocks(volume)).toBe(3);
    await volume.write(5 * BLOCK_SIZE, new Uint8Array(BLOCK_SIZE));
    expect(volume.failure).toBeNull();
    await closeAndAudit(volume, storage);
  });
});

describe('advice that proves wrong on the last free block', () => {
  test('does not take the space that the write was acknowledged against', async () => {
    const index = new ScriptedIndex();
    const { volume, storage } = await tinyVolume({ compression: false, index });
    await fill(volume, 0);
    await volume.discard(9 * BLOCK_SIZE, BLOCK_SIZE);
    await volume.flush();
    expect(freeBlocks(volume)).toBe(1);
    // The only free block is also what the index believes to hold the new content.
    index.advise(noise(70_000), index.placeOf(noise(9))!.pbn);
    await volume.write(9 * BLOCK_SIZE, noise(70_000));
    await volume.flush();
    expect(volume.failure).toBeNull();
    await expectBlock(volume, 9, noise(70_000));
    await closeAndAudit(volume, storage);
  });

  test('and one that proves right shares the free block again', async () => {
    const index = new ScriptedIndex();
    const { volume, storage } = await tinyVolume({ compression: false, index });
    await fill(volume, 0);
    await volume.discard(9 * BLOCK_SIZE, BLOCK_SIZE);
    await volume.flush();
    const { pbn } = index.placeOf(noise(9))!;
    index.advise(noise(9), pbn);
    const calls = await storage.during(() => volume.write(3900 * BLOCK_SIZE, noise(9)));
    await volume.read(0, 1);
    expect(calls.some(({ kind }) => kind === 'write')).toBe(false);
    await expectBlock(volume, 3900, noise(9));
    expect(freeBlocks(volume)).toBe(0);
    await closeAndAudit(volume, storage);
  });
});

/** Writers that run side by side at the end of space, while the test keeps what was acknowledged. */
async function hammer(options: OpenOptions, format: object, seed: number): Promise<void> {
  const { volume, storage } = await tinyVolume(options, format);
  await fill(volume, 30);
  const next = random(seed);
  const content = new Map<number, Uint8Array>();
  const writer = async (first: number): Promise<void> => {
    for (let i = 0; i < 60; i++) {
      const lbn = first + Math.floor(next() * 20);
      const what = next();
      const count = 1 + Math.floor(next() * 6);
      const blocks = Array.from({ length: count }, (_, k) => {
        const stamp = seed * 1e6 + first * 1e3 + i * 10 + k;
        if (what < 0.3) return squashy(stamp, 400 + Math.floor(next() * 1500));
        return what < 0.5 ? noise(1 + Math.floor(next() * 30)) : noise(stamp);
      });
      if (what > 0.9) {
        await volume.discard(lbn * BLOCK_SIZE, count * BLOCK_SIZE);
        blocks.forEach((_, k) => content.set(lbn + k, new Uint8Array(BLOCK_SIZE)));
      } else {
        const bytes = Buffer.concat(blocks);
        const done = await volume.write(lbn * BLOCK_SIZE, bytes).then(
          () => true,
          (error: unknown) => {
            expect(error).toMatchObject(NO_SPACE);
            return false;
          },
        );
        // A refused write may be done in part: what it left is what counts from then on.
        for (let k = 0; k < count; k++) {
          const now = done ? blocks[k]! : await volume.read((lbn + k) * BLOCK_SIZE, BLOCK_SIZE);
          content.set(lbn + k, Uint8Array.from(now));
        }
      }
      if (next() < 0.1) await volume.flush();
      if (next() < 0.3) await turns(1);
    }
  };
  await Promise.all(Array.from({ length: 6 }, (_, i) => writer(3300 + 30 * i)));
  await volume.flush();
  expect(volume.failure).toBeNull();
  for (const [lbn, block] of content) await expectBlock(volume, lbn, block);
  await closeAndAudit(volume, storage);
}

describe('writers that meet at the end of space lose nothing that was acknowledged', () => {
  test.for([1, 2, 3])('with everything usual, seed %i', (seed) =>
    hammer({ compression: true, packerBins: 8 }, {}, seed),
  );

  test.for([6, 7])('with journals that always wait, seed %i', (seed) =>
    hammer(
      { compression: true, packerBins: 3, cachePages: 8, batchBlocks: 128 },
      { recoveryJournalBlocks: 2, slabJournalBlocks: 8 },
      seed,
    ),
  );
});
