/**
 * The engine beside dm-vdo itself: `npm run bench:kernel -- [--rounds N] [--size MIB] [--dir DIRECTORY] [--write]`.
 *
 * One processor for each side. dm-vdo runs in User Mode Linux (test/interop/lab/uml-setup), where system calls and
 * switches are dear: so it is not whole costs that are compared, but those over a baseline. Of dm-vdo that is dm-linear
 * on the same disk, fio in the guest; of uvdo its own server with nothing but a file behind it, fio's nbd engine
 * outside. Both volumes were formatted by uvdo, with an index, and run with deduplication and compression.
 *
 * Every job does the same number of bytes on all four, behind a pass over another range that does not count.
 * CPU is that of all processes of User Mode Linux (fio too: it is in both of its terms), and of the server alone.
 */
import { execFile, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { BLOCK_SIZE, MiB } from '../src/base/constants.ts';
import { DUPLICATE, UNIQUE } from './fio.ts';
import { machine, median, plainTable, writeBetweenMarks } from './table.ts';

const run = promisify(execFile);
const here = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const UVDO = here('../tools/vdo.js');
const PASS_THROUGH = here('./pass-through.js');
const UML = here('../../test/interop/lab/uml-vdo');
/** The processor that is measured on; this program and the system have the others. */
const PIN = ['taskset', '-c', String(os.availableParallelism() - 1)];
const TICK_US = 10_000;

interface Job {
  readonly name: string;
  /** The goal: uvdo's difference, in parts of dm-vdo's. */
  readonly goal: number;
  readonly fio: readonly string[];
  /** Which part of `--size` it moves. */
  readonly share: number;
}

const JOBS: readonly Job[] = [
  { name: 'write 1 MiB, unique 2:1', goal: 0.5, share: 1, fio: ['--rw=write', '--bs=1m', '--iodepth=4', ...UNIQUE] }, // prettier-ignore
  { name: 'read 1 MiB, those', goal: 0.7, share: 1, fio: ['--rw=read', '--bs=1m', '--iodepth=4'] },
  { name: 'read 4 KiB at random, depth 32', goal: 0.35, share: 0.25, fio: ['--rw=randread', '--bs=4k', '--iodepth=32'] }, // prettier-ignore
  { name: 'write 4 KiB at random, depth 32, unique 2:1', goal: 0.35, share: 0.25, fio: ['--rw=randwrite', '--bs=4k', '--iodepth=32', ...UNIQUE] }, // prettier-ignore
  { name: 'write 1 MiB, 97 % duplicate noise', goal: 0.5, share: 1, fio: ['--rw=write', '--bs=1m', '--iodepth=4', ...DUPLICATE] }, // prettier-ignore
];

const SIDES = ['dm-vdo', 'dm-linear', 'uvdo', 'its server on a file'] as const;
type Side = (typeof SIDES)[number];

/** What a job took on one side. */
interface Taken {
  readonly cpu: number;
  readonly bytes: number;
  readonly seconds: number;
}

/** Where the disk is, and where User Mode Linux keeps its memory and what it says. */
interface Folders {
  readonly folder: string;
  readonly work: string;
}

type Add = (job: Job, taken: Taken) => unknown;

/** The arguments of fio for a job: the measured range lies at the beginning, the one to warm up behind it. */
function fioArguments(job: Job, size: number, isWarmUp: boolean): string[] {
  const bytes = Math.floor((isWarmUp ? size / 4 : size * job.share) / MiB) * MiB;
  const range = isWarmUp ? [`--offset=${size}`, `--size=${size / 4}`] : [`--size=${size}`];
  return ['--name=j', ...range, `--io_size=${bytes}`, '--randrepeat=0', '--end_fsync=1', '--output-format=terse', '--terse-version=3', ...job.fio]; // prettier-ignore
}

/** Bytes moved and seconds taken, from a terse line. */
function ofTerse(line: string): { bytes: number; seconds: number } {
  const fields = line.split(';');
  const [readKiB, readMs] = [Number(fields[5]), Number(fields[8])];
  const [writtenKiB, writeMs] = [Number(fields[46]), Number(fields[49])];
  return { bytes: (readKiB + writtenKiB) * 1024, seconds: (readMs + writeMs) / 1000 };
}

/** µs of processor time of a process: user and system, with those of the children it has waited for or without. */
function cpuOf(stat: string, withChildren: boolean): number {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const count = withChildren ? 4 : 2;
  return fields.slice(11, 11 + count).reduce((sum, ticks) => sum + Number(ticks) * TICK_US, 0);
}

function statOf(pid: string | number): string {
  try {
    return fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return '';
  }
}

/** µs of processor time of all processes of a session. */
function cpuOfSession(session: string): number {
  let sum = 0;
  for (const pid of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const stat = statOf(pid);
    if (stat === '' || stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3] !== session) continue;
    sum += cpuOf(stat, true);
  }
  return sum;
}

