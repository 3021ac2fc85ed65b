/**
 * An auditor as `vdoaudit` is one: walks the block map of a volume, recomputes every reference and
 * compares it with every stored count, the usage counters, the summary's hints and flags; and looks
 * into compressed blocks. It reads no journal, so only a clean volume audits clean.
 *
 * Streams: memory is one byte per block of the slabs in use, whatever the size of the volume.
 */
import type { Storage } from '../../src/storage/storage.ts';
import {
  Damaged,
  deviceBlock,
  readLayout,
  slabOf,
  slabPlace,
  STATE,
  type VolumeLayout,
} from './layout.ts';
import {
  COUNTS_PER_BLOCK,
  COUNTS_PER_SECTOR,
  decodeSlabJournalHeader,
  getMapping,
  judgePage,
  slotAt,
  SLOTS,
  type Mapping,
  type SummaryEntry,
} from './records.ts';
import { expandSlot } from './read.ts';
import { readSummary } from './slabs.ts';
import { BLOCK, range, readBlocks, runNow, runOn, type Steps, type SyncStorage } from './steps.ts';

export interface AuditOptions {
  /** Told about every entry of a leaf that is not unmapped. */
  readonly onMapping?: (lbn: number, mapping: Mapping) => void;
  /** Expand every fragment (else only the sizes are checked). Default true. */
  readonly expandFragments?: boolean;
  /** Errors that are kept. Default 100. */
  readonly maxErrors?: number;
}

export interface Audit {
  readonly errors: readonly string[];
  readonly state: number;
  readonly logicalBlocksUsed: number;
  readonly treePages: number;
  readonly dataBlocksUsed: number;
}

const ROOTS = 60;
const MAX_ERRORS = 100;
const READ_AT_ONCE = 256;
/** In the expected counts: a tree page; a block named more often than a count can say. */
const TREE_PAGE = 254;
const OVERFLOW = 255;

interface TreePage {
  readonly pbn: number;
  /** Index of the page in its level of its tree. */
  readonly index: number;
  readonly root: number;
}

class Auditor {
  readonly layout: VolumeLayout;
  readonly options: AuditOptions;
  readonly errors: string[] = [];
  readonly expected = new Map<number, Uint8Array>();
  /** Slots in use of each compressed block, as bits. */
  readonly compressed = new Map<number, number>();
  readonly plain = new Set<number>();
  logicalBlocksUsed = 0;
  treePages = 0;
  dataBlocksUsed = 0;

  constructor(layout: VolumeLayout, options: AuditOptions) {
    this.layout = layout;
    this.options = options;
  }

  error(text: string): void {
    if (this.errors.length < (this.options.maxErrors ?? MAX_ERRORS)) this.errors.push(text);
  }

  slabCounts(slab: number): Uint8Array {
    let counts = this.expected.get(slab);
    if (!counts) this.expected.set(slab, (counts = new Uint8Array(this.layout.dataBlocks)));
    return counts;
  }

  takePage(pbn: number, where: string): boolean {
    const place = slabOf(this.layout, pbn);
    if (!place) {
      this.error(`${where} names tree page ${pbn}, which is no data block`);
      return false;
    }
    const counts = this.slabCounts(place.slab);
    if (counts[place.offset] !== 0) {
      this.error(`${where} names tree page ${pbn}, which is in use already`);
      return false;
    }
    counts[place.offset] = TREE_PAGE;
    this.treePages++;
    return true;
  }

  takeData(lbn: number, mapping: Mapping): void {
    const { state, pbn } = mapping;
    this.logicalBlocksUsed++;
    this.options.onMapping?.(lbn, mapping);
    if (lbn >= this.layout.logicalBlocks) this.error(`lbn ${lbn} is beyond the logical size`);
    if (pbn === 0) {
      if (state !== 1) this.error(`lbn ${lbn}: state ${state} without a block`);
      return;
    }
    const place = slabOf(this.layout, pbn);
    if (!place) return this.error(`lbn ${lbn} maps to ${pbn}, which is no data block`);
    const counts = this.slabCounts(place.slab);
    const count = counts[place.offset]!;
    if (count >= TREE_PAGE) {
      const tree = count === TREE_PAGE && !this.#isData(pbn);
      this.error(`lbn ${lbn} maps to ${pbn}: ${tree ? 'a tree page' : 'more than 254 references'}`);
      if (!tree) counts[place.offset] = OVERFLOW;
      return;
    }
    counts[place.offset] = count + 1;
    if (state === 1) this.plain.add(pbn);
    else this.compressed.set(pbn, (this.compressed.get(pbn) ?? 0) | (1 << (state - 2)));
  }

