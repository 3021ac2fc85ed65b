/**
 * The engine loses power at every operation that reaches the disk; dm-vdo's recovery must find every
 * flushed block, and the audit nothing.
 */
import { expect, it } from 'vitest';
import { runEngineStory } from './engine-story.ts';
import { eachSeed } from './seeds.ts';

const SEEDS = 20;
const CRASHES = { crashesPerOperation: 0.4 };

it('recovers from a power loss at any operation', { timeout: 180_000 }, async () => {
  const results = await eachSeed('test/sim/engine.test.ts', SEEDS, (seed) =>
    runEngineStory(seed, CRASHES),
  );
  const checkpoints = results.reduce((sum, { summaries }) => sum + summaries, 0);
  const inFlight = results.reduce((sum, result) => sum + result.inFlight, 0);
  if (results.length < SEEDS) return;
  expect(checkpoints).toBeGreaterThan(30);
  expect(inFlight).toBeGreaterThan(1000);
});
