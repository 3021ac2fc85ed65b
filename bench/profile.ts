/**
 * Where the processor's time goes: CPU µs for each 4 KiB block, by phase, of whole runs of the engine.
 *
 *     npm run bench -- --profile [--check | --keep]
 *
 * Everything runs on one thread (no workers), under V8's sampling profiler; each sample goes to the phase of
 * the file or kernel that was running; what the process spends beside that thread (large reads and writes in the
 * thread pool, garbage collection beside) and its native code (system calls, the event loop) go to I/O. So the sums are what all threads together spend otherwise.
 *
 * `bench/budget.json` keeps what each run may cost, in units of a fixed piece of work measured in the same
 * run (one block named by the TypeScript twin), so that it holds on other and on busy machines. `--check` fails
 * where a run takes more than 15 % more; `--keep` writes the file anew.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { Session } from 'node:inspector/promises';
import type { Profiler } from 'node:inspector';
import { BLOCK_SIZE, MiB } from '../src/base/constants.ts';
import { murmur3 } from '../src/kernels/murmur3.ts';
import type { Volume } from '../src/volume/volume.ts';
import { plainTable } from './table.ts';

export const BUDGET_PATH = 'bench/budget.json';
const TOLERANCE = 1.15;
const SAMPLING_MICROSECONDS = 200;

/** Phases, and what belongs to each: parts of a function's name or file. The first that fits counts. */
const PHASES: readonly (readonly [phase: string, ...parts: string[]])[] = [
  ['hash', 'kernels/hash', 'kernels/isZero', 'kernels/finish', 'kernels/mix', 'murmur3'],
  ['compress', 'lz4/compress', 'lz4/put', 'kernels/compressRows', 'kernels.js compress'],
  ['verify', 'lz4/', 'kernels/blocksEqual', 'deduplicate.js', 'name-table.js'],
  ['copy', 'kernels/copy', 'batch.js', 'copyActual', ' copy', ' fill', ' set ', 'compare'],
  ['index', 'memory-index.js', 'level-index.js', '/uds/', 'delta'],
  ['pack', 'packer.js', 'fit-list.js', 'compressed-block.js', 'store.js'],
  ['journal', 'recovery-journal', 'recovery-block.js'],
  ['allocate', ' allocate '],
  ['counts', 'slab'],
  ['map', 'block-map', 'leaf-cache', 'forest.js', 'apply.js'],
  ['I/O', 'file-storage.js', 'readBuffers', 'writeBuffers', 'fdatasync', 'node:fs', '(program)'],
  ['GC', '(garbage collector)'],
];
/** The phase of what the process does beside the profiled thread. */
const BESIDE = 'I/O';
const OTHER = 'other';
const IDLE = '(idle)';
/** The profiler's own stop: not part of what was run. */
const PROFILER = 'dispatch';
export const PHASE_NAMES: readonly string[] = [...PHASES.map(([phase]) => phase), OTHER];

export interface Profiled {
  readonly name: string;
  /** CPU µs a block, by phase. */
  readonly phases: ReadonlyMap<string, number>;
  readonly total: number;
}

/** The phase of a function. */
export function phaseOf(functionName: string, url: string): string {
  const place = `${url} ${functionName} `;
  for (const [phase, ...parts] of PHASES) {
    if (parts.some((part) => place.includes(part))) return phase;
  }
  return OTHER;
}

/** Runs `body`, which handles `blocks` blocks, under the profiler. */
export async function profiled(
  name: string,
  blocks: number,
  body: () => Promise<void>,
): Promise<Profiled> {
  const session = new Session();
  session.connect();
  await session.post('Profiler.enable');
  await session.post('Profiler.setSamplingInterval', { interval: SAMPLING_MICROSECONDS });
  await session.post('Profiler.start');
  const before = process.cpuUsage();
  await body();
  const { user, system } = process.cpuUsage(before);
  const { profile } = await session.post('Profiler.stop');
  session.disconnect();
  const { microseconds, busy } = samplesOf(profile);
  const total = (user + system) / blocks;
  // On a busy machine samples take longer than the processor was had.
  const scale = Math.min(1, user + system === 0 ? 1 : (user + system) / Math.max(1, busy)) / blocks;
  const phases = new Map(PHASE_NAMES.map((name) => [name, (microseconds.get(name) ?? 0) * scale]));
  phases.set(BESIDE, phases.get(BESIDE)! + Math.max(0, total - busy * scale));
  return { name, phases, total };
}