  #isData(pbn: number): boolean {
    return this.plain.has(pbn) || this.compressed.has(pbn);
  }

  *walk(): Steps<void> {
    let level = yield* this.#roots();
    for (let height = 4; height >= 0; height--) {
      const below: TreePage[] = [];
      for (let at = 0; at < level.length; at += READ_AT_ONCE) {
        const pages = level.slice(at, at + READ_AT_ONCE);
        const images = yield* readBlocks(pages.map(({ pbn }) => deviceBlock(this.layout, pbn)));
        pages.forEach((page, i) => this.#walkPage(page, images[i]!, height, below));
      }
      level = below;
    }
  }

  /** The roots whose first sector promises anything: most trees of a small volume are empty. */
  *#roots(): Steps<TreePage[]> {
    const sectors = Buffer.allocUnsafe(ROOTS * 512);
    const extents = range(0, ROOTS).map((root) => ({
      offset: deviceBlock(this.layout, this.layout.rootOrigin + root) * BLOCK,
      bytes: sectors.subarray(root * 512, (root + 1) * 512),
    }));
    yield { kind: 'read', extents };
    return extents.flatMap(({ bytes }, root) => {
      const pbn = this.layout.rootOrigin + root;
      return judgePage(bytes, pbn, this.layout.nonce) === 'empty' ? [] : [{ pbn, index: 0, root }];
    });
  }

  #walkPage(page: TreePage, image: Buffer, height: number, below: TreePage[]): void {
    const verdict = judgePage(image, page.pbn, this.layout.nonce);
    if (verdict === 'bad') this.error(`tree page ${page.pbn} says it is another page`);
    if (verdict !== 'valid') return;
    for (let slot = 0; slot < SLOTS; slot++) {
      const at = slotAt(slot);
      if (image[at] === 0 && image[at + 1] === 0 && image.readUInt32LE(at + 1) === 0) continue;
      const mapping = getMapping(image, at);
      if (mapping.state === 0) {
        if (mapping.pbn !== 0) this.error(`page ${page.pbn} slot ${slot}: unmapped with a block`);
        continue;
      }
      const index = page.index * SLOTS + slot;
      if (height === 0) {
        // Leaf `i` of this tree is page `i · 60 + root` of the map.
        this.takeData((page.index * ROOTS + page.root) * SLOTS + slot, mapping);
        continue;
      }
      const where = `page ${page.pbn} slot ${slot}`;
      if (mapping.state !== 1) this.error(`${where}: a compressed tree page`);
      if (this.takePage(mapping.pbn, where)) {
        below.push({ pbn: mapping.pbn, index, root: page.root });
      }
    }
  }

  *compare(): Steps<void> {
    const summaries = yield* readSummary(this.layout);
    for (let slab = 0; slab < this.layout.slabCount; slab++) {
      const summary = summaries[slab]!;
      const place = slabPlace(this.layout, slab);
      const start = deviceBlock(this.layout, place.counts);
      const blocks = summary.load ? yield* readBlocks(range(start, this.layout.countBlocks)) : [];
      yield* this.#checkSummary(slab, summary, this.#compareSlab(slab, place.base, blocks));
    }
  }

  /** Compares the counts of one slab; returns its number of free blocks. */
  #compareSlab(slab: number, base: number, blocks: readonly Buffer[]): number {
    const expected = this.expected.get(slab);
    let free = 0;
    for (let offset = 0; offset < this.layout.dataBlocks; offset++) {
      const within = offset % COUNTS_PER_BLOCK;
      const at = Math.floor(within / COUNTS_PER_SECTOR) * 512 + 8 + (within % COUNTS_PER_SECTOR);
      const stored = blocks[Math.floor(offset / COUNTS_PER_BLOCK)]?.[at] ?? 0;
      const wanted = expected?.[offset] ?? 0;
      const pbn = base + offset;
      if (stored === 0 || stored === OVERFLOW) free++;
      else if (wanted !== TREE_PAGE || this.#isData(pbn)) this.dataBlocksUsed++;
      if (stored === wanted || (stored === OVERFLOW && wanted === 0)) continue;
      this.error(`block ${pbn} (slab ${slab}): count ${stored}, ${wanted} references`);
    }
    return free;
  }

  *#checkSummary(slab: number, summary: SummaryEntry, free: number): Steps<void> {
    if (summary.dirty) this.error(`slab ${slab} is dirty`);
    const unit = 2 ** Math.max(0, this.layout.slabBits - 6);
    const least = Math.max(summary.hint * unit, unit) - unit;
    if (free < least || free >= (summary.hint + 1) * unit) {
      this.error(`slab ${slab}: hint ${summary.hint}, ${free} free blocks`);
    }
    if (summary.tailOffset === 0 && !summary.load) return;
    const size = this.layout.slabJournalBlocks;
    const offset = (summary.tailOffset + size - 1) % size;
    const block = deviceBlock(this.layout, slabPlace(this.layout, slab).journal + offset);
    const [image] = yield* readBlocks([block]);
    const header = decodeSlabJournalHeader(image!, this.layout.nonce);
    if (header && header.sequence % size !== offset) {
      this.error(`slab ${slab}: tail block ${header.sequence} at offset ${offset}`);
    }
  }

  *checkCompressed(): Steps<void> {
    const pbns = [...this.compressed.keys()].sort((a, b) => a - b);
    for (let at = 0; at < pbns.length; at += READ_AT_ONCE) {
      const some = pbns.slice(at, at + READ_AT_ONCE);
      const images = yield* readBlocks(some.map((pbn) => deviceBlock(this.layout, pbn)));
      some.forEach((pbn, i) => {
        if (this.plain.has(pbn)) this.error(`block ${pbn} is mapped both as compressed and plain`);
        try {
          checkFragments(
            images[i]!,
            this.compressed.get(pbn)!,
            this.options.expandFragments ?? true,
          );
        } catch (error) {
          if (!(error instanceof Damaged)) throw error;
          this.error(`compressed block ${pbn}: ${error.message}`);
        }
      });
    }
  }
}

