/**
 * A seeded story about the model: geometry, cache, limits and workload drawn from the seed, several
 * lives of one volume between crashes and clean stops; at every storage operation the power may go, and
 * dm-vdo's recovery must bring back what the oracle allows.
 */
import { MemoryStorage } from '../../src/storage/memory-storage.ts';
import type { Request } from '../model/batch.ts';
import { Contents, deceptivePage, pageLike, ZEROS } from '../model/contents.ts';
import {
  Damaged,
  encodeTinyVolume,
  readLayout,
  slabPlace,
  type TinyGeometry,
} from '../model/layout.ts';
import { Model } from '../model/model.ts';
import type { Sabotage } from '../model/sabotage.ts';
import { Scheduler, type Task } from '../model/scheduler.ts';
import { BLOCK, runNow } from '../model/steps.ts';
import { checkImage, recoverImage, Violation } from './crash-check.ts';
import { FaultyDisk } from './disk.ts';
import { Oracle } from './oracle.ts';
import { Random } from './random.ts';

export interface StoryResult {
  readonly crashes: number;
  readonly operations: number;
  readonly lives: number;
  readonly checkpoints: number;
  readonly inFlight: number;
}

export interface StoryOptions {
  readonly sabotage?: Sabotage | undefined;
  /** Crashes examined at each storage operation, on average. */
  readonly crashesPerOperation?: number;
  /** Drawn from the seed if absent. */
  readonly kind?: StoryKind | undefined;
}

/**
 * `small`: everything at once on tiny slabs; `churn`: few free blocks, freed and shared all the time; `wrap`: the recovery journal runs full; `slab`: a slab
 * journal runs full; `wide`: slabs of several reference blocks.
 */
export type StoryKind = 'small' | 'churn' | 'wrap' | 'slab' | 'wide';

interface Plan {
  readonly kind: StoryKind;
  readonly tiny: TinyGeometry;
  readonly lbns: readonly number[];
  readonly frames: number;
  readonly epochEntries: number;
  readonly heldLimit: number;
  readonly flushChance: number;
  readonly checkpointAt: number;
  readonly checkpointChance: number;
  readonly batches: number;
  readonly batchRequests: number;
  readonly contents: number;
  readonly crashChance: number;
  /** How much more likely a crash is with many writes in flight. */
  readonly crowdFactor: number;
}

/** Draws everything about a story that stays the same through its lives. */
function plan(random: Random, crashes: number, wanted: StoryKind | undefined): Plan {
  const drawn = random.pick(['small', 'small', 'small', 'churn', 'wrap', 'slab', 'wide'] as const);
  const kind = wanted ?? drawn;
  const perRoot = kind === 'slab' ? 4 : random.between(3, 12);
  const lbns: number[] = [];
  for (let root = 0; root < (kind === 'wide' ? 1 : random.between(1, 2)); root++) {
    for (let i = 0; i < perRoot; i++) lbns.push(root * 812 + random.below(812));
    if (random.chance(0.3)) lbns.push((60 + root) * 812 + 811);
  }
  const zoneCount = random.pick([0, 1, 3]);
  const shared = {
    kind,
    lbns,
    frames: random.pick([22, 24, 60]),
    heldLimit: random.pick([4, 20, 1000]),
    flushChance: random.pick([0.05, 0.3, 0.6]),
    contents: random.pick([2, 6, 1000]),
    crowdFactor: 3,
  };
  const tiny = { slabCount: 3, logicalBlocks: 812 * 60 * 2, zoneCount };
  switch (kind) {
    case 'small':
    case 'wide':
      return {
        ...shared,
        tiny: {
          ...tiny,
          slabBlocks: kind === 'wide' ? 8192 : random.pick([32, 64, 128]),
          slabCount: kind === 'wide' ? 2 : 3,
          slabJournalBlocks: random.pick([3, 4, 8, 16]),
          journalBlocks: random.pick([16, 32, 64]),
        },
        epochEntries: random.pick([3, 40, 300]),
        checkpointAt: random.pick([0.2, 0.5]),
        checkpointChance: 0.15,
        batches: random.between(6, 40),
        batchRequests: random.pick([1, 4, 20]),
        crashChance: crashes,
      };
    case 'churn':
      return {
        ...shared,
        lbns: lbns.slice(0, 8),
        tiny: { ...tiny, slabBlocks: 32, slabCount: 2, slabJournalBlocks: 4, journalBlocks: 32 },
        contents: 6,
        heldLimit: random.pick([20, 1000]),
        epochEntries: random.pick([10, 60]),
        checkpointAt: 0.5,
        checkpointChance: 0.1,
        batches: random.between(40, 80),
        batchRequests: 6,
        crashChance: 0.5 * crashes,
      };
    case 'wrap': {
      // The recovery journal runs full and wraps, in epochs of many blocks; in calm stories nothing
      // but a lack of room ever ends one.
      const calm = random.chance(0.5);
      return {
        ...shared,
        tiny: {
          ...tiny,
          slabBlocks: 1024,
          slabJournalBlocks: 8,
          journalBlocks: calm ? 16 : random.pick([16, 32]),
        },
        flushChance: calm ? 0 : 0.03,
        epochEntries: calm ? 100_000 : random.pick([300, 5000]),
        checkpointAt: calm ? 2 : random.pick([0.3, 2]),
        checkpointChance: calm ? 0 : 0.03,
        heldLimit: 100_000,
        frames: 60,
        batches: calm ? random.between(150, 250) : random.between(60, 150),
        batchRequests: calm ? 70 : random.pick([30, 60, 150]),
        crashChance: (calm ? 0.1 : 0.7) * crashes,
        crowdFactor: calm ? 40 : 3,
      };
    }
    case 'slab':
      // Thousands of entries on few blocks of one slab: the slab journal runs full.
      return {
        ...shared,
        tiny: {
          ...tiny,
          slabBlocks: 256,
          slabJournalBlocks: random.pick([3, 3, 4, 5]),
          slabCount: 1,
          journalBlocks: random.pick([32, 64]),
        },
        flushChance: random.pick([0.02, 0.2]),
        epochEntries: random.pick([300, 1500, 5000]),
        checkpointAt: random.pick([0.3, 2]),
        checkpointChance: random.pick([0.01, 0.1]),
        heldLimit: 1000,
        batches: random.between(10, 40),
        batchRequests: random.between(150, 200),
        contents: 4,
        crashChance: 0.5 * crashes,
      };
  }
}

