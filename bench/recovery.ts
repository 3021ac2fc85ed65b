/**
 * How long a killed volume takes to serve again: `npm run bench:recovery -- [--dir DIRECTORY] [--gib N] [--write]`.
 *
 * A child fills a volume with 10 GiB of unique blocks, makes the journal as long as one of the histories below does,
 * flushes, and is killed. Then `uvdo serve` is started on it: milliseconds, from the start of the process on, until a
 * client is connected, has read a block, has written one and flushed, and until nothing is left to be scrubbed.
 * The folder needs some 14 GB; the default is the one for temporary files.
 */
import { fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { BLOCK_SIZE, GiB, MiB } from '../src/base/constants.ts';
import { openNbdStorage, type NbdStorage } from '../src/nbd-client/nbd-storage.ts';
import { formatVolume } from '../src/volume/format.ts';
import { openVolume } from '../src/volume/open.ts';
import type { Volume } from '../src/volume/volume.ts';
import { askControl } from '../tools/cli/control.ts';
import { randomFill } from './data.ts';
import { machine, plainTable, writeBetweenMarks } from './table.ts';

const UVDO = fileURLToPath(new URL('../tools/vdo.js', import.meta.url));
/** The block that is read, and the place of the stamp that tells it. */
const BLOCK_AT = 4 * MiB;
const STAMP_AT = 8;

interface History {
  readonly name: string;
  readonly slabBytes: number;
  /** What follows the fill of `bytes` bytes. */
  readonly then: (volume: Volume, bytes: number) => Promise<void>;
  /** The stamp that it leaves in the block that is read. */
  readonly stamp: number;
}

const HISTORIES: readonly History[] = [
  {
    name: 'then zeros over three tenths of it; slabs of 2 GiB',
    slabBytes: 2 * GiB,
    then: async (volume, bytes) => {
      const zeros = Buffer.alloc(MiB);
      for (let at = 0; at < 0.3 * bytes; at += MiB) await volume.write(at, zeros);
    },
    stamp: 0,
  },
  {
    name: 'then a block in each 8 MiB again; slabs of 32 MiB',
    slabBytes: 32 * MiB,
    then: async (volume, bytes) => {
      const block = Buffer.alloc(BLOCK_SIZE);
      randomFill(block, 99);
      for (let at = 0; at < bytes; at += 8 * MiB) {
        block.writeDoubleLE(at, STAMP_AT);
        await volume.write(at, block);
      }
    },
    stamp: BLOCK_AT,
  },
];

/** The child: fills, lives the history, tells its parent, and waits for its end. */
async function beVictim(file: string, bytes: number, history: History): Promise<never> {
  const volume = await openVolume(file, { index: 'memory', compression: false });
  const piece = Buffer.alloc(4 * MiB);
  randomFill(piece, 1);
  for (let at = 0; at < bytes; at += piece.length) {
    for (let row = 0; row < piece.length; row += BLOCK_SIZE) {
      piece.writeDoubleLE(at + row, row + STAMP_AT);
    }
    await volume.write(at, piece);
  }
  await volume.flush();
  await history.then(volume, bytes);
  await volume.flush();
  process.send!('flushed');
  return new Promise(() => undefined);
}

async function crash(file: string, bytes: number, history: number): Promise<void> {
  const args = ['--victim', file, '--history', String(history), '--gib', String(bytes / GiB)];
  const child = fork(fileURLToPath(import.meta.url), args);
  const ended = once(child, 'exit');
  const [message] = (await Promise.race([once(child, 'message'), ended])) as unknown[];
  if (message !== 'flushed') throw new Error('the volume could not be filled');
  child.kill('SIGKILL');
  await ended;
}

interface ServerStats {
  readonly mode?: string;
}

async function connect(socket: string): Promise<NbdStorage> {
  for (;;) {
    try {
      if (fs.existsSync(socket)) return await openNbdStorage(`nbd+unix:///?socket=${socket}`);
    } catch (error) {
      if (!/refused|ECONNREFUSED/.test((error as Error).message)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Serves the killed volume; journal entries, and the milliseconds of the table. */
async function recover(file: string, folder: string, stamp: number): Promise<number[]> {
  const socket = path.join(folder, 'socket');
  const began = performance.now();
  const since = (): number => Math.round(performance.now() - began);
  const server = spawn(process.execPath, [UVDO, 'serve', file, '--socket', socket], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  server.stderr.on('data', (text) => (said += String(text)));
  try {
    const client = await connect(socket);
    const times = [since()];
    const block = Buffer.alloc(BLOCK_SIZE);
    await client.read([{ offset: BLOCK_AT, bytes: block }]);
    times.push(since());
    if (block.readDoubleLE(STAMP_AT) !== stamp) throw new Error('a flushed block is lost');
    await client.write([{ offset: BLOCK_AT, bytes: block }]);
    await client.flush();
    times.push(since());
    for (;;) {
      const stats = (await askControl(file, 'stats')) as ServerStats;
      if (stats.mode !== 'recovering') break;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    times.push(since());
    await client.close();
    return [Number(/(\d+) journal entries/.exec(said)?.[1] ?? NaN), ...times];
  } finally {
    const ended = once(server, 'exit');
    server.kill('SIGTERM');
    await ended;
  }
}

const { values } = parseArgs({
  options: {
    dir: { type: 'string', default: os.tmpdir() },
    gib: { type: 'string', default: '10' },
    write: { type: 'boolean', default: false },
    victim: { type: 'string' },
    history: { type: 'string', default: '0' },
  },
});
const bytes = Number(values.gib) * GiB;
if (values.victim !== undefined) {
  await beVictim(values.victim, bytes, HISTORIES[Number(values.history)]!);
}
const folder = fs.mkdtempSync(path.join(values.dir, 'uvdo-recovery-'));
try {
  const file = path.join(folder, 'killed.vdo');
  const heads = [
    `${values.gib} GiB of unique blocks, flushed`,
    'MiB on disk',
    'journal entries',
    'ms until connected',
    'read',
    'written and flushed',
    'scrubbed',
  ];
  const rows = [];
  for (const [i, history] of HISTORIES.entries()) {
    const size = Math.ceil((bytes * 1.2) / GiB) * GiB + history.slabBytes;
    const logicalSize = 2 * bytes;
    await formatVolume(file, { size, logicalSize, slabSize: history.slabBytes, noIndex: true });
    await crash(file, bytes, i);
    const megabytes = Math.round((fs.statSync(file).blocks * 512) / MiB);
    rows.push([history.name, megabytes, ...(await recover(file, folder, history.stamp))]);
    fs.rmSync(file);
  }
  const text = `${machine()}\n\n${plainTable(heads, rows)}`;
  console.log(text);
  if (values.write) writeBetweenMarks('docs/PERFORMANCE.md', text, 'recovery');
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}
