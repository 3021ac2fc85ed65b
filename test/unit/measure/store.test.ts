/** Measurements that are kept: interrupted, extended, spilled to disk, merged; each against one run in memory. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import type { Measurement } from '../../../src/measure/figures.ts';
import { FingerprintFilter } from '../../../src/measure/fingerprint-filter.ts';
import { mergeMeasurements } from '../../../src/measure/fleet.ts';
import { planOver } from '../../../src/measure/kept-state.ts';
import { measure, type MeasureOptions } from '../../../src/measure/measurement.ts';
import { MeasureRun } from '../../../src/measure/run.ts';
import { MeasureStore } from '../../../src/measure/store.ts';
import { joined, noise, random, squashy } from '../../support/volumes.ts';

let directory: string;
beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'uvdo-store-'))));
afterEach(() => rm(directory, { recursive: true }));
const at = (name: string): string => join(directory, name);

/** Images of several batches that share content with themselves and each other. */
async function images(): Promise<string[]> {
  const next = random(1);
  const image = (seed: number, count: number): Uint8Array =>
    joined(
      ...Array.from({ length: count }, (_, i) => {
        const kind = next();
        if (kind < 0.1) return new Uint8Array(BLOCK_SIZE);
        if (kind < 0.4) return noise(Math.floor(next() * 800));
        if (kind < 0.7) return squashy(Math.floor(next() * 1500), 200 + (i % 1500));
        return squashy(seed + i, 300 + (i % 2500));
      }),
    );
  const paths = [at('a.img'), at('b.img')];
  await writeFile(paths[0]!, image(100_000, 3300));
  await writeFile(paths[1]!, image(200_000, 3100));
  return paths;
}

/** What does not depend on the order in which blocks came. */
function exact(m: Measurement) {
  const { bytes, blocks, zeroBlocks, uniqueBlocks, duplicateBlocks, shared, references, files } = m;
  return { bytes, blocks, zeroBlocks, uniqueBlocks, duplicateBlocks, shared, references, files };
}

function expectSame(actual: Measurement, expected: Measurement, tolerance: number): void {
  expect(exact(actual)).toEqual(exact(expected));
  for (const key of ['storedBlocks', 'kernelStoredBlocks', 'compressedBlocks'] as const) {
    expect(Math.abs(actual[key] - expected[key])).toBeLessThanOrEqual(tolerance * expected[key]);
  }
}

/** Runs until `batches` batches were counted, then as after Ctrl-C. */
async function interrupted(paths: string[], batches: number, options: MeasureOptions) {
  const abort = new AbortController();
  let seen = 0;
  const onProgress = (): void => {
    if (++seen === batches) abort.abort(new Error('stopped'));
  };
  const run = measure(paths, { ...options, onProgress, signal: abort.signal });
  await expect(run).rejects.toThrow('stopped');
}

describe.each([[true], [false]])('a kept measurement, compression %s', (compression) => {
  test('that was interrupted, again and again, ends as one run does', async () => {
    const paths = await images();
    const whole = await measure(paths, { compression });
    const options = { compression, store: at('store'), workers: 0 };
    for (const batches of [1, 2]) await interrupted(paths, batches, options);
    const resumed = await measure(paths, options);
    expectSame(resumed, whole, 0.005);
    const again = await measure(paths, options);
    expectSame(again, resumed, 0.005);
  });

  test('grows by further sources', async () => {
    const [a, b] = (await images()) as [string, string];
    const whole = await measure([a, b], { compression });
    const options = { compression, store: at('store'), workers: 0 };
    const first = await measure([a], options);
    expectSame(first, await measure([a], { compression }), 0);
    expectSame(await measure([b], options), whole, 0.005);
  });

  test('that goes to disk with every batch counts the same', async () => {
    const paths = await images();
    const whole = await measure(paths, { compression });
    const store = await MeasureStore.open(at('store'));
    const plan = planOver(paths, null, { compression, sample: 1, directory: at('store') });
    const options = { compression, workers: 0 };
    const run = new MeasureRun(plan, options, { store, memoryBytes: 1 });
    expectSame(await run.measure(), whole, 0.01);
    expect(store.runs).toHaveLength(1);
    expect(store.records).toBe(whole.uniqueBlocks);
    await store.close();
    const more = new MeasureRun(
      planOver([paths[0]!], JSON.parse(JSON.stringify(store.state)), {
        compression,
        sample: 1,
        directory: '',
      }),
      options,
      { store: await MeasureStore.open(at('store')), memoryBytes: 1 },
    );
    expect(exact(await more.measure())).toEqual(exact(whole));
  });

  test('of two hosts together is that of one run over both', async () => {
    const [a, b] = (await images()) as [string, string];
    const whole = await measure([a, b], { compression });
    await measure([a], { compression, store: at('one') });
    await measure([b], { compression, store: at('two') });
    // Bins that were open in the end count in both stores: with so few blocks that is seen.
    expectSame(await mergeMeasurements([at('one'), at('two')]), whole, 0.02);
    const alone = await mergeMeasurements([at('one')]);
    expectSame(alone, await measure([a], { compression }), 0);
  });
});

