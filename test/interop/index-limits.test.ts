/**
 * What an index does at its limits, beside the real dm-vdo: chapters forgotten early because memory runs
 * short, lists that are full. Such histories take weeks to write; they are made up here, and both sides go on from the same bytes. docs/TESTING.md, "Interop".
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Random, randomFill } from '../../bench/data.ts';
import { RECORD_NAME_SEED } from '../../src/base/constants.ts';
import { RECORD_SIZE } from '../../src/format/chapter-page.ts';
import { maxZoneBits } from '../../src/index/uds/index-geometry.ts';
import { IndexPageMap } from '../../src/index/uds/index-page-map.ts';
import { createRegion } from '../../src/index/uds/index-region.ts';
import { IndexSaves } from '../../src/index/uds/index-saves.ts';
import { OpenChapter, writeRecordData } from '../../src/index/uds/open-chapter.ts';
import { volumeAddress, volumeList } from '../../src/index/uds/record-name.ts';
import { loadVolumeIndex, saveVolumeIndex } from '../../src/index/uds/volume-index-save.ts';
import {
  createVolumeIndex,
  type VolumeIndex,
  type VolumeIndexStatistics,
} from '../../src/index/uds/volume-index.ts';
import { ADD, PUT_OVERFLOW, SET } from '../../src/index/uds/zone.ts';
import { murmur3 } from '../../src/kernels/murmur3.ts';
import { available, inKernel, skipReason, withFolder } from './harness.ts';
import { indexImage, withIndex, type IndexImage } from './index-image.ts';
import { built, library, uvdo } from './uvdo.ts';

const BLOCK = 4096;
const ROWS = 2048;
const NONCE_INFO = Uint8Array.from({ length: 32 }, (_, i) => i * 5 + 1);
/** The open chapter of the made-up history. */
const NEWEST = 3000;
/** Chapters that go before their time. */
const EARLY = 10;

const { skip, note } = skipReason(available().uml, available().tools, built());

function namesOf(path: string): Uint8Array {
  const bytes = readFileSync(path);
  const names = new Uint8Array((bytes.length / BLOCK) * 16);
  for (let i = 0; i * BLOCK < bytes.length; i++) {
    murmur3(bytes.subarray(i * BLOCK, (i + 1) * BLOCK), RECORD_NAME_SEED, names, i * 16);
  }
  return names;
}

function uniqueFile(path: string, blocks: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(blocks * BLOCK);
  randomFill(bytes, seed);
  writeFileSync(path, bytes);
  return namesOf(path);
}

/** A name of this list and address; `rest` tells it from others. */
function setName(names: Uint8Array, at: number, list: number, address: number, rest: number): void {
  const view = new DataView(names.buffer, names.byteOffset + at);
  view.setUint32(0, list >>> 12);
  view.setUint32(4, ((list << 20) | address) >>> 0);
  view.setUint32(8, Math.imul(rest + 1, 0x9e3779b1) >>> 0);
  view.setUint32(12, rest);
}

function putAll(index: VolumeIndex, names: Uint8Array, count: number, chapter: number): Uint8Array {
  const result = new Uint8Array(count);
  index.put(names, count, new Uint8Array(count).fill(ADD), chapter, result);
  return result;
}

/** Fills the lists of these names until nothing goes in. */
function fillLists(index: VolumeIndex, victims: Uint8Array): void {
  const { lists } = index.geometry.subIndexes[0]!;
  const names = new Uint8Array(ROWS * 16);
  for (let at = 0; at < victims.length; at += 16) {
    const list = volumeList(victims, at, lists);
    const address = volumeAddress(victims, at) ^ 1;
    for (let i = 0; i < 600; i++) setName(names, i * 16, list, address, i);
    putAll(index, names, 600, NEWEST - 50);
    for (let i = 0; i < ROWS; i++) setName(names, i * 16, list, (i * 509 + 3) & 0xfffff, 0);
    expect(putAll(index, names, ROWS, NEWEST - 40).at(-1)).toBe(PUT_OVERFLOW);
  }
}

/** Enters names by the thousand, many to an address, until early expiry is due for `EARLY` chapters. */
function fillMemory(index: VolumeIndex): void {
  const [geometry] = index.geometry.subIndexes;
  const { lists, bitsPerChapter } = geometry!;
  const enough = maxZoneBits(geometry!, 1) + (EARLY - 1) * bitsPerChapter;
  const names = new Uint8Array(ROWS * 16);
  const random = new Random(5);
  const addresses = Uint32Array.from({ length: lists }, () => random.below(2 ** 20));
  for (let round = 0; ; round++) {
    // The first of each list is among the chapters that go early.
    const chapter = round === 0 ? NEWEST - 1018 : NEWEST - 900 + 10 * round;
    for (let list = 0; list < lists; list += ROWS) {
      for (let i = 0; i < ROWS; i++) setName(names, i * 16, list + i, addresses[list + i]!, round);
      putAll(index, names, ROWS, chapter);
      if (index.statistics().bits > enough) return;
    }
  }
}

/** An open chapter with room for so many more records. */
function almostFull(capacity: number, room: number): OpenChapter {
  const chapter = new OpenChapter(capacity);
  const name = new Uint8Array(16);
  for (let i = 0; i < capacity - room; i++) {
    setName(name, 0, i, 0, i ^ 0x5a5a5a);
    writeRecordData(chapter.records, chapter.append(name, 0) * RECORD_SIZE, 5000 + i, 1);
  }
  return chapter;
}

