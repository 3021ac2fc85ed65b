import { readFile, stat, truncate } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { encodeSuperBlock } from '../../../src/format/super-block.ts';
import { lockFile } from '../../../src/storage/file-lock.ts';
import { random } from '../format/support.ts';
import { FIRST, makeVolume, scribble, temporaryDirectory, TINY_SIZE, uvdo } from './support.ts';

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
let path = '';
beforeAll(async () => {
  directory = await temporaryDirectory();
  path = join(directory.path, 'v.vdo');
  await makeVolume(path);
});
afterAll(() => directory.remove());

async function json(...argv: string[]) {
  const { status, out, err } = await uvdo(...argv, '--json');
  return { status, err, value: JSON.parse(out) as Record<string, unknown> };
}

async function digest(file: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(file))
    .digest('hex');
}

describe('format', () => {
  test('makes a volume that info describes', async () => {
    const file = join(directory.path, 'new.vdo');
    const made = await json('format', file, '--size', '5G', '--slab-size', '32M');
    expect([made.status, made.err]).toEqual([0, '']);
    const shape = {
      path: file,
      state: 'new',
      physicalSize: 5 * 2 ** 30,
      logicalSize: 580622 * 4096,
      slabSize: 2 ** 25,
      slabs: 73,
      indexMemory: 0.25,
      sparseIndex: false,
      formatVersion: 5,
    };
    expect(made.value).toMatchObject(shape);
    const { status, value } = await json('info', file);
    expect(status).toBe(0);
    expect(value).toMatchObject(shape);
    expect(value['uuid']).toBe(made.value['uuid']);
    const index = await json('dump', file, 'index');
    expect(index.value).toMatchObject({ kind: 'empty', blocks: 679127, indexMemory: 0.25 });
  });

  test('says when it chose another slab size, and refuses what is in the way', async () => {
    const file = join(directory.path, 'small.vdo');
    const argv = ['format', file, '--size=200M', '--no-index', '--logical-size', '1T'];
    const first = await uvdo(...argv);
    expect(first.status).toBe(0);
    expect(first.err).toContain('slabs of 64 MiB suit');
    expect(first.out).toContain('1 TiB logical');
    const again = await uvdo(...argv);
    expect(again.status).toBe(1);
    expect(again.err).toBe(
      `uvdo format: there is a dm-vdo volume in ${file}; use --force to overwrite it\n`,
    );
    expect((await uvdo(...argv, '--force', '--quiet')).err).toBe('');
  });

  test.each([
    [['--size', '1M'], 'at least'],
    [['--size', '5X'], '5X'],
    [['--size', '5G', '--slab-size', '5M'], 'power of two'],
    [['--size', '5G', '--index-memory', '9'], 'at least'],
    [['--size', '5G', '--index-memory', '0.3'], '0.25'],
    [[], '--size'],
  ])('wrong usage %j exits with 2, one line, no file', async (options, said) => {
    const file = join(directory.path, 'never.vdo');
    const { status, out, err } = await uvdo('format', file, ...options);
    expect([status, out]).toEqual([2, '']);
    expect(err).toContain(said);
    expect(err.trimEnd().split('\n').length).toBe(1);
    await expect(stat(file)).rejects.toThrow('ENOENT');
  });
});

describe('info', () => {
  test('a clean volume', async () => {
    const { status, out, err } = await uvdo('info', path);
    expect([status, err]).toEqual([0, '']);
    expect(out).toMatch(/^state +clean$/m);
    expect(out).toMatch(/^index +none$/m);
    expect((await json('info', path)).value).toMatchObject({
      state: 'clean',
      indexMemory: null,
      slabs: 2,
      slabSize: 2 ** 22,
      physicalSize: TINY_SIZE,
      logicalBlocksUsed: 4,
      inUse: false,
    });
  });

  test.each([
    [0, 'dirty'],
    [3, 'read-only'],
    [4, 'force-rebuild'],
    [5, 'recovering'],
  ] as const)('state %i wants attention: exit 3', async (state, name) => {
    const file = join(directory.path, `${name}.vdo`);
    await makeVolume(file, { state });
    const { status, value, err } = await json('info', file);
    expect(status).toBe(3);
    expect(value['state']).toBe(name);
    expect(err).toContain(`is ${name}`);
  });

  test('a dirty volume that is in use is as it should be', async () => {
    const file = join(directory.path, 'used.vdo');
    await makeVolume(file, { state: 0 });
    const lock = await lockFile(file);
    const { status, value } = await json('info', file);
    await lock.release();
    expect([status, value['state'], value['inUse']]).toEqual([0, 'dirty', true]);
  });

  test('what is no volume, missing, or cut short', async () => {
    const missing = join(directory.path, 'missing');
    expect(await uvdo('info', missing)).toMatchObject({ status: 1, out: '' });
    expect((await uvdo('info', missing)).err).toContain(missing);
    const foreign = await uvdo('info', 'package.json');
    expect([foreign.status, foreign.out]).toEqual([1, '']);
    expect(foreign.err).toContain('package.json: no dm-vdo volume');
    const file = join(directory.path, 'short.vdo');
    await makeVolume(file);
    await truncate(file, TINY_SIZE - 4096);
    expect(await uvdo('info', file)).toMatchObject({ status: 3, out: '' });
  });
});

