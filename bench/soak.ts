/**
 * What an hour of work leaves behind: `npm run bench:soak -- [--minutes N] [--dir DIRECTORY] [--write]`.
 *
 * Rounds of mixed work on one open volume with its own index and compression: large writes, half of them
 * duplicates, small writes and reads at random, large reads, discards, a flush; the volume is written over and
 * over. Each minute the heap is collected and looked at. Said in the end: the heap and the resident memory of each
 * tenth, the slope of the heap, and which share of the processor time was garbage collection (what is collected to
 * look at the heap is left out).
 *
 * The file goes to memory where there is a /dev/shm: an hour of writes is terabytes. Time in which the process
 * was stopped does not count.
 */
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { PerformanceObserver } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { BLOCK_SIZE, GiB, MiB } from '../src/base/constants.ts';
import { formatVolume } from '../src/volume/format.ts';
import { openVolume } from '../src/volume/open.ts';
import type { Volume } from '../src/volume/volume.ts';
import { BlockPool, compressibleFill, Random } from './data.ts';
import { inLanes } from './lanes.ts';
import { machine, plainTable, writeBetweenMarks } from './table.ts';

/** Logical bytes that are written over and over; the volume is twice as large. */
const RANGE = 2 * GiB;
const LARGE = 64;
const SMALL = 4096;
const DEPTH = 32;
/** What is read goes here. */
const small = Array.from({ length: DEPTH }, () => new Uint8Array(BLOCK_SIZE));
const large = new Uint8Array(MiB);
const MINUTE_MS = 60_000;
/** A step of the clock is no longer than this: the rest was a stop. */
const MAX_STEP_MS = 1000;

interface Sample {
  readonly minutes: number;
  readonly heap: number;
  readonly external: number;
  readonly resident: number;
  readonly blocks: number;
  /** µs of the process, and of its collections, since the start. */
  readonly cpu: number;
  readonly collecting: number;
}

/** One round of work; returns how many blocks it moved. */
async function round(volume: Volume, pool: BlockPool, random: Random, n: number): Promise<number> {
  const at = (n * LARGE * MiB) % RANGE;
  const anyBlock = (): number => random.below(RANGE / BLOCK_SIZE) * BLOCK_SIZE;
  await inLanes(LARGE, 16, (i) => volume.write(at + i * MiB, pool.take(i, 2)));
  await inLanes(SMALL, DEPTH, (i) => volume.write(anyBlock(), pool.takeBlock(i)));
  await inLanes(SMALL, DEPTH, (_, lane) => volume.read(anyBlock(), BLOCK_SIZE, small[lane]));
  await inLanes(LARGE, 1, (i) => volume.read(at + i * MiB, MiB, large));
  await volume.discard(anyBlock() & -MiB & (RANGE - 1), 8 * MiB);
  await volume.flush();
  return (2 * LARGE * MiB) / BLOCK_SIZE + 2 * SMALL;
}

/** Works for so many minutes of its own time. */
async function soak(volume: Volume, minutes: number): Promise<Sample[]> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  let collecting = 0;
  const observer = new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) collecting += duration * 1000;
  });
  const pool = new BlockPool(compressibleFill);
  const random = new Random(1);
  const samples: Sample[] = [];
  let clock = performance.now();
  let worked = 0;
  let blocks = 0;
  let notCounted = 0;
  const started = process.cpuUsage();
  const cpuNow = (): number => {
    const { user, system } = process.cpuUsage(started);
    return user + system - notCounted;
  };
  observer.observe({ entryTypes: ['gc'] });
  for (let n = 0; samples.length < minutes; n++) {
    blocks += await round(volume, pool, random, n);
    const now = performance.now();
    worked += Math.min(MAX_STEP_MS, now - clock);
    clock = now;
    if (worked < (samples.length + 1) * MINUTE_MS) continue;
    const cpu = cpuNow();
    // Its own collections are told one turn of the event loop late.
    await new Promise((resolve) => setTimeout(resolve, 10));
    const collected = collecting;
    collect();
    await new Promise((resolve) => setTimeout(resolve, 10));
    collecting = collected;
    notCounted += cpuNow() - cpu;
    const { heapUsed: heap, external, rss: resident } = process.memoryUsage();
    samples.push({
      minutes: samples.length + 1,
      heap,
      external,
      resident,
      blocks,
      cpu,
      collecting: collected,
    });
    console.error(
      `${samples.length} min: heap ${(heap / MiB).toFixed(2)} MiB, resident ${(resident / MiB).toFixed(0)} MiB`,
    );
    clock = performance.now();
  }
  observer.disconnect();
  return samples;
}

/** KiB of heap a minute: the line of least squares through the samples behind the first tenth. */
function slope(samples: readonly Sample[]): number {
  const used = samples.slice(Math.floor(samples.length / 10));
  const meanX = used.reduce((sum, { minutes }) => sum + minutes, 0) / used.length;
  const meanY = used.reduce((sum, { heap }) => sum + heap, 0) / used.length;
  let above = 0;
  let below = 0;
  for (const { minutes, heap } of used) {
    above += (minutes - meanX) * (heap - meanY);
    below += (minutes - meanX) ** 2;
  }
  return above / below / 1024;
}

function report(samples: readonly Sample[]): string {
  const mebibytes = (bytes: number): string => (bytes / MiB).toFixed(2);
  const step = Math.max(1, Math.round(samples.length / 10));
  const rows = samples
    .filter(({ minutes }) => minutes === 1 || minutes % step === 0)
    .map(({ minutes, heap, external, resident, blocks, cpu, collecting }) => [
      String(minutes),
      (blocks / 1e6).toFixed(1),
      (cpu / blocks).toFixed(2),
      mebibytes(heap),
      mebibytes(external),
      (resident / MiB).toFixed(0),
      ((100 * collecting) / cpu).toFixed(2),
    ]);
  const heads = [
    'minute',
    'M blocks so far',
    'CPU µs each',
    'heap, MiB',
    'external, MiB',
    'resident, MiB',
    'GC, % of CPU',
  ];
  const { collecting, cpu } = samples.at(-1)!;
  return [
    machine(),
    '',
    plainTable(heads, rows),
    '',
    `The heap grows by ${slope(samples).toFixed(2)} KiB a minute; collecting garbage took ${((100 * collecting) / cpu).toFixed(2)} % of the processor time.`,
  ].join('\n');
}

const memory = '/dev/shm';
const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    dir: { type: 'string', default: fs.existsSync(memory) ? memory : os.tmpdir() },
    write: { type: 'boolean', default: false },
  },
});
const folder = fs.mkdtempSync(path.join(values.dir, 'uvdo-soak-'));
try {
  const file = path.join(folder, 'soak.vdo');
  await formatVolume(file, { size: 2 * RANGE + 2 * GiB, logicalSize: 2 * RANGE });
  const volume = await openVolume(file, { compression: true });
  const text = report(await soak(volume, Number(values.minutes)));
  await volume.close();
  console.log(text);
  if (values.write) writeBetweenMarks('docs/PERFORMANCE.md', text, 'soak');
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}
