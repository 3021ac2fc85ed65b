/**
 * Walks the block map trees on disk (FORMAT §3.4) and shows what each logical block maps to.
 */
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_MAP_ROOT_COUNT,
  COMPRESSED_BASE,
  UNCOMPRESSED,
} from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import { entryPbn, entryState, isLegalMapping, pageValidity } from '../format/block-map-page.ts';
import { placeOf } from './dump-layout.ts';
import type { Inspection } from './inspection.ts';

const ENTRIES = BLOCK_MAP_ENTRIES_PER_PAGE;
/** Pages kept: roots and interior pages are met again and again. */
const CACHED_PAGES = 1024;

/** A run of logical blocks: one mapped block, or any number of unmapped ones. */
export interface MappedRun {
  readonly lbn: number;
  readonly count: number;
  readonly kind: 'unmapped' | 'zero' | 'uncompressed' | 'compressed' | 'invalid';
  readonly pbn: number;
  /** Slot of the compressed block. */
  readonly slot?: number;
  /** Leaf page that says so; absent where there is none. */
  readonly leaf?: number;
}

interface Walk {
  readonly inspection: Inspection;
  readonly pages: Map<number, Uint8Array | undefined>;
}

/** Mappings of `first … last`, unmapped neighbours merged. Fails with `OutOfRange`. */
export async function* dumpBlockMap(
  inspection: Inspection,
  first: number,
  last: number,
): AsyncGenerator<MappedRun> {
  const { logicalBlocks } = inspection.needSuperBlock();
  if (first > last || last >= logicalBlocks) {
    throw new VdoError('OutOfRange', `logical blocks are 0 … ${logicalBlocks - 1}`);
  }
  const walk: Walk = { inspection, pages: new Map() };
  let gap = first;
  for (let lbn = first; lbn <= last;) {
    const page = Math.floor(lbn / ENTRIES);
    const end = Math.min(last + 1, (page + 1) * ENTRIES);
    const leaf = await findLeaf(walk, page);
    const bytes = leaf === undefined ? undefined : await readPage(walk, leaf);
    for (; lbn < end && bytes !== undefined && leaf !== undefined; lbn++) {
      const run = mappingOf(inspection, bytes, lbn, leaf);
      if (run === undefined) continue;
      if (gap < lbn) yield { lbn: gap, count: lbn - gap, kind: 'unmapped', pbn: 0 };
      yield run;
      gap = lbn + 1;
    }
    lbn = end;
  }
  if (gap <= last) yield { lbn: gap, count: last + 1 - gap, kind: 'unmapped', pbn: 0 };
}

function mappingOf(
  inspection: Inspection,
  bytes: Uint8Array,
  lbn: number,
  leaf: number,
): MappedRun | undefined {
  const pbn = entryPbn(bytes, lbn % ENTRIES);
  const state = entryState(bytes, lbn % ENTRIES);
  if (pbn === 0 && state === 0) return undefined;
  const run = { lbn, count: 1, pbn, leaf };
  const wrong = !isLegalMapping(pbn, state)
    ? `mapping state ${state} with block ${pbn}`
    : pbn !== 0 && placeOf(inspection, pbn).area !== 'slab data'
      ? `maps to block ${pbn} (${placeOf(inspection, pbn).area})`
      : undefined;
  if (wrong !== undefined) {
    inspection.note(`logical block ${lbn}: ${wrong}`);
    return { ...run, kind: 'invalid' };
  }
  if (pbn === 0) return { ...run, kind: 'zero' };
  if (state === UNCOMPRESSED) return { ...run, kind: 'uncompressed' };
  return { ...run, kind: 'compressed', slot: state - COMPRESSED_BASE };
}

/** Physical block of leaf page `page`, or `undefined` where the tree ends before it. */
async function findLeaf(walk: Walk, page: number): Promise<number | undefined> {
  const { rootOrigin } = walk.inspection.needSuperBlock();
  const inTree = Math.floor(page / BLOCK_MAP_ROOT_COUNT);
  let pbn = rootOrigin + (page % BLOCK_MAP_ROOT_COUNT);
  for (let height = 4; height >= 1; height--) {
    const bytes = await readPage(walk, pbn);
    if (bytes === undefined) return undefined;
    const slot = Math.floor(inTree / ENTRIES ** (height - 1)) % ENTRIES;
    const child = entryPbn(bytes, slot);
    const state = entryState(bytes, slot);
    if (child === 0 && state === 0) return undefined;
    if (state !== UNCOMPRESSED || placeOf(walk.inspection, child).area !== 'slab data') {
      const where = `tree page ${pbn}, slot ${slot}`;
      walk.inspection.note(`${where}: names block ${child} with state ${state}`);
      return undefined;
    }
    pbn = child;
  }
  return pbn;
}

/** A valid page, or `undefined` where it counts as empty. */
async function readPage(walk: Walk, pbn: number): Promise<Uint8Array | undefined> {
  const { inspection, pages } = walk;
  if (pages.has(pbn)) return pages.get(pbn);
  let bytes = await inspection.block(pbn);
  if (bytes !== undefined) {
    const validity = pageValidity(bytes, inspection.needSuperBlock().nonce, pbn);
    if (validity === 'bad') inspection.note(`block map page ${pbn} says it belongs elsewhere`);
    if (validity !== 'valid') bytes = undefined;
  }
  if (pages.size >= CACHED_PAGES) pages.delete(pages.keys().next().value!);
  pages.set(pbn, bytes);
  return bytes;
}
