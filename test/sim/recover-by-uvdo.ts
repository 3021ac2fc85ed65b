/**
 * uvdo's own recovery in the simulator: opens a crashed image, interrupted as often as the seed wants,
 * and compares what comes out, block by block, with what dm-vdo's recovery (test/model) makes of the
 * same image.
 */
import type { MemoryStorage } from '../../src/storage/memory-storage.ts';
import { openVolumeOn, type OpenOptions } from '../../src/volume/open.ts';
import { readLayout, slabPlace, type VolumeLayout } from '../model/layout.ts';
import { BLOCK, runNow } from '../model/steps.ts';
import { Violation } from './crash-check.ts';
import { FaultyDisk, PowerLoss } from './disk.ts';
import { Random } from './random.ts';

const SMALL: OpenOptions = {
  index: 'off',
  workers: 0,
  commitIntervalMs: 0,
  cachePages: 8,
  batchBlocks: 1,
  packerBins: 1,
};

/** Opens and closes; the power goes after `stopAfter` writes and flushes. */
async function openAndClose(
  image: MemoryStorage,
  seed: number,
  stopAfter: number,
): Promise<{ readonly disk: FaultyDisk; readonly done: boolean }> {
  const disk = new FaultyDisk(image, { seed, stopAfter });
  try {
    const volume = await openVolumeOn(disk, SMALL);
    await volume.close();
    return { disk, done: true };
  } catch (error) {
    // The volume reports the power loss as the error of the device that it is.
    if (error instanceof PowerLoss || disk.operations >= stopAfter) return { disk, done: false };
    throw new Violation(`uvdo does not recover what dm-vdo recovers: ${String(error)}`);
  }
}

export interface UvdoRecovery {
  readonly image: MemoryStorage;
  /** Times that the power went in the middle of it. */
  readonly interrupted: number;
}

/** Recovers, after up to `interruptions` attempts that lose power. Throws `Violation`. */
export async function recoverByUvdo(
  image: MemoryStorage,
  seed: number,
  interruptions: number,
): Promise<UvdoRecovery> {
  const random = new Random(seed);
  let survivor = image;
  let interrupted = 0;
  for (; interrupted < interruptions; interrupted++) {
    const attempt = await openAndClose(survivor, random.next(), random.between(1, 16));
    if (attempt.done) return { image: attempt.disk.snapshot(), interrupted };
    survivor = attempt.disk.crash(random.next());
  }
  const { disk } = await openAndClose(survivor, random.next(), Infinity);
  return { image: disk.crash(0), interrupted };
}

const NOTHING = Buffer.alloc(0);
const SUMMARY_BLOCKS = 64;
/** Bytes of the super block. */
const SUPER_BLOCK_FIELDS = {
  completeRecoveries: [44, 52],
  journalStart: [265, 273],
  checksum: [434, 438],
} as const;

/** Counts of a reference block; 255 on disk means free. */
function countsOf(block: Buffer): Buffer {
  const counts = Buffer.from(block);
  for (let at = 0; at < BLOCK; at++) {
    if (at % 512 < 8) counts[at] = 0;
    else if (counts[at] === 255) counts[at] = 0;
  }
  return counts;
}

/** The parts of a block that two recoveries of one crash have in common; undefined for all of it. */
function commonPart(layout: VolumeLayout, pbn: number): ((block: Buffer) => Buffer) | undefined {
  if (pbn === layout.superPbn) return superBlockPart;
  const summary = pbn - layout.summaryOrigin;
  // Copy 0 counts, and of it the slabs there are.
  if (summary === 0) return (block) => block.subarray(0, 2 * layout.slabCount);
  if (summary > 0 && summary < SUMMARY_BLOCKS) return () => NOTHING;
  const slab = Math.floor((pbn - layout.firstBlock) / layout.slabBlocks);
  if (slab < 0 || slab >= layout.slabCount) return undefined;
  const { counts, journal } = slabPlace(layout, slab);
  if (pbn >= journal && pbn < journal + layout.slabJournalBlocks) return () => NOTHING;
  if (pbn >= counts && pbn < counts + layout.countBlocks) return countsOf;
  return undefined;
}

/** An interrupted recovery may have got as far as the super block: numbers of recoveries differ. */
function superBlockPart(block: Buffer): Buffer {
  const copy = Buffer.from(block);
  const { completeRecoveries, journalStart, checksum } = SUPER_BLOCK_FIELDS;
  for (const [from, to] of [completeRecoveries, journalStart, checksum]) copy.fill(0, from, to);
  return copy;
}

/** Throws `Violation` where two volumes differ that were recovered from the same crash. */
export function expectSameVolume(uvdo: MemoryStorage, kernel: MemoryStorage): void {
  const layout = runNow(readLayout(), kernel);
  const [ours, theirs] = [Buffer.alloc(BLOCK), Buffer.alloc(BLOCK)];
  for (let pbn = 0; pbn * BLOCK < kernel.size; pbn++) {
    uvdo.readSync([{ offset: pbn * BLOCK, bytes: ours }]);
    kernel.readSync([{ offset: pbn * BLOCK, bytes: theirs }]);
    if (ours.equals(theirs)) continue;
    const part = commonPart(layout, pbn);
    if (part !== undefined && part(ours).equals(part(theirs))) continue;
    throw new Violation(`recovered by uvdo, block ${pbn} differs from dm-vdo's recovery`);
  }
}
