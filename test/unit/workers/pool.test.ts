/**
 * The pool inline and on threads. Threads need the built worker: `npm test` of a checkout that was
 * not built tests the inline pool alone, and says so.
 */
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { compressibleFill, randomFill } from '../../../bench/data.ts';
import { COMPRESSED_BASE, UNCOMPRESSED } from '../../../src/base/constants.ts';
import { sealCompressedBlock } from '../../../src/format/compressed-block.ts';
import { Arena, CHECK_WORDS } from '../../../src/kernels/arena.ts';
import { referenceKernels } from '../../../src/kernels/kernels.ts';
import { decompressBlock } from '../../../src/kernels/lz4.ts';
import { createPool, defaultWorkers, type ComputePool } from '../../../src/workers/pool.ts';

const ROWS = 1024;
const BLOCK = 4096;
const BUILT = new URL('../../../dist/src/workers/worker.js', import.meta.url);
const built = existsSync(BUILT);

const directory = mkdtempSync(join(tmpdir(), 'uvdo-pool-'));
afterAll(() => rmSync(directory, { recursive: true }));

/** A worker that reports for duty and then does `body` with its control words. */
function strangeWorker(name: string, body: string): URL {
  const file = join(directory, `${name}.mjs`);
  writeFileSync(
    file,
    `import { parentPort, workerData } from 'node:worker_threads';
     const control = new Int32Array(workerData.memory.buffer, 65536, 1024);
     const BELL = 0, HEAD = 64, BUSY = 80 + 16 * workerData.index, LEFT = 336 + 16 * 31;
     ${body}`,
  );
  return pathToFileURL(file);
}

/**
 * Has taken a task of the first job, which has the last number, before there are any: a pool that is quick
 * would have done them all before it wakes.
 */
const AT_WORK = `Atomics.store(control, BUSY, 1);
  Atomics.add(control, HEAD, 1);
  parentPort.postMessage('ready');
  Atomics.wait(control, BELL, 0);`;

function filledArena(): Arena {
  const arena = new Arena(ROWS);
  const half = (ROWS / 2) * BLOCK;
  compressibleFill(arena.blocks.subarray(0, half), 1);
  randomFill(arena.blocks.subarray(half), 2);
  for (let row = 5; row < ROWS; row += 10) {
    arena.blocks.fill(0, row * BLOCK, (row + 1) * BLOCK);
  }
  return arena;
}

async function checkHash(arena: Arena, pool: ComputePool, first: number, end: number) {
  arena.names.fill(0xaa);
  arena.zero.fill(0xaa);
  await pool.hash(first, end);
  const names = arena.names.slice();
  const zero = arena.zero.slice();
  arena.names.fill(0xaa);
  arena.zero.fill(0xaa);
  referenceKernels(arena).hash(first, end);
  expect(Buffer.compare(names, arena.names)).toBe(0);
  expect(Buffer.compare(zero, arena.zero)).toBe(0);
}

async function checkCompress(arena: Arena, pool: ComputePool, rows: Int32Array, count: number) {
  arena.fragmentSizes.fill(0xaaaa);
  await pool.compress(rows, count);
  const into = new Uint8Array(BLOCK);
  const listed = new Set(rows.subarray(0, count));
  for (let row = 0; row < ROWS; row++) {
    const size = arena.fragmentSizes[row]!;
    if (!listed.has(row)) {
      expect(size).toBe(0xaaaa);
      continue;
    }
    const noise = row >= ROWS / 2 && row % 10 !== 5;
    expect(size === 0).toBe(noise);
    if (noise) continue;
    const at = row * BLOCK;
    expect(decompressBlock(arena.fragments.subarray(at, at + size), into)).toBe(true);
    expect(Buffer.compare(into, arena.blocks.subarray(at, at + BLOCK))).toBe(0);
  }
}

const every = (step: number): Int32Array =>
  Int32Array.from({ length: Math.ceil(ROWS / step) }, (_, i) => i * step);

