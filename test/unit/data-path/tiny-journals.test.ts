/**
 * Journals, caches and batches so small that every step waits for a commit or a checkpoint: nothing
 * hangs, whatever waits for what, and the volume is whole in the end.
 */
import { expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { noise, noiseRun, random, squashy, tinyVolume } from '../../support/volumes.ts';
import { closeAndAudit, expectBlock, statistic, turns } from './support.ts';

const BLOCKS = 4000;

test.for([
  { recoveryJournalBlocks: 2, slabJournalBlocks: 8, cachePages: 8, batchBlocks: 1 },
  { recoveryJournalBlocks: 2, slabJournalBlocks: 8, cachePages: 8, batchBlocks: 256 },
  { recoveryJournalBlocks: 4, slabJournalBlocks: 8, cachePages: 8, batchBlocks: 3 },
  { recoveryJournalBlocks: 16, slabJournalBlocks: 8, cachePages: 8, batchBlocks: 16 },
  { recoveryJournalBlocks: 16, slabJournalBlocks: 16, cachePages: 9, batchBlocks: 64 },
  { recoveryJournalBlocks: 64, slabJournalBlocks: 8, cachePages: 64, batchBlocks: 256 },
])('%o', async ({ recoveryJournalBlocks, slabJournalBlocks, cachePages, batchBlocks }) => {
  const { volume, storage } = await tinyVolume(
    { cachePages, batchBlocks, packerBins: 2 },
    // Sixty roots, each with a tree of its own: a page for every few writes.
    { recoveryJournalBlocks, slabJournalBlocks, logicalSize: 812 * 60 * BLOCK_SIZE },
  );
  // The device takes its time now and then, so that commits run beside batches.
  const pace = random(recoveryJournalBlocks + batchBlocks);
  storage.before = () => (pace() < 0.3 ? turns(1 + Math.floor(pace() * 3)) : undefined);
  const next = random(batchBlocks);
  const content = new Map<number, Uint8Array>();
  const busy: Promise<unknown>[] = [];
  for (let i = 0; i < 400; i++) {
    // Each of eight lanes has blocks of its own, on many leaves.
    const lane = i % 8;
    const lbn = (Math.floor(next() * 60) * 812 + lane * 100 + Math.floor(next() * 3)) % (812 * 60);
    const what = next();
    if (what < 0.55) {
      const block = next() < 0.5 ? noise(i % 70) : squashy(i % 90, 700);
      content.set(lbn, block);
      busy.push(volume.write(lbn * BLOCK_SIZE, block));
    } else if (what < 0.7) {
      const count = 1 + Math.floor(next() * 12);
      const run = noiseRun(1000 + i, count);
      for (let k = 0; k < count; k++) {
        content.set(lbn + 3 + k, run.subarray(k * BLOCK_SIZE, (k + 1) * BLOCK_SIZE));
      }
      busy.push(volume.write((lbn + 3) * BLOCK_SIZE, run));
    } else if (what < 0.8) {
      content.set(lbn, new Uint8Array(BLOCK_SIZE));
      busy.push(volume.discard(lbn * BLOCK_SIZE, BLOCK_SIZE));
    } else if (what < 0.9) busy.push(volume.read(lbn * BLOCK_SIZE, 9 * BLOCK_SIZE));
    else busy.push(volume.flush());
    // A lane at a time would be dull, all at once unordered: writes of one block wait for each other.
    if (i % 8 === 7) await Promise.all(busy.splice(0));
  }
  await Promise.all(busy);
  await volume.flush();
  expect(volume.failure).toBeNull();
  for (const [lbn, block] of content) await expectBlock(volume, lbn, block);
  expect(statistic(volume, 'journal.blocks.started')).toBeGreaterThanOrEqual(2);
  storage.before = () => undefined;
  await closeAndAudit(volume, storage);
});

test('a discard and a rewrite of everything, many times around a journal of four blocks', async () => {
  const { volume, storage } = await tinyVolume(
    { compression: false, cachePages: 8, batchBlocks: 64 },
    { recoveryJournalBlocks: 4, slabJournalBlocks: 8 },
  );
  for (let round = 0; round < 4; round++) {
    await volume.write(round * BLOCK_SIZE, noiseRun(round, 700));
    await volume.discard(0, BLOCKS * BLOCK_SIZE);
  }
  await volume.write(0, noiseRun(9, 50));
  await volume.flush();
  expect(statistic(volume, 'journal.blocks.started')).toBeGreaterThan(16);
  expect(statistic(volume, 'dataBlocksUsed')).toBe(50);
  await closeAndAudit(volume, storage);
});
