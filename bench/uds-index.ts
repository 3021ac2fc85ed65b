/**
 * The index in the volume as the engine uses it, of 0.25 GB, dense: filled chapter by chapter in a file, then new
 * names, names of closed chapters in the order of their writing, a save, its load, and a rebuild.
 *
 * CPU is that of the whole process, chapters written in the background included; making the names is not.
 * Every tenth batch is one that was there before, so that a rebuild meets names in two chapters.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { indexGeometry } from '../src/index/uds/index-geometry.ts';
import { readRegion } from '../src/index/uds/index-region.ts';
import { IndexSaves } from '../src/index/uds/index-saves.ts';
import { openUdsIndex } from '../src/index/uds/open-uds-index.ts';
import type { UdsIndex } from '../src/index/uds/uds-index.ts';
import { openFileStorage } from '../src/storage/file-storage.ts';
import type { Storage } from '../src/storage/storage.ts';
import { randomFill } from './data.ts';

const ROWS = 2048;
const NONCE = new Uint8Array(8).fill(7);
const GEOMETRY = indexGeometry(-256, false);
const BATCHES_PER_CHAPTER = GEOMETRY.recordsPerChapter / ROWS;
/** Chapters of new names, and of names from closed chapters, that are measured. */
const MEASURED = 4;

class Meter {
  cpu = 0;
  wall = 0;

  async time(work: () => Promise<unknown> | void): Promise<void> {
    const start = performance.now();
    const before = process.cpuUsage();
    await work();
    const { user, system } = process.cpuUsage(before);
    this.cpu += user + system;
    this.wall += (performance.now() - start) * 1000;
  }

  /** Microseconds of CPU, and of the clock, for each of `count`. */
  row(name: string, count: number, remark: string): string {
    const each = (microseconds: number): string => (microseconds / count).toFixed(2);
    const rate = (count / this.cpu).toFixed(2);
    return `| ${name} | ${each(this.cpu)} | ${each(this.wall)} | ${rate} | ${remark} |`;
  }

  get seconds(): string {
    return `${(this.wall / 1e6).toFixed(2)} s, ${(this.cpu / 1e6).toFixed(2)} s of CPU`;
  }
}

class Bench {
  readonly #names = new Uint8Array(ROWS * 16);
  readonly #advice = { pbn: new Float64Array(ROWS), state: new Uint8Array(ROWS) };
  readonly #places = {
    pbn: new Float64Array(ROWS).fill(1000),
    state: new Uint8Array(ROWS).fill(1),
  };
  readonly rows: string[] = [];
  readonly #storage: Storage;
  #written = 0;

  constructor(storage: Storage) {
    this.#storage = storage;
  }

  open(isNew: boolean): Promise<UdsIndex> {
    const blocks = GEOMETRY.totalBlocks;
    const place = { storage: this.#storage, start: 1, blocks, geometry: GEOMETRY, nonce: NONCE };
    return openUdsIndex({ ...place, isNew });
  }

  async fill(index: UdsIndex, chapters: number): Promise<void> {
    for (let batch = 0; batch < chapters * BATCHES_PER_CHAPTER; batch++) {
      if (batch % 10 === 9) {
        randomFill(this.#names, 1 + Math.floor(this.#written / 2));
        await index.lookup(this.#names, ROWS, this.#advice);
      } else {
        randomFill(this.#names, ++this.#written);
        await index.update(this.#names, ROWS, this.#places);
      }
    }
  }

  async newNames(index: UdsIndex): Promise<void> {
    const meter = new Meter();
    const batches = MEASURED * BATCHES_PER_CHAPTER;
    for (let i = 0; i < batches; i++) {
      randomFill(this.#names, ++this.#written);
      await meter.time(async () => {
        await index.lookup(this.#names, ROWS, this.#advice);
        await index.update(this.#names, ROWS, this.#places);
      });
    }
    await meter.time(() => index.settled());
    this.rows.push(meter.row('lookup and post of a new name', batches * ROWS, ''));
  }

  async hits(index: UdsIndex): Promise<void> {
    const meter = new Meter();
    const batches = MEASURED * BATCHES_PER_CHAPTER;
    // A quarter of the way into what was written, in the same order.
    const first = Math.floor(this.#written / 4);
    let found = 0;
    for (let i = 0; i < batches; i++) {
      randomFill(this.#names, first + i);
      await meter.time(() => index.lookup(this.#names, ROWS, this.#advice));
      for (let row = 0; row < ROWS; row++) if (this.#advice.pbn[row] !== 0) found++;
    }
    await meter.time(() => index.settled());
    const remark = `${found} of ${batches * ROWS} found; each is recorded anew`;
    this.rows.push(meter.row('name of a closed chapter, in order', batches * ROWS, remark));
  }

  async saveAndLoad(index: UdsIndex): Promise<void> {
    const { entriesIndexed, memoryBytes } = index.statistics();
    const save = new Meter();
    await save.time(() => index.close());
    const load = new Meter();
    let loaded: UdsIndex | undefined;
    await load.time(async () => {
      loaded = await this.open(false);
    });
    const entries = loaded!.statistics().entriesIndexed;
    const megabytes = (memoryBytes / 1e6).toFixed(0);
    this.rows.push(
      save.row('save', entriesIndexed, `${save.seconds}; ${megabytes} MB of memory`),
      load.row('load of it', entries, load.seconds),
    );
    await loaded!.close();
  }

  async rebuild(): Promise<void> {
    const region = await readRegion({
      storage: this.#storage,
      geometry: GEOMETRY,
      start: 1,
      nonce: NONCE,
    });
    const saves = new IndexSaves(region);
    await saves.find();
    await saves.invalidate();
    const meter = new Meter();
    let index: UdsIndex | undefined;
    await meter.time(async () => {
      index = await this.open(false);
      await index.settled();
    });
    const { newest, oldest } = index!.chapters;
    const records = (newest - oldest) * GEOMETRY.recordsPerChapter;
    const { entriesIndexed } = index!.statistics();
    const remark = `${meter.seconds}; ${entriesIndexed} entries of ${records} records in ${newest - oldest} chapters`;
    this.rows.push(meter.row('rebuild, a record', records, remark));
    await index!.close();
  }
}

/** A Markdown table of an index of so many chapters. */
export async function udsIndexTable(chapters: number): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'uvdo-bench-'));
  try {
    const size = (GEOMETRY.totalBlocks + 1) * 4096;
    const storage = await openFileStorage(join(folder, 'index'), { create: true, size });
    const bench = new Bench(storage);
    const index = await bench.open(true);
    await bench.fill(index, chapters - 2 * MEASURED);
    await bench.newNames(index);
    await bench.hits(index);
    await bench.saveAndLoad(index);
    await bench.rebuild();
    await storage.close();
    return [
      `| ${chapters} chapters of 0.25 GB, dense | CPU µs | µs | M a CPU second | |`,
      '| - | -: | -: | -: | - |',
      ...bench.rows,
    ].join('\n');
  } finally {
    rmSync(folder, { recursive: true });
  }
}
