/**
 * `uvdo measure` on a stream too large to have: names are made from block numbers, no data is read. Shows
 * what counting alone takes, in memory and with a store, by processor time.
 *
 *     node dist/bench/measure.js [BLOCKS] [MEMORY]     default 20000000 blocks, no store
 *
 * Three in ten blocks repeat an earlier one, drawn from all before. With MEMORY (bytes) the table goes
 * to a store in a temporary folder whenever it has grown to that, and all is merged in the end.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Arena } from '../src/kernels/arena.ts';
import type { Batch } from '../src/measure/block-feed.ts';
import { BlockCounter, newTally } from '../src/measure/counter.ts';
import { FingerprintTable } from '../src/measure/fingerprint-table.ts';
import { SpilledContents } from '../src/measure/spilled-contents.ts';
import { MeasureStore } from '../src/measure/store.ts';
import { Random } from './data.ts';

const ROWS = 2048;
const DUPLICATES_IN_TEN = 3;
const REPORT_BLOCKS = 20_000_000;

const blocks = Number(process.argv[2] ?? 20_000_000);
const memoryBytes = process.argv[3] === undefined ? null : Number(process.argv[3]);

const arena = new Arena(ROWS);
const names = new Uint32Array(arena.names.buffer, arena.names.byteOffset, ROWS * 4);
const random = new Random(1);
let made = 0;

/** A well mixed word of a content's number. */
function mix(content: number, salt: number): number {
  let z = Math.imul((content ^ salt) | 0, 0x9e3779b1);
  z = Math.imul(z ^ (z >>> 15) ^ salt, 0x85ebca6b);
  z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
  return (z ^ (z >>> 16)) >>> 0;
}

/** Names of the next blocks. */
function fill(count: number): void {
  for (let row = 0; row < count; row++) {
    const repeats = made > 0 && random.below(10) < DUPLICATES_IN_TEN;
    const content = repeats ? random.below(made) : made++;
    for (let word = 0; word < 4; word++)
      names[row * 4 + word] = mix(content, 0x51ed27 * (word + 1));
  }
}

/** Milliseconds of processor time so far: other work on the machine does not count. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

const megabytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
const perSecond = (count: number, ms: number): string => `${(count / ms).toFixed(0)} k blocks/s`;

async function run(directory: string): Promise<void> {
  const table = new FingerprintTable(4);
  const store = memoryBytes === null ? null : await MeasureStore.open(join(directory, 'store'));
  const spilled =
    store === null || memoryBytes === null
      ? null
      : new SpilledContents(store, table, null, { compression: false, memoryBytes });
  const parts = { arena, table, stored: null, sets: null, windows: null, spilled, sample: 1 };
  const counter = new BlockCounter([newTally('stream')], parts);
  const file = { source: 0, path: 'stream', allocatedBytes: 0, isInFolder: false };
  let countMs = 0;
  let spillMs = 0;
  for (let done = 0; done < blocks;) {
    const count = Math.min(ROWS, blocks - done);
    fill(count);
    const begin = cpuMs();
    if (spilled?.needsRoom === true) await spilled.makeRoom();
    const middle = cpuMs();
    const part = {
      file,
      firstRow: 0,
      endRow: count,
      holeBlocks: 0,
      bytes: 0,
      endOffset: 0,
      isLast: false,
    };
    counter.add({ base: 0, count, parts: [part], reads: [], readers: [] } satisfies Batch);
    const end = cpuMs();
    spillMs += middle - begin;
    countMs += end - middle;
    done += count;
    if (done % REPORT_BLOCKS < ROWS || done === blocks) {
      const each = (table.bytes / Math.max(1, table.size)).toFixed(1);
      const rss = megabytes(process.memoryUsage().rss);
      const rate = perSecond(done, countMs + spillMs);
      console.log(`${done} blocks, ${rate}, ${table.size} in memory at ${each} bytes, RSS ${rss}`);
    }
  }
  const begin = cpuMs();
  let unique = counter.uniqueBlocks;
  if (spilled !== null) {
    await spilled.save({});
    unique = (await spilled.walk(1)).uniqueBlocks;
  }
  const mergeMs = cpuMs() - begin;
  const all = perSecond(blocks, countMs + spillMs + mergeMs);
  console.log(
    `counted ${unique} unique, made ${made}; merged in ${(mergeMs / 1000).toFixed(1)} s; ${all} in all`,
  );
  await store?.close();
}

const directory = mkdtempSync(join(tmpdir(), 'uvdo-measure-'));
try {
  await run(directory);
} finally {
  rmSync(directory, { recursive: true });
}
