/**
 * dm-vdo's own packer, by sizes alone: 16 bins, filled in order of arrival, the fullest first. It tells
 * how many blocks the kernel writes where uvdo, with more bins, writes fewer. docs/FORMAT.md §4.
 * With another number of bins it compares sets of fragments with each other.
 */
import { COMPRESSED_BLOCK_DATA_SIZE, COMPRESSION_SLOTS } from '../base/constants.ts';

const KERNEL_BINS = 16;

export class KernelPacker {
  readonly #free: Int32Array;
  readonly #members: Int32Array;
  #storedBlocks = 0;

  constructor(bins = KERNEL_BINS) {
    this.#free = new Int32Array(bins).fill(COMPRESSED_BLOCK_DATA_SIZE);
    this.#members = new Int32Array(bins);
  }

  /** Blocks written so far, and one for each bin that waits. */
  get storedBlocks(): number {
    return this.#storedBlocks + this.#members.reduce((sum, count) => sum + (count > 0 ? 1 : 0), 0);
  }

  /** Stores a block that makes a fragment of `size` bytes; 0: one that does not shrink. */
  add(size: number): void {
    const bin = size === 0 ? -1 : this.#choose(size);
    if (bin < 0) {
      this.#storedBlocks++;
      return;
    }
    this.#free[bin]! -= size;
    this.#members[bin]!++;
    if (this.#free[bin] === 0 || this.#members[bin] === COMPRESSION_SLOTS) this.#emit(bin);
  }

  /** Goes on from the state of another run. */
  restore(state: KernelPackerState): void {
    this.#free.set(state.free);
    this.#members.set(state.members);
    this.#storedBlocks = state.storedBlocks;
  }

  state(): KernelPackerState {
    return {
      free: [...this.#free],
      members: [...this.#members],
      storedBlocks: this.#storedBlocks,
    };
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
    this.#storedBlocks++;
    this.#free[bin] = COMPRESSED_BLOCK_DATA_SIZE;
    this.#members[bin] = 0;
  }
}

export interface KernelPackerState {
  readonly free: readonly number[];
  readonly members: readonly number[];
  readonly storedBlocks: number;
}