/** The script in the guest: every job on the device, with a line before, and one with what fio says behind. */
function guestScript(side: Side, size: number): string {
  const start =
    side === 'dm-linear'
      ? `dmsetup create d --table "0 $(blockdev --getsz \${DISKS[0]}) linear \${DISKS[0]} 0"`
      : `vdo_start \${DISKS[0]} d compression on\nvdo_wait_index d`;
  const fio = (job: Job, isWarmUp: boolean): string =>
    ['fio', '--thread', '--ioengine=libaio', '--direct=1', '--filename=/dev/mapper/d', ...fioArguments(job, size, isWarmUp)].join(' '); // prettier-ignore
  const jobs = JOBS.map(
    (job, i) =>
      `${fio(job, true)} >/dev/null; sleep 0.5; echo BEGIN ${i}; sleep 0.2; out=$(${fio(job, false)} | grep '^3;'); sleep 0.2; echo "END ${i} $out"`,
  );
  return ['set -e', start, ...jobs, 'dmsetup remove --retry d'].join('\n');
}

/** Follows the lines of a file until `ended`. */
async function follow(
  file: () => string | undefined,
  ended: Promise<unknown>,
  onLine: (line: string) => void,
): Promise<void> {
  let isOver = false;
  const over = (): void => void (isOver = true);
  ended.then(over, over);
  let done = 0;
  while (!isOver) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    const at = file();
    if (at === undefined) continue;
    let text = '';
    try {
      text = fs.readFileSync(at, 'latin1');
    } catch {
      continue;
    }
    const end = text.lastIndexOf('\n') + 1;
    for (const line of text.slice(done, end).split('\n')) onLine(line.trim());
    done = Math.max(done, end);
  }
}

async function inKernel(
  side: Side,
  { folder, work }: Folders,
  size: number,
  add: Add,
): Promise<void> {
  const disk = path.join(folder, 'disk');
  await makeVolume(disk, size);
  const script = path.join(folder, 'script');
  fs.writeFileSync(script, guestScript(side, size));
  const [program, ...args] = [...PIN, UML, '-t', '900', '-m', '1536', script, disk];
  const child = spawn(program!, args, {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, TMPDIR: work },
  });
  const ended = once(child, 'exit');
  const place = (): string | undefined =>
    fs.readdirSync(work).find((name) => name.startsWith('uml-run.'));
  const out = (): string | undefined => {
    const name = place();
    return name === undefined ? undefined : path.join(work, name, 'out');
  };
  let before = 0;
  await follow(out, ended, (line) => {
    const [, what, number, rest] = /^(BEGIN|END) (\d+) ?(.*)$/.exec(line) ?? [];
    if (what === undefined) return;
    const pid = fs.readFileSync(path.join(work, place()!, 'vm/pid'), 'utf8').trim();
    const session = statOf(pid).split(') ')[1]!.split(' ')[3]!;
    const now = cpuOfSession(session);
    if (what === 'BEGIN') before = now;
    else add(JOBS[Number(number)]!, { cpu: now - before, ...ofTerse(rest!) });
  });
  const [status] = (await ended) as [number];
  if (status !== 0) throw new Error(`${side}: the guest ended with ${status}`);
}

async function makeVolume(file: string, size: number): Promise<void> {
  fs.rmSync(file, { force: true });
  const physical = Math.ceil((4 * size) / MiB) + 4096;
  await run('node', [UVDO, 'format', file, '--size', `${physical}M`, '--logical-size', String(2 * size)]); // prettier-ignore
}

