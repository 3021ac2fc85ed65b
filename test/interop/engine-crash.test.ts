/**
 * uvdo killed at random while it writes, again and again: the kernel recovers the volume, the audit
 * is clean, and every block is the one last flushed or one that was written since. Rounds go on from
 * what the round before left. docs/TESTING.md, "Interop".
 *
 * `UVDO_CRASH_ROUNDS` sets the rounds per configuration, `UVDO_CRASH_SEED` the first seed,
 * `UVDO_CRASH_VERBOSE` prints how much was written.
 */
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { Allowed } from './allowed.ts';
import { generator } from './content.mjs';
import { available, skipReason, withFolder } from './harness.ts';
import { kernelRecovers } from './kernel-recovers.ts';
import { TINY_TABLE, tiny } from './kernel-volume.ts';
import { built, DIST, endOf, uvdo } from './uvdo.ts';

const { skip, note } = skipReason(available().uml, available().tools, built());
const ROUNDS = Number(process.env['UVDO_CRASH_ROUNDS'] ?? 5);
const SEED = Number(process.env['UVDO_CRASH_SEED'] ?? Date.now() % 100_000);
const WRITER = fileURLToPath(new URL('./crash-writer.mjs', import.meta.url));

interface Configuration {
  readonly name: string;
  readonly make: (path: string) => Promise<unknown>;
  readonly options: Record<string, unknown>;
  readonly table?: Readonly<Record<string, string>>;
}

const CONFIGURATIONS: readonly Configuration[] = [
  {
    name: 'ordinary journals, compression, memory index',
    make: (path) =>
      uvdo(['format', path, '--size', '512M', '--logical-size', '64M', '--slab-size', '32M', '--no-index']), // prettier-ignore
    options: { index: 'memory', compression: true, parallel: 12, blocks: 16_000 },
  },
  {
    name: 'tiny journals: a checkpoint every few hundred writes',
    make: async (path) => tiny({ slabs: 12, logicalBlocks: 8192 }).save(path),
    options: { index: 'memory', compression: true, parallel: 8, blocks: 6000 },
    table: TINY_TABLE,
  },
  {
    name: 'tiny journals and no room',
    make: async (path) => tiny({ slabs: 3, logicalBlocks: 8192 }).save(path),
    options: { index: 'off', compression: false, parallel: 4, blocks: 4000, full: true },
    table: TINY_TABLE,
  },
  {
    name: 'level index',
    make: (path) =>
      uvdo(['format', path, '--size', '512M', '--logical-size', '64M', '--slab-size', '32M', '--no-index']), // prettier-ignore
    options: { index: 'level', compression: true, parallel: 4, blocks: 8000 },
  },
];

/** Starts the writer, lets it write for a while, kills it; its log. */
async function killedWriter(
  path: string,
  folder: string,
  options: object,
  seed: number,
  next: number,
): Promise<string> {
  const log = join(folder, `log-${seed}`);
  writeFileSync(log, '');
  const child = spawn(
    process.execPath,
    [WRITER, DIST, path, log, String(seed), String(next), JSON.stringify(options)],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let complaints = '';
  child.stderr.on('data', (text: Buffer) => (complaints += text.toString()));
  const ended = endOf(child);
  await Promise.race([new Promise((resolve) => child.stdout.once('data', resolve)), ended]);
  const random = generator(seed);
  await new Promise((resolve) => setTimeout(resolve, 100 + (random() % 2500)));
  expect(child.exitCode, `the writer ended by itself: ${complaints}`).toBeNull();
  child.kill('SIGKILL');
  await ended;
  return readFileSync(log, 'utf8');
}

describe.skipIf(skip)(`uvdo killed while it writes${note}`, () => {
  it.each(CONFIGURATIONS)('$name', async ({ make, options, table = {} }) => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume.vdo');
      await make(path);
      const allowed = new Allowed();
      const total = { writes: 0, acknowledged: 0, flushes: 0 };
      for (let round = 0; round < ROUNDS; round++) {
        const seed = SEED + round;
        const where = `seed ${seed}, round ${round}`;
        const log = await killedWriter(path, folder, options, seed, allowed.next);
        const did = allowed.addRound(log);
        for (const key of ['writes', 'acknowledged', 'flushes'] as const) total[key] += did[key];
        const dump = await kernelRecovers(path, folder, where, table);
        expect(allowed.settle(dump), where).toEqual([]);
      }
      if (process.env['UVDO_CRASH_VERBOSE'] !== undefined) console.error(SEED, total);
      expect(total.flushes).toBeGreaterThan(0);
      expect(total.acknowledged).toBeGreaterThan(50 * ROUNDS);
    });
  });
});
