/** `uvdo create`: sources one after another, standard input, what it reports, and Ctrl-C. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_SIZE, MiB } from '../../../src/base/constants.ts';
import { openFileStorage } from '../../../src/storage/file-storage.ts';
import { auditVolume } from '../../model/audit.ts';
import { bundle } from '../../support/child.ts';
import { joined, noise, noiseRun, squashy } from '../../support/volumes.ts';
import { makeVolume, temporaryDirectory, uvdo } from './support.ts';

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
beforeEach(async () => (directory = await temporaryDirectory()));
afterEach(async () => {
  // Each command line listens to the end of its process, which is not the end of this one.
  for (const signal of ['SIGINT', 'SIGTERM']) process.removeAllListeners(signal);
  await directory.remove();
});
const at = (name: string): string => join(directory.path, name);

async function put(name: string, bytes: Uint8Array): Promise<string> {
  await writeFile(at(name), bytes);
  return at(name);
}

async function expectClean(path: string): Promise<void> {
  const storage = await openFileStorage(path, { readOnly: true });
  expect((await auditVolume(storage)).errors).toEqual([]);
  await storage.close();
}

/** Replaces standard input while `step` runs. */
async function withInput<T>(
  pieces: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  step: () => Promise<T>,
): Promise<T> {
  const stdin = Object.getOwnPropertyDescriptor(process, 'stdin')!;
  const value = Readable.from(pieces, { objectMode: false });
  Object.defineProperty(process, 'stdin', { value, configurable: true });
  try {
    return await step();
  } finally {
    Object.defineProperty(process, 'stdin', stdin);
  }
}

