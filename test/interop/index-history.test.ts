/**
 * The deduplication index in states that take long to reach: after its ring has wrapped, sparse, with names
 * that look the same to it. The history is made up, the data are real; the kernel goes on with it, and
 * we with what the kernel left. docs/TESTING.md, "Interop".
 */
import { createCipheriv } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { RECORD_NAME_SEED } from '../../src/base/constants.ts';
import { Arena } from '../../src/kernels/arena.ts';
import { createKernels } from '../../src/kernels/kernels.ts';
import { murmur3 } from '../../src/kernels/murmur3.ts';
import { volumeAddress, volumeList, isHook } from '../../src/index/uds/record-name.ts';
import type { HashIndex } from '../../src/index/hash-index.ts';
import { IndexSaves } from '../../src/index/uds/index-saves.ts';
import { available, copySparse, skipReason, withFolder } from './harness.ts';
import {
  indexImage,
  madeUpHistory,
  openIndex,
  saveHistory,
  savedVolumeIndexOf,
  thinChapters,
  withIndex,
} from './index-image.ts';
import { formatVolume, kernelWrites, uniqueFile, uvdoWrites } from './index-writes.ts';
import { built } from './uvdo.ts';

const BLOCK = 4096;
const GiB = 2 ** 30;
const ELSEWHERE = 4 * GiB;
const CHAPTER = 65536;

const { skip, note } = skipReason(available().uml, available().tools, built());

/** The index without its close: what is saved is decided by the test. */
function unclosed(index: HashIndex): HashIndex {
  return {
    kind: 'uds',
    lookup: (names, count, advice) => index.lookup(names, count, advice),
    update: (names, count, locations) => index.update(names, count, locations),
    statistics: () => index.statistics(),
    close: () => Promise.resolve(),
  };
}

describe.skipIf(skip)(`the ring has wrapped${note}`, () => {
  it('the kernel finds what lies across the seam', async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume');
      const blocks = 3 * CHAPTER + 1000;
      uniqueFile(join(folder, 'ours'), blocks, 11);
      await formatVolume(path);
      const image = await indexImage(path);
      const { index } = await madeUpHistory(image, 0, 1022);
      const first = await uvdoWrites(path, [[join(folder, 'ours'), 0]], { index });
      expect(first).toMatchObject({ entries: blocks, stored: blocks });
      // 1022 and 1023 at the end, 1024 in slot 0, 1025 open.
      expect(index.chapters).toEqual({ newest: 1025, oldest: 2 });
      await image.storage.close();
      const kernel = await kernelWrites(path, folder, [['ours', ELSEWHERE]]);
      expect(kernel).toMatchObject({ entries: blocks, valid: blocks, stored: 0 });
      const ours = await uvdoWrites(path, [[join(folder, 'ours'), 6 * GiB]]);
      expect(ours).toMatchObject({ entries: blocks, valid: blocks, stored: 0, warning: null });
    });
  });
});

describe.skipIf(skip)(`the window moves on${note}`, () => {
  it('past a chapter: what was written again is still known, the rest is new, here and there', async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume');
      const kept = 10_000;
      uniqueFile(join(folder, 'old'), CHAPTER, 31);
      uniqueFile(join(folder, 'new'), CHAPTER - kept, 32);
      writeFileSync(
        join(folder, 'kept'),
        readFileSync(join(folder, 'old')).subarray(0, kept * BLOCK),
      );
      await formatVolume(path);
      const image = await indexImage(path);
      const history = await madeUpHistory(image, 3, 3);
      const { index } = history;
      await uvdoWrites(path, [[join(folder, 'old'), 0]], { index: unclosed(index) });
      await index.settled();
      expect(index.chapters).toEqual({ newest: 4, oldest: 3 });
      // As if 1022 more chapters had been written: the next one that is closed is the first beyond the window.
      history.volumeIndex.openChapter(1026);
      await saveHistory(image, history, { oldest: 3, newest: 1026 });
      const copy = join(folder, 'copy');
      await copySparse(path, copy);
      const writes = (name: string, at: number): [string, number][] => [[join(folder, name), at]];
      const steps: [string, number, { valid: number; stored: number }][] = [
        ['kept', GiB, { valid: kept, stored: 0 }],
        // Fills the open chapter: that is closed, and the oldest one forgotten.
        ['new', 2 * GiB, { valid: 0, stored: CHAPTER - kept }],
        ['old', 3 * GiB, { valid: kept, stored: CHAPTER - kept }],
        ['new', ELSEWHERE, { valid: CHAPTER - kept, stored: 0 }],
      ];
      for (const [name, at, expected] of steps) {
        const theirs = await kernelWrites(copy, folder, [[name, at]]);
        expect(theirs, `the kernel, ${name}`).toMatchObject(expected);
        expect(await uvdoWrites(path, writes(name, at)), `uvdo, ${name}`).toMatchObject({
          ...expected,
          warning: null,
        });
      }
      const chapters = (file: string): Promise<unknown> =>
        withIndex(file, async (found) => new IndexSaves(found).find());
      expect(await chapters(path)).toMatchObject({ newest: 1028, oldest: 5 });
      expect(await chapters(copy)).toMatchObject({ newest: 1028, oldest: 5 });
    });
  });
});