describe('dump', () => {
  test('labels and layout', async () => {
    const { value } = await json('dump', path, 'super-block');
    expect(value['superBlock']).toMatchObject({
      stateName: 'clean',
      journalStart: 2,
      rootCount: 60,
    });
    const geometry = await uvdo('dump', path, 'geometry');
    expect(geometry.out).toMatch(/^dataStart +1$/m);
    const layout = await json('dump', path, 'layout');
    expect(layout.value['areas']).toEqual([
      { name: 'geometry block', start: 0, count: 1 },
      { name: 'super block', start: 1, count: 1 },
      { name: 'block map roots', start: 2, count: 60 },
      { name: 'slabs', start: 62, count: 2048 },
      { name: 'recovery journal', start: 2110, count: 64 },
      { name: 'slab summary', start: 2174, count: 64 },
    ]);
    expect((await json('dump', path, 'index')).value).toMatchObject({ kind: 'none', blocks: 0 });
  });

  test('block map', async () => {
    const { value, status } = await json('dump', path, 'block-map', '0-900');
    expect(status).toBe(0);
    const leaf = FIRST + 3;
    expect(value['mappings']).toEqual([
      { lbn: 0, count: 1, kind: 'uncompressed', pbn: 66, leaf },
      { lbn: 1, count: 1, kind: 'unmapped', pbn: 0 },
      { lbn: 2, count: 1, kind: 'zero', pbn: 0, leaf },
      { lbn: 3, count: 1, kind: 'compressed', pbn: 67, slot: 1, leaf },
      { lbn: 4, count: 1, kind: 'unmapped', pbn: 0 },
      { lbn: 5, count: 1, kind: 'compressed', pbn: 67, slot: 0, leaf },
      { lbn: 6, count: 895, kind: 'unmapped', pbn: 0 },
    ]);
    const text = await uvdo('dump', path, 'block-map', '5');
    expect(text.out).toMatch(/^5 +compressed slot 0 +67 +65$/m);
  });

  test('slab and slab journal', async () => {
    const { value } = await json('dump', path, 'slab', '0');
    expect(value).toMatchObject({
      slab: 0,
      summary: { tailOffset: 2, fullnessHint: 62, loadCounts: true, dirty: false },
      counts: { free: 1001, single: 1, shared: 1, maximum: 4, provisional: 0 },
      referenceBlocks: [{ pbn: 1069, commitPoint: { sequence: 1, index: 1 }, torn: false }],
    });
    const unused = await json('dump', path, 'slab', '1');
    expect(unused.value['counts']).toBeUndefined();
    const journal = await json('dump', path, 'slab-journal', '0', '--entries');
    expect(journal.value['blocks']).toMatchObject([
      {
        sequence: 1,
        full: true,
        entryCount: 2,
        entries: [
          { sbn: 0, increment: true, blockMap: true },
          { sbn: 4, increment: true, blockMap: false },
        ],
      },
    ]);
    const text = await uvdo('dump', path, 'slab-journal', '0', '--entries');
    expect(text.out).toContain('1.0  +0  block map');
    expect(text.out).toContain('1.1+');
  });

  test('recovery journal', async () => {
    const { value } = await json('dump', path, 'journal', '--entries');
    expect(value['blocks']).toMatchObject([
      { pbn: 2111, sequence: 1, entryCount: 2, usableEntries: 2, current: true },
    ]);
    const text = await uvdo('dump', path, 'journal', '--entries');
    expect(text.out).toContain('1.0  block map  page 2 slot 0: 0 unmapped → 62');
    expect(text.out).toContain('1.1  data  page 65 slot 0: 0 unmapped → 66');
  });

  test('blocks', async () => {
    expect((await json('dump', path, 'block', '67')).value).toMatchObject({
      place: { area: 'slab data', slab: 0, sbn: 5 },
      looksLike: 'compressed block',
      fragments: [30, 40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
      referenceCount: 2,
    });
    const looks = async (pbn: number) =>
      (await json('dump', path, 'block', `${pbn}`)).value['looksLike'];
    expect(await looks(0)).toBe('metadata');
    expect(await looks(62)).toBe('block map page');
    expect(await looks(100)).toBe('zeros');
    const text = await uvdo('dump', path, 'block', '0');
    expect(text.out).toContain('0000  64 6d 76 64 6f 30 30 31');
    expect(text.out).toContain('dmvdo001');
    expect(text.out).toMatch(/\n\*\n1000\n$/);
  });

  test.each([
    [['nonsense'], 2, 'choose one of'],
    [['block-map'], 2, 'needs LBN'],
    [['block-map', '5-x'], 2, "'x'"],
    [['block-map', '1-2-3'], 2, 'LBN-LBN'],
    [['journal', '3'], 2, 'takes no'],
    [['slab', '2'], 1, 'slabs are 0 … 1'],
    [['slab-journal', '7'], 1, 'slabs are 0 … 1'],
    [['block', '2238'], 1, 'physical blocks are 0 … 2237'],
    [['block-map', '9-8'], 1, 'logical blocks are'],
    [['block-map', '99999999'], 1, 'logical blocks are'],
  ])('%j is refused with exit %i', async (argv, status, said) => {
    const outcome = await uvdo('dump', path, ...argv);
    expect([outcome.status, outcome.out]).toEqual([status, '']);
    expect(outcome.err).toContain(said);
  });

  test('an unclean volume is shown with a note', async () => {
    const file = join(directory.path, 'unclean.vdo');
    await makeVolume(file, { state: 0 });
    const { status, err } = await uvdo('dump', file, 'slab', '0');
    expect(status).toBe(0);
    expect(err).toContain('the volume is dirty');
    expect((await json('dump', file, 'block-map', '0')).value['note']).toContain('dirty');
  });

  test('damaged labels are shown all the same, and what is wrong is said', async () => {
    const file = join(directory.path, 'damaged.vdo');
    const superBlock = await makeVolume(file);
    const block = encodeSuperBlock(superBlock);
    block[60] = 99;
    await scribble(file, [[1, block]]);
    const raw = await json('dump', file, 'super-block');
    expect(raw.status).toBe(3);
    expect(raw.value['superBlock']).toMatchObject({ physicalBlocks: 2238, rootOrigin: 2 });
    expect(raw.value['problems']).toEqual(['super block: checksum does not match']);
    const other = await uvdo('dump', file, 'slab', '0');
    expect([other.status, other.out]).toEqual([3, '']);
    expect(other.err).toContain('checksum does not match');
    expect((await uvdo('dump', file, 'geometry')).out).toContain('dataStart');
  });

  test('any damage: an answer or one line, never a crash', async () => {
    const file = join(directory.path, 'random.vdo');
    await makeVolume(file);
    const image = await readFile(file);
    const next = random(77);
    const blocks = [0, 1, 2, 62, 63, 64, 65, 67, 1069, 1071, 2111, 2174];
    for (let round = 0; round < 30; round++) {
      const damaged: [number, Uint8Array][] = [];
      for (let n = 0; n < 3; n++) {
        const pbn = blocks[next(blocks.length)]!;
        const bytes = new Uint8Array(image.subarray(pbn * BLOCK_SIZE, (pbn + 1) * BLOCK_SIZE));
        for (let k = 0; k < 20; k++) bytes[next(k < 10 ? 64 : 4096)] = next(256);
        damaged.push([pbn, bytes]);
      }
      await scribble(file, damaged);
      for (const argv of [
        ['geometry'],
        ['super-block'],
        ['layout'],
        ['block-map', '0-2000'],
        ['slab', '0'],
        ['slab-journal', '0'],
        ['journal'],
        ['index'],
        ['block', '65'],
      ]) {
        const { status, err } = await uvdo('dump', file, ...argv, '--entries');
        expect([0, 1, 3], `${argv.join(' ')}: ${err}`).toContain(status);
        expect(err).not.toContain('internal error');
      }
      const whole: [number, Uint8Array][] = blocks.map((pbn) => [
        pbn,
        new Uint8Array(image.subarray(pbn * BLOCK_SIZE, (pbn + 1) * BLOCK_SIZE)),
      ]);
      await scribble(file, whole);
    }
  });
});

test('info and dump never write', async () => {
  const before = await digest(path);
  await uvdo('info', path);
  for (const argv of [
    ['layout'],
    ['block-map', '0-100'],
    ['slab', '0'],
    ['journal'],
    ['block', '3'],
  ]) {
    await uvdo('dump', path, ...argv);
  }
  expect(await digest(path)).toBe(before);
});
