/**
 * The block map in a read-only rebuild: all trees are walked, what cannot stand is removed from the
 * pages, and everything that stays is counted.
 *
 * - All tree pages get their reference before the first leaf is looked at: a mapping of a block that is
 *   a tree page cannot stand.
 * - Removed are entries that name no block which can be what they say it is, entries beyond the
 *   logical size, a tree page named a second time, and mappings beyond the 254th of one block.
 * - A page that says it belongs elsewhere is made an empty one.
 * - An interior entry that calls a good page of its own compressed gets the right state. (dm-vdo's
 *   rebuild lets it stand, and goes read-only when it next comes by.)
 * - Repeating all of it finds nothing more to remove.
 *
 * Implements docs/FORMAT.md §7.5.
 */
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_MAP_ROOT_COUNT,
  BLOCK_SIZE,
  COMPRESSED_BASE,
  MAXIMUM_REFERENCE_COUNT,
  UNCOMPRESSED,
  UNMAPPED,
} from '../base/constants.ts';
import { getU32 } from '../base/bytes.ts';
import { walkTrees, type Batch, type Enter } from '../block-map/tree-walk.ts';
import {
  entryPbn,
  entryState,
  formatPage,
  isLegalMapping,
  MAPPING_SIZE,
  PAGE_HEADER_SIZE,
  pageValidity,
  setEntry,
} from '../format/block-map-page.ts';
import type { SuperBlock } from '../format/super-block.ts';
import { isSlabData, type DepotShape } from '../slab-depot/shape.ts';
import type { Extent, Storage } from '../storage/storage.ts';

const ENTRIES = BLOCK_MAP_ENTRIES_PER_PAGE;

/** What a rebuild took out of the map. */
export interface Removal {
  readonly what: 'mapping' | 'tree page' | 'content of a tree page';
  readonly why: string;
  /** Page and slot it was in; the logical block of a mapping. */
  readonly page: number;
  readonly slot: number;
  readonly lbn: number | null;
  /** Block it named, and with which state. */
  readonly pbn: number;
  readonly state: number;
}

export interface RebuildMapInput {
  readonly storage: Storage;
  readonly superBlock: SuperBlock;
  readonly shape: DepotShape;
  readonly slabs: number;
  readonly onRemoval: (removal: Removal) => void;
  /** Called between batches with the number of pages; may throw to stop. */
  readonly onPages: (pages: number) => void;
}

export class MapRebuild {
  readonly #input: RebuildMapInput;
  /** By slab: references of each data block. Absent where nothing is used. */
  readonly counts: (Uint8Array | undefined)[];
  logicalBlocksUsed = 0;
  blockMapDataBlocks = 0;
  pagesWritten = 0;

  constructor(input: RebuildMapInput) {
    this.#input = input;
    this.counts = new Array<Uint8Array | undefined>(input.slabs);
  }

