/**
 * The engine loses power at every operation that reaches the disk; dm-vdo's recovery must find every
 * flushed block, and the audit nothing.
 */
import { expect, it } from 'vitest';
import { runEngineStory } from './engine-story.ts';
import { eachSeed } from './seeds.ts';

const SEEDS = 20;

it('recovers from a power loss at every operation', async () => {
  const results = await eachSeed('test/sim/engine.test.ts', SEEDS, (seed) => runEngineStory(seed));
  const inFlight = results.reduce((sum, result) => sum + result.inFlight, 0);
  if (results.length === SEEDS) expect(inFlight).toBeGreaterThan(2000);
});
