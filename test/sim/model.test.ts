/** The commit protocol holds: whatever the power does, dm-vdo's recovery finds what was flushed. */
import { expect, it } from 'vitest';
import { runStory, type StoryResult } from './story.ts';
import { eachSeed } from './seeds.ts';

const SEEDS = 25;

it('recovers from a power loss at every operation', { timeout: 600_000 }, async () => {
  const results = await eachSeed('test/sim/model.test.ts', SEEDS, (seed) => runStory(seed));
  if (results.length < SEEDS) return;
  const sum = (of: (result: StoryResult) => number): number =>
    results.reduce((total, result) => total + of(result), 0);
  const inFlight = sum((result) => result.inFlight);
  if (process.env['UVDO_SIM_VERBOSE'] !== undefined) console.error({ inFlight });
  expect(inFlight).toBeGreaterThan(7000);
  expect(sum(({ checkpoints }) => checkpoints)).toBeGreaterThan(100);
  expect(sum(({ lives }) => lives)).toBeGreaterThan(SEEDS);
});

it('tells the same story for the same seed', () => {
  const first = runStory(7, { crashesPerOperation: 0.1 });
  expect(runStory(7, { crashesPerOperation: 0.1 })).toEqual(first);
});
