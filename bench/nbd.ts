/**
 * `uvdo serve` beside other NBD servers: the same clients (fio's nbd engine, nbdcopy), Unix sockets,
 * images in the page cache; every server in turn in every round, medians of the rounds. Reads and the
 * copy are of an image full of noise; then it is filled with what compresses by half, and written to.
 *
 *   node dist/bench/nbd.js [--rounds N] [--seconds N] [--size MIB] [--folder DIR] [--only NAME,…]
 *
 * Needs fio, nbdcopy, qemu-nbd, qemu-img and nbdkit. fio finds libnbd's engine by itself.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import fs from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { DUPLICATE, UNIQUE } from './fio.ts';
import { median, plainTable } from './table.ts';

const run = promisify(execFile);
const UVDO = fileURLToPath(new URL('../tools/vdo.js', import.meta.url));
const MiB = 1 << 20;

interface Server {
  readonly name: string;
  /** Makes what it serves; returns the command that serves it on `socket`. */
  prepare(folder: string, socket: string, size: number): Promise<readonly string[]>;
  /**
   * What is compressed gets there by this command alone, and can be written once; what is written
   * through the other one later is not compressed. Such a server does the jobs on compressed data only.
   */
  compressing?(folder: string, socket: string): readonly string[];
}

const sparse = (path: string, size: number): string => {
  fs.writeFileSync(path, '');
  fs.truncateSync(path, size);
  return path;
};

const SERVERS: readonly Server[] = [
  {
    name: 'uvdo',
    async prepare(folder, socket, size) {
      const path = join(folder, 'uvdo.vdo');
      const physical = Math.ceil((size * 1.3) / MiB) + 400;
      await run('node', [UVDO, 'format', path, '--size', `${physical}M`, '--logical-size', String(size), '--slab-size', '128M', '--no-index', '--force']); // prettier-ignore
      return ['node', UVDO, 'serve', path, '--socket', socket, '--index', 'memory', '--quiet'];
    },
  },
  {
    name: 'qemu-nbd raw',
    async prepare(folder, socket, size) {
      const path = sparse(join(folder, 'raw.img'), size);
      return ['qemu-nbd', '-t', '-k', socket, '-e', '16', '-f', 'raw', '--discard=unmap', path];
    },
  },
  {
    name: 'nbdkit file',
    async prepare(folder, socket, size) {
      const path = sparse(join(folder, 'nbdkit.img'), size);
      return ['nbdkit', '-f', '-U', socket, 'file', path];
    },
  },
  {
    name: 'qemu-nbd qcow2 zstd',
    async prepare(folder, socket, size) {
      const path = join(folder, 'zstd.qcow2');
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'compression_type=zstd', path, String(size)]); // prettier-ignore
      return ['qemu-nbd', '-t', '-k', socket, '-e', '16', '-f', 'qcow2', path];
    },
    compressing(folder, socket) {
      const path = join(folder, 'zstd.qcow2');
      const image = `driver=compress,file.driver=qcow2,file.file.driver=file,file.file.filename=${path}`; // prettier-ignore
      return ['qemu-nbd', '-t', '-k', socket, '-e', '16', '--image-opts', image];
    },
  },
  {
    name: 'nbdkit memory zstd',
    async prepare(_folder, socket, size) {
      return ['nbdkit', '-f', '-U', socket, 'memory', String(size), 'allocator=zstd'];
    },
  },
];

interface Job {
  readonly name: string;
  readonly unit: string;
  readonly fio: readonly string[];
  readonly metric: 'iops' | 'MB/s' | 'p50 µs';
  /** `read`: of an image full of noise; `packed`, `unique`, `write`: on one full of what compresses. */
  readonly kind: 'read' | 'packed' | 'unique' | 'write';
}

const JOBS: readonly Job[] = [
  { name: 'read 4K random, depth 32', unit: 'k/s', metric: 'iops', kind: 'read', fio: ['--rw=randread', '--bs=4k', '--iodepth=32'] }, // prettier-ignore
  { name: 'read 4K random, depth 1, p50', unit: 'µs', metric: 'p50 µs', kind: 'read', fio: ['--rw=randread', '--bs=4k', '--iodepth=1'] }, // prettier-ignore
  { name: 'read 1M sequential, depth 4', unit: 'MB/s', metric: 'MB/s', kind: 'read', fio: ['--rw=read', '--bs=1m', '--iodepth=4'] }, // prettier-ignore
  { name: 'read 1M sequential, compressed 2:1', unit: 'MB/s', metric: 'MB/s', kind: 'packed', fio: ['--rw=read', '--bs=1m', '--iodepth=4'] }, // prettier-ignore
  { name: 'write 4K random unique 2:1, depth 32', unit: 'k/s', metric: 'iops', kind: 'unique', fio: ['--rw=randwrite', '--bs=4k', '--iodepth=32', ...UNIQUE] }, // prettier-ignore
  { name: 'write 4K random 97 % duplicate, depth 32', unit: 'k/s', metric: 'iops', kind: 'write', fio: ['--rw=randwrite', '--bs=4k', '--iodepth=32', ...DUPLICATE] }, // prettier-ignore
  { name: 'write 1M 97 % duplicate, depth 4', unit: 'MB/s', metric: 'MB/s', kind: 'write', fio: ['--rw=write', '--bs=1m', '--iodepth=4', ...DUPLICATE] }, // prettier-ignore
];

