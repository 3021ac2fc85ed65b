/**
 * Slabs in recovery: loading their state (8.1 steps 2 and 3), step E (replaying the recovery journal
 * into slab journals) and step H (scrubbing), as the specification reads.
 */
import { Damaged, deviceBlock, setU64, slabPlace, getU64, type VolumeLayout } from './layout.ts';
import {
  COUNTS_PER_BLOCK,
  COUNTS_PER_SECTOR,
  decodeSlabEntry,
  decodeSlabJournalHeader,
  decodeSummaryEntry,
  encodeSlabJournalBlock,
  encodeSummaryEntry,
  FULL_ENTRIES,
  hintOf,
  PLAIN_ENTRIES,
  type SlabEntry,
  type SummaryEntry,
} from './records.ts';
import { BLOCK, range, readBlocks, writeBlocks, type Steps } from './steps.ts';

const COPIES = 16;
const COPY_BLOCKS = 4;
const COPY_BYTES = COPY_BLOCKS * BLOCK;

/** Blocks of one summary copy that hold entries of existing slabs. */
const usedBlocks = (layout: VolumeLayout): number => Math.ceil((layout.slabCount * 2) / BLOCK);

export interface SlabState {
  readonly slab: number;
  summary: SummaryEntry;
  head: number;
  tail: number;
  /** Recovery point of the last entry in the slab journal. */
  point: number;
}

/** Reads the summary copies that count and combines them. */
export function* readSummary(layout: VolumeLayout): Steps<SummaryEntry[]> {
  const zones = Math.max(1, layout.zoneCount);
  const blocks = usedBlocks(layout);
  const copies: Buffer[] = [];
  for (let zone = 0; zone < zones; zone++) {
    const start = deviceBlock(layout, layout.summaryOrigin + zone * COPY_BLOCKS);
    copies.push(Buffer.concat(yield* readBlocks(range(start, blocks))));
  }
  return Array.from({ length: layout.slabCount }, (_, n) =>
    decodeSummaryEntry(copies[n % zones]!, n * 2),
  );
}

export function* writeSummary(
  layout: VolumeLayout,
  entries: readonly SummaryEntry[],
  copies: 'all' | 'first',
): Steps<void> {
  const table = Buffer.alloc(COPY_BYTES);
  entries.forEach((entry, n) => encodeSummaryEntry(table, n * 2, entry));
  const writes = new Map<number, Buffer>();
  for (let copy = 0; copy < (copies === 'all' ? COPIES : 1); copy++) {
    for (let i = 0; i < usedBlocks(layout); i++) {
      const block = deviceBlock(layout, layout.summaryOrigin + copy * COPY_BLOCKS + i);
      writes.set(block, table.subarray(i * BLOCK, (i + 1) * BLOCK));
    }
  }
  yield* writeBlocks(writes);
}

const slabJournalBlock = (layout: VolumeLayout, slab: number, sequence: number): number =>
  deviceBlock(layout, slabPlace(layout, slab).journal + (sequence % layout.slabJournalBlocks));

/** 8.1 step 3: head, tail and point of each slab from its summarised tail block. */
export function* loadSlabs(layout: VolumeLayout): Steps<SlabState[]> {
  const summaries = yield* readSummary(layout);
  const size = layout.slabJournalBlocks;
  const used = summaries.flatMap((s, slab) => (s.tailOffset === 0 && !s.load ? [] : [slab]));
  const tails = yield* readBlocks(
    used.map((slab) => slabJournalBlock(layout, slab, summaries[slab]!.tailOffset + size - 1)),
  );
  const states = summaries.map((summary, slab) => ({ slab, summary, head: 1, tail: 1, point: 0 }));
  used.forEach((slab, i) => {
    const header = decodeSlabJournalHeader(tails[i]!, layout.nonce);
    if (!header) return;
    const state = states[slab]!;
    state.tail = header.sequence + 1;
    state.head = state.summary.dirty ? header.head : state.tail;
    state.point = header.point;
  });
  return states;
}

/** Step E for one slab: appends replayed entries and collects the blocks to be written. */
export class SlabReplay {
  readonly state: SlabState;
  readonly writes = new Map<number, Buffer>();
  readonly #layout: VolumeLayout;
  #entries: SlabEntry[] = [];
  #full = false;

  constructor(layout: VolumeLayout, state: SlabState) {
    this.#layout = layout;
    this.state = state;
  }

