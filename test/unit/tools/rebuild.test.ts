import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { formatPage, setEntry } from '../../../src/format/block-map-page.ts';
import { READ_ONLY, type SuperBlock } from '../../../src/format/super-block.ts';
import { lockFile } from '../../../src/storage/file-lock.ts';
import { FIRST, makeVolume, scribble, temporaryDirectory, uvdo } from './support.ts';

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
let path = '';
let superBlock: SuperBlock;
beforeAll(async () => {
  directory = await temporaryDirectory();
  path = join(directory.path, 'v.vdo');
  superBlock = await makeVolume(path, { state: READ_ONLY });
});
afterAll(() => directory.remove());

/** A copy of the volume with a mapping too many. */
async function damaged(name: string): Promise<string> {
  const file = join(directory.path, name);
  await copyFile(path, file);
  const leaf = new Uint8Array(4096);
  formatPage(leaf, superBlock.nonce, FIRST + 3, true);
  setEntry(leaf, 0, 66, 1);
  setEntry(leaf, 7, 5, 1);
  await scribble(file, [[FIRST + 3, leaf]]);
  return file;
}

describe('rebuild', () => {
  test('brings a read-only volume back and tells what it removed', async () => {
    const file = await damaged('text.vdo');
    expect((await uvdo('info', file)).status).toBe(3);
    const { status, out, err } = await uvdo('rebuild', file);
    expect([status, err]).toEqual([0, '']);
    const removed = `removed: mapping of logical block 7 to block 5: no data block (page ${FIRST + 3}, slot 7)`;
    expect(out).toContain(`${removed}\n`);
    expect(out).toMatch(/state +clean\n[^]*references removed +1\nlogical blocks used +1\n/);
    expect((await uvdo('info', file)).status).toBe(0);
    expect((await uvdo('audit', file)).status).toBe(0);
  });

  test('as JSON', async () => {
    const { status, out } = await uvdo('rebuild', await damaged('json.vdo'), '--json');
    expect(status).toBe(0);
    expect(JSON.parse(out)).toMatchObject({
      state: 'clean',
      removed: 1,
      removals: [{ what: 'mapping', why: 'no data block', lbn: 7, pbn: 5, state: 1 }],
      logicalBlocksUsed: 1,
      blockMapDataBlocks: 4,
      dataBlocksUsed: 1,
    });
  });

  test('of a clean volume needs --force; one in use is left alone', async () => {
    const file = join(directory.path, 'clean.vdo');
    await makeVolume(file);
    const refused = await uvdo('rebuild', file);
    expect(refused.status).toBe(2);
    expect(refused.err).toMatch(/the volume is clean, not read-only: .*--force/);
    const lock = await lockFile(file);
    expect(await uvdo('rebuild', file, '--force')).toMatchObject({ status: 1, out: '' });
    await lock.release();
    expect((await uvdo('rebuild', file, '--force')).status).toBe(0);
  });
});
