/**
 * What the size of a volume costs: `npm run bench:growth -- [--dir DIRECTORY] [--write]`.
 *
 * The same work on volumes of 1 GiB, 100 GiB and 10 TiB: their block maps are filled first, by a block of zeros
 * in each of up to 131,072 leaf pages spread over all of it (four times what the cache holds). Then 4 KiB
 * writes and reads at random in as many of those leaves as 1 GiB has, which the cache holds, and in all of
 * them, which it does not; 1 MiB writes at random places; opening after a clean stop, and opening after the
 * process was killed, which recovers. CPU of the whole process for each 4 KiB; files are sparse.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { BLOCK_MAP_ENTRIES_PER_PAGE, BLOCK_SIZE, GiB, MiB, TiB } from '../src/base/constants.ts';
import { formatVolume } from '../src/volume/format.ts';
import { openVolume } from '../src/volume/open.ts';
import type { Volume } from '../src/volume/volume.ts';
import { compressibleFill, Random } from './data.ts';
import { inLanes } from './lanes.ts';
import { machine, plainTable, writeBetweenMarks } from './table.ts';

interface Size {
  readonly name: string;
  readonly logical: number;
  readonly physical: number;
}

const SIZES: readonly Size[] = [
  { name: '1 GiB', logical: GiB, physical: 16 * GiB },
  { name: '100 GiB', logical: 100 * GiB, physical: 128 * GiB },
  { name: '10 TiB', logical: 10 * TiB, physical: 10 * TiB },
];
const LEAVES = 131_072;
const LARGE_WRITES = 512;
const SMALL_REQUESTS = 65_536;
const DEPTH = 32;
/** Small writes of the child that is killed. */
const CRASH_WRITES = 20_000;

const LEAF_BYTES = BLOCK_MAP_ENTRIES_PER_PAGE * BLOCK_SIZE;

const leavesOf = ({ logical }: Size): number => Math.floor(logical / LEAF_BYTES);
/** Leaves that the cache holds, of whatever volume. */
const FEW_LEAVES = leavesOf(SIZES[0]!);
const filledOf = (size: Size): number => Math.min(LEAVES, leavesOf(size));

/** Byte at which leaf `i` of those that were filled begins. */
function leafAt(size: Size, i: number): number {
  return Math.floor(i * (leavesOf(size) / filledOf(size))) * LEAF_BYTES;
}

/** A random block in up to `leaves` of the leaves that were filled, which lie as far apart as they can. */
function placeIn(size: Size, leaves: number, random: Random): number {
  const filled = filledOf(size);
  const used = Math.min(leaves, filled);
  const leaf = Math.floor(random.below(used) * (filled / used));
  return leafAt(size, leaf) + random.below(BLOCK_MAP_ENTRIES_PER_PAGE - 1) * BLOCK_SIZE;
}

/** Runs `count` requests, some at once; returns CPU µs of each. */
async function timed(count: number, request: (i: number) => Promise<unknown>, flush?: Volume) {
  const before = process.cpuUsage();
  await inLanes(count, DEPTH, request);
  await flush?.flush();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / count;
}

const open = (file: string): Promise<Volume> => openVolume(file, { index: 'memory' });

/** A block that nobody else has. */
function blockOf(seed: number): Buffer {
  const block = Buffer.alloc(BLOCK_SIZE);
  compressibleFill(block, seed);
  return block;
}

async function smallWrites(
  volume: Volume,
  size: Size,
  { count, seed, leaves }: { count: number; seed: number; leaves: number },
): Promise<number> {
  const random = new Random(seed);
  const blocks = Array.from({ length: 256 }, (_, i) => blockOf(seed + i));
  return timed(
    count,
    (i) => {
      const block = blocks[i % blocks.length]!;
      block.writeUInt32LE(i, 64);
      block.writeUInt32LE(seed, 2048);
      return volume.write(placeIn(size, leaves, random), block);
    },
    volume,
  );
}

