/**
 * The audit against an auditor that was written independently (test/model): random volumes, sound and
 * with damage forged in random places, get the same verdict from both, block by block; and each kind
 * of damage is called by its name.
 */
import { describe, expect, it } from 'vitest';
import { auditVolume, type AuditReport } from '../../src/inspect/audit.ts';
import { auditNow } from '../model/audit.ts';
import { recoverNow } from '../model/recover.ts';
import { Random } from '../sim/random.ts';
import { eachSeed } from '../sim/seeds.ts';
import { DAMAGE } from '../support/damage.ts';
import { Image, imageOf, ImageStorage } from '../support/image.ts';
import { crashedVolume, randomVolume } from '../support/random-volume.ts';

const FILE = 'test/property/audit.test.ts';
const SEEDS = Number(process.env['UVDO_AUDIT_SEEDS'] ?? 2);
/** Kinds that the independent auditor does not look for. */
const OURS_ALONE = new Set(['reference-block', 'recovery-journal', 'slab-journal']);

/** What the other auditor alone complains of. */
const TOLERATED = /count 1, 254 references$|tail block \d+ at offset/;

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
  const told = model.errors.filter((error) => !TOLERATED.test(error));
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

  it('sees a volume that crashed as its recovery leaves it, and writes nothing', async () => {
    let damaged = 0;
    await eachSeed(FILE, Math.ceil(SEEDS / 3), async (seed) => {
      const random = new Random(seed);
      const crashed = imageOf(await crashedVolume(seed, 1));
      const image = crashed.clone();
      for (const name of ['', ...Object.keys(DAMAGE)]) {
        crashed.bytes.copy(image.bytes);
        if (name !== '' && !DAMAGE[name]!.forge(image, random)) continue;
        const storage = new ImageStorage(image.bytes, true);
        const report = await auditVolume(storage);
        expect(storage.writes).toBe(0);
        expect(report).toMatchObject({ clean: false, state: 'dirty', needs: 'recovery' });
        const model = recovered(image);
        if (name === '') expect(report.errors).toEqual([]);
        const seen = report.errors.filter(({ kind }) => !OURS_ALONE.has(kind) || model === null);
        expect(seen.length > 0, `${name}: ${JSON.stringify({ seen, model })}`).toBe(
          model === null || model.errors.length > 0,
        );
        if (seen.length > 0) damaged++;
        else expect(report).toMatchObject(model!.counted);
      }
    });
    expect(damaged).toBeGreaterThan(10);
  });
});

/** What the model's recovery makes of an image, as the model's auditor sees it; null: it gives up. */
function recovered(image: Image) {
  const storage = new ImageStorage(Buffer.from(image.bytes));
  if (recoverNow(storage).outcome !== 'recovered') return null;
  const audit = auditNow(storage, { maxErrors: Infinity });
  const { logicalBlocksUsed, treePages: blockMapDataBlocks, dataBlocksUsed } = audit;
  // Hints are renewed by the next write to a slab; a crash may leave old ones.
  const errors = audit.errors.filter((error) => !TOLERATED.test(error) && !/: hint/.test(error));
  return { errors, counted: { logicalBlocksUsed, blockMapDataBlocks, dataBlocksUsed } };
}
