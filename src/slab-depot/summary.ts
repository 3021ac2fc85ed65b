/**
 * The slab summary: one 16-bit entry a slab that says where its journal ends, whether its reference
 * blocks hold anything, and roughly how full it is. 16 copies exist on disk, one a physical zone.
 *
 * uvdo runs with one zone: at open it combines what the last run's zones left, writes all 16 copies,
 * and from then on keeps copy 0 only. The super block says zone count 1, so copy 0 is what counts.
 *
 * Implements docs/FORMAT.md §6.3.
 */
import {
  BLOCK_SIZE,
  MAX_SLABS,
  SLAB_SUMMARY_BLOCKS,
  SLAB_SUMMARY_BLOCKS_PER_ZONE,
  SLAB_SUMMARY_ENTRIES_PER_BLOCK,
} from '../base/constants.ts';
import { readSummaryEntry, setSummaryEntry, type SummaryEntry } from '../format/slab-summary.ts';
import type { Extent, Storage } from '../storage/storage.ts';

const COPY_SIZE = SLAB_SUMMARY_BLOCKS_PER_ZONE * BLOCK_SIZE;

export class SlabSummary {
  readonly #origin: number;
  readonly #table = new Uint8Array(COPY_SIZE);
  readonly #dirty = new Set<number>();

  /** `origin`: byte offset of the partition. */
  constructor(origin: number) {
    this.#origin = origin;
  }

  /** Reads the summary that a run with `zones` physical zones left (0 counts as 1). */
  async load(storage: Storage, zones: number): Promise<void> {
    const all = new Uint8Array(SLAB_SUMMARY_BLOCKS * BLOCK_SIZE);
    await storage.read([{ offset: this.#origin, bytes: all }]);
    const copies = Math.max(1, zones);
    for (let slab = 0; slab < MAX_SLABS; slab++) {
      const from = (slab % copies) * COPY_SIZE + slab * 2;
      this.#table[slab * 2] = all[from]!;
      this.#table[slab * 2 + 1] = all[from + 1]!;
    }
  }

  /** Sets every slab to "never used", as a new volume has it. `hint`: of a completely free slab. */
  reset(hint: number): void {
    const entry = { tailOffset: 0, fullnessHint: hint, loadCounts: false, dirty: false };
    for (let slab = 0; slab < MAX_SLABS; slab++) setSummaryEntry(this.#table, slab, entry);
  }

  get(slab: number): SummaryEntry {
    return readSummaryEntry(this.#table, slab);
  }

  set(slab: number, entry: SummaryEntry): void {
    setSummaryEntry(this.#table, slab, entry);
    this.#dirty.add(Math.floor(slab / SLAB_SUMMARY_ENTRIES_PER_BLOCK));
  }

  /** All 16 copies, as an open writes them. */
  allCopies(): Extent[] {
    const all = new Uint8Array(SLAB_SUMMARY_BLOCKS * BLOCK_SIZE);
    for (let at = 0; at < all.length; at += COPY_SIZE) all.set(this.#table, at);
    this.#dirty.clear();
    return [{ offset: this.#origin, bytes: all }];
  }

  /** The blocks of copy 0 that changed since the last call. */
  takeDirty(): Extent[] {
    const extents = [...this.#dirty].map((block) => ({
      offset: this.#origin + block * BLOCK_SIZE,
      bytes: this.#table.slice(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE),
    }));
    this.#dirty.clear();
    return extents;
  }
}