describe.skipIf(skip)(`the ring has wrapped when the kernel crashes${note}`, () => {
  it('both rebuild the same lists, bit for bit, and find the same', async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume');
      const blocks = 3 * CHAPTER + 1000;
      const more = CHAPTER + 3000;
      uniqueFile(join(folder, 'ours'), blocks, 21);
      uniqueFile(join(folder, 'theirs'), more, 22);
      const again = 20_000;
      writeFileSync(
        join(folder, 'again'),
        readFileSync(join(folder, 'ours')).subarray(0, again * BLOCK),
      );
      await formatVolume(path);
      const image = await indexImage(path);
      const { index, region } = await madeUpHistory(image, 0, 1022);
      await uvdoWrites(path, [[join(folder, 'ours'), 0]], { index });
      expect(index.chapters).toEqual({ newest: 1025, oldest: 2 });
      // The ring is full: 1 to 1021 before, then 1022, 1023 at its end, 1024 in slot 0.
      await thinChapters(region, 1, 1022);
      await image.storage.close();
      // The kernel closes 1025 in slot 1, with names that it found in 1022 among the others.
      await kernelWrites(
        path,
        folder,
        [
          ['again', ELSEWHERE],
          ['theirs', 2 * GiB],
        ],
        { crash: true },
      );
      const copy = join(folder, 'copy');
      await copySparse(path, copy);
      const kernel = await kernelWrites(copy, folder, []);
      const rebuilt = await savedVolumeIndexOf(copy);
      const opened = await indexImage(path);
      const ours = await openIndex(opened);
      await ours.settled();
      expect(ours.warning).toBeNull();
      expect(ours.chapters).toEqual({ newest: 1026, oldest: 3 });
      expect(ours.statistics().entriesIndexed).toBe(kernel.entries);
      await ours.close();
      await opened.storage.close();
      const saved = await savedVolumeIndexOf(path);
      expect(saved.equals(rebuilt)).toBe(true);
      const theirs = await kernelWrites(copy, folder, [['ours', 6 * GiB]]);
      const found = await uvdoWrites(path, [[join(folder, 'ours'), 6 * GiB]]);
      expect(theirs).toMatchObject({ valid: blocks, stored: 0 });
      expect(found).toMatchObject({ valid: blocks, stored: 0, warning: null });
    });
  });
});

