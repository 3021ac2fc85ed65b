/**
 * The audit against an auditor that was written independently (test/model): random volumes, sound and
 * with damage forged in random places, get the same verdict from both, block by block; and each kind
 * of damage is called by its name.
 */
import { describe, expect, it } from 'vitest';
import { auditVolume, type AuditReport } from '../../src/inspect/audit.ts';
import { auditNow } from '../model/audit.ts';
import { Random } from '../sim/random.ts';
import { eachSeed } from '../sim/seeds.ts';
import { DAMAGE } from '../support/damage.ts';
import { Image, ImageStorage } from '../support/image.ts';
import { randomVolume } from '../support/random-volume.ts';

const FILE = 'test/property/audit.test.ts';
const SEEDS = Number(process.env['UVDO_AUDIT_SEEDS'] ?? 3);
/** Kinds that the independent auditor does not look for. */
const OURS_ALONE = new Set(['reference-block', 'recovery-journal', 'slab-journal']);

/** Blocks whose counts differ from what mappings say, as each of the two sees it. */
function ours(report: AuditReport): Map<number, string> {
  return new Map(
    report.errors
      .filter(({ kind }) => kind === 'reference-count')
      .map(({ where, expected, found }) => [Number(where['pbn']), `${found}, ${expected}`]),
  );
}

function theirs(errors: readonly string[]): Map<number, string> {
  const counts = new Map<number, string>();
  for (const error of errors) {
    const match = /^block (\d+) \(slab \d+\): count (\d+), (\d+) references$/.exec(error);
    if (match === null) continue;
    const [, pbn, found, wanted] = match;
    // A tree page with count 1 is legal to dm-vdo and to us.
    if (found === '1' && wanted === '254') continue;
    counts.set(Number(pbn), `${found}, ${wanted === '254' ? '254 (a tree page)' : wanted}`);
  }
  return counts;
}

async function compare(image: Image): Promise<AuditReport> {
  const storage = new ImageStorage(image.bytes, true);
  const report = await auditVolume(storage);
  const model = auditNow(storage, { maxErrors: Infinity });
  expect(storage.writes).toBe(0);
  expect(ours(report)).toEqual(theirs(model.errors));
  const seen = report.errors.filter(({ kind }) => !OURS_ALONE.has(kind));
  const tolerated = (error: string): boolean =>
    /count 1, 254 references$|tail block \d+ at offset/.test(error);
  const told = model.errors.filter((error) => !tolerated(error));
  expect(seen.length > 0, JSON.stringify({ seen, told })).toBe(told.length > 0);
  expect(report.logicalBlocksUsed).toBe(model.logicalBlocksUsed);
  expect(report.blockMapDataBlocks).toBe(model.treePages);
  return report;
}

describe('the audit', () => {
  it('agrees with an independent auditor about sound volumes and damaged ones', async () => {
    const forged = new Set<string>();
    await eachSeed(FILE, SEEDS, async (seed) => {
      const random = new Random(seed);
      const sound = await randomVolume(seed);
      const report = await compare(sound);
      const image = sound.clone();
      expect(report.errors).toEqual([]);
      expect(report.clean).toBe(true);
      for (const [name, damage] of Object.entries(DAMAGE)) {
        sound.bytes.copy(image.bytes);
        if (!damage.forge(image, random)) continue;
        forged.add(name);
        const found = await compare(image);
        const kinds = new Set<string>(found.errors.map(({ kind }) => kind));
        const isNamed = damage.kinds.length === 0 || damage.kinds.some((kind) => kinds.has(kind));
        expect(isNamed, `${name}: ${JSON.stringify(found.errors.slice(0, 5))}`).toBe(true);
        expect(found.clean, name).toBe(damage.kinds.length === 0);
      }
    });
    if (process.env['SEED'] === undefined)
      expect([...forged].sort()).toEqual(Object.keys(DAMAGE).sort());
  });

  it('agrees where several things are wrong at once', async () => {
    await eachSeed(FILE, SEEDS, async (seed) => {
      const random = new Random(seed + 5000);
      const image = await randomVolume(seed);
      for (let i = random.between(2, 5); i > 0; i--) {
        random.pick(Object.values(DAMAGE)).forge(image, random);
      }
      await compare(image);
    });
  });
});
