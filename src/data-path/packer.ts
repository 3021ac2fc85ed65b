/**
 * The packer: compressed blocks (fragments) wait in bins until enough of them fill one physical block.
 *
 * Invariants:
 * - A fragment waits with the logical blocks that were acknowledged with its content (waiters); it is
 *   not in the block map yet. Reads and overwrites of those blocks come here first.
 * - A bin is the compressed block that it will be: its fragments lie in the arena back to back, in the
 *   order of their slots, behind the room for the header.
 * - References to one bin's fragments never exceed 254 together (docs/COMMIT.md, rule 12).
 * - Every fragment may still need a block of its own: the free space it was acknowledged against stays
 *   reserved (`fragmentCount` blocks) until it leaves.
 * - A bin that is written with one fragment gives an uncompressed block.
 * - The cost of a fragment does not depend on the number of bins.
 *
 * The source of a fragment is not kept: who needs it decompresses.
 *
 * Implements docs/FORMAT.md §4, and dm-vdo's choice of bins with more of them.
 */
import { assert } from '../base/assert.ts';
import { asBuffer, copyBytes } from '../base/bytes.ts';
import {
  BLOCK_SIZE,
  COMPRESSED_BLOCK_DATA_SIZE,
  COMPRESSED_BLOCK_HEADER_SIZE,
  COMPRESSION_SLOTS,
  MAXIMUM_REFERENCE_COUNT,
} from '../base/constants.ts';
import { FitList } from '../base/fit-list.ts';
import { NumberMap } from '../base/number-map.ts';
import { sealCompressedBlock } from '../format/compressed-block.ts';
import type { Arena } from '../kernels/arena.ts';
import type { Kernels } from '../kernels/kernels.ts';

const NONE = -1;
/** Words of a record name. */
export const NAME_WORDS = 4;

/**
 * Larger fragments are not worth a place: of all blocks of Debian images those from 3200 to 4059 bytes are
 * a tenth, and all but one in a thousand of them would leave their bin alone, after being expanded again.
 */
export const LARGEST_PACKED_FRAGMENT = 3200;

/** Logical blocks that may wait besides the first of each fragment. */
const EXTRA_WAITERS = 4096;

/** A bin on its way out: `fragments[k]` goes to slot k. Valid during the call that receives it. */
export type EmitBin = (fragments: readonly number[], bin: number) => void;

export class Packer {
  readonly bins: number;
  readonly #kernels: Kernels;
  readonly #capacity: number;
  // Of the arena: addresses of fragments, and names.
  readonly #sourceAt: number;
  readonly #sourceNames: Uint32Array;
  readonly #bytes: Buffer;
  readonly #address: number;
  readonly #expanded: Buffer;
  // Bins.
  readonly #free: Int32Array;
  readonly #byFree: FitList;
  readonly #references: Int32Array;
  readonly #bornAt: Float64Array;
  readonly #members: number[][];
  readonly #sizes: number[] = [];
  // Fragments, by row.
  readonly #names: Uint32Array;
  readonly #size: Int32Array;
  readonly #bin: Int32Array;
  /** Where it begins, in the bytes of all bins. */
  readonly #at: Int32Array;
  readonly #firstWaiter: Int32Array;
  readonly #spareFragments: number[] = [];
  // Waiters, by row.
  readonly #waiterLbn: Float64Array;
  readonly #waiterNext: Int32Array;
  readonly #waiterFragment: Int32Array;
  readonly #spareWaiters: number[] = [];
  readonly #byLbn: NumberMap;
  readonly #byName: NumberMap;
  #fragmentCount = 0;
  #now = 0;