function checkFragments(block: Buffer, slots: number, expand: boolean): void {
  let total = 36;
  for (let slot = 0; slot < 14; slot++) {
    const size = block.readUInt16LE(8 + 2 * slot);
    total += size;
    if (((slots >>> slot) & 1) === 0) continue;
    if (size === 0) throw new Damaged(`slot ${slot} is unused`);
    if (expand) expandSlot(block, slot);
  }
  if (total > BLOCK) throw new Damaged(`fragments of ${total} bytes`);
}

export function* audit(options: AuditOptions = {}): Steps<Audit> {
  const layout = yield* readLayout();
  const auditor = new Auditor(layout, options);
  yield* auditor.walk();
  // The formatter leaves the summary of a NEW volume as it was: nothing of a slab counts yet.
  if (layout.state !== STATE.NEW) yield* auditor.compare();
  yield* auditor.checkCompressed();
  const { logicalBlocksUsed, treePages, dataBlocksUsed } = auditor;
  if (layout.state !== STATE.CLEAN && layout.state !== STATE.NEW) {
    auditor.error(`state ${layout.state}: not clean`);
  }
  if (logicalBlocksUsed !== layout.logicalBlocksUsed) {
    auditor.error(`${layout.logicalBlocksUsed} logical blocks used, ${logicalBlocksUsed} mapped`);
  }
  if (treePages !== layout.treePages) {
    auditor.error(`${layout.treePages} tree pages on record, ${treePages} found`);
  }
  return {
    errors: auditor.errors,
    state: layout.state,
    logicalBlocksUsed,
    treePages,
    dataBlocksUsed,
  };
}

/** Audits the volume on any storage; writes nothing. Throws `Damaged` without a readable layout. */
export function auditVolume(storage: Storage, options: AuditOptions = {}): Promise<Audit> {
  return runOn(audit(options), storage);
}

/** `auditVolume`, at once. */
export function auditNow(storage: SyncStorage, options: AuditOptions = {}): Audit {
  return runNow(audit(options), storage);
}
