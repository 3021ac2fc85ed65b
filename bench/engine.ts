/**
 * The whole engine on a plain file, `memory` index, all cores: sequential writes and reads of 1 MiB,
 * random ones of 4 KiB. Each writing run ends with one flush, which counts. What is written is checked
 * by reading parts of it back, outside of the measurement.
 *
 * The file is in the page cache before a run, as far as the run fills it: a page that is new to the file costs
 * the system more than the copy, how much depends on the machine and its last hour, and no engine can help it.
 * Two rows say what it is: the same bytes written to a file, new and cached.
 */
import {
  closeSync,
  constants,
  fdatasyncSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BLOCK_SIZE, GiB, MiB } from '../src/base/constants.ts';
import { formatVolume } from '../src/volume/format.ts';
import { openVolume, type OpenOptions } from '../src/volume/open.ts';
import type { Volume } from '../src/volume/volume.ts';
import { BlockPool, compressibleFill, POOL_MIB, Random, randomFill, textFill } from './data.ts';
import { inLanes } from './lanes.ts';
import type { ProfiledRun } from './profile.ts';
import { percentile, type Row } from './table.ts';

export interface EngineOptions {
  /** Bytes of each sequential run, a multiple of 1 MiB. */
  readonly bytes: number;
  /** Random operations of each run. */
  readonly operations: number;
  /** Where the volumes are made. */
  readonly directory?: string;
}

const WRITE_DEPTH = 16;
const READ_DEPTH = 4;
const BLOCKS_PER_MIB = MiB / BLOCK_SIZE;
/** Written before a run that is measured: four times the pool. */
export const WARM_UP_MIB = 256;

/** Runs operations 0 … `count` − 1, `depth` at a time, then `last`; measures all of it. */
async function run(
  name: string,
  { count, depth, bytes }: { count: number; depth: number; bytes: number },
  operation: (i: number) => Promise<unknown>,
  last?: () => Promise<void>,
): Promise<Row> {
  const latencies = new Float64Array(count);
  const cpu = process.cpuUsage();
  const start = performance.now();
  await inLanes(count, depth, async (i) => {
    const begin = performance.now();
    await operation(i);
    latencies[i] = (performance.now() - begin) * 1000;
  });
  await last?.();
  const seconds = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  latencies.sort();
  return {
    name,
    megabytesPerSecond: (count * bytes) / 1e6 / seconds,
    cpuMicroseconds: (user + system) / ((count * bytes) / BLOCK_SIZE),
    p50Microseconds: percentile(latencies, 0.5),
    p99Microseconds: percentile(latencies, 0.99),
  };
}

async function inDirectory<T>(
  { directory }: Pick<EngineOptions, 'directory'>,
  body: (path: string) => Promise<T>,
): Promise<T> {
  const made = mkdtempSync(join(directory ?? tmpdir(), 'uvdo-bench-'));
  try {
    return await body(join(made, 'bench.vdo'));
  } finally {
    rmSync(made, { recursive: true });
  }
}

/** `cachedBytes`: of the file, from its beginning on, that are in the page cache. */
async function withVolume<T>(
  options: Pick<EngineOptions, 'bytes' | 'directory'>,
  body: (volume: Volume) => Promise<T>,
  { cachedBytes = 0, ...open }: OpenOptions & { readonly cachedBytes?: number } = {},
): Promise<T> {
  return inDirectory(options, async (path) => {
    // Room for all runs of one volume, none of them saving anything.
    const size = 4 * GiB + 4 * options.bytes;
    writeThrough(path, cachedBytes, new Uint8Array(MiB));
    await formatVolume(path, { size, logicalSize: size, noIndex: true });
    const volume = await openVolume(path, { index: 'memory', compression: true, ...open });
    try {
      return await body(volume);
    } finally {
      await volume.close();
    }
  });
}

/** Writes `piece`, a mebibyte, to the first bytes of a file, new or not, again and again, and syncs. */
function writeThrough(path: string, bytes: number, piece: Uint8Array): void {
  const file = openSync(path, constants.O_RDWR | constants.O_CREAT);
  for (let at = 0; at < bytes; at += MiB) writeSync(file, piece, 0, MiB, at);
  fdatasyncSync(file);
  closeSync(file);
}

/** What the system takes for the bytes of a run, without any engine: of a file that is new, and of one that is cached. */
async function fileRows(options: EngineOptions): Promise<Row[]> {
  const piece = new Uint8Array(MiB);
  randomFill(piece, 1);
  return inDirectory(options, async (path) => {
    const rows: Row[] = [];
    for (const what of ['new', 'cached']) {
      const write = { count: 1, depth: 1, bytes: options.bytes };
      const row = await run(`file alone, write 1 MiB, ${what}`, write, async () =>
        writeThrough(path, options.bytes, piece),
      );
      rows.push({ ...row, p50Microseconds: NaN, p99Microseconds: NaN });
    }
    return rows;
  });
}

async function check(volume: Volume, offset: number, expected: Uint8Array): Promise<void> {
  const bytes = await volume.read(offset, expected.length);
  if (Buffer.compare(bytes, expected) !== 0) throw new Error(`wrong bytes at ${offset}`);
}

/** What a sequential run writes. */
interface Writes {
  readonly what: string;
  readonly pool: BlockPool;
  /** Every `step`-th block is unique; 0: none is. */
  readonly step: number;
}

/**
 * Sequential writes, then what `then` does on the same volume. The same was written elsewhere on it before: the pool
 * is in the volume, and what is measured is not the compiler.
 */
