/** `uvdo measure`: against an independent count, against `uvdo create`, and what it tells people. */
import { execFileSync } from 'node:child_process';
import { chmod, link, mkdir, open, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_SIZE, MiB } from '../../../src/base/constants.ts';
import type { Measurement } from '../../../src/measure/figures.ts';
import { joined, noise, noiseRun, random, squashy } from '../../support/volumes.ts';
import { temporaryDirectory, uvdo } from './support.ts';

const COUNTER = join(import.meta.dirname, '../../support/count_blocks.py');
const hasPython = (() => {
  try {
    execFileSync('python3', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
beforeEach(async () => (directory = await temporaryDirectory()));
afterEach(async () => {
  for (const signal of ['SIGINT', 'SIGTERM']) process.removeAllListeners(signal);
  await directory.remove();
});
const at = (name: string): string => join(directory.path, name);

async function put(name: string, bytes: Uint8Array): Promise<string> {
  await writeFile(at(name), bytes);
  return at(name);
}

async function measured(...argv: string[]): Promise<Measurement> {
  const { status, out, err } = await uvdo('measure', '--json', ...argv);
  expect(err).toBe('');
  expect(status).toBe(0);
  return JSON.parse(out) as Measurement;
}

/** Real programs and libraries, with copies, zeros and odd ends: an image like those in use. */
async function realImage(name: string, seed: number): Promise<string> {
  const program = await readFile(process.execPath);
  const next = random(seed);
  const pieces: Uint8Array[] = [];
  for (let i = 0; i < 24; i++) {
    const start = Math.floor(next() * 3000) * BLOCK_SIZE;
    pieces.push(program.subarray(start, start + 64 * BLOCK_SIZE));
    if (i % 5 === 0) pieces.push(new Uint8Array(20 * BLOCK_SIZE));
    if (i % 7 === 0) pieces.push(noiseRun(seed + i, 16), noise(1));
  }
  pieces.push(noise(3).subarray(0, 700));
  return put(name, Buffer.concat(pieces));
}

describe('measure', () => {
  test.skipIf(!hasPython)('counts like a set of sha256 in Python', async () => {
    const images = [await realImage('a.img', 1), await realImage('b.img', 2)];
    const result = await measured(...images);
    const counted = execFileSync('python3', [COUNTER, ...images], { encoding: 'utf8' });
    expect(result).toMatchObject(JSON.parse(counted) as object);
    expect(result.blocks).toBe(result.zeroBlocks + result.uniqueBlocks + result.duplicateBlocks);
    expect(result.files).toBe(2);
  });

  test.each([['with compression'], ['without', '--no-compression']])(
    'says what create stores, %s',
    async (_, ...options) => {
      const images = [await realImage('a.img', 1), await realImage('b.img', 2)];
      const result = await measured(...images, ...options);
      const made = await uvdo('create', at('v'), ...images, '--no-index', '--json', ...options);
      const created = JSON.parse(made.out) as Record<string, number>;
      expect(result.blocks).toBe(created['blocks']);
      expect(result.zeroBlocks).toBe(created['zeroBlocks']);
      expect(Math.abs(result.storedBlocks / created['storedBlocks']! - 1)).toBeLessThan(0.005);
      expect(result.kernelStoredBlocks).toBeGreaterThanOrEqual(result.storedBlocks);
      expect(result.totalRatio).toBeCloseTo(result.blocks / result.storedBlocks, 6);
    },
  );

  test('counts references above 254 as they are stored', async () => {
    const one = Buffer.concat(Array.from({ length: 600 }, () => noise(7)));
    const packed = Buffer.concat(Array.from({ length: 1000 }, (_, i) => squashy(i % 4, 500)));
    const images = [await put('one', one), await put('packed', packed)];
    const result = await measured(...images);
    const made = await uvdo('create', at('v'), ...images, '--no-index', '--json');
    const created = JSON.parse(made.out) as Record<string, number>;
    expect(result.uniqueBlocks).toBe(5);
    // Where copies begin depends on how the blocks meet in batches.
    expect(Math.abs(result.storedBlocks - created['storedBlocks']!)).toBeLessThanOrEqual(1);
    const plain = await measured(images[0]!, '--no-compression');
    expect(plain.storedBlocks).toBe(3);
    expect(result.references).toEqual([
      { from: 129, to: 256, contents: 4 },
      { from: 513, to: 1024, contents: 1 },
    ]);
  });

  test('takes folders as sets of files, links once, holes unread, and what sources share', async () => {
    await mkdir(at('d/sub'), { recursive: true });
    await writeFile(at('d/a'), joined(noise(1), noise(2)));
    await writeFile(at('d/sub/tail'), Buffer.concat([noise(1), Buffer.from('end')]));
    await writeFile(at('d/empty'), '');
    await link(at('d/a'), at('d/sub/hard'));
    await symlink(at('d/a'), at('d/soft'));
    const sparse = await open(at('sparse'), 'w');
    await sparse.write(noise(2), 0, BLOCK_SIZE, 100 * MiB);
    await sparse.truncate(200 * MiB + 1);
    await sparse.close();
    const result = await measured(at('d'), at('sparse'));
    expect(result).toMatchObject({
      files: 4,
      bytes: 3 * BLOCK_SIZE + 3 + 200 * MiB + 1,
      blocks: 4 + 51201,
      zeroBlocks: 51200,
      uniqueBlocks: 3,
      duplicateBlocks: 2,
      shared: [
        [3, 1],
        [1, 1],
      ],
    });
    const { out } = await uvdo('measure', at('d'), at('sparse'));
    expect(out).toMatch(/unique +3 blocks/);
    expect(out).toMatch(/every index finds all duplicates/);
    expect(out).toMatch(/shares with 2/);
  });

  test('reads standard input', async () => {
    const stdin = Object.getOwnPropertyDescriptor(process, 'stdin')!;
    const bytes = Buffer.concat([noise(1), noise(1), noise(2).subarray(0, 100)]);
    const value = Readable.from([bytes.subarray(0, 5000), bytes.subarray(5000)], {
      objectMode: false,
    });
    Object.defineProperty(process, 'stdin', { value, configurable: true });
    try {
      const result = await measured('-');
      expect(result).toMatchObject({ blocks: 3, uniqueBlocks: 2, duplicateBlocks: 1, bytes: 8292 });
    } finally {
      Object.defineProperty(process, 'stdin', stdin);
    }
  });

  test('reports what it cannot read, goes on, and ends with 1', async () => {
    const good = await put('good', noise(1));
    const { status, out, err } = await uvdo('measure', '--json', at('none'), good);
    expect(status).toBe(1);
    expect(err).toContain(`cannot read ${at('none')}: there is no such file`);
    expect(JSON.parse(out)).toMatchObject({ blocks: 1, errors: 1, files: 1 });
    await mkdir(at('locked'));
    await writeFile(at('locked/f'), noise(2));
    await chmod(at('locked/f'), 0);
    if (process.getuid?.() === 0) return;
    const locked = await uvdo('measure', '--json', at('locked'));
    expect(locked.status).toBe(1);
    expect(locked.err).toContain('permission denied');
  });

  test('keeps what it measures, and puts what several hosts kept together', async () => {
    const a = await put('a', joined(noise(1), noise(2)));
    const b = await put('b', joined(noise(2), noise(3)));
    await measured(a, '--store', at('one'), '--memory', '64M');
    const again = await measured(a, b, '--store', at('one'));
    expect(again).toMatchObject({ files: 2, blocks: 4, uniqueBlocks: 3, duplicateBlocks: 1 });
    await measured(b, '--store', at('two'));
    const merged = await measured('--merge', at('one'), at('two'));
    expect(merged).toMatchObject({ files: 3, blocks: 6, uniqueBlocks: 3, storedBlocks: 3 });
    const { status, err } = await uvdo('measure', '--merge', at('one'), '--sample', '1/2');
    expect(status).toBe(2);
    expect(err).toContain('--merge and --sample exclude each other');
  });

  test('refuses what makes no sense', async () => {
    const good = await put('good', noise(1));
    for (const [option, text] of [
      ['--index-memory=3.5', /0.25, 0.5, 0.75, a whole number/],
      ['--sample=2', /give 1\/N/],
    ] as const) {
      const { status, err } = await uvdo('measure', good, option);
      expect(status).toBe(2);
      expect(err).toMatch(text);
    }
    const nbd = await uvdo('measure', 'nbd+unix:///x?socket=/nowhere');
    expect(nbd.status).toBe(1);
    expect(nbd.err).toContain('/nowhere');
  });

  test('of nothing at all gives numbers', async () => {
    const result = await measured(await put('empty', new Uint8Array(0)));
    expect(result).toMatchObject({ blocks: 0, storedBlocks: 0, totalRatio: 1, savingPercent: 0 });
    expect(result.recommended.physicalSize).toBeGreaterThan(0);
  });
});
