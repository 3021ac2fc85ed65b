/**
 * uvdo killed before each of a checkpoint's writes to the slab summary: the hints, ahead of the
 * reference blocks; the entries, behind them. The kernel recovers, and even the hints, which its scrub
 * leaves alone where it finds no count to change, are right afterwards.
 * docs/COMMIT.md, rule 7.
 */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openFileStorage } from '../../src/storage/file-storage.ts';
import type { Extent, Storage } from '../../src/storage/storage.ts';
import { openVolumeOn } from '../../src/volume/open.ts';
import { noise, random } from '../support/volumes.ts';
import { available, copySparse, runInKernel, skipReason, vdoaudit, withFolder } from './harness.ts';
import { TINY_TABLE, tiny } from './kernel-volume.ts';

const { skip, note } = skipReason(available().uml, available().tools);
const BLOCK = 4096;
const SUMMARY_BLOCKS = 64;

/** Calls `before` before each write to the slab summary. */
function watched(below: Storage, before: () => Promise<void>): Storage {
  const summary = below.size - SUMMARY_BLOCKS * BLOCK;
  return {
    size: below.size,
    readOnly: below.readOnly,
    read: (extents) => below.read(extents),
    write: async (extents: readonly Extent[]) => {
      if (extents.some(({ offset }) => offset >= summary)) await before();
      await below.write(extents);
    },
    flush: () => below.flush(),
    close: () => below.close(),
  };
}

describe.skipIf(skip)(`uvdo killed between the writes of a checkpoint${note}`, () => {
  it('leaves what the kernel recovers, hints included', async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume.vdo');
      tiny({ slabs: 6, logicalBlocks: 8192 }).save(path);
      const killed: string[] = [];
      const storage = watched(await openFileStorage(path), async () => {
        const copy = join(folder, `killed-${killed.length}.vdo`);
        await copySparse(path, copy);
        killed.push(copy);
      });
      const volume = await openVolumeOn(storage, {
        index: 'memory',
        workers: 0,
        commitIntervalMs: 0,
        batchBlocks: 64,
      });
      const next = random(7);
      for (let step = 0; step < 4000; step++) {
        const lbn = Math.floor(next() * 2000);
        if (next() < 0.3) await volume.discard(lbn * BLOCK, 40 * BLOCK);
        else await volume.write(lbn * BLOCK, noise(step, (1 + Math.floor(next() * 12)) * BLOCK));
        if (next() < 0.2) await volume.flush();
      }
      await volume.close();
      expect(killed.length).toBeGreaterThan(5);
      for (const copy of killed.slice(0, 24)) {
        const { status, stdout, stderr } = await runInKernel({
          engine: 'uml',
          disks: [copy],
          share: folder,
          env: TINY_TABLE,
          script: `set -e
vdo_start \${DISKS[0]} v
vdo_wait_recovery v
vdo_stop v`,
        });
        expect(status, stdout + stderr).toBe(0);
        const { clean, output } = await vdoaudit(copy);
        expect(clean, `${copy}: ${output}`).toBe(true);
      }
    });
  });
});
