/**
 * `uvdo audit` beside the real `vdoaudit`: the same verdict on every reference volume, and on volumes
 * of the kernel and of uvdo with damage of every kind. Where vdoaudit does not look, that it sees
 * nothing is checked too, so that the list of these kinds stays true. docs/TESTING.md, "Interop".
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { auditVolume, type AuditReport } from '../../src/inspect/audit.ts';
import { Random } from '../sim/random.ts';
import { DAMAGE } from '../support/damage.ts';
import { Image, ImageStorage } from '../support/image.ts';
import { randomVolume } from '../support/random-volume.ts';
import {
  available,
  FIXTURES,
  inKernel,
  makeFixtures,
  run,
  skipReason,
  unpackFixture,
  vdoaudit,
  withFolder,
} from './harness.ts';
import { makeVolume, TINY, tiny } from './kernel-volume.ts';
import { built, DIST } from './uvdo.ts';
import { shrinksTo } from './workload.ts';

const { skip, note } = skipReason(available().uml, available().tools, built());
const SEED = Number(process.env['SEED'] ?? Date.now() % 100_000);

/** Exit status of `uvdo audit`, and what it reports. */
async function uvdoAudit(path: string, ...options: string[]) {
  const args = [join(DIST, 'tools', 'vdo.js'), 'audit', path, '--json', ...options];
  const { status, stdout, stderr } = await run(process.execPath, args);
  if (stdout === '') throw new Error(stderr);
  return { status, report: JSON.parse(stdout) as AuditReport };
}

describe.skipIf(skip)(`reference volumes${note}`, () => {
  beforeAll(() => makeFixtures());

  it.each(FIXTURES)('%s: one verdict', (name) =>
    withFolder(async (folder) => {
      const { path } = await unpackFixture(name, folder);
      const { status, report } = await uvdoAudit(path);
      const real = await vdoaudit(path);
      const index = { fresh: 'empty', dirty: 'unsaved' }[name as string] ?? 'saved';
      // That a start used up the save is not flushed: a power loss may bring it back.
      const states = name === 'dirty-unsynced' ? ['saved', 'unsaved'] : [index];
      expect(report.index.problem).toBeNull();
      expect(states).toContain(report.index.state);
      if (name === 'fresh') {
        // Nothing to audit yet: vdoaudit says so and fails.
        expect(real.output).toContain('no auditable state');
        expect(report).toMatchObject({ clean: true, state: 'new', errorCount: 0 });
        expect(status).toBe(0);
      } else if (name === 'dirty' || name === 'dirty-unsynced') {
        // vdoaudit sees the disk without the journals; after the kernel's recovery it sees what ours
        // would make.
        const { report: stored } = await uvdoAudit(path, '--as-stored');
        expect(stored.errorCount === 0).toBe(real.clean);
        expect(report).toMatchObject({
          clean: false,
          state: 'dirty',
          needs: 'recovery',
          errors: [],
        });
        expect(report.recovery?.entries).toBeGreaterThan(name === 'dirty' ? 9000 : 0);
        expect(status).toBe(3);
        const script = 'set -e; vdo_start ${DISKS[0]} v; vdo_wait_recovery v; vdo_stop v';
        await inKernel({ engine: 'uml', disks: [path], script });
        expect((await vdoaudit(path)).clean).toBe(true);
        const { report: after } = await uvdoAudit(path);
        expect(after).toMatchObject({ clean: true, state: 'clean' });
        for (const what of ['logicalBlocksUsed', 'blockMapDataBlocks', 'dataBlocksUsed'] as const) {
          expect(report[what]).toBe(after[what]);
        }
      } else {
        expect(real.clean, real.output).toBe(true);
        expect(report).toMatchObject({ clean: true, errors: [] });
        const matched = /Logical block count matched at (\d+)/.exec(real.output);
        expect(report.logicalBlocksUsed).toBe(Number(matched?.[1]));
        expect(status).toBe(['readonly', 'forced'].includes(name) ? 3 : 0);
      }
    }),
  );
});

async function compareDamage(sound: Image, folder: string, seed: number): Promise<void> {
  const random = new Random(seed);
  const path = join(folder, 'volume');
  for (const [name, damage] of Object.entries(DAMAGE)) {
    const image = sound.clone();
    if (!damage.forge(image, random)) continue;
    writeFileSync(path, image.bytes);
    const report = await auditVolume(new ImageStorage(image.bytes, true));
    const real = await vdoaudit(path);
    const say = `${name} (seed ${seed}): ${JSON.stringify(report.errorsByKind)}\n${real.output}`;
    expect(report.clean, say).toBe(damage.kinds.length === 0);
    expect(real.clean, say).toBe(damage.vdoaudit !== 'wrong');
  }
}

describe.skipIf(skip)(`forged damage${note}`, () => {
  it('of a volume of uvdo: one verdict', () =>
    withFolder(async (folder) => {
      for (let seed = SEED; seed < SEED + 2; seed++) {
        await compareDamage(await randomVolume(seed), folder, seed);
      }
    }));

  it('of a volume of the kernel: one verdict', () =>
    withFolder(async (folder) => {
      const { image } = await makeVolume(
        tiny(),
        (workload) => {
          workload.random(0, 500).flush().zeros(100, 20).discard(300, 40);
          for (let i = 0; i < 140; i++) workload.write(1000 + i, shrinksTo(200 + 7 * i));
          workload.flush().random(3000, 80).random(3010, 20).flush();
        },
        { end: 'stop', table: 'compression on', logicalBlocks: TINY.logicalBlocks },
      );
      for (let seed = SEED; seed < SEED + 2; seed++) {
        await compareDamage(new Image(image.bytes), folder, seed);
      }
    }));
});
