/**
 * Random requests against a volume and against a plain array must agree: reads and writes of any
 * alignment, discards, zeroes, flushes, closing and opening with other options; several requests in
 * flight at a time. After each close the auditor finds every count equal to the map.
 */
import { expect, it } from 'vitest';
import { VdoError } from '../../src/base/errors.ts';
import { MemoryStorage } from '../../src/storage/memory-storage.ts';
import { formatStorage } from '../../src/volume/format.ts';
import { openVolumeOn, type OpenOptions } from '../../src/volume/open.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { auditNow } from '../model/audit.ts';
import { readLbns } from '../model/read.ts';
import { runNow } from '../model/steps.ts';
import { Random } from '../sim/random.ts';
import { eachSeed } from '../sim/seeds.ts';

const FILE = 'test/property/volume.test.ts';
const BLOCK = 4096;
const SEEDS = 12;
const OPERATIONS = 900;

/** Keeps the storage open when the volume is closed. */
class Kept extends MemoryStorage {
  override async close(): Promise<void> {}
}

interface Range {
  readonly offset: number;
  readonly length: number;
}

class Trial {
  readonly #random: Random;
  readonly #storage: MemoryStorage;
  readonly #format: { slabBlocks: number; slabs: number; logicalBlocks: number; journal: number };
  readonly #expected: Buffer;
  readonly #palette: Buffer[] = [];
  #volume!: Volume;
  #busy: Range[] = [];
  operations = 0;
  closes = 0;
  noSpace = 0;

  constructor(seed: number) {
    const random = (this.#random = new Random(seed));
    const tight = random.chance(0.3);
    this.#format = {
      slabBlocks: tight ? 256 : 1024,
      slabs: tight ? 1 : 2,
      logicalBlocks: tight ? 400 : 1200,
      journal: random.pick([16, 64]),
    };
    const { slabBlocks, slabs, journal, logicalBlocks } = this.#format;
    this.#storage = new Kept((62 + slabBlocks * slabs + journal + 64) * BLOCK);
    this.#expected = Buffer.alloc(logicalBlocks * BLOCK);
  }

  async run(): Promise<void> {
    const { slabBlocks, journal, logicalBlocks } = this.#format;
    await formatStorage(this.#storage, {
      noIndex: true,
      logicalSize: logicalBlocks * BLOCK,
      slabSize: slabBlocks * BLOCK,
      slabJournalBlocks: this.#random.pick([8, 16]),
      recoveryJournalBlocks: journal,
    });
    await this.#open();
    while (this.operations < OPERATIONS) {
      await this.#group();
      if (this.#random.chance(0.02)) await this.#reopen();
    }
    await this.#reopen();
    await this.#volume.close();
  }

