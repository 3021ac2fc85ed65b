/**
 * The engine loses power at every operation that reaches the disk; dm-vdo's recovery must find every
 * flushed block, and the audit nothing.
 */
import { expect, it } from 'vitest';
import { runEngineStory, type EngineStoryResult } from './engine-story.ts';
import { eachSeed } from './seeds.ts';

const SEEDS = 20;
const CRASHES = { crashesPerOperation: 0.4 };

it('recovers from a power loss at any operation', { timeout: 180_000 }, async () => {
  const results = await eachSeed('test/sim/engine.test.ts', SEEDS, (seed) =>
    runEngineStory(seed, CRASHES),
  );
  const checkpoints = results.reduce((sum, { summaries }) => sum + summaries, 0);
  if (process.env['UVDO_SIM_VERBOSE'] !== undefined) console.error(totalOf(results));
  const inFlight = results.reduce((sum, result) => sum + result.inFlight, 0);
  if (results.length < SEEDS) return;
  expect(checkpoints).toBeGreaterThan(30);
  expect(inFlight).toBeGreaterThan(1000);
});

/** Sums of everything that stories count. */
function totalOf(results: readonly EngineStoryResult[]): Record<string, number> {
  const total: Record<string, number> = {};
  for (const result of results) {
    for (const [key, value] of Object.entries(result)) total[key] = (total[key] ?? 0) + value;
  }
  return total;
}
