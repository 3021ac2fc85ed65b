/**
 * The simulator is only worth its silence if it speaks when a rule is broken: each sabotage of the
 * model must be noticed. docs/COMMIT.md lists rules, sabotages and how fast they are found.
 */
import { describe, expect, it } from 'vitest';
import { HARMLESS, SABOTAGES, type Sabotage } from '../model/sabotage.ts';
import { runStory, type StoryKind } from './story.ts';

/** Stories in which a rule matters, where it is not the usual kind. */
const KINDS: Partial<Record<Sabotage, StoryKind>> = {
  'heads-early': 'wide',
  'head-beyond-last': 'wide',
  'load-early': 'wide',
  'hold-not-moved': 'churn',
  'slot-reuse': 'wrap',
  'journal-overrun': 'wrap',
  'slab-overrun': 'slab',
  'unload-overrun': 'slab',
  'tail-in-memory': 'slab',
};
const MAX_STORIES = 300;

/** Stories told until one was a lie, the CPU time that took, and what gave it away. */
function expose(
  sabotage: Sabotage,
): { stories: number; seconds: number; because: string } | undefined {
  const start = process.cpuUsage();
  for (let seed = 1; seed <= MAX_STORIES; seed++) {
    try {
      runStory(seed, { sabotage, kind: KINDS[sabotage] ?? 'small' });
    } catch (error) {
      const { user, system } = process.cpuUsage(start);
      return { stories: seed, seconds: (user + system) / 1e6, because: String(error) };
    }
  }
  return undefined;
}

describe('a broken rule is noticed', { timeout: 120_000 }, () => {
  it.each(Object.entries(SABOTAGES))('%s: %s', (sabotage) => {
    const exposed = expose(sabotage as Sabotage);
    if (process.env['UVDO_SIM_VERBOSE'] !== undefined) console.error(sabotage, exposed);
    expect(exposed, `${sabotage} went unnoticed`).toBeDefined();
    // A violation, or one of the model's own assertions: nothing else gives a sabotage away.
    expect(exposed!.because).toMatch(/^(Violation|AssertionError): /);
  });
});

it.each(Object.entries(HARMLESS))('%s is harmless: %s', (sabotage) => {
  for (let seed = 1; seed <= 12; seed++) {
    runStory(seed, { sabotage: sabotage as Sabotage, kind: 'small', crashesPerOperation: 0.3 });
  }
});