async function sequential(
  options: EngineOptions,
  { what, pool, step }: Writes,
  then?: (volume: Volume) => Promise<Row[]>,
): Promise<Row[]> {
  const count = options.bytes / MiB;
  const cachedBytes = step === 0 ? 0 : options.bytes + 2 * WARM_UP_MIB * MiB;
  const body = async (volume: Volume): Promise<Row[]> => {
    const write = (pieces: number, start: number): Promise<Row> =>
      run(
        `write 1 MiB, ${what}`,
        { count: pieces, depth: WRITE_DEPTH, bytes: MiB },
        (i) => volume.write(start + i * MiB, pool.take(i, step)),
        () => volume.flush(),
      );
    await write(Math.min(count, WARM_UP_MIB), options.bytes);
    const before = usedBlocks(volume);
    const row = await write(count, 0);
    const remark = `${count * BLOCKS_PER_MIB} blocks in ${usedBlocks(volume) - before}`;
    // The last pass over the pool is in it still.
    for (const i of [count - 1, Math.max(0, count - POOL_MIB)]) {
      await check(volume, i * MiB, pool.take(i, 0));
    }
    return [{ ...row, remark }, ...((await then?.(volume)) ?? [])];
  };
  return withVolume(options, body, { cachedBytes });
}

function usedBlocks(volume: Volume): number {
  return Number(volume.statistics().dataBlocksUsed);
}

async function sequentialRead(options: EngineOptions, name: string, volume: Volume): Promise<Row> {
  const buffers = Array.from({ length: READ_DEPTH }, () => new Uint8Array(MiB));
  const task = { count: options.bytes / MiB, depth: READ_DEPTH, bytes: MiB };
  return run(name, task, async (i) => {
    const buffer = buffers.pop()!;
    await volume.read(i * MiB, MiB, buffer);
    buffers.push(buffer);
  });
}

async function randomRows(options: EngineOptions, volume: Volume, pool: BlockPool): Promise<Row[]> {
  const blocks = options.bytes / BLOCK_SIZE;
  const rows: Row[] = [];
  for (const depth of [32, 1]) {
    const random = new Random(depth);
    const count = depth === 1 ? Math.ceil(options.operations / 4) : options.operations;
    const task = { count, depth, bytes: BLOCK_SIZE };
    rows.push(
      await run(`read 4 KiB at random, depth ${depth}`, task, () =>
        volume.read(random.below(blocks) * BLOCK_SIZE, BLOCK_SIZE),
      ),
      await run(
        `write 4 KiB at random, depth ${depth}`,
        task,
        (i) => volume.write(random.below(blocks) * BLOCK_SIZE, pool.takeBlock(i)),
        () => volume.flush(),
      ),
    );
  }
  return rows;
}

export async function engineRows(options: EngineOptions): Promise<Row[]> {
  const noise = new BlockPool(randomFill);
  const half = new BlockPool(compressibleFill);
  const zeros = new BlockPool((bytes) => bytes.fill(0));
  const rows: Row[] = await fileRows(options);
  const add = async (...args: [Writes, ((volume: Volume) => Promise<Row[]>)?]): Promise<void> => {
    rows.push(...(await sequential(options, ...args)));
  };
  await add({ what: 'unique 2:1', pool: half, step: 1 }, async (volume) => [
    await sequentialRead(options, 'read 1 MiB, compressed', volume),
  ]);
  await add({ what: 'unique noise', pool: noise, step: 1 }, async (volume) => [
    await sequentialRead(options, 'read 1 MiB, not compressed', volume),
    ...(await randomRows(options, volume, noise)),
  ]);
  await add({ what: '50 % duplicate noise', pool: noise, step: 2 });
  await add({ what: 'duplicate noise', pool: noise, step: 0 });
  await add({ what: 'duplicate 2:1', pool: half, step: 0 });
  // Four times as much: two gigabytes of zeros take a third of a second.
  const longer = { ...options, bytes: 4 * options.bytes };
  rows.push(
    ...(await sequential(longer, { what: 'zeros, 4 times as much', pool: zeros, step: 0 })),
  );
  return rows;
}

type Fill = (bytes: Uint8Array, seed: number) => void;

/** A mebibyte of text, again and again: to make text takes long, and stamps tell the blocks apart. */
function repeatedText(bytes: Uint8Array, seed: number): void {
  textFill(bytes.subarray(0, MiB), seed);
  for (let at = MiB; at < bytes.length; at += MiB) bytes.copyWithin(at, 0, MiB);
}

/** The sequential runs for the profile, all on one thread; what is to be duplicated is there before. */
export function runsToProfile(options: Pick<EngineOptions, 'bytes' | 'directory'>): ProfiledRun[] {
  const { bytes } = options;
  let pool: BlockPool;
  const run = (name: string, fill: Fill, step: number): ProfiledRun => ({
    name,
    bytes,
    with: (body) =>
      withVolume(
        options,
        async (volume) => {
          pool = new BlockPool(fill);
          // What is duplicated later; also warms up: what is measured is not the compiler.
          for (let i = 0; i < POOL_MIB; i++) await volume.write(bytes + i * MiB, pool.take(i, 0));
          await volume.flush();
          await body(volume);
        },
        { workers: 0 },
      ),
    write: async (volume) => {
      await inLanes(bytes / MiB, WRITE_DEPTH, (i) => volume.write(i * MiB, pool.take(i, step)));
      await volume.flush();
    },
  });
  return [
    run('unique 2:1', compressibleFill, 1),
    run('unique text', repeatedText, 1),
    run('unique noise', randomFill, 1),
    run('duplicate noise', randomFill, 0),
    run('duplicate 2:1', compressibleFill, 0),
    run('zeros', (all) => all.fill(0), 0),
  ];
}
