/**
 * The indexes on one stream of record names, as the engine asks them: look a batch up, post what was not
 * found. Seven of ten batches are new names; three come again in the order they were written, half of
 * them from the last 64 batches, half from anywhere before.
 */
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { indexGeometry } from '../src/index/uds/index-geometry.ts';
import { openUdsIndex } from '../src/index/uds/open-uds-index.ts';
import { openLevelIndex } from '../src/index/level-index.ts';
import { createMemoryIndex } from '../src/index/memory-index.ts';
import type { HashIndex } from '../src/index/hash-index.ts';
import { openFileStorage } from '../src/storage/file-storage.ts';
import { Random, randomFill } from './data.ts';
import { plainTable } from './table.ts';

const ROWS = 2048;
const NONCE = new Uint8Array(8).fill(7);
const RECENT = 64;

interface Opened {
  readonly index: HashIndex;
  close(): Promise<void>;
  /** Bytes on disk. */
  disk(): number;
}

async function openUds(folder: string): Promise<Opened> {
  const geometry = indexGeometry(-256, false);
  const path = join(folder, 'uds');
  const blocks = geometry.totalBlocks;
  const storage = await openFileStorage(path, { create: true, size: (blocks + 1) * 4096 });
  const index = await openUdsIndex({
    storage,
    start: 1,
    blocks,
    geometry,
    nonce: NONCE,
    isNew: true,
  });
  return {
    index,
    close: async () => {
      await index.close();
      await storage.close();
    },
    disk: () => statSync(path).blocks * 512,
  };
}

async function openLevel(folder: string): Promise<Opened> {
  const directory = join(folder, 'level');
  const index = await openLevelIndex(directory, { nonce: NONCE });
  const disk = (): number =>
    readdirSync(directory, { recursive: true, encoding: 'utf8' }).reduce(
      (sum, name) => sum + statSync(join(directory, name)).blocks * 512,
      0,
    );
  return { index, close: () => index.close(), disk };
}

function openMemory(): Promise<Opened> {
  const index = createMemoryIndex();
  return Promise.resolve({ index, close: () => index.close(), disk: () => 0 });
}

const OPENERS: readonly [string, (folder: string) => Promise<Opened>][] = [
  ['uds', openUds],
  ['memory', openMemory],
  ['level', openLevel],
];

/** The seed of each batch: a new one, or that of the batch that comes again. */
function seedsOf(batches: number): { seeds: number[]; repeated: number } {
  const random = new Random(11);
  const seeds: number[] = [];
  const written: number[] = [];
  // Runs of batches come again together, as copies of files do.
  while (seeds.length < batches) {
    const run = 1 + random.below(16);
    const isNew = written.length < 16 || random.below(10) < 7;
    const last = written.length - run;
    const from =
      random.below(2) === 0
        ? Math.max(0, last - random.below(RECENT))
        : random.below(Math.max(1, last));
    for (let i = 0; i < run && seeds.length < batches; i++) {
      const seed = isNew ? written.length + 1 : written[from + i]!;
      if (isNew) written.push(seed);
      seeds.push(seed);
    }
  }
  return { seeds, repeated: seeds.length - written.length };
}

async function measure(
  name: string,
  open: (folder: string) => Promise<Opened>,
  seeds: readonly number[],
  repeated: number,
): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), 'uvdo-bench-'));
  try {
    const before = process.memoryUsage.rss();
    const opened = await open(folder);
    const { index } = opened;
    const names = new Uint8Array(ROWS * 16);
    const advice = { pbn: new Float64Array(ROWS), state: new Uint8Array(ROWS) };
    const post = new Uint8Array(ROWS * 16);
    const places = { pbn: new Float64Array(ROWS), state: new Uint8Array(ROWS).fill(1) };
    let [wall, cpu, found, pbn] = [0, 0, 0, 1];
    for (const seed of seeds) {
      randomFill(names, seed);
      const start = performance.now();
      const used = process.cpuUsage();
      await index.lookup(names, ROWS, advice);
      let count = 0;
      for (let i = 0; i < ROWS; i++) {
        if (advice.pbn[i] !== 0) continue;
        for (let b = 0; b < 16; b++) post[count * 16 + b] = names[i * 16 + b]!;
        places.pbn[count++] = pbn++;
      }
      found += ROWS - count;
      if (count > 0) await index.update(post, count, places);
      const { user, system } = process.cpuUsage(used);
      wall += performance.now() - start;
      cpu += user + system;
    }
    const { memoryBytes } = index.statistics();
    const rss = process.memoryUsage.rss() - before;
    await opened.close();
    const rows = seeds.length * ROWS;
    return [
      name,
      (rows / wall / 1000).toFixed(2),
      (cpu / rows).toFixed(2),
      (memoryBytes / 1e6).toFixed(0),
      (rss / 1e6).toFixed(0),
      (opened.disk() / 1e6).toFixed(0),
      `${((100 * found) / (repeated * ROWS)).toFixed(2)} %`,
    ];
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A Markdown table: every index on the same stream of `records` names. */
export async function compareIndexes(records: number): Promise<string> {
  const batches = Math.max(32, Math.round(records / ROWS));
  const { seeds, repeated } = seedsOf(batches);
  const heads = ['', 'M names/s', 'CPU µs', 'memory MB', 'resident MB', 'disk MB', 'found'];
  const rows = [];
  for (const [name, open] of OPENERS) rows.push(await measure(name, open, seeds, repeated));
  const share = ((100 * repeated) / batches).toFixed(0);
  return [
    `${((batches * ROWS) / 1e6).toFixed(1)} M names, ${share} % of them known:`,
    '',
    plainTable(heads, rows),
  ].join('\n');
}
