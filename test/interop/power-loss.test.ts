/**
 * Power losses that the simulator makes below the engine, given to the real kernel: a volatile cache keeps
 * any sectors of what was not flushed, the recovery journal has gone round, what is in use of it lies across
 * its end. Every second image has also lost power amid uvdo's own recovery. The kernel starts, recovers and
 * stops it; the audit is clean, every flushed block right; the next round goes on from there.
 * docs/TESTING.md, "Interop".
 *
 * `UVDO_POWER_LOSSES` sets the rounds per configuration (default 5), `UVDO_CRASH_SEED` the first seed,
 * `UVDO_CRASH_VERBOSE` prints what they were.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MemoryStorage } from '../../src/storage/memory-storage.ts';
import { openVolumeOn, type OpenOptions } from '../../src/volume/open.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { readLayout, STATE, type VolumeLayout } from '../model/layout.ts';
import { scanJournal } from '../model/scan.ts';
import { range, readBlocks, runNow } from '../model/steps.ts';
import { FaultyDisk } from '../sim/disk.ts';
import { Random } from '../sim/random.ts';
import { Allowed } from './allowed.ts';
import { BLOCK, content } from './content.mjs';
import { available, skipReason, withFolder } from './harness.ts';
import { kernelRecovers } from './kernel-recovers.ts';
import { TINY_TABLE, tiny } from './kernel-volume.ts';

const { skip, note } = skipReason(available().uml, available().tools);
const ROUNDS = Number(process.env['UVDO_POWER_LOSSES'] ?? 5);
const SEED = Number(process.env['UVDO_CRASH_SEED'] ?? Date.now() % 100_000);
/** Entries of a recovery journal block. */
const ENTRIES = 217;
/** Operations at which a journal that lies across its end is waited for, before any will do. */
const PATIENCE = 4000;

interface Configuration {
  readonly name: string;
  readonly slabs: number;
  /** Logical blocks in use. */
  readonly blocks: number;
  readonly options: OpenOptions;
  /** Blocks of the largest write. */
  readonly run: number;
  readonly flushChance: number;
}

const QUIET: OpenOptions = { workers: 0, commitIntervalMs: 0 };

const CONFIGURATIONS: readonly Configuration[] = [
  {
    name: 'small batches, few cache frames',
    slabs: 12,
    blocks: 6000,
    options: { ...QUIET, index: 'memory', compression: true, cachePages: 8, batchBlocks: 16 },
    run: 64,
    flushChance: 0.1,
  },
  {
    name: 'ordinary batches',
    slabs: 12,
    blocks: 6000,
    options: { ...QUIET, index: 'memory', compression: true },
    run: 256,
    flushChance: 0.05,
  },
  {
    name: 'no room',
    slabs: 3,
    blocks: 4000,
    options: { ...QUIET, index: 'off', compression: false, cachePages: 16, batchBlocks: 64 },
    run: 32,
    flushChance: 0.2,
  },
  {
    name: 'rarely a flush',
    slabs: 6,
    blocks: 3000,
    options: { ...QUIET, index: 'off', compression: true, cachePages: 16, batchBlocks: 64 },
    run: 128,
    flushChance: 0.005,
  },
];

/** What the journal of a crashed volume looks like: how often it went round, and where it is in use. */
function journalOf(image: MemoryStorage, before: VolumeLayout) {
  const layout = runNow(readLayout(), image);
  const size = layout.journalBlocks;
  const blocks = runNow(readBlocks(range(layout.journalOrigin, size)), image);
  const { highest, blockMapHead, slabJournalHead } = scanJournal(layout, blocks);
  const head = Math.min(blockMapHead, slabJournalHead);
  return {
    rounds: (highest - before.journalStart) / size,
    inUse: highest - head,
    acrossTheEnd: Math.floor(head / size) < Math.floor(highest / size),
  };
}

