/**
 * What must hold after every crash: dm-vdo's recovery succeeds, also when it is interrupted; every
 * block holds an allowed version; and the audit finds nothing.
 */
import type { MemoryStorage } from '../../src/storage/memory-storage.ts';
import { auditNow } from '../model/audit.ts';
import { changedSuperBlock, readLayout, STATE, type VolumeLayout } from '../model/layout.ts';
import { expandSlot } from '../model/read.ts';
import type { Mapping } from '../model/records.ts';
import { recoverNow } from '../model/recover.ts';
import { BLOCK, runNow } from '../model/steps.ts';
import { FaultyDisk, PowerLoss } from './disk.ts';
import type { Oracle } from './oracle.ts';
import { Random } from './random.ts';

/** The simulator found that the protocol does not hold. */
export class Violation extends Error {
  override name = 'Violation';
}

/** The bytes of a content; undefined if the checker cannot know it. */
export type BytesOf = (content: number) => Buffer;

/**
 * Takes back that a volume went read-only. What was flushed must be there all the same: a rebuild finds
 * it in the journal and the pages, as a recovery does.
 */
export function forgetReadOnly(image: MemoryStorage): void {
  const layout = runNow(readLayout(), image);
  if (layout.state !== STATE.READ_ONLY) return;
  const bytes = changedSuperBlock(layout.superBlock, { state: STATE.DIRTY });
  image.writeSync([{ offset: (layout.superPbn - layout.bioOffset) * BLOCK, bytes }]);
}

/** Recovers `image` in place, after some interrupted attempts if the seed wants them. */
export function recoverImage(
  image: MemoryStorage,
  seed: number,
  interruptions: number,
): MemoryStorage {
  const random = new Random(seed);
  let survivor = image;
  const options = { mendHints: interruptions > 0 };
  forgetReadOnly(survivor);
  for (let i = 0; i < interruptions; i++) {
    const disk = new FaultyDisk(survivor, { seed, stopAfter: random.between(1, 24) });
    try {
      const { outcome, reason } = recoverNow(disk, options);
      if (outcome === 'read-only') throw new Violation(`interrupted recovery: ${reason}`);
      return disk.snapshot();
    } catch (error) {
      if (!(error instanceof PowerLoss)) throw error;
      survivor = disk.crash(random.next());
    }
  }
  const { outcome, reason } = recoverNow(survivor, options);
  if (outcome === 'read-only') throw new Violation(`recovery goes read-only: ${reason}`);
  return survivor;
}

function readContent(image: MemoryStorage, layout: VolumeLayout, mapping: Mapping): Buffer {
  if (mapping.pbn === 0) return Buffer.alloc(BLOCK);
  const block = Buffer.allocUnsafe(BLOCK);
  image.readSync([{ offset: (mapping.pbn - layout.bioOffset) * BLOCK, bytes: block }]);
  return mapping.state === 1 ? block : expandSlot(block, mapping.state - 2);
}

/**
 * Audits a recovered image and compares every block with the oracle. Returns what each of the oracle's
 * blocks holds. Throws `Violation`.
 */
export function checkImage(
  image: MemoryStorage,
  oracle: Oracle,
  bytesOf: BytesOf,
): Map<number, number> {
  const layout = runNow(readLayout(), image);
  const mappings = new Map<number, Mapping>();
  const audit = auditNow(image, {
    onMapping: (lbn, mapping) => mappings.set(lbn, mapping),
    // Every mapped fragment is read below.
    expandFragments: false,
  });
  if (audit.errors.length > 0) {
    throw new Violation(`audit: ${audit.errors.slice(0, 4).join('; ')} (${audit.errors.length})`);
  }
  const found = new Map<number, number>();
  // Many blocks may share one place: it is read and compared once.
  const known = new Map<number, number>();
  for (const lbn of oracle.lbns) {
    const mapping = mappings.get(lbn) ?? { state: 0, pbn: 0 };
    mappings.delete(lbn);
    const allowed = oracle.allowed(lbn);
    const place = mapping.pbn * 16 + (mapping.pbn === 0 ? 0 : mapping.state);
    const before = mapping.pbn === 0 ? 0 : known.get(place);
    if (before !== undefined && allowed.includes(before)) {
      found.set(lbn, before);
      continue;
    }
    const bytes = readContent(image, layout, mapping);
    const content = allowed.findLast((candidate) => bytes.equals(bytesOf(candidate)));
    if (content === undefined) {
      const read = `${mapping.state}/${mapping.pbn} ${bytes.toString('hex', 0, 16)}`;
      throw new Violation(`lbn ${lbn} reads ${read}, allowed are contents ${allowed.join(', ')}`);
    }
    known.set(place, content);
    found.set(lbn, content);
  }
  if (mappings.size > 0) {
    throw new Violation(`lbn ${[...mappings.keys()].join(', ')}: mapped, never written`);
  }
  return found;
}