describe('create', () => {
  test('of two images of odd sizes puts each on a block of its own and says where', async () => {
    const a = joined(noise(1), squashy(2), squashy(3), new Uint8Array(BLOCK_SIZE), noise(1));
    const first = Buffer.concat([a, Buffer.from('tail')]);
    const second = Buffer.concat([Buffer.from(squashy(2)), Buffer.from(noise(9)).subarray(0, 700)]);
    const sources = [await put('a.img', first), await put('b.img', second)];
    const made = await uvdo('create', at('v.vdo'), ...sources, '--no-index', '--json');
    expect(made.err).toBe('');
    expect(made.status).toBe(0);
    const report = JSON.parse(made.out) as Record<string, unknown>;
    expect(report).toMatchObject({
      path: at('v.vdo'),
      bytes: first.length + second.length,
      sources: [
        { path: sources[0], offset: 0, bytes: first.length },
        { path: sources[1], offset: 6 * BLOCK_SIZE, bytes: second.length },
      ],
      zeroBlocks: 1,
      blocks: 8,
      // The second noise(1), and squashy(2) of the second image.
      duplicateBlocks: 2,
    });
    expect(report['seconds']).toBeTypeOf('number');
    expect(report['compressedBlocks']).toBeTypeOf('number');
    expect(report['storedBlocks']).toBeLessThanOrEqual(5);
    await expectClean(at('v.vdo'));

    const out = await uvdo('export', at('v.vdo'), at('out.img'), '--quiet');
    expect(out.status).toBe(0);
    const image = await readFile(at('out.img'));
    expect(image.length).toBe(8 * BLOCK_SIZE);
    expect(image.subarray(0, first.length).equals(first)).toBe(true);
    expect(image.subarray(6 * BLOCK_SIZE, 6 * BLOCK_SIZE + second.length).equals(second)).toBe(
      true,
    );
    // Between them, zeros.
    expect(image.subarray(first.length, 6 * BLOCK_SIZE).every((byte) => byte === 0)).toBe(true);
    const info = JSON.parse((await uvdo('info', at('v.vdo'), '--json')).out) as object;
    expect(info).toMatchObject({ state: 'clean', logicalSize: 8 * BLOCK_SIZE });
  });

  test('holds images that cannot be reduced at all, to the last block', async () => {
    const image = Buffer.from(noiseRun(3, 2 * 812 + 5));
    const source = await put('a.img', image);
    const made = await uvdo('create', at('v.vdo'), source, '--no-index', '--no-compression');
    expect(made.status).toBe(0);
    expect(made.out).toContain('1629 blocks: 0 zero, 0 duplicate');
    await expectClean(at('v.vdo'));
    await uvdo('export', at('v.vdo'), at('out.img'));
    expect((await readFile(at('out.img'))).equals(image)).toBe(true);
  });

  test('takes standard input, if told how large the volume is', async () => {
    const image = noiseRun(1, 300);
    const pieces = [image.subarray(0, 5), image.subarray(5, 700_001), image.subarray(700_001)];
    const args = ['create', at('v.vdo'), '-', '--no-index'];
    const without = await withInput(pieces, () => uvdo(...args));
    expect(without.status).toBe(2);
    expect(without.err).toContain('give --logical-size');
    const made = await withInput(pieces, () => uvdo(...args, '--logical-size', '4M', '--json'));
    expect(made.status).toBe(0);
    expect(JSON.parse(made.out)).toMatchObject({
      sources: [{ path: '-', offset: 0, bytes: image.length }],
    });
    await expectClean(at('v.vdo'));
    const out = ['export', at('v.vdo'), at('out.img'), '--length', String(image.length)];
    expect((await uvdo(...out)).status).toBe(0);
    expect((await readFile(at('out.img'))).equals(image)).toBe(true);
  });

  test('of more input than fits fails, and leaves a clean volume', async () => {
    const args = ['create', at('v.vdo'), '-', '--no-index', '--logical-size', '1M'];
    const made = await withInput([noiseRun(1, 400)], () => uvdo(...args));
    expect(made.status).toBe(1);
    expect(made.err).toContain('does not fit');
    await expectClean(at('v.vdo'));
  });

  test('overwrites nothing unasked', async () => {
    const source = await put('a.img', noise(1));
    await makeVolume(at('v.vdo'));
    const again = await uvdo('create', at('v.vdo'), source, '--no-index');
    expect(again.status).toBe(1);
    expect(again.err.split('\n')).toHaveLength(2);
    expect((await uvdo('create', at('v.vdo'), source, '--no-index', '--force')).status).toBe(0);
    const itself = await uvdo('create', source, source, '--no-index', '--force');
    expect(itself.status).toBe(2);
    expect(itself.err).toContain('is the volume itself');
    expect((await readFile(source)).equals(noise(1))).toBe(true);
  });

  test('says what is wrong with its arguments', async () => {
    const source = await put('a.img', noise(1));
    const wrong: readonly (readonly string[])[] = [
      [at('v.vdo')],
      [at('v.vdo'), source, '--index', 'best'],
      [at('v.vdo'), source, '--index', 'best'],
      [at('v.vdo'), source, '--logical-size', '0'],
      [at('v.vdo'), source, source, '--logical-size', '4K'],
    ];
    for (const args of wrong) {
      const outcome = await uvdo('create', ...args);
      expect([outcome.status, args]).toEqual([2, args]);
      expect(outcome.err.split('\n')).toHaveLength(2);
    }
    expect((await uvdo('create', at('v.vdo'), at('none'), '--no-index')).status).toBe(1);
    await expect(stat(at('v.vdo'))).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test('stopped by Ctrl-C closes the volume clean, though its input has stalled', async () => {
    const image = noiseRun(1, 1200);
    async function* stalling(): AsyncGenerator<Buffer> {
      for (let at = 0; at < image.length; at += 65536) {
        yield Buffer.from(image.subarray(at, at + 65536));
      }
      setTimeout(() => process.emit('SIGINT'), 300);
      await new Promise(() => undefined);
    }
    const args = ['create', at('v.vdo'), '-', '--no-index', '--logical-size', '1G'];
    const made = await withInput(stalling(), () => uvdo(...args));
    expect(made.status).toBe(1);
    expect(made.err).toContain('stopped');
    expect(made.err.split('\n')).toHaveLength(2);
    await expectClean(at('v.vdo'));
    await uvdo('export', at('v.vdo'), at('out.img'), '--length', '1M');
    expect((await readFile(at('out.img'))).equals(image.subarray(0, MiB))).toBe(true);
  });

  test('of an empty image makes a volume of one block', async () => {
    const made = await uvdo(
      'create',
      at('v.vdo'),
      await put('a.img', new Uint8Array(0)),
      '--no-index',
    );
    expect(made.status).toBe(0);
    await expectClean(at('v.vdo'));
  });
});

describe('the program in a pipe', () => {
  test('reads standard input, writes standard output, and bears that nobody reads it', async () => {
    const program = JSON.stringify(resolve(import.meta.dirname, '../../../tools/vdo.ts'));
    await using bundled = await bundle(`import ${program};\n`);
    const image = Buffer.from(noiseRun(1, 600));
    const run = (args: readonly string[]) =>
      spawn(process.execPath, [bundled.script, ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
    const create = run(['create', at('v.vdo'), '-', '--no-index', '--logical-size', '4M']);
    let err = '';
    create.stderr.on('data', (text: Buffer) => (err += text.toString()));
    create.stdout.resume();
    create.stdin.end(image);
    const [status] = (await once(create, 'close')) as [number];
    expect([status, err]).toEqual([0, '']);
    await expectClean(at('v.vdo'));

    const full = run(['export', at('v.vdo'), '-', '--length', String(image.length)]);
    const hash = createHash('sha256');
    full.stdout.on('data', (bytes: Buffer) => hash.update(bytes));
    expect(await once(full, 'close')).toEqual([0, null]);
    expect(hash.digest('hex')).toBe(createHash('sha256').update(image).digest('hex'));

    const cut = run(['export', at('v.vdo'), '-']);
    cut.stdout.once('data', () => cut.stdout.destroy());
    expect(await once(cut, 'close')).toEqual([0, null]);
  });
});
