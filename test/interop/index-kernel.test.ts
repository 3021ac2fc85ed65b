/**
 * One deduplication index, two engines: what uvdo records the kernel finds, what the kernel records uvdo
 * finds, through clean stops, crashes and rebuilds. docs/TESTING.md, "Interop".
 *
 * `UVDO_INDEX_MIB`: how much unique data the kernel is to find (default 547, at most 2048);
 * `UVDO_INDEX_VERBOSE` prints what was counted.
 */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CHAPTER_PAGE_SIZE, encodeRecordPage } from '../../src/format/chapter-page.ts';
import { buildChapterIndex } from '../../src/index/uds/chapter-index.ts';
import { pageOffset } from '../../src/index/uds/chapter-scan.ts';
import { physicalChapter } from '../../src/index/uds/index-geometry.ts';
import { IndexPageMap } from '../../src/index/uds/index-page-map.ts';
import type { IndexRegion } from '../../src/index/uds/index-region.ts';
import { IndexSaves } from '../../src/index/uds/index-saves.ts';
import { OpenChapter } from '../../src/index/uds/open-chapter.ts';
import { loadVolumeIndex, saveVolumeIndex } from '../../src/index/uds/volume-index-save.ts';
import { createVolumeIndex } from '../../src/index/uds/volume-index.ts';
import { available, copySparse, skipReason, withFolder } from './harness.ts';
import { indexImage, openIndex, withIndex } from './index-image.ts';
import { formatVolume, kernelWrites, uniqueFile, uvdoWrites } from './index-writes.ts';
import { built } from './uvdo.ts';

const BLOCK = 4096;
const MiB = 2 ** 20;
const GiB = 2 ** 30;
/** Where the same data are written again. */
const ELSEWHERE = 4 * GiB;
/** Records of a chapter of 0.25 GB. */
const CHAPTER = 65536;
/** Blocks that nobody has, for both to find: two chapters and a part, or as many as asked, to 2 GiB. */
const UNIQUE_BLOCKS = Math.min(
  Number(process.env['UVDO_INDEX_MIB'] ?? 547) * 256,
  (2 * GiB) / BLOCK,
);

async function chapterPages(region: IndexRegion, chapter: number): Promise<Uint8Array> {
  const { geometry, storage } = region;
  const slot = physicalChapter(geometry, chapter);
  const bytes = new Uint8Array(geometry.pagesPerChapter * CHAPTER_PAGE_SIZE);
  await storage.read([{ offset: pageOffset(region, slot, 0), bytes }]);
  return bytes;
}

/** Encodes a chapter again from its records; how many of its bytes differ. */
async function reencodedChapter(region: IndexRegion, chapter: number): Promise<number> {
  const { geometry, volumeNonce } = region;
  const pages = await chapterPages(region, chapter);
  const indexSize = geometry.indexPagesPerChapter * CHAPTER_PAGE_SIZE;
  const records = pages.slice(indexSize);
  let differences = 0;
  const page = new Uint8Array(CHAPTER_PAGE_SIZE);
  for (let at = 0; at < records.length; at += CHAPTER_PAGE_SIZE) {
    const original = records.subarray(at, at + CHAPTER_PAGE_SIZE);
    encodeRecordPage(original, page);
    differences += page.reduce((sum, byte, i) => sum + (byte === original[i] ? 0 : 1), 0);
  }
  const count = geometry.recordsPerChapter;
  const built = buildChapterIndex(geometry, volumeNonce, { chapter, records, count });
  for (let i = 0; i < indexSize; i++) if (built.pages[i] !== pages[i]) differences++;
  return differences;
}

/** A saved dense volume index with every list at bit offset 0 and zeros behind it, as we save them. */
function aligned(stream: Buffer, lists: number): Buffer {
  const sizesAt = 80 + 8 * lists;
  const head = sizesAt + 2 * lists;
  const parts = [stream.subarray(0, head)];
  let at = head;
  for (; stream[at] === 0x6d;) {
    const shift = stream[at + 1]!;
    const bytes = stream.readUInt16LE(at + 2);
    const bits = stream.readUInt16LE(sizesAt + 2 * stream.readUInt32LE(at + 4));
    const record = Buffer.alloc(8 + ((bits + 7) >>> 3));
    stream.copy(record, 0, at, at + 8);
    record[1] = 0;
    record.writeUInt16LE(record.length - 8, 2);
    const from = stream.subarray(at + 8, at + 8 + bytes);
    for (let i = 0; i < record.length - 8; i++) {
      record[8 + i] = ((from[i]! | ((from[i + 1] ?? 0) << 8)) >>> shift) & 0xff;
    }
    if (bits % 8 > 0) record[record.length - 1]! &= (1 << (bits % 8)) - 1;
    parts.push(record);
    at += 8 + bytes;
  }
  return Buffer.concat([...parts, stream.subarray(at, at + 8)]);
}

const { skip, note } = skipReason(available().uml, available().tools, built());