  #options(): OpenOptions {
    const random = this.#random;
    return {
      index: random.pick(['memory', 'off']),
      compression: random.chance(0.6),
      workers: 0,
      commitIntervalMs: 0,
      cachePages: random.pick([8, 16, 256]),
      batchBlocks: random.pick([1, 7, 64, 512]),
      packerBins: random.pick([1, 3, 16]),
      indexCapacity: random.pick([64, 4096]),
    };
  }

  async #open(): Promise<void> {
    this.#volume = await openVolumeOn(this.#storage, this.#options());
  }

  /** Closes, audits, reads everything in some other way, opens again. */
  async #reopen(): Promise<void> {
    await this.#volume.close();
    this.closes++;
    expect(auditNow(this.#storage).errors).toEqual([]);
    const { logicalBlocks } = this.#format;
    const lbns = Array.from({ length: 20 }, () => this.#random.below(logicalBlocks));
    runNow(readLbns(lbns), this.#storage).forEach((block, i) => {
      const at = lbns[i]! * BLOCK;
      expect(block.equals(this.#expected.subarray(at, at + BLOCK)), `lbn ${lbns[i]}`).toBe(true);
    });
    if (this.#random.chance(0.5)) {
      const options = { ...this.#options(), readOnly: true };
      const volume = await openVolumeOn(this.#storage, options);
      this.#compare({ offset: 0, length: volume.size }, await volume.read(0, volume.size));
      await expect(volume.write(0, Buffer.alloc(1))).rejects.toThrow(VdoError);
      await volume.close();
    }
    await this.#open();
    const { size } = this.#volume;
    this.#compare({ offset: 0, length: size }, await this.#volume.read(0, size));
  }

  /** Some requests at once, none of them where another one is. */
  async #group(): Promise<void> {
    this.#busy = [];
    const count = this.#random.pick([1, 1, 3, 10]);
    await Promise.all(Array.from({ length: count }, () => this.#request()));
  }

  #range(): Range | undefined {
    const random = this.#random;
    const { length: size } = this.#expected;
    const blocks = random.chance(0.5);
    const unit = blocks ? BLOCK : random.pick([1, 512, 1000]);
    const length = unit * random.between(1, random.pick([1, 4, 40]));
    const offset = Math.floor(random.below(size - length + 1) / unit) * unit;
    // Requests that share a block read, modify and write it: they are kept apart by whole blocks.
    const first = Math.floor(offset / BLOCK);
    const end = Math.ceil((offset + length) / BLOCK);
    const free = this.#busy.every(
      (busy) => end <= busy.offset || first >= busy.offset + busy.length,
    );
    if (!free) return undefined;
    this.#busy.push({ offset: first, length: end - first });
    return { offset, length };
  }

  async #request(): Promise<void> {
    const random = this.#random;
    const range = this.#range();
    if (!range) return;
    this.operations++;
    const { offset, length } = range;
    const options = { fua: random.chance(0.03) };
    const kind = random.below(20);
    if (kind < 7) this.#compare(range, await this.#volume.read(offset, length));
    else if (kind < 15) {
      const bytes = this.#bytes(length);
      await this.#change(range, bytes, this.#volume.write(offset, bytes, options));
    } else if (kind < 17) {
      await this.#change(range, undefined, this.#volume.discard(offset, length, options));
    } else if (kind < 18) {
      await this.#change(range, undefined, this.#volume.writeZeroes(offset, length, options));
    } else if (kind < 19) await this.#volume.flush();
    else await this.#checkExtents(range);
  }

  /** The request changes the array as well; without space each block is all old or all new. */
  async #change(range: Range, bytes: Buffer | undefined, request: Promise<void>): Promise<void> {
    const { offset, length } = range;
    const old = Buffer.from(this.#expected.subarray(offset, offset + length));
    const changed = bytes ?? Buffer.alloc(length);
    changed.copy(this.#expected, offset);
    try {
      await request;
    } catch (error) {
      if (!(error instanceof VdoError) || error.code !== 'NoSpace') throw error;
      this.noSpace++;
      const found = Buffer.from(await this.#volume.read(offset, length));
      for (let at = 0; at < length;) {
        const size = Math.min(length - at, BLOCK - ((offset + at) % BLOCK));
        const part = found.subarray(at, at + size);
        const known = [old, changed].some((one) => part.equals(one.subarray(at, at + size)));
        expect(known, `bytes at ${offset + at} after no space`).toBe(true);
        at += size;
      }
      found.copy(this.#expected, offset);
    }
  }

  /** Bytes that often repeat blocks: duplicates, compressible ones, zeros, noise. */
  #bytes(length: number): Buffer {
    const random = this.#random;
    const blocks: Buffer[] = [];
    for (let done = 0; done < length; done += BLOCK) {
      if (this.#palette.length > 0 && random.chance(0.6)) blocks.push(random.pick(this.#palette));
      else {
        const block = this.#block(random.below(4));
        if (this.#palette.length < 30) this.#palette.push(block);
        else this.#palette[random.below(30)] = block;
        blocks.push(block);
      }
    }
    return Buffer.concat(blocks).subarray(0, length);
  }

  #block(kind: number): Buffer {
    const random = this.#random;
    const block = Buffer.alloc(BLOCK);
    if (kind === 0) return block;
    const noisy = [0, 40, 1500, BLOCK][kind]!;
    for (let at = 0; at < noisy; at += 4) block.writeUInt32LE(random.next(), at);
    return block;
  }

  async #checkExtents({ offset, length }: Range): Promise<void> {
    let at = offset;
    for (const extent of await this.#volume.extents(offset, length)) {
      expect(extent.offset).toBe(at);
      at += extent.length;
      const bytes = this.#expected.subarray(extent.offset, at);
      if (extent.kind !== 'data') expect(bytes.every((byte) => byte === 0)).toBe(true);
    }
    expect(at).toBe(offset + length);
  }

  #compare({ offset, length }: Range, bytes: Uint8Array): void {
    if (this.#expected.subarray(offset, offset + length).equals(bytes)) return;
    const at = bytes.findIndex((byte, i) => byte !== this.#expected[offset + i]);
    throw new Error(
      `operation ${this.operations}: ${length} bytes at ${offset} differ from ${at} on`,
    );
  }
}

it('agrees with an array', { timeout: 120_000 }, async () => {
  const trials = await eachSeed(FILE, SEEDS, async (seed) => {
    const trial = new Trial(seed);
    await trial.run();
    return trial;
  });
  if (trials.length < SEEDS) return;
  const sum = (of: (trial: Trial) => number): number => trials.reduce((n, one) => n + of(one), 0);
  expect(sum(({ operations }) => operations)).toBeGreaterThan(10_000);
  expect(sum(({ closes }) => closes)).toBeGreaterThan(50);
  expect(sum(({ noSpace }) => noSpace)).toBeGreaterThan(0);
});