/** CPU µs of a small write and of a small read, in `leaves` of the leaves. */
async function smallRequests(volume: Volume, size: Size, leaves: number): Promise<number[]> {
  const seed = 1000 + leaves;
  const perWrite = await smallWrites(volume, size, { count: SMALL_REQUESTS, seed, leaves });
  const into = Array.from({ length: DEPTH }, () => Buffer.alloc(BLOCK_SIZE));
  const random = new Random(seed);
  const perRead = await timed(SMALL_REQUESTS, (i) =>
    volume.read(placeIn(size, leaves, random), BLOCK_SIZE, into[i % DEPTH]!),
  );
  return [perWrite, perRead];
}

async function measure(size: Size, folder: string): Promise<(string | number)[]> {
  const file = path.join(folder, 'growth.vdo');
  await formatVolume(file, { size: size.physical, logicalSize: size.logical });
  let volume = await open(file);
  const zeros = Buffer.alloc(BLOCK_SIZE);
  for (let i = 0; i < filledOf(size); i++) await volume.write(leafAt(size, i), zeros);
  await volume.close();

  volume = await open(file);
  const random = new Random(1);
  const large = Buffer.alloc(MiB);
  compressibleFill(large, 7);
  const perLarge = await timed(
    LARGE_WRITES,
    async (i) => {
      const own = Buffer.from(large);
      for (let at = 0; at < MiB; at += BLOCK_SIZE) own.writeUInt32LE(i, at + 64);
      const at = leafAt(size, random.below(filledOf(size)));
      await volume.write(Math.min(at, size.logical - MiB), own);
    },
    volume,
  );
  const few = await smallRequests(volume, size, FEW_LEAVES);
  const all = await smallRequests(volume, size, LEAVES);
  await volume.close();

  const clean = await timeToOpen(file);
  await crash(file, size);
  const crashed = await timeToOpen(file);
  const megabytes = (fs.statSync(file).blocks * 512) / MiB;
  fs.rmSync(file);
  return [
    size.name,
    (perLarge / 256).toFixed(1),
    ...few.map((cpu) => cpu.toFixed(1)),
    ...all.map((cpu) => cpu.toFixed(1)),
    clean.toFixed(0),
    crashed.toFixed(0),
    megabytes.toFixed(0),
  ];
}

/** Milliseconds until a volume is open for writing and has answered a read. */
async function timeToOpen(file: string): Promise<number> {
  const began = performance.now();
  const volume = await open(file);
  await volume.read(0, BLOCK_SIZE);
  const milliseconds = performance.now() - began;
  await volume.scrubbed();
  await volume.close();
  return milliseconds;
}

/** Another process writes, flushes, writes more, and is killed. */
async function crash(file: string, { name }: Size): Promise<void> {
  const child = fork(fileURLToPath(import.meta.url), ['--victim', file, '--size', name]);
  await once(child, 'message');
  child.kill('SIGKILL');
  await once(child, 'exit');
}

async function beVictim(file: string, name: string): Promise<never> {
  const size = SIZES.find((one) => one.name === name)!;
  const volume = await open(file);
  await smallWrites(volume, size, { count: CRASH_WRITES, seed: 5000, leaves: LEAVES });
  process.send!('written');
  for (;;) await smallWrites(volume, size, { count: DEPTH, seed: 9000, leaves: LEAVES });
}

const { values } = parseArgs({
  options: {
    dir: { type: 'string', default: os.tmpdir() },
    write: { type: 'boolean', default: false },
    victim: { type: 'string' },
    size: { type: 'string' },
  },
});
if (values.victim !== undefined) await beVictim(values.victim, values.size ?? '');
const folder = fs.mkdtempSync(path.join(values.dir, 'uvdo-growth-'));
try {
  // Once for the compiler.
  await measure(SIZES[0]!, folder);
  const rows = [];
  for (const size of SIZES) rows.push(await measure(size, folder));
  const heads = ['logical size', 'CPU µs, 1 MiB write'];
  heads.push(`4 KiB write in ${FEW_LEAVES} leaves`, 'read', 'write in all', 'read in all');
  heads.push('ms to open', 'after a kill', 'MiB on disk');
  const text = `${machine()}\n\n${plainTable(heads, rows)}`;
  console.log(text);
  if (values.write) writeBetweenMarks('docs/PERFORMANCE.md', text, 'growth');
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}
