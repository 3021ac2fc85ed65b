/**
 * The engine loses power at every operation that reaches the disk; dm-vdo's recovery must find every
 * flushed block, and the audit nothing.
 */
import { expect, it } from 'vitest';
import { runEngineStory, type EngineStoryResult } from './engine-story.ts';
import { eachSeed } from './seeds.ts';

const SEEDS = 28;

it('recovers from a power loss at any operation', { timeout: 600_000 }, async () => {
  const results = await eachSeed('test/sim/engine.test.ts', SEEDS, (seed) => runEngineStory(seed));
  const total = totalOf(results);
  const sumOf = (key: keyof EngineStoryResult): number => total[key] ?? 0;
  if (process.env['UVDO_SIM_VERBOSE'] !== undefined) console.error(total);
  if (results.length < SEEDS) return;
  expect(sumOf('summaries')).toBeGreaterThan(30);
  expect(sumOf('inFlight')).toBeGreaterThan(3000);
  expect(sumOf('compared')).toBeGreaterThan(100);
  expect(sumOf('interrupted')).toBeGreaterThan(50);
  expect(sumOf('recoveries')).toBeGreaterThan(20);
  expect(sumOf('ingests')).toBeGreaterThan(50);
});

/** Sums of everything that stories count. */
function totalOf(results: readonly EngineStoryResult[]): Record<string, number> {
  const total: Record<string, number> = {};
  for (const result of results) {
    for (const [key, value] of Object.entries(result)) total[key] = (total[key] ?? 0) + value;
  }
  return total;
}
