/** What is durable when, and the end of a volume, with everything still in flight. */
import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { openVolumeOn } from '../../../src/volume/open.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import {
  Gate,
  noise,
  noiseRun,
  QUIET,
  random,
  squashy,
  tinyVolume,
} from '../../support/volumes.ts';
import {
  closeAndAudit,
  expectBlock,
  freeBlocks,
  ScriptedIndex,
  statistic,
  turns,
} from '../data-path/support.ts';

const PLAIN = { compression: false } as const;

/** Writes unique blocks, one leaf at the end of the volume included, until `left` are free. */
async function fillUp(volume: Volume, left: number): Promise<void> {
  await volume.write(3900 * BLOCK_SIZE, noise(1));
  for (let lbn = 0; freeBlocks(volume) > left; lbn += 10) {
    await volume.write(
      lbn * BLOCK_SIZE,
      noiseRun(lbn + 1, Math.min(10, freeBlocks(volume) - left)),
    );
    await volume.flush();
  }
}

describe('the end', () => {
  test('after close everything is refused, a second close is the first', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    const closing = volume.close();
    expect(volume.close()).toBe(closing);
    await closing;
    const closed = { code: 'Closed' };
    await expect(volume.read(0, 1)).rejects.toMatchObject(closed);
    await expect(volume.write(0, noise(1))).rejects.toMatchObject(closed);
    await expect(volume.discard(0, 1)).rejects.toMatchObject(closed);
    await expect(volume.flush()).rejects.toMatchObject(closed);
    await expect(volume.extents(0, 1)).rejects.toMatchObject(closed);
    expect(storage.closes).toBe(1);
  });

  test.for([1, 2, 3])(
    'close with writes in flight keeps what was acknowledged, seed %i',
    async (seed) => {
      const { volume, storage } = await tinyVolume({
        batchBlocks: 4,
        packerBins: 2,
        cachePages: 8,
      });
      const next = random(seed);
      const kept = new Map<number, Uint8Array>();
      const writes: Promise<void>[] = [];
      for (let lbn = 0; lbn < 40; lbn++) {
        const block = next() < 0.5 ? noise(seed * 1000 + lbn) : squashy(seed * 1000 + lbn);
        writes.push(
          volume.write(lbn * 97 * BLOCK_SIZE, block).then(
            () => void kept.set(lbn * 97, block),
            (error: unknown) => expect(error).toMatchObject({ code: 'Closed' }),
          ),
        );
      }
      await turns(seed);
      await volume.close();
      await Promise.all(writes);
      const again = await openVolumeOn(storage, QUIET);
      for (const [lbn, block] of kept) await expectBlock(again, lbn, block);
      await closeAndAudit(again, storage);
    },
  );

  test('close while writers wait at the end of space leaves a clean volume', async () => {
    const { volume, storage } = await tinyVolume({ ...PLAIN, batchBlocks: 8 });
    await volume.write(0, noiseRun(1, 1990)).catch(() => undefined);
    for (let lbn = 2000; ; lbn++) {
      const done = await volume.write(lbn * BLOCK_SIZE, noise(lbn)).then(
        () => true,
        () => false,
      );
      if (!done) break;
    }
    await volume.discard(0, 5 * BLOCK_SIZE);
    await volume.flush();
    const writes = Array.from({ length: 12 }, (_, i) =>
      volume.write((100 + 9 * i) * BLOCK_SIZE, noiseRun(50 + i, 9)).then(
        () => 'done',
        (error: { code: string }) => error.code,
      ),
    );
    await turns(2);
    await closeAndAudit(volume, storage);
    for (const outcome of await Promise.all(writes)) {
      expect(['done', 'NoSpace', 'Closed']).toContain(outcome);
    }
  });

  test('a writer that waits for a batch when the close begins is refused, not done behind it', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await fillUp(volume, 1);
    const used = statistic(volume, 'logicalBlocksUsed');
    const gate = new Gate();
    let held = false;
    storage.before = ({ kind }) => {
      if (kind !== 'write') return undefined;
      held = true;
      return gate.passed;
    };
    // The first takes the last free block and is held up in the middle; the second has no space that is
    // certain, so it wants a batch of its own, and both there are have been taken.
    await volume.write(0, noise(1_000_000));
    await turns(3);
    expect(held).toBe(true);
    const late = volume.write(3999 * BLOCK_SIZE, new Uint8Array(BLOCK_SIZE)).then(
      () => 'done',
      (error: { code: string }) => error.code,
    );
    await turns(1);
    const closing = volume.close();
    gate.open();
    expect(await late).toBe('Closed');
    await closing;
    await closeAndAudit(volume, storage);
    const again = await openVolumeOn(storage, QUIET);
    expect(statistic(again, 'logicalBlocksUsed')).toBe(used);
    await again.close();
  });

  test('close of a read-only volume lets reads end', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, noise(1));
    await volume.close();
    const reader = await openVolumeOn(storage, { ...QUIET, readOnly: true });
    const gate = new Gate();
    storage.before = ({ kind }) => (kind === 'read' ? gate.passed : undefined);
    const reading = reader.read(0, BLOCK_SIZE);
    await turns(2);
    const closing = reader.close();
    await turns(2);
    expect(storage.closes).toBe(1);
    gate.open();
    expect(Buffer.compare(await reading, noise(1))).toBe(0);
    await closing;
    expect(storage.closes).toBe(2);
  });

  test('a close that fails still closes the index', async () => {
    const index = new ScriptedIndex();
    const { volume, storage } = await tinyVolume({ ...PLAIN, index });
    await volume.write(0, noise(1));
    storage.before = ({ kind }) => {
      if (kind === 'flush') throw new Error('the disk is gone');
    };
    await expect(volume.close()).rejects.toMatchObject({ code: 'Io' });
    expect(index.closes).toBe(1);
    expect(storage.closes).toBe(1);
  });

  test('a good close closes the index once', async () => {
    const index = new ScriptedIndex();
    const { volume, storage } = await tinyVolume({ ...PLAIN, index });
    await closeAndAudit(volume, storage);
    expect(index.closes).toBe(1);
  });
});

describe('fua', () => {
  test('is durable when it resolves: a copy of the device then recovers nothing but has it all', async () => {
    const { volume, storage } = await tinyVolume();
    const calls = await storage.during(() => volume.write(0, squashy(1), { fua: true }));
    expect(calls.filter(({ kind }) => kind === 'flush')).toHaveLength(2);
    expect(statistic(volume, 'journal.entries.committed')).toBe(5);
    await closeAndAudit(volume, storage);
  });
});

describe('the timer', () => {
  test('commits what was written, and writes out fragments nobody adds to', async () => {
    const { volume, storage } = await tinyVolume({ commitIntervalMs: 5 });
    await volume.write(0, squashy(1));
    await volume.write(BLOCK_SIZE, noise(2));
    const deadline = Date.now() + 5000;
    while (statistic(volume, 'journal.entries.committed') < 6 && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(statistic(volume, 'journal.entries.committed')).toBe(6);
    expect(statistic(volume, 'packer.compressedFragmentsInPacker')).toBe(0);
    await closeAndAudit(volume, storage);
  });
});