/** A new volume on a disk full of the most misleading leftovers there can be. */
function formatHostile(tiny: TinyGeometry, random: Random): MemoryStorage {
  const { physicalBlocks, blocks } = encodeTinyVolume(tiny);
  const storage = new MemoryStorage(physicalBlocks * BLOCK, { chunkBytes: BLOCK });
  const put = (block: number, bytes: Uint8Array): void =>
    storage.writeSync([{ offset: block * BLOCK, bytes }]);
  for (const [block, bytes] of blocks) put(block, bytes);
  const layout = runNow(readLayout(), storage);
  for (let i = 0; i < 64; i++) put(layout.summaryOrigin + i, Buffer.alloc(BLOCK, 0x41 + i));
  const strange = Buffer.alloc(8, 0x77);
  for (let slab = 0; slab < layout.slabCount; slab++) {
    const place = slabPlace(layout, slab);
    for (let i = 0; i < Math.min(64, layout.dataBlocks); i++) {
      const claims = random.pick([place.base + i, place.base + i + 1]);
      put(place.base + i, deceptivePage(claims, random.chance(0.8) ? layout.nonce : strange));
    }
    for (let i = 0; i < layout.countBlocks; i++) put(place.counts + i, Buffer.alloc(BLOCK, 0x03));
  }
  for (let root = 0; root < 60; root++) {
    const pbn = layout.rootOrigin + root;
    if (random.chance(0.5)) put(pbn, deceptivePage(pbn, strange));
  }
  return storage;
}

class Story {
  readonly #random: Random;
  readonly #plan: Plan;
  readonly #oracle = new Oracle();
  readonly #sabotage: Sabotage | undefined;
  readonly #contents: Contents;
  #storage: MemoryStorage;
  #nextContent = 1;
  /** Blocks that a wrap story discarded last, rather than zeroed: each request makes an entry. */
  readonly #discarded = new Set<number>();
  crashes = 0;
  operations = 0;
  lives = 0;
  checkpoints = 0;
  inFlight = 0;

  constructor(seed: number, options: StoryOptions) {
    this.#random = new Random(seed);
    this.#plan = plan(this.#random, options.crashesPerOperation ?? 1, options.kind);
    this.#sabotage = options.sabotage;
    this.#storage = formatHostile(this.#plan.tiny, this.#random);
    this.#contents = new Contents(runNow(readLayout(), this.#storage).nonce);
  }

  run(): void {
    const lives = this.#random.between(1, 3);
    for (let life = 0; life < lives; life++) {
      this.lives++;
      this.#live();
    }
  }

