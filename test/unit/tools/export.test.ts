/** `uvdo export` and `uvdo stats`: ranges, JSON, statuses; neither ever writes to the volume. */
import { chmod, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { makeVolume, temporaryDirectory, uvdo } from './support.ts';

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
const at = (name: string): string => join(directory.path, name);
beforeEach(async () => {
  directory = await temporaryDirectory();
  // Logical block 0 → block 66 (zeros on disk), 2 zero, 3 and 5 in slots that do not expand.
  await makeVolume(at('v.vdo'));
});
afterEach(() => directory.remove());

describe('export', () => {
  test('of a range reports where and how much', async () => {
    const args = ['--from', '4K', '--length', '8192', '--json'];
    const done = await uvdo('export', at('v.vdo'), at('out.img'), ...args);
    expect([done.status, done.err]).toEqual([0, '']);
    expect(JSON.parse(done.out)).toMatchObject({
      path: at('v.vdo'),
      dest: at('out.img'),
      from: BLOCK_SIZE,
      bytes: 2 * BLOCK_SIZE,
    });
    expect((await readFile(at('out.img'))).equals(Buffer.alloc(2 * BLOCK_SIZE))).toBe(true);
  });

  test('says in one line what came where', async () => {
    const done = await uvdo('export', at('v.vdo'), at('out.img'), '--length', '12K');
    expect(done.out).toMatch(/out\.img: 12 KiB in \d+\.\d s, .*\/s\n$/);
  });

  test('of damaged data fails with status 3 and names the block', async () => {
    const done = await uvdo('export', at('v.vdo'), at('out.img'));
    expect(done.status).toBe(3);
    expect(done.err).toContain('logical block 3 cannot be expanded');
    expect(done.err.split('\n')).toHaveLength(2);
  });

  test('refuses what makes no sense', async () => {
    const size = (await stat(at('v.vdo'))).size;
    const cases: readonly (readonly [number, readonly string[]])[] = [
      [1, [at('out.img'), '--from', '1T']],
      [1, [at('out.img'), '--from', '0', '--length', '1T']],
      [2, [at('out.img'), '--from', 'here']],
      [2, [at('v.vdo')]],
      [2, ['-', '--json']],
      [2, []],
    ];
    for (const [status, args] of cases) {
      const outcome = await uvdo('export', at('v.vdo'), ...args);
      expect([outcome.status, args]).toEqual([status, args]);
      expect(outcome.err.split('\n')).toHaveLength(2);
    }
    expect((await stat(at('v.vdo'))).size).toBe(size);
    const nowhere = await uvdo('export', at('v.vdo'), at('no/such/place'));
    expect(nowhere.status).toBe(1);
    expect(nowhere.err).not.toContain('internal error');
  });

  test('and stats change no byte of the volume', async () => {
    const before = await readFile(at('v.vdo'));
    await chmod(at('v.vdo'), 0o444);
    await uvdo('export', at('v.vdo'), at('out.img'), '--length', '12K');
    await uvdo('stats', at('v.vdo'));
    expect((await readFile(at('v.vdo'))).equals(before)).toBe(true);
  });
});

describe('stats', () => {
  test("as JSON has dm-vdo's names, nested as there, and the savings", async () => {
    const done = await uvdo('stats', at('v.vdo'), '--json');
    expect([done.status, done.err]).toEqual([0, '']);
    expect(JSON.parse(done.out)).toMatchObject({
      version: 36,
      // Blocks 66 and 67; tree pages are overhead.
      dataBlocksUsed: 2,
      overheadBlocksUsed: 2238 - 2 * 1007 + 4,
      logicalBlocksUsed: 4,
      physicalBlocks: 2238,
      blockSize: 4096,
      mode: 'normal',
      inRecoveryMode: 0,
      completeRecoveries: 0,
      packer: { compressedFragmentsInPacker: 0 },
      allocator: { slabCount: 2, slabsOpened: 1 },
      journal: { entries: { started: 0, written: 0, committed: 0 } },
      hashLock: { dedupeAdviceValid: 0 },
      errors: { noSpaceErrorCount: 0 },
      savings: { logicalUsed: 4, dataBlocksUsed: 2, ratio: 2, percent: 50 },
    });
  });

  test('as text has one line a statistic', async () => {
    const done = await uvdo('stats', at('v.vdo'));
    expect(done.status).toBe(0);
    const lines = done.out.trimEnd().split('\n');
    expect(lines).toContain('dataBlocksUsed: 2');
    expect(lines).toContain('savings.percent: 50');
    for (const line of lines) expect(line).toMatch(/^[\w.]+: \S+$/);
  });

  test('of something else fails in one line', async () => {
    await writeFile(at('x'), Buffer.alloc(100_000, 1));
    const done = await uvdo('stats', at('x'));
    expect(done.status).toBe(1);
    expect(done.err.split('\n')).toHaveLength(2);
  });
});
