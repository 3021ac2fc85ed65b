/**
 * Discards of whole blocks: every mapping of the range goes, leaf by leaf; parts without a leaf cost
 * nothing however long they are.
 */
import { BLOCK_MAP_ENTRIES_PER_PAGE, UNMAPPED } from '../base/constants.ts';
import { applyMappings } from './apply.ts';
import { Mappings, type DataPath } from './data-path.ts';

const ENTRIES = BLOCK_MAP_ENTRIES_PER_PAGE;
/** Leaves of one step: some ten milliseconds where all of them are full. */
const STEP_LEAVES = 8;

/** Unmaps blocks from `first` on, up to `end` at most; returns the first that it did not come to. */
export async function discardStep(path: DataPath, first: number, end: number): Promise<number> {
  const { blockMap, packer } = path;
  const lastPage = Math.ceil(end / ENTRIES);
  const pages: number[] = [];
  let page = Math.floor(first / ENTRIES);
  while (pages.length < STEP_LEAVES) {
    page = await blockMap.nextLeaf(page, lastPage);
    if (page === lastPage) break;
    pages.push(page++);
  }
  const stop = Math.min(end, page * ENTRIES);
  packer.detachRange(first, stop);
  const mappings = new Mappings(ENTRIES);
  for (const leaf of pages) await discardLeaf(path, leaf, { first, end: stop }, mappings);
  return stop;
}

/** Unmaps what a leaf maps of a range. */
async function discardLeaf(
  path: DataPath,
  page: number,
  { first, end }: { readonly first: number; readonly end: number },
  mappings: Mappings,
): Promise<void> {
  const { blockMap, counters } = path;
  await blockMap.load([page]);
  const frame = blockMap.find(page);
  const start = page * ENTRIES;
  const to = Math.min(end, start + ENTRIES) - start;
  mappings.count = 0;
  for (let slot = Math.max(0, first - start); slot < to; slot++) {
    if (blockMap.stateAt(frame, slot) === UNMAPPED && blockMap.pbnAt(frame, slot) === 0) continue;
    mappings.add(start + slot, 0, UNMAPPED);
  }
  counters.discardedBlocks += mappings.count;
  if (mappings.count > 0) await applyMappings(path, mappings);
  mappings.count = 0;
}