describe('a store', () => {
  test('is refused where it does not fit', async () => {
    const [a] = (await images()) as [string];
    await measure([a], { store: at('store'), compression: false });
    await expect(measure([a], { store: at('store') })).rejects.toThrow('without compression');
    await expect(mergeMeasurements([at('none')])).rejects.toThrow('holds no measurement');
    await measure([a], { store: at('other') });
    await expect(mergeMeasurements([at('store'), at('other')])).rejects.toThrow('other options');
    await expect(measure([a], { store: directory })).rejects.toThrow('is no store');
    await expect(measure([a], { store: a })).rejects.toMatchObject({ code: 'InvalidArgument' });
    await expect(measure([a], { memory: 2 ** 30 })).rejects.toThrow('needs a store');
    const held = await MeasureStore.open(at('store'));
    await expect(measure([a], { store: at('store') })).rejects.toMatchObject({ code: 'Busy' });
    await held.close();
    await interrupted(await images(), 1, { store: at('half') });
    await expect(mergeMeasurements([at('half')])).rejects.toThrow('finish it first');
    await writeFile(at('c.img'), noise(1));
    const other = measure([at('c.img')], { store: at('half') });
    await expect(other).rejects.toThrow(`waits for the rest of ${a}: name it too`);
  });

  test('forgets a run that was not committed', async () => {
    const store = await MeasureStore.open(at('store'));
    for (const run of [1, 2]) {
      const writer = store.writeRun(run);
      for (let i = 0; i < 50_000; i++) {
        const segment = Math.floor(i / 1000);
        const place = writer.next(segment);
        writer.words.set([i, 0, segment << 24, 1, 0, 0, 0], place);
      }
      const label = await writer.finish();
      expect(label.records).toBe(50_000);
      if (run === 1) await store.commit({ some: 'state' }, [label]);
    }
    expect((await store.readSegment(2, 3)).length).toBe(7000);
    await store.close();
    const opened = await MeasureStore.open(at('store'), true);
    expect(opened.state).toEqual({ some: 'state' });
    expect(opened.records).toBe(50_000);
    expect(await opened.readSegment(2, 3)).toHaveLength(0);
    const words = await opened.readSegment(1, 3);
    expect([...words.subarray(0, 7)]).toEqual([3000, 0, 3 << 24, 1, 0, 0, 0]);
    await opened.close();
  });

  test('has filters that know what was added, and little else', () => {
    const filter = new FingerprintFilter(20_000);
    const next = random(3);
    const word = (): number => Math.floor(next() * 2 ** 32);
    const names = Array.from({ length: 20_000 }, () => [word(), word()] as const);
    for (const [n0, n1] of names) filter.add(n0, n1);
    expect(names.every(([n0, n1]) => filter.has(n0, n1))).toBe(true);
    let wrong = 0;
    for (let i = 0; i < 20_000; i++) if (filter.has(word(), word())) wrong++;
    expect(wrong).toBeLessThan(150);
    expect(filter.bytes).toBeLessThan(20_000 * 2.1);
  });
});
