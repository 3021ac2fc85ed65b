/**
 * Checkpoints: map pages, reference blocks, slab journal tails and summary entries go to disk, so that
 * the recovery journal can move on.
 *
 * Order (docs/COMMIT.md, rule 7), everything as it stood at the close of one committed epoch:
 * 0. the fullness hints of summary entries, where they change → flush
 * 1. slab journal tails, reference blocks, initialized pages, first images of the others → flush
 * 2. summary entries (journal empty, counts valid), second images → flush
 * 3. in memory: the journal's head moves to the last block of that epoch, captured pages are clean.
 *
 * Every checkpoint empties every slab journal that has entries. That is why step 2 can say so at
 * once, and why only the tail block of each is written. Step 0 comes first because dm-vdo's scrub keeps
 * the hint it finds where the counts on disk need no change: counts must not be newer than their hint.
 */
import type { BlockMap, MapCapture } from '../block-map/block-map.ts';
import type { RecoveryJournal } from '../recovery-journal/recovery-journal.ts';
import type { DepotCapture, SlabDepot } from '../slab-depot/slab-depot.ts';
import type { Storage } from '../storage/storage.ts';
import type { Health } from './health.ts';

interface CheckpointParts {
  readonly storage: Storage;
  readonly journal: RecoveryJournal;
  readonly depot: SlabDepot;
  readonly blockMap: BlockMap;
  readonly health: Health;
}

export interface Capture {
  readonly map: MapCapture;
  readonly depot: DepotCapture;
  /** Last block of the epoch: what the heads become. */
  readonly head: number;
}

/** Copies, synchronously, all that differs from the disk. */
export function captureCheckpoint({ journal, depot, blockMap }: CheckpointParts): Capture {
  return { map: blockMap.capture(), depot: depot.capture(), head: journal.lastSequence };
}

/** Writes a capture whose epoch is committed. */
export async function writeBack(parts: CheckpointParts, capture: Capture): Promise<void> {
  const { storage, journal, depot, blockMap, health } = parts;
  const first = [...capture.depot.extents, ...capture.map.first];
  if (first.length > 0) {
    const hints = depot.hints(capture.depot);
    if (hints.length > 0) {
      await storage.write(hints);
      await storage.flush();
      // Success proves nothing once a commit's flush beside it has failed (docs/COMMIT.md, rule 11).
      health.check();
    }
    await storage.write(first);
    await storage.flush();
    health.check();
    await storage.write([...depot.summarize(capture.depot), ...capture.map.second]);
    await storage.flush();
    health.check();
  }
  depot.settle(capture.depot);
  blockMap.settle(capture.map);
  journal.reap(capture.head);
}
