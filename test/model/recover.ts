/**
 * dm-vdo's recovery of a DIRTY volume (8.2 A to H, scrubbing included), written as the specification
 * reads, over raw blocks and with decoders of its own. Everything the simulator proves, it proves
 * against this.
 *
 * It stands for the kernel, so it knows nothing of this engine's commit protocol: it flushes where the
 * kernel flushes, and where the kernel would go read-only it stops with the reason. Afterwards the
 * volume is CLEAN, as the kernel leaves it at a clean stop.
 */
import {
  changedSuperBlock,
  Damaged,
  deviceBlock,
  readLayout,
  slabOf,
  STATE,
  type VolumeLayout,
} from './layout.ts';
import {
  formatPage,
  judgePage,
  setMapping,
  slotAt,
  SLOTS,
  type JournalEntry,
  type Mapping,
} from './records.ts';
import { scanJournal, type JournalScan } from './scan.ts';
import { loadSlabs, scrubSlab, SlabReplay, writeSummary, type SlabState } from './slabs.ts';
import { range, readBlocks, runNow, writeBlocks, type Steps, type SyncStorage } from './steps.ts';

export interface Recovery {
  /** `read-only`: the kernel would go read-only (or refuse to start), for `reason`. */
  readonly outcome: 'clean' | 'new' | 'recovered' | 'read-only';
  readonly reason?: string;
  readonly layout?: VolumeLayout;
  readonly scan?: JournalScan;
  readonly entriesReplayed?: number;
  readonly slabsScrubbed?: number;
}

export interface RecoveryOptions {
  /**
   * Sets every scrubbed slab's hint, where the kernel sets it with changed counts only. For a recovery after
   * one that was interrupted: dm-vdo writes counts before their hint, and leaves a wrong one then.
   */
  readonly mendHints?: boolean;
}

function checkMapping(layout: VolumeLayout, { state, pbn }: Mapping): boolean {
  return pbn === 0 ? state <= 1 : state !== 0 && slabOf(layout, pbn) !== undefined;
}

function checkEntry(layout: VolumeLayout, entry: JournalEntry): void {
  const { operation, page, slot, mapping, unmapping } = entry;
  let good = page < layout.physicalBlocks && slot < SLOTS && operation <= 1;
  good &&= checkMapping(layout, mapping) && checkMapping(layout, unmapping);
  if (operation === 1) {
    good &&= mapping.state === 1 && mapping.pbn !== 0;
    good &&= unmapping.state === 0 && unmapping.pbn === 0;
  }
  if (!good) throw new Damaged(`invalid journal entry ${JSON.stringify(entry)}`);
}

/** Step C. */
function* replayBlockMap(layout: VolumeLayout, scan: JournalScan): Steps<number> {
  const changes = new Map<number, Map<number, Mapping>>();
  let entries = 0;
  for (const block of scan.blocks) {
    if (block.sequence < scan.blockMapHead) continue;
    for (const entry of block.entries) {
      checkEntry(layout, entry);
      let page = changes.get(entry.page);
      if (!page) changes.set(entry.page, (page = new Map()));
      page.set(entry.slot, entry.mapping);
      entries++;
    }
  }
  const pbns = [...changes.keys()].sort((a, b) => a - b);
  const pages = yield* readBlocks(pbns.map((pbn) => deviceBlock(layout, pbn)));
  const first = new Map<number, Buffer>();
  const second = new Map<number, Buffer>();
  pbns.forEach((pbn, i) => {
    let page = pages[i]!;
    const verdict = judgePage(page, pbn, layout.nonce);
    if (verdict === 'bad') throw new Damaged(`bad block map page ${pbn}`);
    if (verdict === 'empty') page = formatPage(pbn, layout.nonce);
    for (const [slot, mapping] of changes.get(pbn)!) setMapping(page, slotAt(slot), mapping);
    first.set(deviceBlock(layout, pbn), page);
    if (page[32] === 0) {
      const image = Buffer.from(page);
      image[32] = 1;
      second.set(deviceBlock(layout, pbn), image);
    }
  });
  yield { kind: 'flush' };
  yield* writeBlocks(first);
  yield { kind: 'flush' };
  yield* writeBlocks(second);
  return entries;
}

