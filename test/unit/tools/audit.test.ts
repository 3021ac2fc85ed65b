import { readFile, truncate, copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { lockFile } from '../../../src/storage/file-lock.ts';
import { openVolume } from '../../../src/volume/open.ts';
import { READ_ONLY } from '../../../src/format/super-block.ts';
import { formatVolume } from '../../../src/volume/format.ts';
import { joined, noise, QUIET, squashy, TINY_FORMAT } from '../../support/volumes.ts';
import { FIRST, makeVolume, temporaryDirectory, TINY_SIZE, uvdo } from './support.ts';

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
let path = '';
beforeAll(async () => {
  directory = await temporaryDirectory();
  path = join(directory.path, 'v.vdo');
  await formatVolume(path, { ...TINY_FORMAT, size: TINY_SIZE });
  const volume = await openVolume(path, QUIET);
  const blocks = Array.from({ length: 60 }, (_, i) => (i % 2 === 0 ? noise(i) : squashy(i)));
  await volume.write(0, joined(...blocks));
  await volume.close();
});
afterAll(() => directory.remove());

describe('audit', () => {
  test('of a sound volume: 0, and writes nothing', async () => {
    const before = await readFile(path);
    const text = await uvdo('audit', path);
    expect([text.status, text.err]).toEqual([0, '']);
    expect(text.out).toMatch(/logical blocks used +60\n[^]*result +everything agrees\n$/);
    const { status, out } = await uvdo('audit', path, '--json');
    expect(status).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ path, clean: true, errors: [], errorCount: 0 });
    expect((await readFile(path)).equals(before)).toBe(true);
  });

  test('of a damaged volume: 3, and each finding with place, expected and found', async () => {
    const file = join(directory.path, 'damaged.vdo');
    // Its compressed block holds no LZ4.
    await makeVolume(file, { logicalBlocksUsed: 6 });
    const text = await uvdo('audit', file);
    expect(text.status).toBe(3);
    expect(text.out).toContain('counter  counter logicalBlocksUsed: expected 4, found 6\n');
    const place = `compressed-block  pbn ${FIRST + 5}, slot 0: expected a fragment, found 30 bytes`;
    expect(text.out).toContain(place);
    expect(text.out).toContain('4 disagreements: 1 slab-summary, 2 compressed-block, 1 counter');
    const { status, out } = await uvdo('audit', file, '--json');
    const report = JSON.parse(out) as { errors: object[] };
    expect(status).toBe(3);
    expect(report).toMatchObject({ clean: false, errorCount: 4, omitted: 0 });
    for (const error of report.errors) {
      expect(Object.keys(error).sort()).toEqual(['expected', 'found', 'kind', 'where']);
    }
  });

  test('of a volume in use, a cut one, and none', async () => {
    const lock = await lockFile(path);
    const busy = await uvdo('audit', path);
    await lock.release();
    expect(busy).toMatchObject({ status: 1, out: '' });
    expect(busy.err).toMatch(/in use by process \d+/);
    const cut = join(directory.path, 'cut.vdo');
    await copyFile(path, cut);
    await truncate(cut, 1_000_000);
    expect(await uvdo('audit', cut)).toMatchObject({ status: 3, out: '' });
    const other = join(directory.path, 'other');
    await copyFile('package.json', other);
    expect(await uvdo('audit', other)).toMatchObject({ status: 1, out: '' });
  });

  test('of a volume that was not closed says what a recovery would do', async () => {
    const file = join(directory.path, 'crashed.vdo');
    const copy = join(directory.path, 'copy.vdo');
    await copyFile(path, file);
    const volume = await openVolume(file, QUIET);
    await volume.write(100 * 4096, joined(noise(70), noise(71), noise(72)));
    await volume.flush();
    await copyFile(file, copy);
    await volume.close();
    const before = await readFile(copy);
    const text = await uvdo('audit', copy);
    expect(text.status).toBe(3);
    expect(text.out).toMatch(/state +dirty\nlogical blocks used +63\n/);
    expect(text.out).toMatch(
      /journal entries to replay +3\ntree pages to write +1\nslabs to scrub +1\n/,
    );
    expect(text.out).toMatch(/needs +recovery: [^]*result +everything agrees once that is done\n$/);
    const { out } = await uvdo('audit', copy, '--json');
    const report = JSON.parse(out) as object;
    expect(report).toMatchObject({
      clean: false,
      needs: 'recovery',
      errors: [],
      recovery: { entries: 3 },
    });
    expect((await readFile(copy)).equals(before)).toBe(true);
  });

  test('of a read-only volume says what it needs', async () => {
    const file = join(directory.path, 'read-only.vdo');
    await makeVolume(file, { state: READ_ONLY });
    const { status, out } = await uvdo('audit', file);
    expect(status).toBe(3);
    expect(out).toMatch(/needs +rebuild: /);
  });
});
