/**
 * A seeded story about the deduplication index alone: a tiny one, several lives between crashes and clean
 * closes, on a disk that may fail. At every write and flush the power may go; dm-vdo must then be able to
 * use what it finds, and we must find nothing that was never there.
 */
import { makeIndexGeometry } from '../../src/index/uds/index-geometry.ts';
import type { UdsIndex } from '../../src/index/uds/uds-index.ts';
import { MemoryStorage } from '../../src/storage/memory-storage.ts';
import type { Extent, Storage } from '../../src/storage/storage.ts';
import { Violation } from './crash-check.ts';
import { FaultyDisk, PowerLoss, type Faults } from './disk.ts';
import { checkIndex, openIndexAt, type IndexSite } from './index-check.ts';
import { Random } from './random.ts';

export interface IndexStoryResult {
  crashes: number;
  loads: number;
  rebuilds: number;
  lives: number;
  /** Chapters closed. */
  chapters: number;
}

/** `stale-save`: the save is not made invalid before a chapter is closed. */
export type IndexSabotage = 'stale-save';

export interface IndexStoryOptions {
  readonly sabotage?: IndexSabotage | undefined;
  readonly crashesPerOperation?: number;
}

const BLOCK = 4096;
const BATCH = 700;

/** The disk as the index sees it, on which no save is ever made invalid. */
class Sabotaged implements Storage {
  readonly #below: Storage;

  constructor(below: Storage) {
    this.#below = below;
  }

  get size(): number {
    return this.#below.size;
  }

  get readOnly(): boolean {
    return this.#below.readOnly;
  }

  read(extents: readonly Extent[]): Promise<void> {
    return this.#below.read(extents);
  }

  async write(extents: readonly Extent[]): Promise<void> {
    // A block of zeros of its own is written for one purpose only.
    const invalidates =
      extents.length === 1 &&
      extents[0]!.bytes.length === BLOCK &&
      extents[0]!.bytes.every((byte) => byte === 0);
    if (!invalidates) await this.#below.write(extents);
  }

  flush(): Promise<void> {
    return this.#below.flush();
  }

  close(): Promise<void> {
    return this.#below.close();
  }
}

class IndexStory {
  readonly result: IndexStoryResult = {
    crashes: 0,
    loads: 0,
    rebuilds: 0,
    lives: 0,
    chapters: 0,
  };
  readonly #random: Random;
  readonly #options: IndexStoryOptions;
  readonly #site: IndexSite;
  #storage: MemoryStorage;
  /** Images that the power left, judged when the story has a moment. */
  #images: MemoryStorage[] = [];
  #created = false;
  #nextName = 0;

  constructor(seed: number, options: IndexStoryOptions) {
    this.#random = new Random(seed);
    this.#options = options;
    const sparse = this.#random.chance(0.3);
    const chapters = this.#random.pick([4, 6, 7]);
    this.#site = {
      geometry: makeIndexGeometry({
        recordPages: this.#random.pick([1, 2]),
        chapters,
        sparseChapters: sparse ? chapters - 2 : 0,
      }),
      start: 1,
      nonce: new Uint8Array(8).fill(0x5a),
    };
    const size = (1 + this.#site.geometry.totalBlocks) * BLOCK;
    this.#storage = new MemoryStorage(size, { chunkBytes: BLOCK });
  }

  async run(): Promise<void> {
    const lives = this.#random.between(2, 5);
    for (let life = 0; life < lives; life++) await this.#live(life);
  }

