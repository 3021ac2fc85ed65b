/**
 * `npm run soak`: stories for ever, on new seeds each time, the engine's and the model's in turn. A failure
 * prints the one command that repeats it. `UVDO_SOAK_SECONDS` ends it, `UVDO_SOAK_SEED` is the first seed.
 */
import { expect, it } from 'vitest';
import { runEngineStory } from './engine-story.ts';
import { eachSeed } from './seeds.ts';
import { runStory } from './story.ts';

const IS_SOAK = process.env['UVDO_SOAK'] !== undefined;
const SECONDS = Number(process.env['UVDO_SOAK_SECONDS'] ?? Infinity);
const FIRST = Number(process.env['UVDO_SOAK_SEED'] ?? Date.now());
const REPORT_MS = 30_000;

it.runIf(IS_SOAK)('no crash ever loses what was flushed', { timeout: 0 }, async () => {
  const startMs = performance.now();
  let reportedMs = startMs;
  const total = { seeds: 0, crashes: 0, inFlight: 0 };
  for (let seed = FIRST; performance.now() - startMs < SECONDS * 1000; seed++) {
    const stories = [
      ...(await eachSeed('test/sim/engine.test.ts', [seed], (one) => runEngineStory(one))),
      ...(await eachSeed('test/sim/model.test.ts', [seed], (one) => runStory(one))),
    ];
    total.seeds++;
    for (const { crashes, inFlight } of stories) {
      total.crashes += crashes;
      total.inFlight += inFlight;
    }
    const nowMs = performance.now();
    if (nowMs - reportedMs < REPORT_MS && nowMs - startMs < SECONDS * 1000) continue;
    reportedMs = nowMs;
    const rate = (1000 * total.crashes) / (nowMs - startMs);
    console.error(
      `soak: ${total.seeds} seeds from ${FIRST}, ${total.crashes} crashes ` +
        `(${total.inFlight} with writes in flight), ${rate.toFixed(0)} a second, 0 violations`,
    );
  }
  expect(total.inFlight).toBeGreaterThan(0);
});
