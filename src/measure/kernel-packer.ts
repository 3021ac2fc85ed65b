/**
 * dm-vdo's own packer, by sizes alone: 16 bins, filled in order of arrival, the fullest first. It tells
 * how many blocks the kernel writes where uvdo, with more bins, writes fewer. docs/FORMAT.md §4.
 *
 * The kernel takes a block out of the packer again, and stores it as it is, when the same content is
 * written once more meanwhile: whoever waits for it is served at once.
 *
 * With another number of bins it compares sets of fragments with each other.
 */
import { COMPRESSED_BLOCK_DATA_SIZE, COMPRESSION_SLOTS } from '../base/constants.ts';
import { NumberMap } from '../base/number-map.ts';

const KERNEL_BINS = 16;

interface Fragment {
  readonly key: number;
  readonly size: number;
}

/** From what a later run goes on: the fragments of each bin. */
export interface KernelPackerState {
  readonly bins: readonly (readonly Fragment[])[];
  readonly storedBlocks: number;
}

export class KernelPacker {
  readonly #free: Int32Array;
  readonly #bins: Fragment[][];
  /** The bin of each content that waits. */
  readonly #binOf: NumberMap;
  #storedBlocks = 0;

  constructor(bins = KERNEL_BINS) {
    this.#free = new Int32Array(bins).fill(COMPRESSED_BLOCK_DATA_SIZE);
    this.#bins = Array.from({ length: bins }, () => []);
    this.#binOf = new NumberMap(bins * COMPRESSION_SLOTS);
  }

  /** Blocks written so far, and one for each bin that waits. */
  get storedBlocks(): number {
    return this.#storedBlocks + this.#bins.filter(({ length }) => length > 0).length;
  }

  /**
   * Stores a block that makes a fragment of `size` bytes; 0: one that does not shrink. `key`: an exact
   * integer that stands for its content.
   */
  add(size: number, key: number): void {
    const bin = size === 0 ? -1 : this.#choose(size);
    if (bin < 0) {
      this.#storedBlocks++;
      return;
    }
    this.#put(bin, { key, size });
    const { length } = this.#bins[bin]!;
    if (this.#free[bin] === 0 || length === COMPRESSION_SLOTS) this.#emit(bin);
  }

  /** The content is written again: if it waits, it does so no longer. */
  meet(key: number): void {
    const bin = this.#binOf.get(key);
    if (bin < 0) return;
    const fragments = this.#bins[bin]!;
    const at = fragments.findIndex((fragment) => fragment.key === key);
    const [fragment] = fragments.splice(at, 1) as [Fragment];
    this.#free[bin]! += fragment.size;
    this.#binOf.delete(key);
    this.#storedBlocks++;
  }

  /** Goes on from the state of another run. */
  restore(state: KernelPackerState): void {
    state.bins.forEach((fragments, bin) => {
      for (const fragment of fragments) this.#put(bin, fragment);
    });
    this.#storedBlocks = state.storedBlocks;
  }

  state(): KernelPackerState {
    const bins = this.#bins.map((fragments) => [...fragments]);
    return { bins, storedBlocks: this.#storedBlocks };
  }

  #put(bin: number, fragment: Fragment): void {
    this.#free[bin]! -= fragment.size;
    this.#bins[bin]!.push(fragment);
    this.#binOf.set(fragment.key, bin);
  }

  #choose(size: number): number {
    let best = -1;
    let fullest = 0;
    for (let bin = 0; bin < this.#free.length; bin++) {
      const free = this.#free[bin]!;
      if (free < this.#free[fullest]!) fullest = bin;
      if (free >= size && (best < 0 || free < this.#free[best]!)) best = bin;
    }
    if (best >= 0) return best;
    if (size >= COMPRESSED_BLOCK_DATA_SIZE - this.#free[fullest]!) return -1;
    this.#emit(fullest);
    return fullest;
  }

  #emit(bin: number): void {
    const fragments = this.#bins[bin]!;
    for (const { key } of fragments) this.#binOf.delete(key);
    fragments.length = 0;
    this.#free[bin] = COMPRESSED_BLOCK_DATA_SIZE;
    this.#storedBlocks++;
  }
}

/** A content as one exact number: 53 bits of its name. */
export function keyOf(n0: number, n1: number): number {
  return n0 + (n1 & 0x1fffff) * 2 ** 32;
}