/** Writes at random until the power goes; the log that `Allowed` reads. */
async function writeUntilDead(
  volume: Volume,
  random: Random,
  { blocks, run, flushChance }: Configuration,
  first: number,
  progress: { entries: number; dead: boolean },
): Promise<string> {
  const log: string[] = [];
  let running: Promise<boolean>[] = [];
  // A request that the power loss, or a full volume, made fail is one that may have happened.
  const note = (request: Promise<unknown>, answer: string): Promise<boolean> =>
    request.then(
      () => log.push(answer) > 0,
      () => false,
    );
  for (let version = first; !progress.dead; version++) {
    const count = 1 + random.below(random.chance(0.3) ? run : 8);
    const lbn = random.below(blocks - count);
    const isDiscard = random.chance(0.08);
    log.push(`w ${version} ${lbn} ${count} ${isDiscard ? 1 : 0}`);
    const bytes = new Uint8Array(count * BLOCK);
    for (let i = 0; i < count && !isDiscard; i++) bytes.set(content(lbn + i, version), i * BLOCK);
    const request = isDiscard
      ? volume.discard(lbn * BLOCK, bytes.length)
      : volume.write(lbn * BLOCK, bytes);
    // Writes under way together would have no order; flushes run beside them.
    if (await note(request, `a ${version}`)) progress.entries += count;
    if (random.chance(flushChance)) {
      log.push(`f ${version}`);
      running.push(note(volume.flush(), `F ${version}`));
    }
    if (running.length > 2) {
      await Promise.all(running);
      running = [];
    }
  }
  await Promise.all(running);
  return log.join('\n');
}

/** Opens, writes until the journal has gone round, loses power. */
async function losePower(start: MemoryStorage, seed: number, how: Configuration, first: number) {
  const random = new Random(seed);
  const before = runNow(readLayout(), start);
  const progress = { entries: 0, dead: false };
  const enough = before.journalBlocks * ENTRIES + random.below(4000);
  const crashSeed = random.next();
  let waited = 0;
  const disk = new FaultyDisk(start, {
    seed: random.next(),
    onOperation: (at) => {
      if (progress.dead || progress.entries < enough || at.unflushedWrites === 0) return;
      waited++;
      if (!random.chance(0.05)) return;
      const journal = journalOf(at.crash(crashSeed), before);
      if (journal.rounds < 1 || (!journal.acrossTheEnd && waited < PATIENCE)) return;
      progress.dead = true;
      at.stopAfter = 0;
    },
  });
  const volume = await openVolumeOn(disk, how.options);
  const log = await writeUntilDead(volume, random, how, first, progress);
  const unflushed = disk.unflushedWrites;
  const image = disk.crash(crashSeed);
  await volume.close().catch(() => undefined);
  return { image, log, journal: journalOf(image, before), unflushed };
}

/** uvdo recovers, and the power goes before it is done. */
async function interruptRecovery(image: MemoryStorage, seed: number, options: OpenOptions) {
  const random = new Random(seed);
  const disk = new FaultyDisk(image, { seed, stopAfter: random.between(2, 14) });
  await openVolumeOn(disk, options)
    .then((volume) => volume.close())
    .catch(() => undefined);
  return disk.crash(random.next());
}

function load(path: string): MemoryStorage {
  const bytes = readFileSync(path);
  const storage = new MemoryStorage(bytes.length, { chunkBytes: BLOCK });
  storage.writeSync([{ offset: 0, bytes }]);
  return storage;
}

function save(image: MemoryStorage, path: string): void {
  const bytes = Buffer.alloc(image.size);
  image.readSync([{ offset: 0, bytes }]);
  writeFileSync(path, bytes);
}

describe.skipIf(skip)(`the power goes below uvdo${note}`, () => {
  it.each(CONFIGURATIONS)('the kernel recovers: $name', async (how) => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume.vdo');
      tiny({ slabs: how.slabs, logicalBlocks: 8192 }).save(path);
      const allowed = new Allowed();
      let flushes = 0;
      for (let round = 0; round < ROUNDS; round++) {
        const seed = SEED + round;
        const where = `${how.name}, seed ${seed}, round ${round}`;
        const crashed = await losePower(load(path), seed, how, allowed.next);
        const did = allowed.addRound(crashed.log);
        flushes += did.flushes;
        const interrupted = round % 2 === 1;
        const image = interrupted
          ? await interruptRecovery(crashed.image, seed, how.options)
          : crashed.image;
        const { state } = runNow(readLayout(), image);
        if (process.env['UVDO_CRASH_VERBOSE'] !== undefined) {
          console.error(where, { ...crashed.journal, unflushed: crashed.unflushed, interrupted, state, ...did }); // prettier-ignore
        }
        expect(state, where).not.toBe(STATE.READ_ONLY);
        expect(crashed.journal.rounds, where).toBeGreaterThanOrEqual(1);
        save(image, path);
        const dump = await kernelRecovers(path, folder, where, TINY_TABLE);
        expect(allowed.settle(dump), where).toEqual([]);
      }
      expect(flushes).toBeGreaterThan(ROUNDS);
    });
  });
});
