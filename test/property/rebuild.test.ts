/**
 * A rebuild of volumes with every kind of damage: afterwards both auditors find everything in order, what
 * was mapped and not told as removed is mapped as before, and nothing but metadata was written. Of
 * volumes that crashed, it finds in the journal what a recovery finds. Killed anywhere, it is repeated
 * and comes to the same bytes.
 */
import { describe, expect, it } from 'vitest';
import { auditVolume } from '../../src/inspect/audit.ts';
import type { Removal } from '../../src/repair/rebuild-map.ts';
import { MemoryStorage } from '../../src/storage/memory-storage.ts';
import type { Extent } from '../../src/storage/storage.ts';
import { rebuildVolumeOn } from '../../src/volume/rebuild-volume.ts';
import { auditNow } from '../model/audit.ts';
import { slabOf, STATE } from '../model/layout.ts';
import { recoverNow } from '../model/recover.ts';
import { FaultyDisk, PowerLoss } from '../sim/disk.ts';
import { Random } from '../sim/random.ts';
import { eachSeed } from '../sim/seeds.ts';
import { DAMAGE } from '../support/damage.ts';
import { Image, imageOf, ImageStorage } from '../support/image.ts';
import { crashedVolume, randomVolume } from '../support/random-volume.ts';

const FILE = 'test/property/rebuild.test.ts';
const BLOCK = 4096;
const SEEDS = Number(process.env['UVDO_REBUILD_SEEDS'] ?? 2);

/** Notes where anything is written. */
class Watched extends ImageStorage {
  readonly written = new Set<number>();

  override async write(extents: readonly Extent[]): Promise<void> {
    for (const { offset, bytes } of extents) {
      for (let at = 0; at < bytes.length; at += BLOCK) this.written.add((offset + at) / BLOCK);
    }
    await super.write(extents);
  }
}

/** Both auditors agree that a rebuilt volume is in order; blocks that were overwritten stay so. */
async function expectSound(storage: ImageStorage): Promise<void> {
  const { errors, state } = await auditVolume(storage);
  expect(state).toBe('clean');
  expect(errors.filter(({ kind }) => kind !== 'compressed-block')).toEqual([]);
  const model = auditNow(storage, { expandFragments: false });
  const isContent = (error: string): boolean => /compressed block|compressed and plain/.test(error);
  expect(model.errors.filter((error) => !isContent(error))).toEqual([]);
}

describe('a rebuild', () => {
  it('leaves every damaged volume in order, and tells what it removed', async () => {
    await eachSeed(FILE, SEEDS, async (seed) => {
      const sound = await randomVolume(seed);
      const before = sound.mappings();
      const image = sound.clone();
      for (const [index, [name, damage]] of Object.entries(DAMAGE).entries()) {
        sound.bytes.copy(image.bytes);
        if (!damage.forge(image, new Random(seed * 100 + index))) continue;
        const damaged = Buffer.from(image.bytes);
        const storage = new Watched(image.bytes);
        const removals: Removal[] = [];
        const report = await rebuildVolumeOn(storage, {
          force: true,
          onRemoval: (removal) => removals.push(removal),
        });
        await expectSound(storage);
        const after = new Image(image.bytes).mappings();
        expect(report).toMatchObject({ removed: removals.length, logicalBlocksUsed: after.size });
        // Forged mappings aside, only what was under a page that is gone may be lost.
        const changed = [...before].filter(([lbn, mapping]) => after.get(lbn) !== mapping);
        const hitsPage = /page|leaf/.test(name);
        expect(changed.length, name).toBeLessThanOrEqual(hitsPage ? before.size : 1);
        expectOnlyMetadataWritten(sound, storage, damaged, name);
      }
    });
  });

  it('finds in the journal of a crashed volume what a recovery finds', async () => {
    await eachSeed(FILE, 3 * SEEDS, async (seed) => {
      const survivor = await crashedVolume(seed, seed % 2);
      const recovered = survivor.clone();
      expect(recoverNow(recovered)).toMatchObject({ outcome: 'recovered' });
      const image = imageOf(survivor);
      image.changeSuperBlock({ state: STATE.READ_ONLY });
      const { removed } = await rebuildVolumeOn(new ImageStorage(image.bytes));
      expect(removed).toBe(0);
      await expectSound(new ImageStorage(image.bytes));
      const rebuilt = new Image(image.bytes);
      const reference = imageOf(recovered);
      expect(rebuilt.mappings()).toEqual(reference.mappings());
      const { layout } = rebuilt;
      expect(layout.logicalBlocksUsed).toBe(reference.layout.logicalBlocksUsed);
      expect(layout.completeRecoveries).toBe(reference.layout.completeRecoveries);
      expect(layout.journalStart).toBe(reference.layout.journalStart);
    });
  });

  it('killed anywhere, and repeated, comes to the same bytes', async () => {
    await eachSeed(FILE, SEEDS, async (seed) => {
      const image = imageOf(await crashedVolume(seed));
      image.changeSuperBlock({ state: STATE.READ_ONLY });
      const random = new Random(seed);
      for (let i = 0; i < 3; i++) {
        Object.values(DAMAGE)[random.below(20)]!.forge(new Image(image.bytes), random);
      }
      const start = new MemoryStorage(image.bytes.length);
      start.writeSync([{ offset: 0, bytes: image.bytes }]);
      const whole = start.clone();
      await rebuildVolumeOn(whole);
      const expected = imageOf(whole).bytes;
      let kills = 0;
      for (let stopAfter = 1; ; stopAfter++) {
        const disk = new FaultyDisk(start, { seed: seed + stopAfter, stopAfter });
        try {
          await rebuildVolumeOn(disk);
          break;
        } catch (error) {
          if (!(error instanceof PowerLoss)) throw error;
        }
        kills++;
        const survivor = disk.crash(seed * 1000 + stopAfter);
        const { state } = imageOf(survivor).layout;
        if (state !== STATE.CLEAN) await rebuildVolumeOn(survivor);
        const same = imageOf(survivor).bytes.equals(expected);
        expect(same, `killed at operation ${stopAfter}`).toBe(true);
      }
      expect(kills).toBeGreaterThan(8);
    });
  });
});

/** Blocks that hold a client's data are as they were. */
function expectOnlyMetadataWritten(
  sound: Image,
  storage: Watched,
  damaged: Buffer,
  name: string,
): void {
  const pages = new Set(sound.pages().map(({ pbn }) => pbn));
  for (const block of storage.written) {
    const isData = slabOf(sound.layout, block) !== undefined && !pages.has(block);
    if (!isData) continue;
    const at = block * BLOCK;
    const now = storage.bytes.subarray(at, at + BLOCK);
    expect(now.equals(damaged.subarray(at, at + BLOCK)), `${name}: block ${block}`).toBe(true);
  }
}
