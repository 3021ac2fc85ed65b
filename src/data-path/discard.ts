/**
 * Discards of whole blocks: every mapping of the range goes, leaf by leaf; parts without a leaf cost
 * nothing however long they are.
 */
import { BLOCK_MAP_ENTRIES_PER_PAGE, UNMAPPED } from '../base/constants.ts';
import { applyMappings } from './apply.ts';
import { Mappings, type DataPath } from './data-path.ts';

const ENTRIES = BLOCK_MAP_ENTRIES_PER_PAGE;

/** Unmaps blocks `first` … `end` − 1, in steps that fit the journal. */
export async function discardRange(path: DataPath, first: number, end: number): Promise<void> {
  const { blockMap, packer, counters } = path;
  packer.detachRange(first, end);
  const mappings = new Mappings(ENTRIES);
  const lastPage = Math.ceil(end / ENTRIES);
  let page = Math.floor(first / ENTRIES);
  while ((page = await blockMap.nextLeaf(page, lastPage)) < lastPage) {
    await blockMap.load([page]);
    const frame = blockMap.find(page);
    const start = page * ENTRIES;
    const to = Math.min(end, start + ENTRIES) - start;
    for (let slot = Math.max(0, first - start); slot < to; slot++) {
      if (blockMap.stateAt(frame, slot) === UNMAPPED && blockMap.pbnAt(frame, slot) === 0) continue;
      mappings.add(start + slot, 0, UNMAPPED);
    }
    counters.discardedBlocks += mappings.count;
    if (mappings.count > 0) await applyMappings(path, mappings);
    mappings.count = 0;
    page++;
  }
}