  /** Walks, mends and counts. What it writes is durable after a flush. Fails with `Io`. */
  async run(): Promise<void> {
    await walkTrees(this.#input.superBlock.rootOrigin, {
      interior: (batch, enter) =>
        this.#visit(batch, (row, page) => this.#mendInterior(batch, row, page, enter)),
      leaves: (batch) => this.#visit(batch, (row, page) => this.#mendLeaf(batch, row, page)),
    });
  }

  /** Reads a batch, lets `mend` change its pages, and writes those that it changed. */
  async #visit(
    batch: Batch,
    mend: (row: number, page: Uint8Array) => boolean | Promise<boolean>,
  ): Promise<void> {
    const { storage, superBlock, onPages } = this.#input;
    const bytes = new Uint8Array((batch.end - batch.start) * BLOCK_SIZE);
    const images: Extent[] = [];
    for (let row = batch.start; row < batch.end; row++) {
      const at = (row - batch.start) * BLOCK_SIZE;
      const offset = batch.pbns[row]! * BLOCK_SIZE;
      images.push({ offset, bytes: bytes.subarray(at, at + BLOCK_SIZE) });
    }
    await storage.read(images);
    const changed: Extent[] = [];
    for (let row = batch.start; row < batch.end; row++) {
      const pbn = batch.pbns[row]!;
      const image = images[row - batch.start]!;
      const validity = pageValidity(image.bytes, superBlock.nonce, pbn);
      if (validity === 'valid' && (await mend(row, image.bytes))) changed.push(image);
      if (validity !== 'bad') continue;
      // Written as not initialized it is empty, whatever a torn write makes of it.
      formatPage(image.bytes, superBlock.nonce, pbn, false);
      changed.push(image);
      this.#remove('content of a tree page', 'it says it is another page', pbn, 0, null, pbn, 0);
    }
    if (changed.length > 0) await storage.write(changed);
    this.pagesWritten += changed.length;
    onPages(batch.end - batch.start);
  }

  async #mendInterior(batch: Batch, row: number, page: Uint8Array, enter: Enter): Promise<boolean> {
    let changed = await this.#mendStates(page);
    for (let slot = 0; slot < ENTRIES; slot++) {
      const pbn = entryPbn(page, slot);
      const state = entryState(page, slot);
      if (state === UNMAPPED && pbn === 0) continue;
      const why = this.#refusePage(batch, row, slot, pbn, state);
      if (why === undefined) {
        enter(row, slot, pbn);
        continue;
      }
      this.#remove('tree page', why, batch.pbns[row]!, slot, null, pbn, state);
      setEntry(page, slot, 0, UNMAPPED);
      changed = true;
    }
    return changed;
  }

  /** Makes entries uncompressed that name a good page all the same. */
  async #mendStates(page: Uint8Array): Promise<boolean> {
    const { storage, superBlock, shape, slabs } = this.#input;
    let changed = false;
    for (let slot = 0; slot < ENTRIES; slot++) {
      const pbn = entryPbn(page, slot);
      if (entryState(page, slot) < COMPRESSED_BASE || !isSlabData(shape, slabs, pbn)) continue;
      const bytes = new Uint8Array(BLOCK_SIZE);
      await storage.read([{ offset: pbn * BLOCK_SIZE, bytes }]);
      if (pageValidity(bytes, superBlock.nonce, pbn) !== 'valid') continue;
      setEntry(page, slot, pbn, UNCOMPRESSED);
      changed = true;
    }
    return changed;
  }

  /** Why an entry cannot be a tree page; where it can, the page gets its reference. */
  #refusePage(
    batch: Batch,
    row: number,
    slot: number,
    pbn: number,
    state: number,
  ): string | undefined {
    const { shape, slabs, superBlock } = this.#input;
    if (state !== UNCOMPRESSED || !isSlabData(shape, slabs, pbn)) return 'no block for a page';
    const number = batch.numbers[row]!;
    const root = number % BLOCK_MAP_ROOT_COUNT;
    const child = ((number - root) / BLOCK_MAP_ROOT_COUNT) * ENTRIES + slot;
    const firstPage = child * ENTRIES ** (batch.height - 1) * BLOCK_MAP_ROOT_COUNT + root;
    if (firstPage * ENTRIES >= superBlock.logicalBlocks) return 'beyond the logical size';
    const counts = this.#countsOf(pbn);
    const sbn = (pbn - shape.firstBlock) % shape.slabBlocks;
    if (counts[sbn] !== 0) return 'a page already';
    counts[sbn] = MAXIMUM_REFERENCE_COUNT;
    this.blockMapDataBlocks++;
    return undefined;
  }

  #mendLeaf(batch: Batch, row: number, page: Uint8Array): boolean {
    const { superBlock } = this.#input;
    const first = batch.numbers[row]! * ENTRIES;
    let changed = false;
    for (let slot = 0; slot < ENTRIES; slot++) {
      const at = PAGE_HEADER_SIZE + slot * MAPPING_SIZE;
      if (page[at] === 0 && getU32(page, at + 1) === 0) continue;
      const pbn = entryPbn(page, slot);
      const state = entryState(page, slot);
      const lbn = first + slot;
      const why =
        lbn >= superBlock.logicalBlocks ? 'beyond the logical size' : this.#refuseData(pbn, state);
      if (why === undefined) {
        this.logicalBlocksUsed++;
        continue;
      }
      this.#remove('mapping', why, batch.pbns[row]!, slot, lbn, pbn, state);
      setEntry(page, slot, 0, UNMAPPED);
      changed = true;
    }
    return changed;
  }

  /** Why an entry cannot map anything; where it can, its block gets a reference. */
  #refuseData(pbn: number, state: number): string | undefined {
    const { shape, slabs } = this.#input;
    if (!isLegalMapping(pbn, state)) return 'block and state do not go together';
    if (pbn === 0) return undefined;
    if (!isSlabData(shape, slabs, pbn)) return 'no data block';
    const counts = this.#countsOf(pbn);
    const sbn = (pbn - shape.firstBlock) % shape.slabBlocks;
    if (counts[sbn] === MAXIMUM_REFERENCE_COUNT) return 'the block takes no more references';
    counts[sbn] = counts[sbn]! + 1;
    return undefined;
  }

  #countsOf(pbn: number): Uint8Array {
    const { shape } = this.#input;
    const slab = Math.floor((pbn - shape.firstBlock) / shape.slabBlocks);
    let counts = this.counts[slab];
    if (counts === undefined) {
      counts = new Uint8Array(shape.dataBlocks);
      this.counts[slab] = counts;
    }
    return counts;
  }

  #remove(
    what: Removal['what'],
    why: string,
    page: number,
    slot: number,
    lbn: number | null,
    pbn: number,
    state: number,
  ): void {
    this.#input.onRemoval({ what, why, page, slot, lbn, pbn, state });
  }
}

/** `block 4711`, `slot 3 of block 4711`, `zeros`: what a mapping names. */
export function nameOfMapping(pbn: number, state: number): string {
  if (pbn === 0 && state === UNCOMPRESSED) return 'zeros';
  if (state < COMPRESSED_BASE) return `block ${pbn}`;
  return `slot ${state - COMPRESSED_BASE} of block ${pbn}`;
}