/** Reads a file into rows, with and without staging, and compares with the same bytes put there. */
async function checkLoad(pool: ComputePool, arena: Arena): Promise<void> {
  const bytes = new Uint8Array(300 * BLOCK + 77);
  compressibleFill(bytes, 3);
  bytes.fill(0, 5 * BLOCK, 9 * BLOCK);
  const file = join(directory, 'load');
  writeFileSync(file, bytes);
  const fd = openSync(file, 'r');
  const reads = Array.from({ length: 6 }, (_, i) => {
    const offset = 64 * i * BLOCK;
    return { fd, offset, length: Math.min(64 * BLOCK, bytes.length - offset), row: 64 * i };
  }).filter(({ length }) => length > 0);
  const expected = new Arena(ROWS);
  expected.blocks.set(bytes);
  referenceKernels(expected).hash(0, 301);
  for (const staging of [-1, ROWS - 4 * 64]) {
    arena.names.fill(0xaa);
    arena.blocks.fill(0xaa, 0, 301 * BLOCK);
    const load = pool.readAhead(reads, staging);
    const other = pool.hash(400, 401);
    expect(await load.finish()).toEqual([]);
    await other;
    expect(
      Buffer.compare(arena.names.subarray(0, 301 * 16), expected.names.subarray(0, 301 * 16)),
    ).toBe(0);
    expect(Buffer.compare(arena.zero.subarray(0, 301), expected.zero.subarray(0, 301))).toBe(0);
    const isKept = Buffer.compare(arena.blocks.subarray(0, bytes.length), bytes) === 0;
    expect(isKept).toBe(staging < 0);
  }
  const beyond = [...reads, { fd, offset: 2 ** 33, length: BLOCK, row: 500 }];
  beyond.push({ fd: -1, offset: 0, length: 2 * BLOCK, row: 0 });
  expect(await pool.readAhead(beyond).finish()).toEqual([5]);
  closeSync(fd);
  expect(await pool.readAhead(reads).finish()).toEqual([0, 1, 2, 3, 4]);
}

describe.each([0, ...(built ? [1, 3] : [])])('a pool of %i workers', (workers) => {
  it('reads files into rows and names them, and tells which reads came short', async () => {
    const arena = filledArena();
    const pool = await createPool(arena, workers);
    await checkLoad(pool, arena);
    await pool.close();
  });

  it('hashes and compresses as one thread does, small jobs and large ones', async () => {
    const arena = filledArena();
    const pool = await createPool(arena, workers);
    expect(pool.workers).toBe(workers);
    try {
      for (const [first, end] of [
        [0, ROWS],
        [1, 700],
        [8, 9],
        [5, 5],
      ] as const) {
        await checkHash(arena, pool, first, end);
      }
      await checkCompress(arena, pool, every(1), ROWS);
      await checkCompress(arena, pool, every(3), 200);
      await checkCompress(arena, pool, every(7), 3);
      await checkCompress(arena, pool, every(7), 0);
    } finally {
      await pool.close();
    }
    await checkHash(arena, pool, 0, ROWS);
  });

  it('compares rows with stored blocks, and expands them', async () => {
    const arena = new Arena(ROWS, 4);
    compressibleFill(arena.blocks, 1);
    const pool = await createPool(arena, workers);
    try {
      const rows = every(1);
      await pool.compress(rows, ROWS / 2);
      // Each fragment as a compressed block of its own; from the middle on, blocks as they are.
      for (let row = 0; row < ROWS; row++) {
        const block = arena.verify.subarray(row * BLOCK, (row + 1) * BLOCK);
        block.set(arena.blocks.subarray(row * BLOCK, (row + 1) * BLOCK));
        if (row >= ROWS / 2) continue;
        const size = arena.fragmentSizes[row]!;
        block.set(arena.fragments.subarray(row * BLOCK, row * BLOCK + size), 36);
        sealCompressedBlock(Buffer.from(block.buffer, block.byteOffset, BLOCK), 0, [size]);
      }
      const ask = (row: number): void => {
        const state = row < ROWS / 2 ? COMPRESSED_BASE : UNCOMPRESSED;
        arena.checks.set([row, row, state], row * CHECK_WORDS);
      };
      for (let row = 0; row < ROWS; row++) ask(row);
      // One byte that differs, a slot that is not there, a block that is damaged.
      arena.blocks[7 * BLOCK + 4000]! ^= 1;
      arena.blocks[900 * BLOCK + 17]! ^= 1;
      arena.checks[5 * CHECK_WORDS + 2] = COMPRESSED_BASE + 1;
      arena.verify[9 * BLOCK] = 2;
      await pool.verify(ROWS);
      const wrong = rows.filter((row) => arena.checks[row * CHECK_WORDS + 2] !== 1);
      expect([...wrong]).toEqual([5, 7, 9, 900]);
      for (let row = 0; row < ROWS / 2; row++) ask(row);
      const jobs = [pool.expandAhead(0, 100), pool.expandAhead(100, 103)];
      jobs.push(pool.expandAhead(103, ROWS / 2));
      for (const job of jobs) await job.finish();
      for (let row = 0; row < ROWS / 2; row++) {
        expect(arena.checks[row * CHECK_WORDS + 2]).toBe(row === 9 ? 0 : 1);
        if (row === 7 || row === 9) continue;
        const bytes = arena.staging.subarray(row * BLOCK, (row + 1) * BLOCK);
        expect(Buffer.compare(bytes, arena.blocks.subarray(row * BLOCK, (row + 1) * BLOCK))).toBe(
          0,
        );
      }
    } finally {
      await pool.close();
    }
  });

  it('does many jobs begun ahead, and others in front of them', async () => {
    const arena = filledArena();
    const pool = await createPool(arena, workers);
    try {
      const rows = every(2);
      for (let round = 0; round < 20; round++) {
        arena.names.fill(0);
        arena.fragmentSizes.fill(0xaaaa);
        const ahead = [0, 1, 2, 3].map((k) => {
          const some = rows.subarray(k * 128, (k + 1) * 128);
          return pool.compressAhead(some, some.length);
        });
        await checkHash(arena, pool, 0, ROWS);
        for (const job of ahead.reverse()) await job.finish();
        expect(rows.every((row) => arena.fragmentSizes[row] !== 0xaaaa)).toBe(true);
      }
    } finally {
      await pool.close();
    }
  });

  it('keeps jobs that were asked for at once apart', async () => {
    const arena = filledArena();
    const pool = await createPool(arena, workers);
    try {
      const rows = every(2);
      const jobs = [pool.hash(0, ROWS), pool.compress(rows, rows.length), pool.hash(0, ROWS)];
      await Promise.all(jobs);
      const names = arena.names.slice();
      referenceKernels(arena).hash(0, ROWS);
      expect(Buffer.compare(names, arena.names)).toBe(0);
      expect(arena.fragmentSizes[0]).toBeGreaterThan(0);
    } finally {
      await pool.close();
    }
  });
});

