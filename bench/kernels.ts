/**
 * The parts by themselves, with tinybench: names, comparisons, LZ4, the indexes, the maps. Each
 * iteration does a batch of operations; times are of one. One thread, unless the name says other.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compressSync } from 'lz4-napi';
import { Bench } from 'tinybench';
import { NameTable } from '../src/base/name-table.ts';
import { NumberMap } from '../src/base/number-map.ts';
import type { HashIndex } from '../src/index/hash-index.ts';
import { openLevelIndex } from '../src/index/level-index.ts';
import { createMemoryIndex } from '../src/index/memory-index.ts';
import { Arena } from '../src/kernels/arena.ts';
import { referenceKernels } from '../src/kernels/kernels.ts';
import { createPool, defaultWorkers, type ComputePool } from '../src/workers/pool.ts';
import { compressibleFill, programFill, Random, randomFill, textFill } from './data.ts';
import type { Row } from './table.ts';

const ROWS = 2048;
const BLOCK = 4096;

export interface KernelOptions {
  /** How long each row is measured. */
  readonly milliseconds: number;
  /** Records in the indexes. */
  readonly records: number;
}

/** One row: `work` does `count` operations on `bytes` bytes each. */
interface Task {
  readonly name: string;
  readonly count: number;
  readonly bytes?: number;
  readonly remark?: string;
  readonly work: () => Promise<void> | void;
}

async function measure(task: Task, milliseconds: number): Promise<Row> {
  const bench = new Bench({ time: milliseconds, iterations: 4, warmup: false });
  for (let i = 0; i < 3; i++) await task.work();
  bench.add(task.name, task.work);
  const before = process.cpuUsage();
  await bench.run();
  const { user, system } = process.cpuUsage(before);
  const [{ result, runs }] = bench.tasks as [Bench['tasks'][number]];
  if (result.state !== 'completed') {
    throw new Error(`${task.name}: ${result.state}`, {
      cause: result.state === 'errored' ? result.error : undefined,
    });
  }
  const microseconds = (ms: number): number => (ms * 1000) / task.count;
  const mean = microseconds(result.latency.mean);
  return {
    name: task.name,
    ...(task.bytes === undefined ? {} : { megabytesPerSecond: task.bytes / mean }),
    cpuMicroseconds: (user + system) / runs / task.count,
    p50Microseconds: microseconds(result.latency.p50),
    p99Microseconds: microseconds(result.latency.p99),
    ...(task.remark === undefined ? {} : { remark: task.remark }),
  };
}

const SAMPLES: readonly [name: string, fill: (bytes: Uint8Array) => void][] = [
  ['text', (bytes) => textFill(bytes, 1)],
  ['2:1', (bytes) => compressibleFill(bytes, 1)],
  ['program', programFill],
  ['noise', (bytes) => randomFill(bytes, 1)],
];

function* hashTasks(arena: Arena, inline: ComputePool, threads: ComputePool): Iterable<Task> {
  const { kernels } = inline;
  const block = { count: ROWS, bytes: BLOCK };
  const blocks = arena.blocks.byteOffset;
  const verify = arena.verify.byteOffset;
  randomFill(arena.blocks, 1);
  arena.verify.set(arena.blocks);
  yield { name: `hash (${kernels.kind})`, ...block, work: () => kernels.hash(0, ROWS) };
  if (threads.workers > 0) {
    const name = `hash, ${threads.workers + 1} threads`;
    yield { name, ...block, work: () => threads.hash(0, ROWS) };
  }
  const reference = referenceKernels(arena);
  yield {
    name: 'hash (TypeScript twin)',
    count: 64,
    bytes: BLOCK,
    work: () => reference.hash(0, 64),
  };
  yield {
    name: 'compare equal blocks',
    ...block,
    work: () => {
      for (let row = 0; row < ROWS; row++) {
        if (!kernels.equal(blocks + row * BLOCK, verify + row * BLOCK))
          throw new Error('equal blocks differ');
      }
    },
  };
  arena.blocks.fill(0);
  yield { name: 'hash zeros', ...block, work: () => kernels.hash(0, ROWS) };
}

