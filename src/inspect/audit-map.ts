/**
 * The block map's part of an audit: walks all trees once and counts, for every data block, the
 * mappings that name it.
 *
 * - All tree pages are known before the first leaf is looked at, so that a mapping of a tree page
 *   is told from a page of mapped data.
 * - No block is entered twice: cycles and cross links are findings, not endless walks.
 */
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  COMPRESSED_BASE,
  UNCOMPRESSED,
  UNMAPPED,
} from '../base/constants.ts';
import { getU32 } from '../base/bytes.ts';
import {
  entryPbn,
  entryState,
  isLegalMapping,
  MAPPING_SIZE,
  PAGE_HEADER_SIZE,
  pageValidity,
} from '../format/block-map-page.ts';
import type { SuperBlock } from '../format/super-block.ts';
import {
  inBatches,
  walkTrees,
  type Batch,
  type Enter,
  type Level,
} from '../block-map/tree-walk.ts';
import type { BlockReader, Findings } from './audit-findings.ts';
import type { References } from './audit-references.ts';

const ENTRIES = BLOCK_MAP_ENTRIES_PER_PAGE;

export interface MapAuditInput {
  readonly superBlock: SuperBlock;
  readonly reader: BlockReader;
  readonly findings: Findings;
  readonly references: References;
  /** Told how many pages were looked at. */
  readonly onPages: (pages: number) => void;
}

export class MapAudit {
  readonly #input: MapAuditInput;
  /** Leaf entries that are not unmapped. */
  logicalBlocksUsed = 0;
  /** Tree pages below the roots. */
  treePages = 0;
  compressedMappings = 0;
  zeroMappings = 0;
  #leaves: Level | undefined;

  constructor(input: MapAuditInput) {
    this.#input = input;
  }

  /** Walks the trees. */
  async run(): Promise<void> {
    this.#leaves = await walkTrees(this.#input.superBlock.rootOrigin, {
      interior: (batch, enter) => this.#interior(batch, enter),
      leaves: (batch) => this.#visit(batch, (row, page) => this.#leaf(batch, row, page)),
    });
  }

  /** Looks at all leaves again for the slots of compressed blocks in `slabs`. */
  async takeSlots(slabs: ReadonlySet<number>): Promise<void> {
    const { references } = this.#input;
    await inBatches(this.#leaves!, (batch) =>
      this.#visit(batch, (_row, page) => {
        for (let slot = 0; slot < ENTRIES; slot++) {
          const state = entryState(page, slot);
          if (state < COMPRESSED_BASE) continue;
          const pbn = entryPbn(page, slot);
          const slab = references.slabOf(pbn);
          if (slabs.has(slab)) references.takeSlot(slab, pbn, state - COMPRESSED_BASE);
        }
      }),
    );
  }

  /** Reads a batch and visits what holds entries. */
  async #visit(batch: Batch, visit: (row: number, page: Uint8Array) => void): Promise<void> {
    const { reader, superBlock, findings, onPages } = this.#input;
    const images = await reader.blocks(batch.pbns, batch.start, batch.end);
    for (let row = batch.start; row < batch.end; row++) {
      const pbn = batch.pbns[row]!;
      const page = images[row - batch.start];
      if (page === undefined) continue;
      const validity = pageValidity(page, superBlock.nonce, pbn);
      if (validity === 'bad') {
        const found = 'a page of another block';
        findings.add('tree-page', { pbn, height: batch.height }, `page ${pbn}`, found);
      }
      if (validity === 'valid') visit(row, page);
    }
    onPages(batch.end - batch.start);
  }

  #interior(batch: Batch, enter: Enter): Promise<void> {
    const { references, findings, superBlock } = this.#input;
    const { logicalBlocks } = superBlock;
    const span = ENTRIES ** batch.height;
    return this.#visit(batch, (row, page) => {
      const number = batch.numbers[row]!;
      const root = number % 60;
      const index = (number - root) / 60;
      for (let slot = 0; slot < ENTRIES; slot++) {
        const pbn = entryPbn(page, slot);
        const state = entryState(page, slot);
        if (state === UNMAPPED && pbn === 0) continue;
        const where = { page: batch.pbns[row]!, slot, height: batch.height };
        const slab = references.slabOf(pbn);
        if (state !== UNCOMPRESSED || slab < 0) {
          findings.add('tree-entry', where, 'a data block', nameOf(pbn, state));
        }
        // Below a block of the wrong state things may be in order: that is told as one finding.
        if (slab < 0) continue;
        const firstPage = ((index * ENTRIES + slot) * span) / ENTRIES;
        if ((firstPage * 60 + root) * ENTRIES >= logicalBlocks) {
          findings.add('beyond-end', where, 'no page', nameOf(pbn, state));
        }
        if (!references.takePage(slab, pbn)) {
          findings.add('tree-entry', where, 'a page of its own', `block ${pbn}, a page already`);
          continue;
        }
        this.treePages++;
        enter(row, slot, pbn);
      }
    });
  }

  #leaf(batch: Batch, row: number, page: Uint8Array): void {
    const { superBlock } = this.#input;
    const first = batch.numbers[row]! * ENTRIES;
    const inside = Math.min(ENTRIES, Math.max(0, superBlock.logicalBlocks - first));
    for (let slot = 0; slot < ENTRIES; slot++) {
      const at = PAGE_HEADER_SIZE + slot * MAPPING_SIZE;
      if (page[at] === 0 && getU32(page, at + 1) === 0) continue;
      const pbn = entryPbn(page, slot);
      const state = page[at]! & 0x0f;
      if (state !== UNMAPPED) this.logicalBlocksUsed++;
      if (slot >= inside) this.#beyond(batch.pbns[row]!, first + slot, slot, pbn, state);
      if (pbn === 0 && state === UNCOMPRESSED) this.zeroMappings++;
      else this.#take(batch.pbns[row]!, first + slot, slot, pbn, state);
    }
  }

  #beyond(page: number, lbn: number, slot: number, pbn: number, state: number): void {
    const { findings } = this.#input;
    findings.add('beyond-end', { lbn, page, slot }, 'unmapped', nameOf(pbn, state));
  }

  #take(page: number, lbn: number, slot: number, pbn: number, state: number): void {
    const { references, findings } = this.#input;
    const where = { lbn, page, slot };
    if (!isLegalMapping(pbn, state)) {
      findings.add('mapping', where, 'a legal mapping', nameOf(pbn, state));
      return;
    }
    const slab = references.slabOf(pbn);
    if (slab < 0) {
      findings.add('mapping', where, 'a data block', nameOf(pbn, state));
      return;
    }
    const fragment = state >= COMPRESSED_BASE ? state - COMPRESSED_BASE : -1;
    if (fragment >= 0) this.compressedMappings++;
    const wrong = references.takeData(slab, pbn, fragment);
    if (wrong === 'tree-page') {
      findings.add('mapping', where, 'a data block', `block ${pbn}, a tree page`);
    } else if (wrong === 'mixed') {
      const expected = 'all mappings of a block compressed, or none';
      findings.add('compressed-block', { pbn, ...where }, expected, nameOf(pbn, state));
    }
  }
}

function nameOf(pbn: number, state: number): string {
  return `block ${pbn}, state ${state}`;
}
