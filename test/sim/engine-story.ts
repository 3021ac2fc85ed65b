/**
 * A seeded story about the real engine: tiny geometry, caches and batches, hostile leftovers on the
 * disk, several lives of one volume. At every write and flush that reaches the disk the power may go;
 * dm-vdo's recovery (as the specification has it, independent of the engine) must then find every
 * flushed block, and the audit nothing.
 */
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { MemoryStorage } from '../../src/storage/memory-storage.ts';
import { VdoError } from '../../src/base/errors.ts';
import { indexGeometry, indexRegionBlocks } from '../../src/index/uds/index-geometry.ts';
import { formatStorage } from '../../src/volume/format.ts';
import { openVolumeOn, type OpenOptions } from '../../src/volume/open.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { Contents, deceptivePage, ZEROS } from '../model/contents.ts';
import { readLayout, slabPlace, STATE, type VolumeLayout } from '../model/layout.ts';
import { BLOCK, runNow } from '../model/steps.ts';
import { checkImage, forgetReadOnly, recoverImage, Violation } from './crash-check.ts';
import { FaultyDisk, PowerLoss, type Faults } from './disk.ts';
import { checkIndex } from './index-check.ts';
import { LyingStorage, type Lie } from './lying-storage.ts';
import { Oracle } from './oracle.ts';
import { Random } from './random.ts';
import { expectSameVolume, recoverByUvdo } from './recover-by-uvdo.ts';

export interface EngineStoryResult {
  crashes: number;
  /** Crashes with unflushed writes in flight. */
  inFlight: number;
  operations: number;
  lives: number;
  /** Writes to the slab summary while running: one a checkpoint. */
  summaries: number;
  /** Lives that began with a recovery of uvdo's own. */
  recoveries: number;
  /** Crashes that uvdo recovered as dm-vdo does, and how often the power went meanwhile. */
  compared: number;
  interrupted: number;
  /** Lives that ended in read-only mode, and stored that. */
  readOnly: number;
  /** Runs of blocks that were written as `create` writes a file. */
  ingests: number;
}

export interface EngineStoryOptions {
  /** Crashes examined at each storage operation, on average. */
  readonly crashesPerOperation?: number;
  /** Share of these that uvdo recovers too, to be compared. */
  readonly compared?: number;
  /** Many short lives, so that recoveries are most of the story. */
  readonly shortLives?: boolean;
  /** A rule that the storage breaks. */
  readonly lie?: Lie;
}

/** A crash, and what dm-vdo's recovery made of it. */
interface Crash {
  readonly image: MemoryStorage;
  readonly recovered: MemoryStorage;
}

interface World {
  readonly options: OpenOptions;
  readonly lbns: readonly number[];
  readonly steps: number;
  readonly run: number;
  readonly contents: number;
  readonly flushChance: number;
  readonly waitChance: number;
  readonly floodChance: number;
}

/** Setting of 0.25 GB. */
const SMALLEST_INDEX = -256;

/** Contents below this are repeated stamps, which compress well; above, noise that does not. */
const NOISE = 500_000;

/** A file without a name, which only grows. */
class SourceFile {
  readonly fd: number;
  #size = 0;

  constructor() {
    const path = join(mkdtempSync(join(tmpdir(), 'uvdo-sim-')), 'source');
    this.fd = openSync(path, 'w+');
    rmSync(dirname(path), { recursive: true });
  }

  /** Returns where the bytes begin. */
  append(bytes: Buffer): number {
    const at = this.#size;
    for (let done = 0; done < bytes.length;) {
      done += writeSync(this.fd, bytes, done, bytes.length - done, at + done);
    }
    this.#size += bytes.length;
    return at;
  }

  close(): void {
    closeSync(this.fd);
  }
}

class EngineStory {
  readonly result: EngineStoryResult = {
    crashes: 0,
    inFlight: 0,
    operations: 0,
    lives: 0,
    summaries: 0,
    recoveries: 0,
    compared: 0,
    interrupted: 0,
    readOnly: 0,
    ingests: 0,
  };
  readonly #random: Random;
  readonly #crashes: number;
  readonly #compared: number;
  readonly #shortLives: boolean;
  readonly #lie: Lie | undefined;
  /** To be recovered by uvdo once the running life has ended. */
  #waiting: Crash[] = [];
  readonly #oracle = new Oracle();
  readonly #busy = new Map<number, Promise<void>>();
  readonly #noise = new Map<number, Buffer>();
  readonly #source = new SourceFile();
  #contents!: Contents;
  #storage!: MemoryStorage;
  #world!: World;
  #nextContent = 1;
  #summaryAt = 0;
  #violation: unknown;