  /** As many bins as the arena has. */
  constructor(arena: Arena, kernels: Kernels) {
    const bins = arena.binCount;
    assert(bins > 0, 'bins of a packer');
    this.bins = bins;
    this.#kernels = kernels;
    this.#sourceAt = arena.fragments.byteOffset;
    this.#sourceNames = arena.nameWords;
    this.#bytes = asBuffer(arena.bins);
    this.#address = arena.bins.byteOffset;
    this.#expanded = asBuffer(arena.expanded);
    const capacity = bins * COMPRESSION_SLOTS;
    const waiters = capacity + EXTRA_WAITERS;
    this.#capacity = capacity;
    this.#free = new Int32Array(bins).fill(COMPRESSED_BLOCK_DATA_SIZE);
    this.#byFree = new FitList(bins, COMPRESSED_BLOCK_DATA_SIZE);
    for (let bin = bins - 1; bin >= 0; bin--) this.#byFree.set(bin, COMPRESSED_BLOCK_DATA_SIZE);
    this.#references = new Int32Array(bins);
    this.#bornAt = new Float64Array(bins);
    this.#members = Array.from({ length: bins }, () => []);
    this.#names = new Uint32Array(capacity * NAME_WORDS);
    this.#size = new Int32Array(capacity);
    this.#bin = new Int32Array(capacity);
    this.#at = new Int32Array(capacity);
    this.#firstWaiter = new Int32Array(capacity);
    for (let row = capacity - 1; row >= 0; row--) this.#spareFragments.push(row);
    this.#waiterLbn = new Float64Array(waiters);
    this.#waiterNext = new Int32Array(waiters);
    this.#waiterFragment = new Int32Array(waiters);
    for (let row = waiters - 1; row >= 0; row--) this.#spareWaiters.push(row);
    this.#byLbn = new NumberMap(waiters);
    this.#byName = new NumberMap(capacity);
  }

  /** Fragments that wait now, each worth one block of reserved space. */
  get fragmentCount(): number {
    return this.#fragmentCount;
  }

  /** Logical blocks that wait now. */
  get waiterCount(): number {
    return this.#byLbn.size;
  }

  /** The fragment whose content `lbn` was last written with, or −1. */
  findLbn(lbn: number): number {
    const waiter = this.#byLbn.get(lbn);
    return waiter === NONE ? NONE : this.#waiterFragment[waiter]!;
  }

  /** A waiting fragment whose name begins like that of `row`, or −1. Its content is to be compared. */
  findName(row: number): number {
    return this.#byName.get(nameKey(this.#sourceNames, row * NAME_WORDS));
  }

  /** Expands a fragment into the arena's `expanded` block, or to another address. */
  expand(fragment: number, into = this.#expanded.byteOffset): void {
    const source = this.#address + this.#at[fragment]!;
    const ok = this.#kernels.decompress(source, this.#size[fragment]!, into);
    assert(ok, 'a fragment made here expands');
  }

