/**
 * The last phase of every change: journal entry, reference counts, block map entry, for each mapping,
 * all in memory and in one synchronous step after another.
 *
 * Invariants:
 * - Whatever the new mappings name is on the device (written, maybe not yet flushed) before.
 * - Within a step each mapping's entry is appended, its increment precedes its decrement, then its
 *   map entry changes; no commit can come between.
 * - Slabs whose counts change are scrubbed: a step waits for that before it begins.
 * - A mapping that would change nothing makes no entry (docs/COMMIT.md, rule 14).
 */
import { assert } from '../base/assert.ts';
import { BLOCK_MAP_ENTRIES_PER_PAGE, UNMAPPED } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import type { Slab } from '../slab-depot/slab.ts';
import type { DataPath, Mappings } from './data-path.ts';

/** Applies all of `mappings`, as many steps as it takes. A discard under a missing leaf is skipped. */
export async function applyMappings(path: DataPath, mappings: Mappings): Promise<void> {
  const { blockMap, committer } = path;
  for (let at = 0; at < mappings.count;) {
    const { end, pages } = stepFrom(path, mappings, at);
    await blockMap.load(pages);
    await scrubOldPlaces(path, mappings, at, end);
    await committer.reserve(end - at);
    applyStep(path, mappings, at, end);
    committer.relieve();
    at = end;
  }
}

/** The distinct leaf pages of `lbn[at …]`, and how far a step gets with them. */
export function stepFrom(
  path: DataPath,
  { lbn, count }: { lbn: Float64Array; count: number },
  at: number,
): { end: number; pages: number[] } {
  const limit = Math.min(count, at + path.stepEntries);
  const pages = new Set<number>();
  let last = -1;
  let end = at;
  for (; end < limit; end++) {
    const page = Math.floor(lbn[end]! / BLOCK_MAP_ENTRIES_PER_PAGE);
    if (page === last) continue;
    if (pages.size === path.stepPages && !pages.has(page)) break;
    pages.add(page);
    last = page;
  }
  return { end, pages: [...pages] };
}

/** Counts change only in scrubbed slabs: waits for those that the old mappings of a step lie in. */
async function scrubOldPlaces(
  { blockMap, depot, scrubber }: DataPath,
  mappings: Mappings,
  from: number,
  end: number,
): Promise<void> {
  if (scrubber.isDone) return;
  const slabs = new Set<Slab>();
  for (let i = from; i < end; i++) {
    const lbn = mappings.lbn[i]!;
    const page = Math.floor(lbn / BLOCK_MAP_ENTRIES_PER_PAGE);
    const frame = blockMap.find(page);
    if (frame < 0) continue;
    const pbn = blockMap.pbnAt(frame, lbn - page * BLOCK_MAP_ENTRIES_PER_PAGE);
    if (depot.isDataBlock(pbn)) slabs.add(depot.slabOf(pbn));
  }
  await scrubber.need(slabs);
}

function applyStep(path: DataPath, mappings: Mappings, from: number, end: number): void {
  const { blockMap, depot, journal, counters } = path;
  const { epoch } = path.committer;
  let page = -1;
  let frame = -1;
  let pagePbn = 0;
  for (let i = from; i < end; i++) {
    const lbn = mappings.lbn[i]!;
    const onPage = Math.floor(lbn / BLOCK_MAP_ENTRIES_PER_PAGE);
    if (onPage !== page) {
      page = onPage;
      frame = blockMap.find(page);
      pagePbn = frame < 0 ? 0 : blockMap.cache.pbnOf(frame);
    }
    const newPbn = mappings.pbn[i]!;
    const newState = mappings.state[i]!;
    if (frame < 0) {
      assert(newState === UNMAPPED, 'a leaf exists before anything is mapped in it');
      continue;
    }
    const slot = lbn - page * BLOCK_MAP_ENTRIES_PER_PAGE;
    let oldPbn = blockMap.pbnAt(frame, slot);
    let oldState = blockMap.stateAt(frame, slot);
    if (newPbn === oldPbn && newState === oldState) continue;
    if (!blockMap.isValid(oldPbn, oldState)) {
      // As dm-vdo does: what cannot be followed counts as unmapped, and goes away with this write.
      counters.badMappings++;
      oldPbn = 0;
      oldState = UNMAPPED;
    }
    if (oldPbn !== 0 && depot.references(oldPbn) === 0) {
      throw new VdoError(
        'Corrupt',
        `logical block ${lbn} is mapped to block ${oldPbn}, whose reference count is 0: run uvdo audit`,
        { lbn, pbn: oldPbn },
      );
    }
    journal.appendData(pagePbn, slot, newPbn, newState, oldPbn, oldState);
    const { lastSequence, lastIndex } = journal;
    if (newPbn !== 0) depot.increment(newPbn, lastSequence, 2 * lastIndex);
    if (oldPbn !== 0) depot.decrement(oldPbn, lastSequence, 2 * lastIndex + 1, epoch);
    blockMap.setEntry(frame, slot, newPbn, newState);
  }
}