/** Microseconds of the samples of each phase, and of all but idle ones. */
function samplesOf(profile: Profiler.Profile): { microseconds: Map<string, number>; busy: number } {
  const phaseOfNode = new Map(
    profile.nodes.map(({ id, callFrame }) => {
      const { functionName, url } = callFrame;
      const isOutside = functionName === IDLE || (functionName === PROFILER && url === '');
      return [id, isOutside ? IDLE : phaseOf(functionName, url)];
    }),
  );
  const microseconds = new Map<string, number>();
  let busy = 0;
  (profile.samples ?? []).forEach((id, i) => {
    const phase = phaseOfNode.get(id) ?? OTHER;
    if (phase === IDLE) return;
    const delta = profile.timeDeltas?.[i] ?? 0;
    microseconds.set(phase, (microseconds.get(phase) ?? 0) + delta);
    busy += delta;
  });
  return { microseconds, busy };
}

/** A run of the engine: `write` puts `bytes` into a fresh volume and flushes. */
export interface ProfiledRun {
  readonly name: string;
  readonly bytes: number;
  readonly with: (body: (volume: Volume) => Promise<void>) => Promise<void>;
  readonly write: (volume: Volume) => Promise<void>;
}

export async function profileRuns(runs: readonly ProfiledRun[]): Promise<Profiled[]> {
  const results: Profiled[] = [];
  for (const run of runs) {
    await run.with(async (volume) => {
      results.push(await profiled(run.name, run.bytes / BLOCK_SIZE, () => run.write(volume)));
    });
  }
  return results;
}

/** CPU µs of the unit of work: one block named by the twin. */
export function unitMicroseconds(): number {
  const block = new Uint8Array(BLOCK_SIZE).fill(7);
  const name = new Uint8Array(16);
  let best = Infinity;
  for (let round = 0; round < 12; round++) {
    const before = process.cpuUsage();
    for (let i = 0; i < 2000; i++) murmur3(block, i, name, 0);
    const { user, system } = process.cpuUsage(before);
    best = Math.min(best, (user + system) / 2000);
  }
  return best;
}

export function profileTable(results: readonly Profiled[]): string {
  const cell = (value: number): string => value.toFixed(2);
  const rows = PHASE_NAMES.map((phase) => [
    phase,
    ...results.map(({ phases }) => cell(phases.get(phase)!)),
  ]);
  const all = ['all', ...results.map(({ total }) => cell(total))];
  return plainTable(['CPU µs a block', ...results.map(({ name }) => name)], [...rows, all]);
}

export type Budget = Readonly<Record<string, number>>;

/** What each run cost, in units. */
export function budgetOf(results: readonly Profiled[], unit: number): Budget {
  const round = (value: number): number => Math.round(value * 1000) / 1000;
  return Object.fromEntries(results.map(({ name, total }) => [name, round(total / unit)]));
}

/** The runs that cost more than their budget and 15 %, each in a line. A new run has no budget yet. */
export function overBudget(budget: Budget, measured: Budget): string[] {
  return Object.entries(measured).flatMap(([name, units]) => {
    const allowed = budget[name];
    if (allowed === undefined || units <= allowed * TOLERANCE) return [];
    const more = Math.round((units / allowed - 1) * 100);
    return [`${name}: ${units} units a block, ${more} % over the budget of ${allowed}`];
  });
}

export const readBudget = (): Budget => JSON.parse(readFileSync(BUDGET_PATH, 'utf8')) as Budget;

export function keepBudget(budget: Budget): void {
  writeFileSync(BUDGET_PATH, `${JSON.stringify(budget, null, 2)}\n`);
}

/** Bytes of each run. */
export const PROFILE_BYTES = 128 * MiB;