  async #live(life: number): Promise<void> {
    const random = this.#random;
    this.result.lives++;
    const disk = new FaultyDisk(this.#storage, {
      seed: random.next(),
      faults: this.#faults(),
      onOperation: (at) => this.#operation(at),
    });
    const { sabotage } = this.#options;
    const storage = sabotage === undefined ? disk : new Sabotaged(disk);
    let index: UdsIndex | undefined;
    try {
      const options = {
        isNew: !this.#created,
        now: 1000 + life,
        cachePages: random.pick([2, 8, 40]),
      };
      index = await openIndexAt(storage, this.#site, options);
      this.#created = true;
      await this.#work(index);
      if (random.chance(0.6)) await this.#close(index, disk);
    } catch (error) {
      const hurt = error instanceof Error && 'code' in error && disk.faultsStruck > 0;
      if (!hurt && !(error instanceof PowerLoss)) throw error;
    }
    const survivor = disk.crash(random.next());
    disk.onOperation = undefined;
    disk.stopAfter = 0;
    await index?.close();
    await this.#judge();
    this.#storage = survivor;
  }

  #faults(): Faults {
    const random = this.#random;
    if (random.chance(0.7)) return {};
    const at = random.between(1, 40);
    return random.pick<Faults>([
      { flushError: (nth) => nth === at },
      { writeError: (nth) => nth === at },
      { tornWrite: (nth) => nth === at },
      { readError: (nth) => nth === at },
    ]);
  }

  async #work(index: UdsIndex): Promise<void> {
    const random = this.#random;
    for (let step = random.between(0, 12); step > 0; step--) {
      if (random.chance(0.3)) await this.#lookUp(index, random.between(1, BATCH));
      else await this.#post(index, random.between(1, BATCH));
      if (random.chance(0.3)) await index.settled();
    }
    this.result.chapters += index.chapters.newest;
  }

  /** Names are numbers, spread by a generator; a name lies at twice or thrice its number. */
  #nameOf(number: number): Uint8Array {
    const random = new Random(number);
    const words = Uint32Array.from({ length: 4 }, () => random.next());
    const name = new Uint8Array(words.buffer);
    // Every eighth looks like the one before it to the volume index, and to chapter indexes.
    return number % 8 === 7
      ? Uint8Array.from(this.#nameOf(number - 1), (b, i) => (i < 15 ? b : ~b))
      : name;
  }

  #names(numbers: readonly number[]): Uint8Array {
    const names = new Uint8Array(numbers.length * 16);
    numbers.forEach((number, i) => names.set(this.#nameOf(number), i * 16));
    return names;
  }

  async #post(index: UdsIndex, count: number): Promise<void> {
    const first = this.#random.chance(0.3)
      ? this.#random.below(this.#nextName + 1)
      : this.#nextName;
    this.#nextName = Math.max(this.#nextName, first + count);
    const numbers = Array.from({ length: count }, (_, i) => first + i);
    const times = this.#random.between(2, 3);
    await index.update(this.#names(numbers), count, {
      pbn: Float64Array.from(numbers, (number) => times * (number + 1)),
      state: new Uint8Array(count).fill(1),
    });
  }

  async #lookUp(index: UdsIndex, count: number): Promise<number> {
    const first = this.#random.below(this.#nextName + 1);
    return this.#expectTrue(index, first, count);
  }

  /** Looks names up; what is found must have been posted. Returns how many were. */
  async #expectTrue(index: UdsIndex, first: number, count: number): Promise<number> {
    const numbers = Array.from({ length: count }, (_, i) => first + i);
    const advice = { pbn: new Float64Array(count), state: new Uint8Array(count) };
    await index.lookup(this.#names(numbers), count, advice);
    let found = 0;
    numbers.forEach((number, i) => {
      const times = advice.pbn[i]! / (number + 1);
      if (times !== 0) found++;
      if (times !== 0 && ((times !== 2 && times !== 3) || number >= this.#nextName)) {
        throw new Violation(`name ${number} lies at ${advice.pbn[i]}`);
      }
    });
    return found;
  }

  /** A clean close keeps all that is not older than the window. */
  async #close(index: UdsIndex, disk: FaultyDisk): Promise<void> {
    await index.settled();
    await index.close();
    if (disk.faultsStruck > 0) return;
    if (index.warning !== null) throw new Violation(`closed with: ${index.warning.message}`);
    const image = disk.crash(0);
    if ((await checkIndex(image, this.#site)) !== 'load') throw new Violation('nothing was saved');
  }

  #operation(disk: FaultyDisk): void {
    const random = this.#random;
    if (!this.#created) return;
    if (!random.chance(this.#options.crashesPerOperation ?? 1)) return;
    this.#images.push(disk.crash(random.next()));
  }

  async #judge(): Promise<void> {
    const images = this.#images;
    this.#images = [];
    for (const image of images) {
      this.result.crashes++;
      const outcome = await checkIndex(image, this.#site);
      if (outcome === 'load') this.result.loads++;
      else this.result.rebuilds++;
      if (!this.#random.chance(0.3)) continue;
      const index = await openIndexAt(image, this.#site, { isNew: false, now: 99 });
      await this.#expectTrue(index, this.#random.below(this.#nextName + 1), 50);
      await index.settled();
      await this.#expectTrue(index, Math.max(0, this.#nextName - 400), 500);
      if (index.warning !== null) throw new Violation(`opened with: ${index.warning.message}`);
      await index.close();
    }
  }
}

/** Tells one story. Throws `Violation` where a crash leaves what it must not. */
export async function runIndexStory(
  seed: number,
  options: IndexStoryOptions = {},
): Promise<IndexStoryResult> {
  const story = new IndexStory(seed, options);
  await story.run();
  return story.result;
}
