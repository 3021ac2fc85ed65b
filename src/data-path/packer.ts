/**
 * The packer: compressed blocks (fragments) wait in bins until enough of them fill one physical block.
 *
 * Invariants:
 * - A fragment waits with the logical blocks that were acknowledged with its content (waiters); it is
 *   not in the block map yet. Reads and overwrites of those blocks come here first.
 * - References to one bin's fragments never exceed 254 together (docs/COMMIT.md, rule 12).
 * - Every fragment may still need a block of its own: the free space it was acknowledged against stays
 *   reserved (`fragmentCount` blocks) until it leaves.
 * - A bin that is written with one fragment gives an uncompressed block.
 *
 * The source of a fragment is not kept: who needs it decompresses.
 *
 * Implements docs/FORMAT.md §4, and dm-vdo's choice of bins with more of them.
 */
import { assert } from '../base/assert.ts';
import { asBuffer } from '../base/bytes.ts';
import {
  BLOCK_SIZE,
  COMPRESSED_BLOCK_DATA_SIZE,
  COMPRESSION_SLOTS,
  MAXIMUM_REFERENCE_COUNT,
  RECORD_NAME_SIZE,
} from '../base/constants.ts';
import { NumberMap } from '../base/number-map.ts';
import { decompressBlock } from '../kernels/lz4.ts';

const NONE = -1;

/** Logical blocks that may wait besides the first of each fragment. */
const EXTRA_WAITERS = 4096;

/** A bin on its way out: `fragments[k]` goes to slot k. Valid during the call that receives it. */
export type EmitBin = (fragments: readonly number[]) => void;

export class Packer {
  readonly bins: number;
  readonly #capacity: number;
  /** Bytes left in each bin, 4060 when empty. */
  readonly #free: Int32Array;
  readonly #references: Int32Array;
  readonly #bornAt: Float64Array;
  readonly #members: number[][];
  // Fragments, by row.
  readonly #bytes: Buffer;
  readonly #names: Buffer;
  readonly #size: Int32Array;
  readonly #bin: Int32Array;
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