/** Step E, after the slabs' state was loaded. */
function* replaySlabJournals(
  layout: VolumeLayout,
  scan: JournalScan,
  slabs: SlabState[],
): Steps<void> {
  const replays = slabs.map((state) => new SlabReplay(layout, state));
  const append = (pbn: number, increment: boolean, blockMap: boolean, point: number): void => {
    if (pbn === 0) return;
    const place = slabOf(layout, pbn)!;
    replays[place.slab]!.append({ offset: place.offset, increment, blockMap }, point);
  };
  for (const block of scan.blocks) {
    if (block.sequence < scan.slabJournalHead) continue;
    block.entries.forEach((entry, i) => {
      checkEntry(layout, entry);
      const point = block.sequence * 65536 + 2 * i;
      append(entry.mapping.pbn, true, entry.operation === 1, point);
      append(entry.unmapping.pbn, false, false, point + 1);
    });
  }
  const writes = new Map<number, Buffer>();
  for (const replay of replays) {
    replay.commit();
    for (const [block, bytes] of replay.writes) writes.set(block, bytes);
  }
  yield* writeBlocks(writes);
  yield { kind: 'flush' };
  const summaries = slabs.map(({ summary }) => summary);
  yield* writeSummary(layout, summaries, 'first');
}

function* writeSuperBlock(layout: VolumeLayout, bytes: Buffer): Steps<void> {
  yield { kind: 'flush' };
  yield* writeBlocks(new Map([[deviceBlock(layout, layout.superPbn), bytes]]));
  yield { kind: 'flush' };
}

/** Step H, and the clean stop after it. */
function* scrubAndStop(
  layout: VolumeLayout,
  superBlock: Buffer,
  slabs: SlabState[],
  options: RecoveryOptions,
): Steps<number> {
  let scrubbed = 0;
  for (const state of slabs) {
    if (!state.summary.dirty) continue;
    yield* scrubSlab(layout, state, options.mendHints ?? false);
    scrubbed++;
  }
  if (scrubbed > 0) {
    yield { kind: 'flush' };
    yield* writeSummary(
      layout,
      slabs.map(({ summary }) => summary),
      'first',
    );
  }
  yield* writeSuperBlock(layout, changedSuperBlock(superBlock, { state: STATE.CLEAN }));
  return scrubbed;
}

function* recoverDirty(layout: VolumeLayout, options: RecoveryOptions): Steps<Recovery> {
  const start = deviceBlock(layout, layout.journalOrigin);
  const journal = yield* readBlocks(range(start, layout.journalBlocks));
  const scan = scanJournal(layout, journal);
  const entriesReplayed = scan.found ? yield* replayBlockMap(layout, scan) : 0;
  const slabs = yield* loadSlabs(layout);
  const summaries = slabs.map(({ summary }) => summary);
  yield { kind: 'flush' };
  yield* writeSummary(layout, summaries, 'all');
  if (scan.found) yield* replaySlabJournals(layout, scan, slabs);
  const superBlock = changedSuperBlock(layout.superBlock, {
    state: STATE.DIRTY,
    completeRecoveries: layout.completeRecoveries + 1,
    journalStart: scan.highest + 1,
    logicalBlocksUsed: scan.logicalBlocksUsed,
    treePages: scan.treePages,
    zoneCount: 1,
  });
  yield* writeSuperBlock(layout, superBlock);
  const slabsScrubbed = yield* scrubAndStop(layout, superBlock, slabs, options);
  return { outcome: 'recovered', layout, scan, entriesReplayed, slabsScrubbed };
}

/** Recovers what needs recovery; a CLEAN or NEW volume is only checked as far as its load goes. */
export function* recover(options: RecoveryOptions = {}): Steps<Recovery> {
  try {
    const layout = yield* readLayout();
    switch (layout.state) {
      case STATE.NEW:
        return { outcome: 'new', layout };
      case STATE.CLEAN:
        yield* loadSlabs(layout);
        return { outcome: 'clean', layout };
      case STATE.DIRTY:
      case STATE.REPLAYING:
        return yield* recoverDirty(layout, options);
      case STATE.RECOVERING: {
        const slabs = yield* loadSlabs(layout);
        yield* writeSummary(
          layout,
          slabs.map(({ summary }) => summary),
          'all',
        );
        const change = { state: STATE.RECOVERING, zoneCount: 1 };
        const superBlock = changedSuperBlock(layout.superBlock, change);
        yield* writeSuperBlock(layout, superBlock);
        const slabsScrubbed = yield* scrubAndStop(layout, superBlock, slabs, options);
        return { outcome: 'recovered', layout, slabsScrubbed };
      }
      default:
        return { outcome: 'read-only', reason: `state ${layout.state}`, layout };
    }
  } catch (error) {
    if (error instanceof Damaged) return { outcome: 'read-only', reason: error.message };
    throw error;
  }
}

/** Recovers in place, at once. */
export function recoverNow(storage: SyncStorage, options: RecoveryOptions = {}): Recovery {
  return runNow(recover(options), storage);
}
