/**
 * The deduplication index loses power at every operation that reaches the disk; what is left must be of
 * use to dm-vdo, and true.
 */
import { expect, it } from 'vitest';
import { runIndexStory } from './index-story.ts';
import { eachSeed } from './seeds.ts';

const SEEDS = 14;
const MAX_STORIES = 20;
const VERBOSE = process.env['UVDO_SIM_VERBOSE'] !== undefined;

it('the index survives a power loss at any operation', { timeout: 120_000 }, async () => {
  const results = await eachSeed('test/sim/index.test.ts', SEEDS, (seed) =>
    runIndexStory(seed, { crashesPerOperation: 0.5 }),
  );
  if (results.length < SEEDS) return;
  const sum = (of: 'crashes' | 'loads' | 'rebuilds' | 'chapters') =>
    results.reduce((total, result) => total + result[of], 0);
  if (VERBOSE) {
    console.error(
      `${sum('crashes')} power losses: ${sum('loads')} loads, ${sum('rebuilds')} rebuilds; ${sum('chapters')} chapters closed`,
    );
  }
  expect(sum('loads')).toBeGreaterThan(15);
  expect(sum('rebuilds')).toBeGreaterThan(15);
  expect(sum('chapters')).toBeGreaterThan(15);
});

it('a save that stays valid when a chapter is closed is noticed', async () => {
  let because = '';
  let stories = 0;
  for (let seed = 1; seed <= MAX_STORIES && because === ''; seed++) {
    stories = seed;
    await runIndexStory(seed, { sabotage: 'stale-save' }).catch((error: unknown) => {
      because = String(error);
    });
  }
  if (VERBOSE) console.error(`stale-save: story ${stories}, ${because}`);
  expect(because).toMatch(/^Violation: /);
});
