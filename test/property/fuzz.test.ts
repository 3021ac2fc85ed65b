/**
 * Volumes with mutated metadata, driven in every way: audit, dump, read, open, write, close, rebuild.
 * Nothing but a result or a `VdoError` may come of it, in bounded time and memory, and nothing is written
 * to a volume that is not opened. `UVDO_FUZZ_SEEDS` sets how many, `SEED` repeats one.
 */
import { expect, it } from 'vitest';
import { BLOCK_SIZE } from '../../src/base/constants.ts';
import { formatStorage } from '../../src/volume/format.ts';
import { openVolumeOn } from '../../src/volume/open.ts';
import { MemoryStorage } from '../../src/storage/memory-storage.ts';
import { FaultyDisk } from '../sim/disk.ts';
import { Random } from '../sim/random.ts';
import { eachSeed } from '../sim/seeds.ts';
import { drive, mutate, Watchdog, type Tally } from '../support/fuzz.ts';
import { imageOf, type Image } from '../support/image.ts';
import { joined, noise, QUIET, squashy } from '../support/volumes.ts';

const FILE = 'test/property/fuzz.test.ts';
const SEEDS = Number(process.env['UVDO_FUZZ_SEEDS'] ?? 100);
const HANG_SECONDS = 60;
/** Seeds that share a volume to be mutated. */
const PER_VOLUME = 10;

/** A small volume after a random life, closed or crashed. */
async function smallVolume(seed: number): Promise<Image> {
  const random = new Random(seed);
  const slabs = random.between(1, 2);
  const journal = random.pick([16, 64]);
  const pristine = new MemoryStorage((62 + slabs * 256 + journal + 64) * BLOCK_SIZE);
  await formatStorage(pristine, {
    noIndex: true,
    logicalSize: random.pick([900, 3000, 2 ** 20]) * BLOCK_SIZE,
    slabSize: 256 * BLOCK_SIZE,
    slabJournalBlocks: random.pick([8, 16]),
    recoveryJournalBlocks: journal,
  });
  const disk = new FaultyDisk(pristine, { seed });
  const volume = await openVolumeOn(disk, { ...QUIET, batchBlocks: 32 });
  for (let i = 0; i < 30; i++) {
    const count = random.between(1, 10);
    const make = random.chance(0.5) ? noise : squashy;
    const blocks = Array.from({ length: count }, (_, k) => make(random.below(60) + k));
    await volume.write(random.below(800) * BLOCK_SIZE, joined(...blocks)).catch(() => undefined);
    if (random.chance(0.2)) await volume.flush();
  }
  if (random.chance(0.5)) return imageOf(disk.crash(seed));
  await volume.close();
  return imageOf(disk.snapshot());
}

it(
  'whatever a volume holds, every way into it ends with a result or an error',
  async () => {
    const tally: Tally = new Map();
    const watchdog = new Watchdog(FILE, HANG_SECONDS);
    const volumes = new Map<number, Image>();
    const before = process.memoryUsage().rss;
    await eachSeed(FILE, SEEDS, async (seed) => {
      watchdog.begin(seed);
      const group = Math.floor(seed / PER_VOLUME);
      if (!volumes.has(group)) {
        volumes.clear();
        volumes.set(group, await smallVolume(group + 1));
      }
      const image = volumes.get(group)!.clone();
      const random = new Random(seed);
      const mutations = mutate(image, random);
      try {
        await drive(image, random, tally);
      } catch (error) {
        throw new Error(`${mutations.join(', ')}: ${String(error)}`, { cause: error });
      }
    });
    await watchdog.end();
    if (process.env['UVDO_FUZZ_VERBOSE'] !== undefined) {
      console.log([...tally].sort().map(([key, count]) => `${key}: ${count}`));
    }
    expect((process.memoryUsage().rss - before) / 2 ** 20).toBeLessThan(600);
    if (process.env['SEED'] !== undefined) return;
    for (const key of ['audit done', 'open done', 'open Corrupt', 'rebuild done', 'close done']) {
      expect(tally.get(key), key).toBeGreaterThan(0);
    }
  },
  120_000 + 2000 * SEEDS,
);