interface Loaded {
  readonly index: VolumeIndex;
  readonly newest: number;
  readonly oldest: number;
}

function loadSaved(path: string): Promise<Loaded> {
  return withIndex(path, async (region) => {
    const saves = new IndexSaves(region);
    const save = (await saves.find())!;
    const index = createVolumeIndex(region.geometry);
    await loadVolumeIndex(index, saves.volumeIndexSources(save), region.volumeNonce);
    return { index, newest: save.newest, oldest: save.oldest };
  });
}

/** What of the statistics is in a save. */
function pick({
  records,
  collisions,
  bits,
}: VolumeIndexStatistics): Partial<VolumeIndexStatistics> {
  return { records, collisions, bits };
}

/** All of it as it is saved: flush chapters, sizes, lists. */
function stateOf(index: VolumeIndex): Buffer {
  const chunks = Array.from(saveVolumeIndex(index, new Uint8Array(8)), (chunk) =>
    Buffer.from(chunk),
  );
  return Buffer.concat(chunks);
}

async function format(path: string): Promise<void> {
  const sizes = ['--size', '6G', '--logical-size', '8G', '--slab-size', '128M'];
  await uvdo(['format', path, ...sizes]);
  // The first start of a new volume makes a new index: leave that behind.
  const { openVolume } = await library();
  const volume = await openVolume(path, { index: 'off' });
  await volume.close();
}

async function inImage<T>(path: string, work: (image: IndexImage) => Promise<T>): Promise<T> {
  const image = await indexImage(path);
  try {
    return await work(image);
  } finally {
    await image.storage.close();
  }
}

describe.skipIf(skip)(`an index at its limits${note}`, () => {
  it('forgets chapters early, and drops what a full list has no room for, as the kernel', async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume');
      const victims = uniqueFile(join(folder, 'victims'), 4, 71);
      const fresh = uniqueFile(join(folder, 'fresh'), 1000, 72);
      await format(path);
      const ours = await inImage(path, async (image) => {
        const region = await createRegion(image, NONCE_INFO);
        const index = createVolumeIndex(image.geometry);
        index.openChapter(NEWEST);
        fillLists(index, victims);
        fillMemory(index);
        await new IndexSaves(region).write({
          newest: NEWEST,
          oldest: NEWEST - 1023,
          openChapter: almostFull(image.geometry.recordsPerChapter, 600),
          pageMap: new IndexPageMap(image.geometry),
          volumeIndex: saveVolumeIndex(index, region.volumeNonce),
          now: Date.now(),
        });
        return index;
      });
      const before = ours.statistics();
      const out = await inKernel({
        engine: 'uml',
        disks: [path],
        share: folder,
        timeoutSeconds: 500,
        script: `set -e
vdo_start \${DISKS[0]} v
vdo_wait_index v
vdo_wait_recovery v
put() { dd if=/mnt/$1 of=/dev/mapper/v bs=64K oflag=direct,seek_bytes seek=$2 conv=notrunc status=none; sync /dev/mapper/v; }
used() { vdo_stats v dataBlocksUsed; }
echo "entries $(vdo_stats v index.entriesIndexed)"
a=$(used); put victims 0; put victims 1M; echo "victims $(($(used) - a))"
put fresh 2M
a=$(used); put fresh 64M; echo "again $(($(used) - a))"
echo "after $(vdo_stats v index.entriesIndexed)"
vdo_stop v`,
      });
      const number = (what: string): number =>
        Number(new RegExp(`^${what} (\\d+)`, 'm').exec(out)?.[1]);
      expect(number('entries')).toBe(before.records);
      expect(number('victims')).toBe(8);
      expect(number('again')).toBe(0);

      // The same here: what goes into the open chapter, its close, the rest.
      expect([...putAll(ours, victims, 4, NEWEST)]).toEqual(new Array(4).fill(PUT_OVERFLOW));
      const first = fresh.subarray(0, 600 * 16);
      putAll(ours, first, 600, NEWEST);
      ours.openChapter(NEWEST + 1);
      putAll(ours, fresh.subarray(600 * 16), 400, NEWEST + 1);
      const kernel = await loadSaved(path);
      expect([kernel.newest, kernel.oldest]).toEqual([NEWEST + 1, NEWEST - 1022]);
      expect([kernel.index.low, kernel.index.high]).toEqual([ours.low, ours.high]);
      expect(ours.low).toBe(NEWEST - 1022 + EARLY);
      // The second time all were found, and what was in the closed chapter went to the open one.
      const found = { entry: new Uint8Array(1004), chapter: new Float64Array(1004) };
      ours.lookup(Buffer.concat([fresh, victims]), 1004, found);
      ours.put(first, 600, new Uint8Array(600).fill(SET), NEWEST + 1, new Uint8Array(600));
      expect(kernel.index.statistics()).toMatchObject(pick(ours.statistics()));
      expect(ours.statistics().discarded).toBeGreaterThan(990);
      expect(stateOf(kernel.index).equals(stateOf(ours))).toBe(true);
    });
  });
});
