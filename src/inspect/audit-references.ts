/**
 * The reference counts that a volume should have, counted from its mappings; and which slots of
 * compressed blocks are mapped.
 *
 * Memory: a byte a block of the slabs in use, a bit more a block where a slab holds compressed
 * blocks, and at most `SLOT_BUDGET` bytes of slot masks: slabs beyond that wait for another look at
 * the leaves (`takeDeferred`).
 */
import { MAXIMUM_REFERENCE_COUNT } from '../base/constants.ts';

/** Expected count of a tree page. */
export const TREE_PAGE = 255;
const MAXIMUM = MAXIMUM_REFERENCE_COUNT;
/** Two bytes a block: enough for 128 GiB of slabs at a time. */
const SLOT_BUDGET = 64 * 1024 * 1024;

export interface DepotRange {
  readonly firstBlock: number;
  readonly slabBlocks: number;
  readonly dataBlocks: number;
  readonly slabs: number;
}

export class References {
  readonly range: DepotRange;
  /** By slab: how often each block is named, or `TREE_PAGE`. Absent where nothing is. */
  readonly #counts: (Uint8Array | undefined)[];
  /** By slab: a bit for each block that some mapping calls compressed. */
  readonly #compressed: (Uint8Array | undefined)[];
  readonly #slots = new Map<number, Uint16Array>();
  readonly #deferred = new Set<number>();
  readonly #slotBudget: number;
  /** Mappings beyond the 254th, by block. */
  readonly excess = new Map<number, number>();

  constructor(range: DepotRange, slotBudget = SLOT_BUDGET) {
    this.range = range;
    this.#counts = new Array<Uint8Array | undefined>(range.slabs);
    this.#compressed = new Array<Uint8Array | undefined>(range.slabs);
    this.#slotBudget = slotBudget;
  }

  /** Slab of a data block, or −1 for any other block. */
  slabOf(pbn: number): number {
    const { firstBlock, slabBlocks, dataBlocks, slabs } = this.range;
    const slab = Math.floor((pbn - firstBlock) / slabBlocks);
    if (slab < 0 || slab >= slabs) return -1;
    return pbn - firstBlock - slab * slabBlocks < dataBlocks ? slab : -1;
  }

  /** Counts of a slab; undefined where nothing in it is named. */
  countsOf(slab: number): Uint8Array | undefined {
    return this.#counts[slab];
  }

  /** Makes a data block of `slab` a tree page; false where it is something already. */
  takePage(slab: number, pbn: number): boolean {
    const counts = this.#touch(slab);
    const sbn = this.#sbn(slab, pbn);
    if (counts[sbn] !== 0) return false;
    counts[sbn] = TREE_PAGE;
    return true;
  }

  /**
   * Counts one mapping of a data block of `slab`. `slot` is −1 for an uncompressed block. Returns
   * what is wrong with it.
   */
  takeData(slab: number, pbn: number, slot: number): 'tree-page' | 'mixed' | undefined {
    const counts = this.#touch(slab);
    const sbn = this.#sbn(slab, pbn);
    const count = counts[sbn]!;
    if (count === TREE_PAGE) return 'tree-page';
    if (count < MAXIMUM) counts[sbn] = count + 1;
    else this.excess.set(pbn, (this.excess.get(pbn) ?? 0) + 1);
    const bits = this.#compressed[slab];
    const wasCompressed = bits !== undefined && (bits[sbn >>> 3]! & (1 << (sbn & 7))) !== 0;
    if (slot < 0) return wasCompressed ? 'mixed' : undefined;
    this.#markCompressed(slab, sbn);
    this.takeSlot(slab, pbn, slot);
    return count > 0 && !wasCompressed ? 'mixed' : undefined;
  }

  /** Notes that a mapping names `slot` of the compressed block. */
  takeSlot(slab: number, pbn: number, slot: number): void {
    let slots = this.#slots.get(slab);
    if (slots === undefined) {
      const used = (this.#slots.size + 1) * this.range.dataBlocks * 2;
      if (this.#slots.size > 0 && used > this.#slotBudget) {
        this.#deferred.add(slab);
        return;
      }
      slots = new Uint16Array(this.range.dataBlocks);
      this.#slots.set(slab, slots);
    }
    const sbn = this.#sbn(slab, pbn);
    slots[sbn] = slots[sbn]! | (1 << slot);
  }

  /** Whether mappings call the block compressed. */
  isCompressed(slab: number, sbn: number): boolean {
    const bits = this.#compressed[slab];
    return bits !== undefined && (bits[sbn >>> 3]! & (1 << (sbn & 7))) !== 0;
  }

  /** Slabs whose slot masks are complete, in order, each with its masks; they are let go. */
  *takeSlots(): Generator<readonly [slab: number, slots: Uint16Array]> {
    for (const slab of [...this.#slots.keys()].sort((a, b) => a - b)) {
      yield [slab, this.#slots.get(slab)!];
      this.#slots.delete(slab);
    }
  }

  /** Slabs whose masks did not fit; the caller looks at all leaves again and takes their slots. */
  takeDeferred(): ReadonlySet<number> {
    const deferred = new Set(this.#deferred);
    this.#deferred.clear();
    return deferred;
  }

  #touch(slab: number): Uint8Array {
    let counts = this.#counts[slab];
    if (counts === undefined) {
      counts = new Uint8Array(this.range.dataBlocks);
      this.#counts[slab] = counts;
    }
    return counts;
  }

  #markCompressed(slab: number, sbn: number): void {
    let bits = this.#compressed[slab];
    if (bits === undefined) {
      bits = new Uint8Array(Math.ceil(this.range.dataBlocks / 8));
      this.#compressed[slab] = bits;
    }
    bits[sbn >>> 3] = bits[sbn >>> 3]! | (1 << (sbn & 7));
  }

  #sbn(slab: number, pbn: number): number {
    return pbn - this.range.firstBlock - slab * this.range.slabBlocks;
  }
}