interface FioSide {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> };
}

async function fio(socket: string, size: number, args: readonly string[]): Promise<FioSide> {
  const { stdout } = await run(
    'fio',
    ['--name=j', '--ioengine=nbd', `--uri=nbd+unix:///?socket=${socket}`, `--size=${size}`, '--output-format=json', '--randrepeat=0', ...args], // prettier-ignore
    { maxBuffer: 64 * MiB },
  );
  const text = stdout.slice(stdout.indexOf('{'));
  const [job] = (JSON.parse(text) as { jobs: { read: FioSide; write: FioSide }[] }).jobs;
  return args.some((arg) => /^--rw=(rand)?read$/.test(arg)) ? job!.read : job!.write;
}

async function start(command: readonly string[], socket: string): Promise<ChildProcess> {
  const [program, ...args] = command;
  const child = spawn(program!, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  for (let tries = 0; !fs.existsSync(socket); tries++) {
    if (tries > 500 || child.exitCode !== null) throw new Error(`${command.join(' ')}: no socket`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return child;
}

async function stop(child: ChildProcess, socket: string): Promise<void> {
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  await ended;
  fs.rmSync(socket, { force: true });
}

/** One server through all jobs; adds a figure to each. */
async function measure(
  server: Server,
  { folder, size, seconds }: { folder: string; size: number; seconds: number },
  add: (job: string, value: number) => void,
): Promise<void> {
  const socket = join(folder, 'socket');
  const command = await server.prepare(folder, socket, size);
  const fill = ['--rw=write', '--bs=1m', '--iodepth=4', '--refill_buffers'];
  const timed = ['--time_based', `--runtime=${seconds}`];
  const during = async (served: readonly string[], work: () => Promise<void>): Promise<void> => {
    const child = await start(served, socket);
    try {
      await work();
    } finally {
      await stop(child, socket);
    }
  };
  const jobs = async (kind: Job['kind']): Promise<void> => {
    for (const job of JOBS.filter((one) => one.kind === kind)) {
      const side = await fio(socket, size, [...job.fio, ...timed]);
      const p50 = (side.clat_ns.percentile?.['50.000000'] ?? NaN) / 1000;
      const figure = { iops: side.iops / 1000, 'MB/s': side.bw_bytes / 1e6, 'p50 µs': p50 };
      add(job.name, figure[job.metric]);
    }
  };
  const fillPacked = async (): Promise<void> =>
    void (await fio(socket, size, [...fill, ...UNIQUE]));
  if (server.compressing !== undefined) {
    await during(server.compressing(folder, socket), fillPacked);
    await during(command, async () => {
      await jobs('packed');
      await jobs('unique');
    });
    return;
  }
  await during(command, async () => {
    await fio(socket, size, fill);
    await jobs('read');
    const startMs = performance.now();
    await run('nbdcopy', [`nbd+unix:///?socket=${socket}`, 'null:']);
    add(COPY, size / 1e3 / (performance.now() - startMs));
    await fillPacked();
    await jobs('packed');
    await jobs('unique');
    await jobs('write');
  });
}

const COPY = 'nbdcopy to null';

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '4' },
      size: { type: 'string', default: '1024' },
      folder: { type: 'string', default: tmpdir() },
      only: { type: 'string' },
    },
  });
  const servers = SERVERS.filter(
    ({ name }) => values.only === undefined || values.only.split(',').includes(name),
  );
  const folder = fs.mkdtempSync(join(values.folder, 'uvdo-bench-nbd-'));
  const figures = new Map<string, Map<string, number[]>>();
  try {
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const server of servers) {
        const options = {
          folder,
          size: Number(values.size) * MiB,
          seconds: Number(values.seconds),
        };
        await measure(server, options, (job, value) => {
          const row = figures.get(job) ?? new Map<string, number[]>();
          figures.set(job, row);
          row.set(server.name, [...(row.get(server.name) ?? []), value]);
        });
        process.stderr.write(`round ${round + 1}: ${server.name} done\n`);
      }
    }
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
  const rows = [];
  const units = new Map([...JOBS.map(({ name, unit }) => [name, unit] as const), [COPY, 'MB/s']]);
  for (const [job, row] of figures) {
    const cells = servers.map(({ name }) => {
      const value = median(row.get(name) ?? []);
      return Number.isNaN(value) ? '' : String(Number(value.toPrecision(3)));
    });
    rows.push([`${job}, ${units.get(job)}`, ...cells]);
  }
  const heads = [`${cpus()[0]!.model}, ${cpus().length} cores`, ...servers.map(({ name }) => name)];
  process.stdout.write(`${plainTable(heads, rows)}\n`);
}

await main();
