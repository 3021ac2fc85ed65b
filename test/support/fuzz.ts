/**
 * What must hold of every volume, whatever is in it: each way into the program ends, with a result or
 * with a `VdoError`; a read-only way writes nothing; and an open that fails has not touched a volume
 * that it does not take.
 */
import { Worker } from 'node:worker_threads';
import { VdoError } from '../../src/base/errors.ts';
import { auditVolume } from '../../src/inspect/audit.ts';
import { dumpBlockMap } from '../../src/inspect/dump-block-map.ts';
import { dumpJournal } from '../../src/inspect/dump-journal.ts';
import { dumpLayout } from '../../src/inspect/dump-layout.ts';
import { dumpSlab, dumpSlabJournal } from '../../src/inspect/dump-slab.ts';
import { Inspection } from '../../src/inspect/inspection.ts';
import { slabsOf } from '../../src/volume/labels.ts';
import { openVolumeOn } from '../../src/volume/open.ts';
import { rebuildVolumeOn } from '../../src/volume/rebuild-volume.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { Random } from '../sim/random.ts';
import { ImageStorage, type Image } from './image.ts';
import { MUTATIONS } from './mutate.ts';
import { joined, noise, QUIET, squashy } from './volumes.ts';

const BLOCK = 4096;

/** How often each step ended how: `open opened`, `audit Corrupt` … */
export type Tally = Map<string, number>;

/** Runs a step; what is neither a result nor a `VdoError` is a failure of the program. */
async function step<T>(tally: Tally, name: string, work: () => Promise<T>): Promise<T | undefined> {
  let outcome = 'done';
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof VdoError))
      throw new Error(`${name}: ${String(error)}`, { cause: error });
    outcome = error.code;
    return undefined;
  } finally {
    const key = `${name} ${outcome}`;
    tally.set(key, (tally.get(key) ?? 0) + 1);
  }
}

/** One to three mutations of a copy; their names. */
export function mutate(image: Image, random: Random): string[] {
  const names = Array.from({ length: random.between(1, 3) }, () =>
    random.pick(Object.keys(MUTATIONS)),
  );
  for (const name of names) MUTATIONS[name]!(image, random);
  return names;
}

/** Drives a mutated volume in every way there is. Throws where something must not be. */
export async function drive(image: Image, random: Random, tally: Tally): Promise<void> {
  const size = random.chance(0.03) ? random.below(image.bytes.length) : image.bytes.length;
  const bytes = image.bytes.subarray(0, size);
  const untouched = new ImageStorage(Buffer.from(bytes));
  await step(tally, 'audit', () => auditVolume(untouched));
  await step(tally, 'dump', () => dumpAll(untouched));
  await step(tally, 'read-only', async () => {
    const volume = await openVolumeOn(untouched, { ...QUIET, readOnly: true });
    await step(tally, 'read', () => readSome(volume, random));
    await volume.close();
  });
  if (untouched.writes > 0) throw new Error('a read-only way wrote');
  const written = new ImageStorage(Buffer.from(bytes));
  const volume = await step(tally, 'open', () =>
    openVolumeOn(written, { ...QUIET, cachePages: 16 }),
  );
  if (volume === undefined) checkRejected(written, bytes);
  else await use(volume, random, tally);
  const rebuilt = new ImageStorage(Buffer.from(bytes));
  const report = await step(tally, 'rebuild', () => rebuildVolumeOn(rebuilt, { force: true }));
  if (report !== undefined) await checkRebuilt(rebuilt);
}

/** Whatever was rebuilt is sound; only what a client's blocks hold may not be. */
async function checkRebuilt(storage: ImageStorage): Promise<void> {
  const { errors } = await auditVolume(storage);
  const wrong = errors.filter(({ kind }) => kind !== 'compressed-block');
  if (wrong.length > 0) throw new Error(`after a rebuild: ${JSON.stringify(wrong.slice(0, 3))}`);
}

/** A volume that was not opened is as it was, or is still marked as not closed. */
function checkRejected(storage: ImageStorage, before: Buffer): void {
  if (storage.writes > 0 && !storage.bytes.equals(before)) {
    throw new Error(`a volume that was not opened was written to ${storage.writes} times`);
  }
}

async function readSome(volume: Volume, random: Random): Promise<void> {
  const into = new Uint8Array(64 * BLOCK);
  for (let n = 0; n < 12; n++) {
    const near = n % 3 === 0 ? random.below(2 ** 30) : random.below(700);
    const offset = Math.min(Math.max(0, volume.size - into.length), near * BLOCK);
    const length = Math.min(into.length, volume.size - offset);
    await ignoreOperating(() => volume.read(offset, length, into));
    await ignoreOperating(() => volume.extents(offset, length));
  }
  volume.statistics();
}

async function use(volume: Volume, random: Random, tally: Tally): Promise<void> {
  await step(tally, 'read', () => readSome(volume, random));
  for (let n = 0; n < 10; n++) {
    const offset = Math.min(Math.max(0, volume.size - 32 * BLOCK), random.below(800) * BLOCK);
    const count = Math.min(random.between(1, 30), Math.floor(volume.size / BLOCK));
    const make = random.chance(0.5) ? noise : squashy;
    const data = joined(...Array.from({ length: count }, (_, i) => make(random.below(90) + i)));
    await step(tally, 'write', async () => {
      if (random.chance(0.2)) await volume.discard(offset, data.length);
      else await volume.write(offset, data);
      if (random.chance(0.4)) await volume.flush();
    });
  }
  await step(tally, 'read', () => readSome(volume, random));
  await step(tally, 'close', () => volume.close());
}

async function ignoreOperating(work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof VdoError)) throw error;
  }
}

async function dumpAll(storage: ImageStorage): Promise<void> {
  const inspection = await Inspection.open(storage);
  const superBlock = inspection.needSuperBlock();
  dumpLayout(inspection);
  const last = Math.min(superBlock.logicalBlocks - 1, 3000);
  for await (const run of dumpBlockMap(inspection, 0, last)) void run;
  await dumpJournal(inspection, true);
  for (let slab = 0; slab < Math.min(4, slabsOf(superBlock)); slab++) {
    await dumpSlab(inspection, slab);
    await dumpSlabJournal(inspection, slab, true);
  }
}

/** Ends the process, saying which seed it was, when one seed takes longer than `seconds`. */
export class Watchdog {
  readonly #beat = new Int32Array(new SharedArrayBuffer(8));
  readonly #worker: Worker;

  constructor(file: string, seconds: number) {
    const code = `
      const { workerData: { beat, file, seconds } } = require('node:worker_threads');
      let last = -1;
      setInterval(() => {
        if (beat[0] === last) {
          require('node:fs').writeSync(2, 'hangs: SEED=' + beat[1] + ' npx vitest run ' + file + '\\n');
          process.kill(process.pid, 'SIGKILL');
        }
        last = beat[0];
      }, seconds * 1000);`;
    const workerData = { beat: this.#beat, file, seconds };
    this.#worker = new Worker(code, { eval: true, workerData });
    this.#worker.unref();
  }

  /** The next seed begins. */
  begin(seed: number): void {
    this.#beat[0] = this.#beat[0]! + 1;
    this.#beat[1] = seed;
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }
}