describe.skipIf(skip)(`the kernel goes on with our index${note}`, () => {
  it('of several chapters, and we with what it added', async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume');
      const blocks = UNIQUE_BLOCKS;
      uniqueFile(join(folder, 'ours'), blocks, 1);
      uniqueFile(join(folder, 'theirs'), 9000, 2);
      await formatVolume(path);
      const first = await uvdoWrites(path, [[join(folder, 'ours'), 0]]);
      expect(first).toMatchObject({ entries: blocks, valid: 0, stored: blocks, warning: null });
      const chapters = await withIndex(path, async (region) => new IndexSaves(region).find());
      expect(chapters).toMatchObject({ newest: Math.floor(blocks / CHAPTER), oldest: 0 });
      const kernel = await kernelWrites(path, folder, [['ours', ELSEWHERE]]);
      expect(kernel.entries).toBe(blocks);
      expect(kernel.valid / blocks).toBeGreaterThanOrEqual(0.999);
      expect(kernel.stored / blocks).toBeLessThanOrEqual(0.001);
      const more = await kernelWrites(path, folder, [['theirs', 2 * GiB]]);
      expect(more).toMatchObject({ entries: blocks + 9000, stored: 9000 });
      const second = await uvdoWrites(path, [
        [join(folder, 'theirs'), 3 * GiB],
        [join(folder, 'ours'), 6 * GiB],
      ]);
      expect(second).toMatchObject({ entries: blocks + 9000, stored: 0, warning: null });
      expect(second.valid).toBe(blocks + 9000);
      if (process.env['UVDO_INDEX_VERBOSE'] !== undefined) {
        console.error({ blocks, chapters: chapters?.newest, first, kernel, more, second });
      }
    });
  });

  it('that never closed a chapter', async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume');
      uniqueFile(join(folder, 'ours'), 3000, 3);
      await formatVolume(path);
      await uvdoWrites(path, [[join(folder, 'ours'), 0]]);
      const kernel = await kernelWrites(path, folder, [['ours', ELSEWHERE]]);
      expect(kernel).toMatchObject({ entries: 3000, valid: 3000, stored: 0 });
    });
  });
});

describe.skipIf(skip)(`we go on with the kernel's index${note}`, () => {
  it('its bytes come out of our encoders, and all is found', async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume');
      const blocks = 2 * CHAPTER + 5000;
      uniqueFile(join(folder, 'theirs'), blocks, 4);
      await formatVolume(path);
      const kernel = await kernelWrites(path, folder, [['theirs', 0]]);
      expect(kernel.entries).toBe(blocks);
      await withIndex(path, async (region) => {
        expect(await reencodedChapter(region, 0)).toBe(0);
        expect(await reencodedChapter(region, 1)).toBe(0);
        const saves = new IndexSaves(region);
        const save = (await saves.find())!;
        expect(save).toMatchObject({ newest: 2, oldest: 0 });
        const [source] = saves.volumeIndexSources(save);
        const index = createVolumeIndex(region.geometry);
        await loadVolumeIndex(index, [source!], region.volumeNonce);
        const chunks = Array.from(saveVolumeIndex(index, region.volumeNonce), (chunk) =>
          Buffer.from(chunk),
        );
        const stream = Buffer.from(await source!.read(0, 16 * MiB));
        const { lists } = region.geometry.subIndexes[0]!;
        expect(aligned(stream, lists).equals(Buffer.concat(chunks))).toBe(true);
        const map = new IndexPageMap(region.geometry);
        await saves.loadPageMap(save, map);
        const open = new OpenChapter(region.geometry.recordsPerChapter);
        await saves.loadOpenChapter(save, open);
        expect(open.count).toBe(5000);
        for (const [kind, bytes] of [[301, map.encode()] as const, [303, open.encode()] as const]) {
          const { start } = save.regions.find((part) => part.kind === kind)!;
          const saved = new Uint8Array(bytes.length);
          await region.storage.read([{ offset: start * BLOCK, bytes: saved }]);
          expect(Buffer.from(saved).equals(bytes), `region ${kind}`).toBe(true);
        }
      });
      const ours = await uvdoWrites(path, [[join(folder, 'theirs'), ELSEWHERE]]);
      expect(ours).toMatchObject({ entries: blocks, valid: blocks, stored: 0, warning: null });
    });
  });

  it('after a crash, rebuilt to as many entries as the kernel rebuilds', async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume');
      const blocks = 2 * CHAPTER + 5000;
      uniqueFile(join(folder, 'theirs'), blocks, 5);
      await formatVolume(path);
      await kernelWrites(path, folder, [['theirs', 0]], { crash: true });
      const copy = join(folder, 'copy');
      await copySparse(path, copy);
      const kernel = await kernelWrites(copy, folder, []);
      const image = await indexImage(path);
      const index = await openIndex(image);
      await index.settled();
      expect(index.warning).toBeNull();
      expect(index.chapters).toEqual({ newest: 2, oldest: 0 });
      expect(index.statistics().entriesIndexed).toBe(kernel.entries);
      expect(kernel.entries).toBeGreaterThan(2 * CHAPTER - 10);
      await index.close();
      await image.storage.close();
      // The volume is the kernel's to recover; the index that was saved here is what it loads then.
      const after = await kernelWrites(path, folder, [['theirs', ELSEWHERE]]);
      expect(after.postsFound).toBeGreaterThanOrEqual(2 * CHAPTER);
      expect(after.stored).toBeLessThanOrEqual(5000);
    });
  });
});
