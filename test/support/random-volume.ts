/**
 * Tiny volumes after a random life, closed or crashed: plain and compressed blocks, duplicates, zeros,
 * discards, overwrites; a few slabs, mappings far apart.
 */
import { BLOCK_SIZE } from '../../src/base/constants.ts';
import { openVolumeOn } from '../../src/volume/open.ts';
import { formatStorage } from '../../src/volume/format.ts';
import type { MemoryStorage } from '../../src/storage/memory-storage.ts';
import { FaultyDisk } from '../sim/disk.ts';
import { Random } from '../sim/random.ts';
import { Image, ImageStorage } from './image.ts';
import { joined, noise, QUIET, squashy, tinyStorage } from './volumes.ts';

const LOGICAL_BLOCKS = 200_000;

export async function randomVolume(seed: number): Promise<Image> {
  const random = new Random(seed);
  const slabs = random.between(1, 3);
  const slabBlocks = 1024;
  const storage = new ImageStorage(Buffer.alloc((62 + slabs * slabBlocks + 64 + 64) * BLOCK_SIZE));
  await formatStorage(storage, {
    noIndex: true,
    logicalSize: LOGICAL_BLOCKS * BLOCK_SIZE,
    slabSize: slabBlocks * BLOCK_SIZE,
    slabJournalBlocks: 16,
    recoveryJournalBlocks: 64,
  });
  for (let lives = random.between(1, 2); lives > 0; lives--) {
    const volume = await openVolumeOn(storage, QUIET);
    const room = slabs * 300;
    for (let written = 0; written < room;) {
      const count = random.between(1, 24);
      const near = random.below(3000);
      const lbn = random.chance(0.93) ? near : random.below(LOGICAL_BLOCKS - 100);
      const offset = lbn * BLOCK_SIZE;
      if (random.chance(0.1)) await volume.discard(offset, count * BLOCK_SIZE);
      else if (random.chance(0.1)) await volume.writeZeroes(offset, count * BLOCK_SIZE);
      else await volume.write(offset, blocksOf(random, count));
      written += count;
    }
    await volume.close();
  }
  return new Image(storage.bytes);
}

function blocksOf(random: Random, count: number): Uint8Array {
  const kind = random.below(3);
  const from = random.below(300);
  return joined(
    ...Array.from({ length: count }, (_, i) => {
      if (kind === 0) return noise(from + i);
      return kind === 1 ? squashy(from + i, random.between(20, 1500)) : noise(random.below(8));
    }),
  );
}

/**
 * A volume that lost power amid writes, some of them flushed; `lives`: how often it was open before,
 * and closed in good order.
 */
export async function crashedVolume(seed: number, lives = 0): Promise<MemoryStorage> {
  const random = new Random(seed);
  const { below } = await tinyStorage({ logicalSize: 60_000 * BLOCK_SIZE });
  const disk = new FaultyDisk(below, { seed });
  for (let life = 0; ; life++) {
    const volume = await openVolumeOn(disk, { ...QUIET, batchBlocks: 64 });
    for (let i = 0; i < 60; i++) {
      const count = random.between(1, 12);
      const lbn = random.chance(0.9) ? random.below(600) : random.below(59_000);
      const make = random.chance(0.5) ? noise : squashy;
      const blocks = Array.from({ length: count }, (_, k) => make(random.below(400) + k));
      if (random.chance(0.15)) await volume.discard(lbn * BLOCK_SIZE, count * BLOCK_SIZE);
      else await volume.write(lbn * BLOCK_SIZE, joined(...blocks));
      if (random.chance(0.2)) await volume.flush();
    }
    if (life === lives) return disk.crash(seed);
    await volume.close();
  }
}