  /** Opens the volume, works, and stops it or loses power. */
  #live(): void {
    const random = this.#random;
    const failAt = random.chance(this.#sabotage?.endsWith('-flush') ? 0.8 : 0.1)
      ? random.between(4, 30)
      : -1;
    const disk = new FaultyDisk(this.#storage, {
      seed: random.next(),
      faults: { flushError: (nth) => nth === failAt },
      onOperation: (at) => this.#operation(at),
    });
    const scheduler = new Scheduler(disk, random);
    const { frames, epochEntries, heldLimit, checkpointAt } = this.#plan;
    const options = {
      sabotage: this.#sabotage,
      frames,
      epochEntries,
      heldLimit,
      checkpointAt,
      random,
    };
    let model: Model | undefined;
    try {
      model = Model.open(disk, scheduler, options);
      scheduler.spawn(this.#workload(model, scheduler));
      scheduler.run();
      if (!model.readOnly && random.chance(0.6)) {
        scheduler.spawn(model.close());
        scheduler.run();
        if (!model.readOnly) {
          this.#oracle.flushed(this.#oracle.mark());
          this.#check(disk.crash(0));
        }
      }
    } catch (error) {
      if (error instanceof Damaged) throw new Violation(error.message);
      if (!(error instanceof Error && 'code' in error)) throw error;
    }
    this.operations += disk.operations;
    this.checkpoints += model?.checkpoints ?? 0;
    const survivor = recoverImage(disk.crash(random.next()), random.next(), random.below(3));
    for (const [lbn, content] of this.#check(survivor)) this.#oracle.settle(lbn, content);
    this.#storage = survivor;
  }

  *#workload(model: Model, scheduler: Scheduler): Task {
    const random = this.#random;
    for (let n = 0; n < this.#plan.batches && !model.readOnly; n++) {
      const requests = this.#requests(model);
      if (requests.length > 0) {
        yield* model.batch(requests, ({ lbn, content, discard }) =>
          this.#oracle.wrote(lbn, discard ? ZEROS : content),
        );
      }
      if (random.chance(this.#plan.flushChance)) {
        const mark = this.#oracle.mark();
        const flush = model.flush(() => this.#oracle.flushed(mark));
        if (random.chance(0.5)) scheduler.spawn(flush);
        else yield* flush;
      }
      if (random.chance(this.#plan.checkpointChance)) model.wantCheckpoint();
      if (random.chance(this.#plan.checkpointChance / 5)) yield* model.checkpointNow();
    }
  }

  #requests(model: Model): Request[] {
    const random = this.#random;
    const { lbns, batchRequests } = this.#plan;
    const room = model.journal.tailRoom;
    const lbn = random.pick(lbns);
    const special = this.#plan.kind !== 'wrap' && random.chance(0.2);
    if (special && room > 0 && room < 200 && random.chance(0.75)) {
      // Fills the last journal block exactly: an entry each, on one block.
      if (random.chance(0.5)) model.wantCheckpoint();
      return Array.from({ length: room }, (_, i) => ({
        lbn,
        content: ZEROS,
        discard: i % 2 === 0,
      }));
    }
    if (special && random.chance(0.5)) {
      // More references to one content than a count can hold.
      const content = this.#nextContent++;
      const flood = Array.from({ length: 270 }, (_, i) => ({ lbn: i % 300, content, share: true }));
      return this.#plan.tiny.slabJournalBlocks > 4 ? flood : [];
    }
    return Array.from({ length: random.between(1, batchRequests) }, () => this.#request());
  }

  #request(): Request {
    const random = this.#random;
    const lbn = random.pick(this.#plan.lbns);
    // In a slab story every request costs an increment and a decrement in the slab.
    const kind = this.#plan.kind === 'slab' ? 9 : random.below(10);
    if (this.#plan.kind === 'wrap' && kind < 9) {
      const discard = !this.#discarded.delete(lbn);
      if (discard) this.#discarded.add(lbn);
      return { lbn, content: ZEROS, discard };
    }
    if (kind === 0) return { lbn, content: ZEROS, discard: true };
    if (kind === 1) return { lbn, content: ZEROS };
    const { tiny, contents } = this.#plan;
    if (kind === 2) {
      return { lbn, content: pageLike(62 + random.below(tiny.slabBlocks * tiny.slabCount)) };
    }
    const fresh = random.chance(this.#plan.kind === 'slab' ? 0.01 : contents > 100 ? 0.6 : 0.15);
    const content = fresh
      ? this.#nextContent++
      : 1 + random.below(Math.min(contents, this.#nextContent));
    return {
      lbn,
      content,
      share: random.chance(this.#plan.kind === 'slab' ? 1 : 0.8),
      pack: random.chance(0.3),
    };
  }

  /** The power goes here, in as many ways as the plan wants. */
  #operation(disk: FaultyDisk): void {
    const random = this.#random;
    // The more is in flight, the more there is to lose.
    const many =
      disk.unflushedWrites > 6 ? this.#plan.crowdFactor : disk.unflushedWrites > 2 ? 1.5 : 1;
    let crashes = this.#plan.crashChance * many;
    for (; random.chance(crashes); crashes--) {
      this.crashes++;
      if (disk.unflushedWrites > 0) this.inFlight++;
      const image = disk.crash(random.next());
      const interruptions = random.chance(0.1) ? random.between(1, 3) : 0;
      this.#check(recoverImage(image, random.next(), interruptions));
    }
  }

  #check(image: MemoryStorage): Map<number, number> {
    return checkImage(image, this.#oracle, (content) => this.#contents.bytesOf(content));
  }
}

/** Tells one story. Throws `Violation` where the protocol does not hold. */
export function runStory(seed: number, options: StoryOptions = {}): StoryResult {
  const story = new Story(seed, options);
  story.run();
  const { crashes, operations, lives, checkpoints, inFlight } = story;
  return { crashes, operations, lives, checkpoints, inFlight };
}
