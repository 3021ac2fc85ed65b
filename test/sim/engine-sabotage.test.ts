/**
 * The simulator notices when the real engine, or its recovery, gets a storage that breaks a rule of the
 * commit protocol. Rules that only the engine's memory knows are broken in the model (sabotage.test.ts).
 * docs/TESTING.md lists both.
 */
import { describe, expect, it } from 'vitest';
import { runEngineStory } from './engine-story.ts';
import { LIES, type Lie } from './lying-storage.ts';

const MAX_STORIES = 60;
/** Lies about recovery come out where volumes are recovered all the time. */
const OF_RECOVERY: readonly Lie[] = [
  'replay-not-flushed',
  'super-not-behind-summary',
  'recovery-not-counted',
];

/** Stories told until the lie came out, the CPU time that took, and what gave it away. */
async function expose(
  lie: Lie,
): Promise<{ stories: number; seconds: number; because: string } | undefined> {
  const start = process.cpuUsage();
  const shortLives = OF_RECOVERY.includes(lie);
  for (let seed = 1; seed <= MAX_STORIES; seed++) {
    try {
      await runEngineStory(seed, { lie, shortLives, crashesPerOperation: 0.5, compared: 0 });
    } catch (error) {
      const { user, system } = process.cpuUsage(start);
      return { stories: seed, seconds: (user + system) / 1e6, because: String(error) };
    }
  }
  return undefined;
}

describe('a storage that breaks a rule is noticed', { timeout: 300_000 }, () => {
  it.each(Object.entries(LIES))('%s: %s', async (lie) => {
    const exposed = await expose(lie as Lie);
    if (process.env['UVDO_SIM_VERBOSE'] !== undefined) console.error(lie, exposed);
    expect(exposed, `${lie} went unnoticed`).toBeDefined();
    expect(exposed!.because).toMatch(/^(Violation|AssertionError|VdoError): /);
  });
});