  constructor(bins: number) {
    this.bins = bins;
    const capacity = bins * COMPRESSION_SLOTS;
    const waiters = capacity + EXTRA_WAITERS;
    this.#capacity = capacity;
    this.#free = new Int32Array(bins).fill(COMPRESSED_BLOCK_DATA_SIZE);
    this.#references = new Int32Array(bins);
    this.#bornAt = new Float64Array(bins);
    this.#members = Array.from({ length: bins }, () => []);
    this.#bytes = asBuffer(new Uint8Array(capacity * BLOCK_SIZE));
    this.#names = asBuffer(new Uint8Array(capacity * RECORD_NAME_SIZE));
    this.#size = new Int32Array(capacity);
    this.#bin = new Int32Array(capacity);
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

  /** A waiting fragment whose name begins like the one at `at`, or −1. Its content is to be compared. */
  findName(names: Uint8Array, at: number): number {
    return this.#byName.get(nameKey(names, at));
  }

  /** Expands a fragment into 4096 bytes. */
  read(fragment: number, into: Uint8Array): void {
    const ok = decompressBlock(this.fragmentBytes(fragment), into);
    assert(ok, 'a fragment made here expands');
  }

  fragmentBytes(fragment: number): Uint8Array {
    const at = fragment * BLOCK_SIZE;
    return this.#bytes.subarray(at, at + this.#size[fragment]!);
  }

  /** Copies the fragment's name to `at` of `names`. */
  copyName(fragment: number, names: Uint8Array, at: number): void {
    const from = fragment * RECORD_NAME_SIZE;
    this.#names.copy(names, at, from, from + RECORD_NAME_SIZE);
  }

  /** Calls `visit` for each logical block that waits with `fragment`. */
  eachWaiter(fragment: number, visit: (lbn: number) => void): void {
    for (let w = this.#firstWaiter[fragment]!; w !== NONE; w = this.#waiterNext[w]!) {
      visit(this.#waiterLbn[w]!);
    }
  }

  /**
   * Puts a fragment into a bin. Returns its row, or −1 where it is too large for the company it could
   * find. Bins that become full, or must make way, are passed to `emit` and are gone afterwards.
   */
  add(
    source: { fragments: Uint8Array; names: Uint8Array },
    row: number,
    size: number,
    lbn: number,
    emit: EmitBin,
  ): number {
    const bin = this.#choose(size, emit);
    if (bin === NONE) return NONE;
    const fragment = this.#spareFragments.pop();
    assert(fragment !== undefined, 'bins times slots bounds the fragments');
    const from = row * BLOCK_SIZE;
    this.#bytes.set(source.fragments.subarray(from, from + size), fragment * BLOCK_SIZE);
    const name = row * RECORD_NAME_SIZE;
    this.#names.set(
      source.names.subarray(name, name + RECORD_NAME_SIZE),
      fragment * RECORD_NAME_SIZE,
    );
    this.#size[fragment] = size;
    this.#bin[fragment] = bin;
    this.#firstWaiter[fragment] = NONE;
    this.#fragmentCount++;
    const members = this.#members[bin]!;
    if (members.length === 0) this.#bornAt[bin] = this.#now;
    members.push(fragment);
    this.#free[bin]! -= size;
    this.#byName.set(nameKey(source.names, name), fragment);
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
    const bin = this.#bin[fragment]!;
    this.#references[bin]!--;
    if (this.#firstWaiter[fragment] !== NONE) return;
    const members = this.#members[bin]!;
    members.splice(members.indexOf(fragment), 1);
    this.#free[bin]! += this.#size[fragment]!;
    this.#forget(fragment);
  }

  /** Detaches every waiting block from `first` to `end` − 1. */
  detachRange(first: number, end: number): void {
    if (this.#byLbn.size === 0) return;
    if (end - first < this.#byLbn.size) {
      for (let lbn = first; lbn < end; lbn++) this.detach(lbn);
      return;
    }
    for (const members of this.#members) {
      for (const fragment of [...members]) {
        const lbns: number[] = [];
        this.eachWaiter(fragment, (lbn) => lbns.push(lbn));
        for (const lbn of lbns) if (lbn >= first && lbn < end) this.detach(lbn);
      }
    }
  }

  /** Emits every bin, or only those begun at least `age` ticks ago. */
  drain(emit: EmitBin, age = 0): void {
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
    let best = NONE;
    let fullest = NONE;
    for (let bin = 0; bin < this.bins; bin++) {
      const free = this.#free[bin]!;
      if (fullest === NONE || free < this.#free[fullest]!) fullest = bin;
      if (free < size || this.#references[bin]! >= MAXIMUM_REFERENCE_COUNT) continue;
      if (best === NONE || free < this.#free[best]!) best = bin;
    }
    if (best !== NONE) return best;
    const used = COMPRESSED_BLOCK_DATA_SIZE - this.#free[fullest]!;
    if (size >= used) return NONE;
    this.#emit(fullest, emit);
    return fullest;
  }

  #emit(bin: number, emit: EmitBin): void {
    const members = this.#members[bin]!;
    emit(members);
    for (const fragment of members) {
      for (let w = this.#firstWaiter[fragment]!; w !== NONE; w = this.#waiterNext[w]!) {
        this.#byLbn.delete(this.#waiterLbn[w]!);
        this.#spareWaiters.push(w);
      }
      this.#forget(fragment);
    }
    members.length = 0;
    this.#free[bin] = COMPRESSED_BLOCK_DATA_SIZE;
    this.#references[bin] = 0;
  }

  #forget(fragment: number): void {
    const key = nameKey(this.#names, fragment * RECORD_NAME_SIZE);
    if (this.#byName.get(key) === fragment) this.#byName.delete(key);
    this.#spareFragments.push(fragment);
    this.#fragmentCount--;
    assert(this.#fragmentCount >= 0 && this.#spareFragments.length <= this.#capacity);
  }
}

/** The first 48 bits of a name: enough to find it, not to be sure. */
function nameKey(names: Uint8Array, at: number): number {
  const low =
    names[at]! + names[at + 1]! * 0x100 + names[at + 2]! * 0x10000 + names[at + 3]! * 0x1000000;
  return low + (names[at + 4]! + names[at + 5]! * 0x100) * 0x100000000;
}