describe('a pool', () => {
  it('has a sensible default', () => {
    expect(defaultWorkers()).toBeGreaterThanOrEqual(0);
    expect(defaultWorkers()).toBeLessThanOrEqual(7);
  });

  it('refuses a number of workers that it cannot have', async () => {
    const arena = new Arena(4);
    await expect(createPool(arena, 16)).rejects.toThrow('number of workers');
    await expect(createPool(arena, 0.5)).rejects.toThrow('number of workers');
  });

  it('runs many jobs in a row', { skip: !built }, async () => {
    const arena = filledArena();
    const pool = await createPool(arena, 2);
    try {
      arena.names.fill(0);
      referenceKernels(arena).hash(0, ROWS);
      const expected = arena.names.slice();
      for (let i = 0; i < 150; i++) {
        arena.names.fill(0);
        await pool.hash(0, ROWS);
        if (Buffer.compare(expected, arena.names) !== 0) expect.fail(`job ${i} left rows out`);
      }
    } finally {
      await pool.close();
    }
  });

  it('says so where a worker does not start', async () => {
    const arena = new Arena(4);
    const url = strangeWorker('stillborn', `throw new Error('no such luck');`);
    await expect(createPool(arena, 2, url)).rejects.toMatchObject({
      code: 'Io',
      message: 'a worker thread did not start',
    });
  });

  it('fails the job in which a worker dies, and goes on without it', async () => {
    const arena = filledArena();
    const url = strangeWorker(
      'mortal',
      `${AT_WORK}
       process.exit(3);`,
    );
    const pool = await createPool(arena, 1, url);
    await expect(pool.hash(0, ROWS)).rejects.toMatchObject({
      code: 'Io',
      message: 'a worker thread failed',
    });
    expect(pool.workers).toBe(0);
    await checkHash(arena, pool, 0, ROWS);
    await pool.close();
  });

  it('does not mind a worker that dies asleep', async () => {
    const arena = filledArena();
    const pool = await createPool(
      arena,
      1,
      strangeWorker('sleeper', `parentPort.postMessage('ready');`),
    );
    await new Promise((resolve) => setTimeout(resolve, 300));
    await checkHash(arena, pool, 0, ROWS);
    expect(pool.workers).toBe(0);
    await pool.close();
  });

  it('waits for a slow worker without keeping the event loop', async () => {
    const arena = filledArena();
    const url = strangeWorker(
      'slow',
      `${AT_WORK}
       Atomics.wait(control, 1000, 0, 100);
       Atomics.sub(control, LEFT, 1);
       Atomics.notify(control, LEFT);
       Atomics.store(control, BUSY, 0);
       Atomics.wait(control, 1000, 0);`,
    );
    const pool = await createPool(arena, 1, url);
    let turns = 0;
    const timer = setInterval(() => turns++, 5);
    await pool.hash(0, ROWS);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(3);
    await pool.close();
  });
});