  constructor(seed: number, options: EngineStoryOptions) {
    const { crashesPerOperation = 0.6, compared = 0.08, shortLives = false, lie } = options;
    this.#shortLives = shortLives;
    this.#lie = lie;
    this.#random = new Random(seed);
    this.#crashes = crashesPerOperation;
    this.#compared = compared;
  }

  async run(): Promise<void> {
    await this.#format();
    const lives = this.#shortLives ? 8 : this.#random.between(1, 3);
    try {
      for (let life = 0; life < lives; life++) await this.#live();
    } finally {
      this.#source.close();
    }
  }

  async #format(): Promise<void> {
    const random = this.#random;
    const slabBlocks = random.pick([128, 256, 1024]);
    const journal = random.pick([16, 32, 64]);
    const slabs = random.between(1, 3);
    // Now and then with an index of its own: the smallest there is, of which a story fills little.
    const hasIndex = random.chance(0.15);
    const indexBlocks = hasIndex ? indexRegionBlocks(SMALLEST_INDEX, false) : 0;
    const size = (62 + indexBlocks + slabBlocks * slabs + journal + 64) * BLOCK;
    const storage = new MemoryStorage(size, { chunkBytes: BLOCK });
    await formatStorage(storage, {
      noIndex: !hasIndex,
      logicalSize: 812 * 60 * 2 * BLOCK,
      slabSize: slabBlocks * BLOCK,
      slabJournalBlocks: random.pick([8, 10, 16]),
      recoveryJournalBlocks: journal,
      nonce: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 0),
      uuid: new Uint8Array(16),
    });
    const layout = runNow(readLayout(), storage);
    this.#contents = new Contents(layout.nonce);
    this.#scribble(storage, layout);
    this.#summaryAt = layout.summaryOrigin * BLOCK;
    this.#storage = storage;
    const lbns: number[] = [];
    // With as many leaves as cache frames, checkpoints never end.
    const leaves = random.pick([1, 2, 8, 8]);
    const perLeaf = leaves === 8 ? random.between(2, 6) : random.between(4, 40);
    for (let page = 0; page < leaves; page++) {
      const start = page * 812 + random.below(700);
      for (let i = 0; i < perLeaf; i++) lbns.push(start + i);
    }
    this.#world = {
      options: {
        index: hasIndex ? 'uds' : random.pick(['memory', 'off']),
        compression: random.chance(0.6),
        workers: 0,
        commitIntervalMs: 0,
        cachePages: random.pick([8, 8, 16, 64]),
        batchBlocks: random.pick([1, 4, 16, 64]),
        packerBins: random.pick([1, 2, 8]),
      },
      lbns,
      steps: random.between(10, 120),
      run: random.pick([1, 4, 16]),
      contents: random.pick([3, 20, 1000]),
      flushChance: random.pick([0.02, 0.1, 0.3]),
      waitChance: random.pick([0.05, 0.5, 1]),
      floodChance: random.pick([0, 0.05, 0.3]),
    };
  }

  /** Leaves tree pages of this very volume in the free blocks, noise in the slabs' metadata. */
  #scribble(storage: MemoryStorage, layout: VolumeLayout): void {
    const put = (pbn: number, bytes: Uint8Array): void =>
      storage.writeSync([{ offset: pbn * BLOCK, bytes }]);
    for (let slab = 0; slab < layout.slabCount; slab++) {
      const place = slabPlace(layout, slab);
      for (let i = 0; i < layout.dataBlocks; i++) {
        put(place.base + i, deceptivePage(place.base + i + this.#random.below(2), layout.nonce));
      }
      const journalEnd = place.journal + layout.slabJournalBlocks;
      for (let pbn = place.counts; pbn < journalEnd; pbn++) put(pbn, Buffer.alloc(BLOCK, 0x03));
    }
  }

  async #live(): Promise<void> {
    const random = this.#random;
    this.result.lives++;
    const disk = new FaultyDisk(this.#storage, {
      seed: random.next(),
      faults: this.#faults(),
      onOperation: (at) => this.#operation(at),
    });
    let volume: Volume | undefined;
    try {
      const lie = this.#lie;
      const storage = lie === undefined ? disk : new LyingStorage(disk, this.#storage, lie);
      volume = await openVolumeOn(storage, this.#world.options);
      await this.#work(volume);
      if (random.chance(0.7)) await this.#close(volume, disk);
    } catch (error) {
      if (this.#violation) throw this.#violation;
      const hurt = error instanceof Error && 'code' in error && disk.faultsStruck > 0;
      if (!hurt && !(error instanceof PowerLoss)) throw error;
    }
    if (this.#violation) throw this.#violation;
    this.result.operations += disk.operations;
    this.result.summaries += Math.max(0, disk.writesAt(this.#summaryAt) - 1);
    const crashed = disk.crash(random.next());
    disk.onOperation = undefined;
    disk.stopAfter = 0;
    await volume?.close().catch(() => undefined);
    if (runNow(readLayout(), crashed).state === STATE.READ_ONLY) this.result.readOnly++;
    forgetReadOnly(crashed);
    const survivor = recoverImage(crashed.clone(), random.next(), random.below(3));
    for (const [lbn, content] of this.#check(survivor)) this.#oracle.settle(lbn, content);
    await this.#compare();
    await this.#checkIndex(crashed, false);
    // The next life begins with uvdo's own recovery, or with a volume that dm-vdo has recovered.
    const recovers = random.chance(0.7);
    this.#storage = recovers ? crashed : survivor;
    if (recovers) this.result.recoveries++;
  }

  /** Has uvdo recover the crashes that wait. */
  async #compare(): Promise<void> {
    const random = this.#random;
    for (const { image, recovered } of this.#waiting.splice(0)) {
      const interruptions = random.pick([0, 0, 1, 3]);
      const ours = await recoverByUvdo(image, random.next(), interruptions);
      expectSameVolume(ours.image, recovered);
      this.result.compared++;
      this.result.interrupted += ours.interrupted;
    }
  }

  #faults(): Faults {
    const random = this.#random;
    if (random.chance(0.7)) return {};
    const at = random.between(4, 120);
    return random.pick<Faults>([
      { flushError: (nth) => nth === at },
      { writeError: (nth) => nth === at },
      { tornWrite: (nth) => nth === at },
      { noSpace: (nth) => nth === at },
    ]);
  }

  async #close(volume: Volume, disk: FaultyDisk): Promise<void> {
    const mark = this.#oracle.mark();
    await volume.close();
    this.#oracle.flushed(mark);
    const image = disk.crash(0);
    const { state } = runNow(readLayout(), image);
    if (state !== STATE.CLEAN) throw new Violation(`closed in state ${state}`);
    this.#check(image);
    await this.#checkIndex(image, volume.indexWarning === null);
  }

  /** A volume that crashed amid its creation may have no index; a save must be true. */
  async #checkIndex(image: MemoryStorage, mustLoad: boolean): Promise<void> {
    if (this.#world.options.index !== 'uds') return;
    const { nonce } = runNow(readLayout(), image);
    const site = { geometry: indexGeometry(SMALLEST_INDEX, false), start: 1, nonce };
    const outcome = await checkIndex(image, site).catch((error: unknown) => {
      if (error instanceof VdoError) return error.code;
      throw error;
    });
    if (mustLoad && outcome !== 'load') throw new Violation(`no index was saved: ${outcome}`);
  }

  async #work(volume: Volume): Promise<void> {
    const random = this.#random;
    let running: Promise<void>[] = [];
    const steps = Math.min(this.#world.steps, this.#shortLives ? 12 : Infinity);
    for (let step = 0; step < steps && volume.failure === null; step++) {
      running.push(this.#request(volume).catch((error: unknown) => this.#forgive(volume, error)));
      if (random.chance(this.#world.waitChance)) {
        await Promise.all(running);
        running = [];
      }
    }
    await Promise.all(running);
  }

  /** Failed requests are no wonder on a failing disk or a full volume. */
  #forgive(volume: Volume, error: unknown): void {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (volume.failure === null && code !== 'NoSpace') throw error;
  }

  /** Writes blocks the way that `create` and `import` write a file. */
  async #ingest(volume: Volume, lbn: number, bytes: Buffer): Promise<void> {
    const from = this.#source.append(bytes);
    const { fd } = this.#source;
    const { length } = bytes;
    const done = await volume.ingest({
      fd,
      from,
      length,
      offset: lbn * BLOCK,
      onBlocks: () => undefined,
    });
    if (done !== length) throw new Violation(`an ingest of ${length} bytes wrote ${done}`);
    this.result.ingests++;
  }

  async #request(volume: Volume): Promise<void> {
    const random = this.#random;
    const { lbns, run, flushChance } = this.#world;
    if (random.chance(flushChance)) {
      const mark = this.#oracle.mark();
      await volume.flush();
      this.#oracle.flushed(mark);
      return;
    }
    const flood = random.chance(this.#world.floodChance) && lbns[0]! < 812;
    const lbn = flood ? random.below(400) : random.pick(lbns);
    const count = flood ? random.between(100, 300) : random.between(1, run);
    // Requests in flight that overlap have no order: the next one waits for those before.
    for (;;) {
      const before = Array.from({ length: count }, (_, i) => this.#busy.get(lbn + i));
      if (!before.some((answer) => answer)) break;
      await Promise.all(before);
    }
    const fua = random.chance(0.03);
    const discard = random.chance(flood ? 0.4 : 0.15);
    // A flood is zeros, which cost an entry each, or one content more often than a count can say.
    const flooding = random.chance(0.6) ? ZEROS : this.#content();
    const contents = Array.from({ length: count }, () =>
      discard ? ZEROS : flood ? flooding : this.#content(),
    );
    const versions = contents.map((content, i) => this.#oracle.submitted(lbn + i, content));
    const bytes = Buffer.concat(contents.map((content) => this.#bytesOf(content)));
    // As `create` and `import` do, which leave zeros out.
    const ingest = !discard && !contents.includes(ZEROS) && random.chance(0.25);
    const answer = discard
      ? volume.discard(lbn * BLOCK, count * BLOCK, { fua })
      : ingest
        ? this.#ingest(volume, lbn, bytes)
        : volume.write(lbn * BLOCK, bytes, { fua });
    for (let i = 0; i < count; i++)
      this.#busy.set(
        lbn + i,
        answer.catch(() => undefined),
      );
    try {
      await answer;
    } finally {
      for (let i = 0; i < count; i++) this.#busy.delete(lbn + i);
    }
    for (const version of versions) this.#oracle.acknowledged(version);
    if (fua && !ingest && count === 1) this.#oracle.durable(lbn, versions[0]!);
  }

  #content(): number {
    const random = this.#random;
    if (random.chance(0.1)) return ZEROS;
    const fresh = random.chance(this.#world.contents > 100 ? 0.7 : 0.2);
    const content = fresh
      ? this.#nextContent++
      : 1 + random.below(Math.min(this.#world.contents, this.#nextContent));
    return content % 3 === 0 ? NOISE + content : content;
  }

  #bytesOf(content: number): Buffer {
    if (content < NOISE) return this.#contents.bytesOf(content);
    let bytes = this.#noise.get(content);
    if (!bytes) {
      const random = new Random(content);
      bytes = Buffer.alloc(BLOCK);
      for (let at = 0; at < BLOCK; at += 4) bytes.writeUInt32LE(random.next(), at);
      this.#noise.set(content, bytes);
    }
    return bytes;
  }

  #operation(disk: FaultyDisk): void {
    if (this.#violation) return;
    const random = this.#random;
    const many = disk.unflushedWrites > 8 ? 3 : disk.unflushedWrites > 2 ? 1.5 : 1;
    try {
      for (let crashes = this.#crashes * many; random.chance(crashes); crashes--) {
        this.result.crashes++;
        if (disk.unflushedWrites > 0) this.result.inFlight++;
        const interruptions = random.chance(0.1) ? random.between(1, 3) : 0;
        const image = disk.crash(random.next());
        const compared = random.chance(this.#compared);
        const recovered = recoverImage(
          compared ? image.clone() : image,
          random.next(),
          interruptions,
        );
        this.#check(recovered);
        const { state } = runNow(readLayout(), image);
        if (compared && state === STATE.DIRTY) this.#waiting.push({ image, recovered });
      }
    } catch (error) {
      this.#violation = error;
      disk.stopAfter = 0;
    }
  }

  #check(image: MemoryStorage): Map<number, number> {
    return checkImage(image, this.#oracle, (content) => this.#bytesOf(content));
  }
}

/** Tells one story. Throws `Violation` where a crash loses something. */
export async function runEngineStory(
  seed: number,
  options: EngineStoryOptions = {},
): Promise<EngineStoryResult> {
  const story = new EngineStory(seed, options);
  await story.run();
  return story.result;
}