async function outside(side: Side, { folder }: Folders, size: number, add: Add): Promise<void> {
  const disk = path.join(folder, 'disk');
  const socket = path.join(folder, 'socket');
  await makeVolume(disk, size);
  const served =
    side === 'uvdo'
      ? [UVDO, 'serve', disk, '--socket', socket, '--quiet']
      : [PASS_THROUGH, disk, socket];
  const [program, ...args] = [...PIN, 'node', ...served];
  const server: ChildProcess = spawn(program!, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const ended = once(server, 'exit');
  while (!fs.existsSync(socket)) await new Promise((resolve) => setTimeout(resolve, 20));
  const fio = async (job: Job, isWarmUp: boolean): Promise<string> => {
    const [command, ...rest] = [...PIN, 'fio', '--ioengine=nbd', `--uri=nbd+unix:///?socket=${socket}`, ...fioArguments(job, size, isWarmUp)]; // prettier-ignore
    return (await run(command!, rest)).stdout;
  };
  for (const job of JOBS) {
    await fio(job, true);
    const before = cpuOf(statOf(server.pid!), false);
    const line = (await fio(job, false)).split('\n').find((one) => one.startsWith('3;'))!;
    add(job, { cpu: cpuOf(statOf(server.pid!), false) - before, ...ofTerse(line) });
  }
  server.kill('SIGTERM');
  await ended;
  fs.rmSync(socket, { force: true });
}

/** All jobs of one side. User Mode Linux aborts now and then, at no place in particular: then again. */
async function onSide(side: Side, folders: Folders, size: number): Promise<Map<Job, Taken>> {
  for (let tries = 1; ; tries++) {
    const taken = new Map<Job, Taken>();
    try {
      const run = side.startsWith('dm-') ? inKernel : outside;
      await run(side, folders, size, (job, one) => taken.set(job, one));
      return taken;
    } catch (error) {
      if (tries === 3) throw error;
      process.stderr.write(`${String(error)}: once more\n`);
    }
  }
}

/** What has to be there before anything can be measured, or null. */
function whatIsMissing(): string | null {
  for (const command of ['fio', 'taskset']) {
    if (spawnSync('bash', ['-c', `command -v ${command}`]).status !== 0) {
      return `${command} is not installed`;
    }
  }
  const cache = process.env['UVDO_LAB_CACHE'] ?? path.join(os.homedir(), '.cache/uvdo-lab');
  if (fs.existsSync(path.join(cache, 'uml/linux'))) return null;
  return 'there is no User Mode Linux yet: test/interop/lab/uml-setup, as root, builds it in some minutes';
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '5' },
      size: { type: 'string', default: '1024' },
      dir: { type: 'string', default: os.tmpdir() },
      write: { type: 'boolean', default: false },
    },
  });
  const missing = whatIsMissing();
  if (missing !== null) {
    console.error(`bench:kernel: ${missing}`);
    process.exitCode = 1;
    return;
  }
  const size = Number(values.size) * MiB;
  const folder = fs.mkdtempSync(path.join(values.dir, 'uvdo-kernel-'));
  const work = fs.mkdtempSync(path.join(os.tmpdir(), 'uvdo-kernel-'));
  const taken = new Map<string, Taken[]>();
  try {
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const side of SIDES) {
        for (const [job, one] of await onSide(side, { folder, work }, size)) {
          const key = `${side} ${job.name}`;
          taken.set(key, [...(taken.get(key) ?? []), one]);
        }
        process.stderr.write(`round ${round + 1}: ${side} done\n`);
      }
    }
  } finally {
    for (const made of [folder, work]) fs.rmSync(made, { recursive: true, force: true });
  }
  const of = (side: Side, job: Job, figure: (one: Taken) => number): number =>
    median((taken.get(`${side} ${job.name}`) ?? []).map(figure));
  const rows = JOBS.map((job) => {
    const speed = (side: Side): number => of(side, job, (one) => one.bytes / 1e6 / one.seconds);
    const cost = (side: Side): number => of(side, job, (one) => one.cpu / (one.bytes / BLOCK_SIZE));
    const [kernel, linear, ours, server] = SIDES.map(cost) as [number, number, number, number];
    return [
      job.name,
      ...SIDES.map((side) => speed(side).toPrecision(3)),
      ...[kernel, linear, kernel - linear, ours, server, ours - server].map((us) => us.toFixed(1)),
      ((ours - server) / (kernel - linear)).toFixed(2),
      `≤ ${job.goal}`,
    ];
  });
  const heads = [
    '',
    ...SIDES.map((side) => `${side}, MB/s`),
    'dm-vdo, µs',
    'dm-linear',
    'dm-vdo over it',
    'uvdo, µs',
    'its server',
    'uvdo over it',
    'uvdo : dm-vdo',
    'goal',
  ];
  const text = `${machine()} Medians of ${values.rounds}, ${values.size} MiB, one processor.\n\n${plainTable(heads, rows)}`;
  console.log(text);
  if (values.write) writeBetweenMarks('docs/PERFORMANCE.md', text, 'kernel');
}

await main();
