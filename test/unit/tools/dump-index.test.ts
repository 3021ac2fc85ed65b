import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { encodeGeometryBlock } from '../../../src/format/geometry-block.ts';
import { openVolume } from '../../../src/index.ts';
import { indexGeometry } from '../../../src/index/uds/index-geometry.ts';
import { openUdsIndex } from '../../../src/index/uds/open-uds-index.ts';
import { openFileStorage } from '../../../src/storage/file-storage.ts';
import { readLabels } from '../../../src/volume/labels.ts';
import { writeConvertedIndex } from '../../support/converted-index.ts';
import { scribble, temporaryDirectory, uvdo } from './support.ts';

const CHAPTER = 65536;
const [SAVE_0, SAVE_1] = [573451, 626289];

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
let path = '';
beforeAll(async () => {
  directory = await temporaryDirectory();
  path = join(directory.path, 'v.vdo');
  await uvdo('format', path, '--size', '5G', '--slab-size', '32M');
});
afterAll(() => directory.remove());

async function dump() {
  const { status, out, err } = await uvdo('dump', path, 'index', '--json');
  expect([status, err]).toEqual([0, '']);
  return JSON.parse(out) as Record<string, unknown>;
}

/** The lines, each with single spaces. */
async function text(): Promise<string[]> {
  const { status, out } = await uvdo('dump', path, 'index');
  expect(status).toBe(0);
  return out.split('\n').map((line) => line.trim().replace(/ +/g, ' '));
}

/** Records so many names in the volume's index, and closes it unless it is to be left as a crash would. */
async function record(count: number, close = true): Promise<void> {
  const storage = await openFileStorage(path, {});
  const { geometry, superBlock } = await readLabels(storage);
  const index = await openUdsIndex({
    storage,
    start: geometry.indexStart,
    blocks: geometry.dataStart - geometry.indexStart,
    geometry: indexGeometry(geometry.indexMemory, geometry.sparse),
    nonce: superBlock.nonce,
    isNew: false,
  });
  for (let left = count; left > 0; left -= 2048) {
    const rows = Math.min(left, 2048);
    const state = new Uint8Array(rows).fill(1);
    await index.update(randomBytes(rows * 16), rows, {
      pbn: new Float64Array(rows).fill(9),
      state,
    });
  }
  await index.settled();
  if (close) await index.close();
  await storage.close();
}

test('dump index follows an index from its first use to a crash and to damage', async () => {
  expect(await dump()).toMatchObject({
    kind: 'empty',
    blocks: 679127,
    geometry: { chapters: 1024, recordsPerChapter: CHAPTER, totalBlocks: 679127 },
    saves: [],
    nextStart: 'begins with an empty index',
  });
  expect(await text()).toContain('volume index 262144 lists');

  const volume = await openVolume(path);
  await volume.write(0, randomBytes(100 * BLOCK_SIZE));
  await volume.close();
  const used = await dump();
  expect(used).toMatchObject({
    kind: 'present',
    superVersion: 3,
    problem: null,
    onDisk: null,
    nextStart: 'loads the save in slot 0',
    saves: [
      {
        slot: 0,
        start: SAVE_0,
        state: 'valid',
        counts: true,
        openRecords: 100,
        newest: { chapter: 0, slot: 0 },
        oldest: { chapter: 0, slot: 0 },
        zones: [[{ low: 0, high: 0, firstList: 0, lists: 262144, records: 100, collisions: 0 }]],
        problem: null,
      },
      { slot: 1, start: SAVE_1, state: 'unsaved', counts: false, zones: [] },
    ],
  });
  const [{ saved, timestamp }] = used['saves'] as [{ saved: string; timestamp: number }];
  expect(Date.parse(saved)).toBe(timestamp);
  expect(Math.abs(Date.now() - timestamp)).toBeLessThan(600_000);

  await record(CHAPTER);
  expect(await dump()).toMatchObject({
    onDisk: { oldest: { chapter: 0, slot: 0 }, newest: { chapter: 0, slot: 0 } },
    nextStart: 'loads the save in slot 1',
    saves: [
      { state: 'valid', counts: false, openRecords: null },
      { state: 'valid', counts: true, openRecords: 100, pageMapUpdated: 0 },
    ],
  });
  const lines = await text();
  expect(lines).toContain('state valid, the one that counts');
  expect(lines).toContain('open chapter 1 in slot 1');
  expect(lines).toContain('open records 100');
  expect(lines).toContain(`0 all 0 1 0 262144 ${CHAPTER + 100} 0`);
  expect(lines).toContain('chapters on disk oldest 0 in slot 0, newest 0 in slot 0');

  await record(2 * CHAPTER, false);
  expect(await dump()).toMatchObject({
    nextStart: 'is rebuilt from chapters 0 … 2',
    saves: [{ state: 'valid' }, { state: 'valid', counts: true, openRecords: null }],
  });
  expect(await text()).toContain('open records none that can be read: a chapter was closed since');

  await scribble(path, [
    [1, new Uint8Array(BLOCK_SIZE).fill(7)],
    [SAVE_0, new Uint8Array(BLOCK_SIZE).fill(7)],
  ]);
  expect(await dump()).toMatchObject({
    kind: 'present',
    superVersion: null,
    problem: expect.stringContaining('damaged') as string,
    saves: [],
    nextStart: 'begins with an empty index',
  });
});

test('dump index of a converted volume says where its parts lie', async () => {
  path = join(directory.path, 'converted.vdo');
  await uvdo('format', path, '--size', '5G', '--slab-size', '32M');
  await (await openVolume(path)).close();
  const offsets = { volumeOffset: 560, startOffset: 512 };
  const storage = await openFileStorage(path, {});
  const { geometry, superBlock } = await readLabels(storage);
  const label = encodeGeometryBlock({ ...geometry, indexMemory: -1280, indexStart: 49 });
  await storage.write([{ offset: 0, bytes: label }]);
  const shape = indexGeometry(-1280, false);
  const remapping = { virtual: 0, physical: 3 };
  const place = { storage, geometry: shape, start: 49, nonce: superBlock.nonce, remapping };
  await writeConvertedIndex({ ...place, ...offsets });
  await storage.close();
  await record(4 * CHAPTER + 9);
  const lines = await text();
  expect(lines).toContain('super block version 7');
  expect(lines).toContain(
    'converted super block and chapters lie 48 blocks behind their numbers, saves 512 before',
  );
  expect(lines).toContain('moved chapter 0 in slot 3');
  expect(lines).toContain('chapters on disk oldest 0 in slot 3, newest 3 in slot 2');
  expect(lines).toContain('next start loads the save in slot 0');
  expect(lines).toContain('save 0, header in block 572939');
});

test('dump index of a sparse volume tells hooks from other names', async () => {
  path = join(directory.path, 'sparse.vdo');
  await uvdo('format', path, '--size', '26G', '--sparse-index', '--index-memory', '0.25');
  const volume = await openVolume(path);
  await volume.write(0, randomBytes(1000 * BLOCK_SIZE));
  await volume.close();
  const [{ zones }] = (await dump())['saves'] as [
    { zones: { records: number; lists: number }[][] },
  ];
  const [others, hooks] = zones[0]!;
  expect([others!.lists, hooks!.lists]).toEqual([126976, 81920]);
  expect(others!.records + hooks!.records).toBe(1000);
  expect(hooks!.records).toBeGreaterThan(5);
  expect(await text()).toContain('ring 10240 chapters, 9728 of them sparse');
});