  append(entry: SlabEntry, point: number): void {
    const { state } = this;
    if (point <= state.point) return;
    if (entry.blockMap && this.#entries.length >= FULL_ENTRIES) this.commit();
    if (state.tail - state.head >= this.#layout.slabJournalBlocks) state.head++;
    if (entry.blockMap) this.#full = true;
    this.#entries.push(entry);
    state.point = point;
    if (this.#entries.length === (this.#full ? FULL_ENTRIES : PLAIN_ENTRIES)) this.commit();
  }

  commit(): void {
    const { state } = this;
    if (this.#entries.length === 0) return;
    const { head, tail: sequence, point } = state;
    const block = { head, sequence, point, full: this.#full, entries: this.#entries };
    this.writes.set(
      slabJournalBlock(this.#layout, state.slab, sequence),
      encodeSlabJournalBlock(this.#layout.nonce, block),
    );
    state.tail++;
    this.#entries = [];
    this.#full = false;
    const tailOffset = state.tail % this.#layout.slabJournalBlocks;
    const load = state.summary.load || head > 1;
    state.summary = { ...state.summary, tailOffset, load, dirty: true };
  }
}

const FREE = 0;
const TREE_PAGE = 254;
const PROVISIONAL = 255;

/** A slab's counts in memory and, per sector, the commit point they stand at. */
class ScrubbedCounts {
  readonly layout: VolumeLayout;
  readonly slab: number;
  readonly blocks: Buffer[];
  readonly changed = new Set<number>();

  constructor(layout: VolumeLayout, slab: number, blocks: Buffer[]) {
    this.layout = layout;
    this.slab = slab;
    this.blocks = blocks;
  }

  /** Applies an entry unless its sector already has it. */
  apply(entry: SlabEntry, point: number): void {
    const { offset } = entry;
    if (offset >= this.layout.dataBlocks) throw new Damaged(`slab ${this.slab}: offset ${offset}`);
    const number = Math.floor(offset / COUNTS_PER_BLOCK);
    const block = this.blocks[number]!;
    const sector = Math.floor((offset % COUNTS_PER_BLOCK) / COUNTS_PER_SECTOR) * 512;
    if (getU64(block, sector) >= point) return;
    const at = sector + 8 + (offset % COUNTS_PER_SECTOR);
    block[at] = this.#next(block[at]!, entry);
    this.changed.add(number);
  }

  #next(count: number, entry: SlabEntry): number {
    if (entry.blockMap && entry.increment) {
      if (count === FREE || count === PROVISIONAL) return TREE_PAGE;
    } else if (entry.increment) {
      if (count === PROVISIONAL) return 1;
      if (count < 254) return count + 1;
    } else if (count === PROVISIONAL) {
      return FREE;
    } else if (count !== FREE) {
      return count - 1;
    }
    const what = `${entry.blockMap ? 'block map ' : ''}${entry.increment ? 'in' : 'de'}crement`;
    throw new Damaged(`slab ${this.slab} offset ${entry.offset}: ${what} of count ${count}`);
  }

  freeBlocks(): number {
    let free = 0;
    for (let offset = 0; offset < this.layout.dataBlocks; offset++) {
      const within = offset % COUNTS_PER_BLOCK;
      const at = Math.floor(within / COUNTS_PER_SECTOR) * 512 + 8 + (within % COUNTS_PER_SECTOR);
      if (this.blocks[Math.floor(offset / COUNTS_PER_BLOCK)]![at] === FREE) free++;
    }
    return free;
  }
}

function* loadCounts(layout: VolumeLayout, state: SlabState): Steps<ScrubbedCounts> {
  const start = deviceBlock(layout, slabPlace(layout, state.slab).counts);
  const blocks = state.summary.load
    ? yield* readBlocks(range(start, layout.countBlocks))
    : range(0, layout.countBlocks).map(() => Buffer.alloc(BLOCK));
  for (const block of blocks) {
    for (let sector = 0; sector < BLOCK; sector += 512) {
      for (let at = sector + 8; at < sector + 512; at++) {
        if (block[at] === PROVISIONAL) block[at] = FREE;
      }
    }
  }
  return new ScrubbedCounts(layout, state.slab, blocks);
}

/** Applies the whole slab journal, unless it reads as never used. Returns the point of its end. */
function* applyJournal(
  layout: VolumeLayout,
  { slab, tail }: SlabState,
  counts: ScrubbedCounts,
): Steps<number> {
  if (tail === 1) return 0;
  const size = layout.slabJournalBlocks;
  const start = deviceBlock(layout, slabPlace(layout, slab).journal);
  const journal = yield* readBlocks(range(start, size));
  const last = decodeSlabJournalHeader(journal[(tail - 1) % size]!, layout.nonce);
  if (!last || last.sequence !== tail - 1) throw new Damaged(`slab ${slab}: no tail block`);
  let point = 0;
  for (let sequence = last.head; sequence < tail; sequence++) {
    const block = journal[sequence % size]!;
    const header = decodeSlabJournalHeader(block, layout.nonce);
    const limit = header?.full ? FULL_ENTRIES : PLAIN_ENTRIES;
    if (!header || header.sequence !== sequence || header.count > limit) {
      throw new Damaged(`slab ${slab}: journal block ${sequence} is not there`);
    }
    for (let k = 0; k < header.count; k++) {
      counts.apply(decodeSlabEntry(block, k), sequence * 65536 + k);
    }
    point = sequence * 65536 + Math.max(0, header.count - 1);
  }
  return point;
}

/** Step H for one dirty slab. Leaves the new summary entry in `state`. */
export function* scrubSlab(layout: VolumeLayout, state: SlabState, mendHint: boolean): Steps<void> {
  const counts = yield* loadCounts(layout, state);
  const { slab, summary } = state;
  const point = yield* applyJournal(layout, state, counts);
  const writes = new Map<number, Buffer>();
  counts.blocks.forEach((block, i) => {
    if (summary.load && !counts.changed.has(i)) return;
    for (let sector = 0; sector < BLOCK; sector += 512) setU64(block, sector, point);
    writes.set(deviceBlock(layout, slabPlace(layout, slab).counts + i), block);
  });
  yield { kind: 'flush' };
  yield* writeBlocks(writes);
  // Where no count changed, the kernel writes nothing, and what the summary says of them stays.
  const keeps = writes.size === 0 && !mendHint;
  const hint = keeps ? summary.hint : hintOf(counts.freeBlocks(), layout.slabBits);
  state.summary = { tailOffset: summary.tailOffset, hint, load: true, dirty: false };
  state.head = state.tail;
}