async function lz4Rows(
  arena: Arena,
  inline: ComputePool,
  threads: ComputePool,
  milliseconds: number,
): Promise<Row[]> {
  const rows: Row[] = [];
  const all = Int32Array.from({ length: ROWS }, (_, row) => row);
  const block = { count: ROWS, bytes: BLOCK };
  for (const [name, fill] of SAMPLES) {
    fill(arena.blocks);
    await inline.compress(all, ROWS);
    const sizes = Array.from(arena.fragmentSizes);
    const stored = sizes.reduce((sum, size) => sum + (size === 0 ? BLOCK : size), 0);
    const remark = `ratio ${((ROWS * BLOCK) / stored).toFixed(2)}`;
    const compress = { ...block, name: `LZ4 compress ${name}`, remark };
    rows.push(await measure({ ...compress, work: () => inline.compress(all, ROWS) }, milliseconds));
    rows.push(await measure(packageTask(name, arena.blocks), milliseconds));
    if (threads.workers > 0 && name === '2:1') {
      const task = {
        ...block,
        name: `LZ4 compress ${name}, ${threads.workers + 1} threads`,
        work: () => threads.compress(all, ROWS),
      };
      rows.push(await measure(task, milliseconds));
    }
    const packed = sizes.flatMap((size, row) => (size === 0 ? [] : [row]));
    if (packed.length === 0) continue;
    const { decompress } = inline.kernels;
    const fragments = arena.fragments.byteOffset;
    const work = (): void => {
      for (const row of packed) {
        if (!decompress(fragments + row * BLOCK, sizes[row]!, arena.expanded.byteOffset)) {
          throw new Error('a fragment does not come back');
        }
      }
    };
    const task = { name: `LZ4 decompress ${name}`, count: packed.length, bytes: BLOCK, work };
    rows.push(await measure(task, milliseconds));
  }
  return rows;
}

/** The package `lz4-napi` on the same blocks, one call and one buffer a block, as it offers it. */
function packageTask(name: string, bytes: Uint8Array): Task {
  const blocks = Array.from({ length: ROWS }, (_, row) =>
    Buffer.from(bytes.subarray(row * BLOCK, (row + 1) * BLOCK)),
  );
  return {
    name: `LZ4 compress ${name}, lz4-napi`,
    count: ROWS,
    bytes: BLOCK,
    work: () => {
      for (const block of blocks) compressSync(block);
    },
  };
}

async function indexRows(name: string, index: HashIndex, options: KernelOptions): Promise<Row[]> {
  const names = new Uint8Array(ROWS * 16);
  const columns = { pbn: new Float64Array(ROWS).fill(1e9), state: new Uint8Array(ROWS).fill(1) };
  const advice = { pbn: new Float64Array(ROWS), state: new Uint8Array(ROWS) };
  let batch = 0;
  const post = async (): Promise<void> => {
    randomFill(names, ++batch);
    await index.update(names, ROWS, columns);
  };
  while (batch * ROWS < options.records) await post();
  const random = new Random(1);
  const ask = async (seed: number, found: boolean): Promise<void> => {
    randomFill(names, seed);
    await index.lookup(names, ROWS, advice);
    if ((advice.pbn[0] !== 0) !== found) throw new Error(`${name}: a wrong answer`);
  };
  const remark = `of ${(batch * ROWS).toLocaleString('en-GB')} records, making the names included`;
  const tasks: Task[] = [
    { name: `${name} index, hit`, count: ROWS, work: () => ask(1 + random.below(batch), true) },
    { name: `${name} index, miss`, count: ROWS, work: () => ask(-1 - random.below(1e9), false) },
    { name: `${name} index, post`, count: ROWS, work: post },
  ];
  const rows: Row[] = [];
  for (const task of tasks) rows.push(await measure({ ...task, remark }, options.milliseconds));
  return rows;
}

function* mapTasks(): Iterable<Task> {
  const map = new NumberMap(ROWS);
  const keys = Float64Array.from({ length: ROWS }, (_, i) => 2 ** 33 + i * 7);
  yield {
    name: 'number map, set, get, delete',
    count: ROWS,
    work: () => {
      for (let i = 0; i < ROWS; i++) map.set(keys[i]!, i);
      for (let i = 0; i < ROWS; i++) if (map.get(keys[i]!) !== i) throw new Error('lost');
      for (let i = 0; i < ROWS; i++) map.delete(keys[i]!);
    },
  };
  const names = new Uint8Array(ROWS * 16);
  randomFill(names, 5);
  const table = new NameTable(names);
  yield {
    name: 'name table, find, add',
    count: ROWS,
    work: () => {
      table.clear();
      for (let row = 0; row < ROWS; row++) if (table.find(row) < 0) table.add(row);
    },
  };
}

export async function kernelRows(options: KernelOptions): Promise<Row[]> {
  const rows: Row[] = [];
  const { milliseconds } = options;
  const arena = new Arena(ROWS);
  const inline = await createPool(arena, 0);
  const threads = await createPool(arena, defaultWorkers());
  try {
    for (const task of hashTasks(arena, inline, threads))
      rows.push(await measure(task, milliseconds));
    rows.push(...(await lz4Rows(arena, inline, threads, milliseconds)));
  } finally {
    await threads.close();
  }
  for (const task of mapTasks()) rows.push(await measure(task, milliseconds));
  rows.push(...(await indexRows('memory', createMemoryIndex(), options)));
  const directory = mkdtempSync(join(tmpdir(), 'uvdo-bench-'));
  try {
    const level = await openLevelIndex(directory, { nonce: new Uint8Array(8) });
    try {
      rows.push(...(await indexRows('level', level, options)));
    } finally {
      await level.close();
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
  return rows;
}