describe.skipIf(skip)(`a sparse index${note}`, () => {
  it('knows a chapter outside the window by its hooks, for the kernel and for us', async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume');
      const all = join(folder, 'all');
      uniqueFile(all, CHAPTER, 12);
      await formatVolume(path, ['--sparse-index', '--index-memory', '0.25'], '26G');
      const image = await indexImage(path);
      const history = await madeUpHistory(image, 0, 0);
      const { index } = history;
      await uvdoWrites(path, [[all, 0]], { index: unclosed(index) });
      await index.settled();
      expect(index.chapters).toEqual({ newest: 1, oldest: 0 });
      // Chapter 0 leaves the dense window of 512: of it only hooks are known now.
      history.volumeIndex.openChapter(600);
      await saveHistory(image, history, { oldest: 0, newest: 600 });
      const [hooks, others] = split(readFileSync(all));
      const part = (
        name: string,
        from: readonly Buffer[],
        first: number,
        count: number,
      ): string => {
        writeFileSync(join(folder, name), Buffer.concat(from.slice(first, first + count)));
        return name;
      };
      const cold = part('cold', others, 0, 500);
      const kernel = await kernelWrites(path, folder, [[cold, ELSEWHERE]]);
      expect(kernel).toMatchObject({ valid: 0, stored: 500 });
      const met = part('met', hooks, 0, 10);
      const warm = part('warm', others, 500, 1000);
      const warmed = await kernelWrites(path, folder, [
        [met, 5 * GiB],
        [warm, 6 * GiB],
      ]);
      expect(warmed).toMatchObject({ valid: 1010, stored: 0 });
      // The same by us, with names that are still in chapter 0 alone.
      const ourCold = join(folder, part('our-cold', others, 1500, 500));
      expect(await uvdoWrites(path, [[ourCold, 0]])).toMatchObject({ valid: 0, stored: 500 });
      const ourHooks = join(folder, part('our-hooks', hooks, 10, 10));
      const ourWarm = join(folder, part('our-warm', others, 2000, 1000));
      const ours = await uvdoWrites(path, [
        [ourHooks, GiB],
        [ourWarm, 2 * GiB],
      ]);
      expect(ours).toMatchObject({ valid: 1010, stored: 0, warning: null });
    });
  });
});

/** Blocks whose names are hooks, and the others. */
function split(bytes: Buffer): [Buffer[], Buffer[]] {
  const hooks: Buffer[] = [];
  const others: Buffer[] = [];
  const name = new Uint8Array(16);
  for (let at = 0; at < 8192 * BLOCK; at += BLOCK) {
    const block = bytes.subarray(at, at + BLOCK);
    murmur3(block, RECORD_NAME_SEED, name, 0);
    (isHook(name, 0) ? hooks : others).push(block);
  }
  return [hooks, others];
}

/** Pairs of blocks whose names have the same list and address in a volume index of 0.25 GB. */
function lookalikes(pairs: number): Buffer {
  const rows = 4096;
  const arena = new Arena(rows);
  const kernels = createKernels(arena);
  const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16, 13), Buffer.alloc(16));
  const base = cipher.update(Buffer.alloc(BLOCK));
  const blockOf = (number: number): Buffer => {
    const block = Buffer.from(base);
    block.writeUInt32LE(number, 0);
    return block;
  };
  for (let row = 0; row < rows; row++) arena.blocks.set(base, row * BLOCK);
  const seen = new Map<number, number>();
  const found: Buffer[] = [];
  for (let first = 0; found.length < 2 * pairs; first += rows) {
    for (let row = 0; row < rows; row++) {
      Buffer.from(arena.blocks.buffer).writeUInt32LE(
        first + row,
        arena.blocks.byteOffset + row * BLOCK,
      );
    }
    kernels.hash(0, rows);
    for (let row = 0; row < rows; row++) {
      const list = volumeList(arena.names, row * 16, 262144);
      const key = list * 2 ** 20 + volumeAddress(arena.names, row * 16);
      const twin = seen.get(key);
      if (twin === undefined) seen.set(key, first + row);
      else found.push(blockOf(twin), blockOf(first + row));
    }
  }
  return Buffer.concat(found);
}

describe.skipIf(skip)(`names that look the same to the index${note}`, () => {
  it('are told apart by both', async () => {
    await withFolder(async (folder) => {
      const blocks = lookalikes(6);
      const count = blocks.length / BLOCK;
      writeFileSync(join(folder, 'twins'), blocks);
      const ours = join(folder, 'ours');
      await formatVolume(ours);
      const first = await uvdoWrites(ours, [[join(folder, 'twins'), 0]]);
      expect(first).toMatchObject({ entries: count, collisions: count / 2, stored: count });
      const kernel = await kernelWrites(ours, folder, [['twins', ELSEWHERE]]);
      expect(kernel).toMatchObject({ entries: count, valid: count, stored: 0 });
      const theirs = join(folder, 'theirs');
      await formatVolume(theirs);
      expect(await kernelWrites(theirs, folder, [['twins', 0]])).toMatchObject({ entries: count });
      const second = await uvdoWrites(theirs, [[join(folder, 'twins'), ELSEWHERE]]);
      expect(second).toMatchObject({ collisions: count / 2, valid: count, stored: 0 });
    });
  });
});
