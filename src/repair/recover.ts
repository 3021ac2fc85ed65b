/**
 * Crash recovery: brings a volume that was not closed back to where its journal ends. Counts of slabs
 * are rebuilt afterwards, from the slab journals that are written here (`slab-depot/scrubber.ts`).
 *
 * Order of what reaches the disk, `|` being a flush:
 *
 * ```
 * | pages, first images | second images … slab journals | summary, all copies | super block |
 * ```
 *
 * - The first flush comes before anything is written: what was read may be in the host's cache only,
 *   and no page may become durable before the journal entry it rests on.
 * - The super block is the switch. Until it is durable, the old one makes the next start repeat all of
 *   this, with the same result; it makes every journal block written before it void (recovery count).
 * - All 16 copies of the summary are written, since the old zone count still says which one counts.
 *
 * Implements docs/FORMAT.md §7.3, steps A to G.
 */
import { BLOCK_SIZE, RECOVERY_ENTRIES_PER_BLOCK } from '../base/constants.ts';
import { DIRTY, encodeSuperBlock, type SuperBlock } from '../format/super-block.ts';
import { depotShapeOf, isSlabData } from '../slab-depot/shape.ts';
import { SlabSummary } from '../slab-depot/summary.ts';
import { readTails } from '../slab-depot/tails.ts';
import { OverlayStorage } from '../storage/overlay-storage.ts';
import type { Storage } from '../storage/storage.ts';
import { JournalEntries } from './journal-entries.ts';
import { replayBlockMap } from './replay-map.ts';
import { SlabJournalReplay } from './replay-slab-journals.ts';
import { eachJournalBlock, scanJournal, type JournalScan } from './scan-journal.ts';

/** Journal blocks whose entries are in memory at a time: 888,832 entries, 34 MB. */
const WINDOW_BLOCKS = 4096;

export interface RecoveryReport {
  /** Journal entries that were replayed. */
  readonly entries: number;
  /** Block map pages written. */
  readonly pages: number;
  /** Slabs whose counts are to be rebuilt. */
  readonly slabs: number;
}

export interface Recovered {
  /** The super block as it is on disk now: DIRTY, one recovery more. */
  readonly superBlock: SuperBlock;
  readonly report: RecoveryReport;
}

/**
 * Replays the journal of a DIRTY volume. `superBlockAt`: byte of the super block. Fails with `Corrupt`
 * where journal or map contradict themselves, `UnsupportedVersion`, and `Io`; killed or failed at any
 * point, it can be repeated.
 */
export async function recover(
  storage: Storage,
  superBlock: SuperBlock,
  superBlockAt: number,
): Promise<Recovered> {
  const shape = depotShapeOf(superBlock);
  const slabs = (superBlock.lastBlock - superBlock.firstBlock) / superBlock.slabSize;
  const scan = await scanJournal(storage, superBlock, (pbn) => isSlabData(shape, slabs, pbn));
  const summary = new SlabSummary(superBlock.partitions.slabSummary.offset * BLOCK_SIZE);
  await summary.load(storage, superBlock.zoneCount);
  const { nonce } = superBlock;
  const tails = await readTails(storage, shape, summary, { slabs, nonce });
  const slabReplay = new SlabJournalReplay(nonce, shape, summary, tails);
  await storage.flush();
  const replayed = await replay(storage, superBlock, scan, slabReplay);
  await storage.flush();
  await storage.write(summary.allCopies());
  await storage.flush();
  const recovered: SuperBlock = {
    ...superBlock,
    state: DIRTY,
    completeRecoveries: superBlock.completeRecoveries + 1,
    journalStart: scan.highest + 1,
    logicalBlocksUsed: scan.logicalBlocksUsed,
    blockMapDataBlocks: scan.blockMapDataBlocks,
    zoneCount: 1,
  };
  await storage.write([{ offset: superBlockAt, bytes: encodeSuperBlock(recovered) }]);
  await storage.flush();
  return { superBlock: recovered, report: { ...replayed, slabs: slabReplay.changed.size } };
}

/** `recover`, on a layer of memory over `device`, which is not written: what recovery would do. */
export async function recoverInMemory(
  device: Storage,
  superBlock: SuperBlock,
  superBlockAt: number,
): Promise<Recovered & { readonly storage: Storage }> {
  const storage = new OverlayStorage(device);
  return { storage, ...(await recover(storage, superBlock, superBlockAt)) };
}

/** Steps C and E, a window of the journal at a time. */
async function replay(
  storage: Storage,
  superBlock: SuperBlock,
  scan: JournalScan,
  slabReplay: SlabJournalReplay,
): Promise<{ entries: number; pages: number }> {
  const { first, tail, tailEntries } = scan;
  const done = { entries: 0, pages: 0 };
  if (!scan.found || tailEntries === 0) return done;
  const window = new JournalEntries(Math.min(WINDOW_BLOCKS, tail - first + 1));
  for (let at = first; at <= tail; at += WINDOW_BLOCKS) {
    const last = Math.min(tail, at + WINDOW_BLOCKS - 1);
    window.count = 0;
    await eachJournalBlock(storage, superBlock, { first: at, last }, (sequence, block) => {
      const count = sequence === tail ? tailEntries : RECOVERY_ENTRIES_PER_BLOCK;
      window.add(block, sequence, count);
      return true;
    });
    const skipTo = (head: number): number =>
      Math.min(window.count, Math.max(0, head - at) * RECOVERY_ENTRIES_PER_BLOCK);
    done.entries += window.count;
    done.pages += await replayBlockMap(
      storage,
      superBlock.nonce,
      window,
      skipTo(scan.blockMapHead),
    );
    slabReplay.add(window, skipTo(scan.slabJournalHead));
    if (last === tail) slabReplay.finish();
    const writes = slabReplay.takeWrites();
    if (writes.length > 0) await storage.write(writes);
  }
  return done;
}