  /** Expands a fragment to `at` of `into`, by way of `expanded`. */
  read(fragment: number, into: Uint8Array, at: number): void {
    this.expand(fragment);
    copyBytes(this.#expanded, 0, BLOCK_SIZE, asBuffer(into), at);
  }

  fragmentBytes(fragment: number): Uint8Array {
    const at = this.#at[fragment]!;
    return this.#bytes.subarray(at, at + this.#size[fragment]!);
  }

  /** Copies the fragment's name to word `at` of `names`. */
  copyName(fragment: number, names: Uint32Array, at: number): void {
    copyName(this.#names, fragment * NAME_WORDS, names, at);
  }

  /** Copies the compressed block that a bin on its way out has become to address `into`. */
  copyBlock(bin: number, into: number): void {
    const start = bin * BLOCK_SIZE;
    const members = this.#members[bin]!;
    this.#sizes.length = 0;
    for (let slot = 0; slot < members.length; slot++) this.#sizes.push(this.#size[members[slot]!]!);
    sealCompressedBlock(this.#bytes, start, this.#sizes);
    this.#kernels.copy(this.#address + start, into, BLOCK_SIZE);
  }

  /** The first of the logical blocks that wait with `fragment`: a waiter, or −1. */
  firstWaiter(fragment: number): number {
    return this.#firstWaiter[fragment]!;
  }

  nextWaiter(waiter: number): number {
    return this.#waiterNext[waiter]!;
  }

  lbnOf(waiter: number): number {
    return this.#waiterLbn[waiter]!;
  }

  /**
   * Puts the fragment of row `row` of the arena into a bin. Returns its row, or −1 where it is too large for the company it could
   * find. Bins that become full, or must make way, are passed to `emit` and are gone afterwards.
   */
  add(row: number, size: number, lbn: number, emit: EmitBin): number {
    const bin = this.#choose(size, emit);
    if (bin === NONE) return NONE;
    const fragment = this.#spareFragments.pop();
    assert(fragment !== undefined, 'bins times slots bounds the fragments');
    const used = COMPRESSED_BLOCK_DATA_SIZE - this.#free[bin]!;
    const at = bin * BLOCK_SIZE + COMPRESSED_BLOCK_HEADER_SIZE + used;
    this.#kernels.copy(this.#sourceAt + row * BLOCK_SIZE, this.#address + at, size);
    copyName(this.#sourceNames, row * NAME_WORDS, this.#names, fragment * NAME_WORDS);
    this.#size[fragment] = size;
    this.#bin[fragment] = bin;
    this.#at[fragment] = at;
    this.#firstWaiter[fragment] = NONE;
    this.#fragmentCount++;
    const members = this.#members[bin]!;
    if (members.length === 0) this.#bornAt[bin] = this.#now;
    members.push(fragment);
    this.#setFree(bin, this.#free[bin]! - size);
    this.#byName.set(nameKey(this.#sourceNames, row * NAME_WORDS), fragment);
    const joined = this.join(fragment, lbn);
    assert(joined, 'a new fragment takes its first waiter');
    return fragment;
  }

  /** Emits the bin of `fragment` where nothing more fits into it. Call once its waiters have joined. */
  emitIfFull(fragment: number, emit: EmitBin): void {
    const bin = this.#bin[fragment]!;
    if (this.#members[bin]!.length === COMPRESSION_SLOTS || this.#free[bin] === 0) {
      this.#emit(bin, emit);
    }
  }

  /**
   * Lets `lbn` wait with `fragment` too; false where its block would get too many references, or where
   * the waiters that are left are kept for the fragments that can still come.
   */
  join(fragment: number, lbn: number): boolean {
    const bin = this.#bin[fragment]!;
    if (this.#references[bin]! >= MAXIMUM_REFERENCE_COUNT) return false;
    if (this.#spareWaiters.length <= this.#spareFragments.length) return false;
    const waiter = this.#spareWaiters.pop()!;
    this.#waiterLbn[waiter] = lbn;
    this.#waiterFragment[waiter] = fragment;
    this.#waiterNext[waiter] = this.#firstWaiter[fragment]!;
    this.#firstWaiter[fragment] = waiter;
    this.#byLbn.set(lbn, waiter);
    this.#references[bin]!++;
    return true;
  }

  /** `lbn` is overwritten or discarded: it waits no longer. */
  detach(lbn: number): void {
    const waiter = this.#byLbn.get(lbn);
    if (waiter === NONE) return;
    const fragment = this.#waiterFragment[waiter]!;
    let before = NONE;
    for (let w = this.#firstWaiter[fragment]!; w !== waiter; w = this.#waiterNext[w]!) before = w;
    if (before === NONE) this.#firstWaiter[fragment] = this.#waiterNext[waiter]!;
    else this.#waiterNext[before] = this.#waiterNext[waiter]!;
    this.#byLbn.delete(lbn);
    this.#spareWaiters.push(waiter);
    this.#references[this.#bin[fragment]!]!--;
    if (this.#firstWaiter[fragment] === NONE) this.#remove(fragment);
  }

  /** Detaches every waiting block from `first` to `end` − 1. */
  detachRange(first: number, end: number): void {
    if (this.#byLbn.size === 0) return;
    if (end - first < this.#byLbn.size) {
      for (let lbn = first; lbn < end; lbn++) this.detach(lbn);
      return;
    }
    const lbns: number[] = [];
    for (const members of this.#members) {
      for (const fragment of members) {
        for (let w = this.#firstWaiter[fragment]!; w !== NONE; w = this.#waiterNext[w]!) {
          const lbn = this.#waiterLbn[w]!;
          if (lbn >= first && lbn < end) lbns.push(lbn);
        }
      }
    }
    for (const lbn of lbns) this.detach(lbn);
  }

  /** Emits every bin, or only those begun at least `age` ticks ago. */
  drain(emit: EmitBin, age = 0): void {
    if (this.#fragmentCount === 0) return;
    for (let bin = 0; bin < this.bins; bin++) {
      if (this.#members[bin]!.length === 0 || this.#now - this.#bornAt[bin]! < age) continue;
      this.#emit(bin, emit);
    }
  }

  /** Time passes: bins grow older by one. */
  tick(): void {
    this.#now++;
  }

  /** The fullest bin with room for `size`; if there is none, the fullest of all is emitted for it. */
  #choose(size: number, emit: EmitBin): number {
    let bin = this.#byFree.find(size);
    while (bin !== NONE && this.#references[bin]! >= MAXIMUM_REFERENCE_COUNT) {
      bin = this.#byFree.after(bin);
    }
    if (bin !== NONE) return bin;
    const fullest = this.#byFree.find(0);
    const used = COMPRESSED_BLOCK_DATA_SIZE - this.#free[fullest]!;
    if (size >= used) return NONE;
    this.#emit(fullest, emit);
    return fullest;
  }

  #setFree(bin: number, free: number): void {
    this.#free[bin] = free;
    this.#byFree.set(bin, free);
  }

  /** Takes a fragment out of its bin; those behind it move up. */
  #remove(fragment: number): void {
    const bin = this.#bin[fragment]!;
    const members = this.#members[bin]!;
    const size = this.#size[fragment]!;
    const at = this.#at[fragment]!;
    const end = (bin + 1) * BLOCK_SIZE - this.#free[bin]!;
    this.#bytes.copyWithin(at, at + size, end);
    let slot = members.indexOf(fragment);
    for (; slot + 1 < members.length; slot++) {
      members[slot] = members[slot + 1]!;
      this.#at[members[slot]!]! -= size;
    }
    members.length = slot;
    this.#setFree(bin, this.#free[bin]! + size);
    this.#forget(fragment);
  }

  #emit(bin: number, emit: EmitBin): void {
    const members = this.#members[bin]!;
    emit(members, bin);
    for (const fragment of members) {
      for (let w = this.#firstWaiter[fragment]!; w !== NONE; w = this.#waiterNext[w]!) {
        this.#byLbn.delete(this.#waiterLbn[w]!);
        this.#spareWaiters.push(w);
      }
      this.#forget(fragment);
    }
    members.length = 0;
    this.#setFree(bin, COMPRESSED_BLOCK_DATA_SIZE);
    this.#references[bin] = 0;
  }

  #forget(fragment: number): void {
    const key = nameKey(this.#names, fragment * NAME_WORDS);
    if (this.#byName.get(key) === fragment) this.#byName.delete(key);
    this.#spareFragments.push(fragment);
    this.#fragmentCount--;
    assert(this.#fragmentCount >= 0 && this.#spareFragments.length <= this.#capacity);
  }
}

/** The first 48 bits of the name at word `at`: enough to find it, not to be sure. */
function nameKey(names: Uint32Array, at: number): number {
  return names[at]! + (names[at + 1]! & 0xffff) * 0x100000000;
}

/** Copies the name at word `from` of `source` to word `at` of `names`. */
export function copyName(source: Uint32Array, from: number, names: Uint32Array, at: number): void {
  names[at] = source[from]!;
  names[at + 1] = source[from + 1]!;
  names[at + 2] = source[from + 2]!;
  names[at + 3] = source[from + 3]!;
}
