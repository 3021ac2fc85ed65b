/**
 * Indexes of volumes that were converted for LVM: a super block of version 7, whose parts lie elsewhere than their
 * numbers say, and one chapter out of the order. No tool of Debian converts volumes, so the empty index is made as
 * the conversion leaves it; the kernel believes it, goes on with it, and we with what it wrote. docs/TESTING.md, "Interop".
 */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { encodeGeometryBlock } from '../../src/format/geometry-block.ts';
import { findChapters } from '../../src/index/uds/chapter-scan.ts';
import { indexGeometry } from '../../src/index/uds/index-geometry.ts';
import { IndexSaves } from '../../src/index/uds/index-saves.ts';
import { openFileStorage } from '../../src/storage/file-storage.ts';
import { readLabels } from '../../src/volume/labels.ts';
import { writeConvertedIndex } from '../support/converted-index.ts';
import { available, copySparse, inKernel, skipReason, withFolder } from './harness.ts';
import { thinChapters, withIndex } from './index-image.ts';
import { formatVolume, kernelWrites, uniqueFile, uvdoWrites } from './index-writes.ts';
import { built } from './uvdo.ts';

const GiB = 2 ** 30;
const CHAPTER = 65536;
/** 0.25 GB with a chapter fewer: that chapter's blocks are the room that the conversion gains. */
const REDUCED = -1280;
const OFFSETS = { volumeOffset: 560, startOffset: 512 };

const { skip, note } = skipReason(available().uml, available().tools, built());

/** A volume whose index was converted: chapter `virtual` lies in slot `physical`. */
async function convertedVolume(path: string, virtual: number, physical: number): Promise<void> {
  await formatVolume(path);
  // The first start of a new volume makes a new index: leave that behind.
  await uvdoWrites(path, []);
  const storage = await openFileStorage(path, {});
  const { geometry, superBlock } = await readLabels(storage);
  const start = 1 + OFFSETS.volumeOffset - OFFSETS.startOffset;
  const moved = { ...geometry, indexMemory: REDUCED, indexStart: start };
  await storage.write([{ offset: 0, bytes: encodeGeometryBlock(moved) }]);
  await writeConvertedIndex({
    storage,
    geometry: indexGeometry(REDUCED, false),
    start,
    nonce: superBlock.nonce,
    remapping: { virtual, physical },
    ...OFFSETS,
  });
  await storage.close();
}

describe.skipIf(skip)(`the index of a converted volume${note}`, () => {
  it('is taken over from the kernel and handed back', async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume');
      const [first, second] = [CHAPTER + 500, 2 * CHAPTER];
      uniqueFile(join(folder, 'theirs'), first, 51);
      uniqueFile(join(folder, 'ours'), second, 52);
      await convertedVolume(path, 0, 1);
      expect(await kernelWrites(path, folder, [['theirs', 0]])).toMatchObject({ entries: first });
      const theirs = await uvdoWrites(path, [
        [join(folder, 'theirs'), GiB],
        [join(folder, 'ours'), 2 * GiB],
      ]);
      const entries = first + second;
      const all = { entries, valid: first, stored: second, warning: null };
      expect(theirs).toMatchObject(all);
      const save = await withIndex(path, async (region) => new IndexSaves(region).find());
      // Chapter 0 in slot 1, 1 in slot 0, 2 and 3 in theirs; 4 is open.
      expect(save).toMatchObject({ newest: 4, oldest: 0 });
      expect(
        await kernelWrites(path, folder, [
          ['ours', 4 * GiB],
          ['theirs', 6 * GiB],
        ]),
      ).toMatchObject({ valid: entries, stored: 0 });
    });
  });

  // Oldest and newest chapter that were written, of those that a conversion left 100 in slot 7.
  it.each([
    [100, 107],
    [100, 300],
    [101, 300],
    [100, 1122],
    [100, 1123],
    [100, 1129],
    [100, 1130],
    [100, 1500],
  ])('chapters %i … %i, without a save, are the same to both', async (first, last) => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume');
      await convertedVolume(path, 100, 7);
      const range = await withIndex(path, async (region) => {
        await thinChapters(region, first, last + 1);
        return findChapters(region);
      });
      const copy = join(folder, 'copy');
      await copySparse(path, copy);
      const out = await inKernel({
        engine: 'uml',
        disks: [copy],
        script: `vdo_start \${DISKS[0]} v
for i in $(seq 300); do dmesg | grep -q 'Replaying volume' && break; sleep 0.1; done
dmesg | sed -n 's/.*Replaying volume from chapter \\([0-9]*\\) through chapter \\([0-9]*\\)/replays \\1 \\2/p'
echo CRASH-NOW; sleep 5`,
        crash: true,
      });
      const [, oldest, newest] = /replays (\d+) (\d+)/.exec(out) ?? [];
      expect({ oldest: Number(oldest), newest: Number(newest) }).toEqual(range);
    });
  });
});
