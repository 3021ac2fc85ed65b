/**
 * What `uvdo create` would store of the blocks that come by: the engine's own packer and its rules of
 * sharing, without a volume. Beside it the kernel's packer, by sizes.
 *
 * - Where a content is stored is word 2 of its record: a physical block (numbered as they are written),
 *   `WAITING` + fragment while it waits in the packer, `PENDING` + row while its batch is compressed (the
 *   batch behind is gathered meanwhile, and may refer to it), or `ELSEWHERE`.
 * - A physical block takes 254 references, those of all its fragments together. Who finds none left is
 *   stored anew (docs/COMMIT.md, rule 12) and is the one to be shared from then on.
 * - Batches and order are those of an import, so that the same fragments meet in the same bins; what an
 *   engine does by the clock (bins written after a while) is left out.
 */
import { assert } from '../base/assert.ts';
import { BLOCK_SIZE, MAXIMUM_REFERENCE_COUNT } from '../base/constants.ts';
import { LARGEST_PACKED_FRAGMENT, NAME_WORDS, Packer } from '../data-path/packer.ts';
import type { Arena } from '../kernels/arena.ts';
import { createKernels } from '../kernels/kernels.ts';
import type { FingerprintTable } from './fingerprint-table.ts';
import { KernelPacker, keyOf, type KernelPackerState } from './kernel-packer.ts';

const NONE = -1;
const PENDING = 0xf0000000;
const WAITING = 0xe0000000;
/** Stored by an earlier run, nobody knows where: it is shared without end. */
export const ELSEWHERE = 0xffffffff;
const MAX_PENDING_ROWS = 1 << 16;
/** Fragment sizes are remembered in units of this. */
export const SIZE_UNIT = 16;
const SIZE_SHIFT = 16;
const SIZE_MASK = 0xff << SIZE_SHIFT;
const CHUNK_BITS = 20;
const CHUNK_MASK = (1 << CHUNK_BITS) - 1;

/** A counter of one byte for each of any number of blocks; grows by a MiB, never moves. */
class ByteColumn {
  readonly #chunks: Uint8Array[] = [];

  get(index: number): number {
    return this.#chunks[index >>> CHUNK_BITS]![index & CHUNK_MASK]!;
  }

  has(index: number): boolean {
    return index >>> CHUNK_BITS < this.#chunks.length;
  }

  set(index: number, value: number): void {
    const chunk = index >>> CHUNK_BITS;
    while (chunk >= this.#chunks.length) this.#chunks.push(new Uint8Array(1 << CHUNK_BITS));
    this.#chunks[chunk]![index & CHUNK_MASK] = value;
  }

  get bytes(): number {
    return this.#chunks.length << CHUNK_BITS;
  }
}

interface WaitingFragment {
  readonly name: readonly [number, number, number, number];
  readonly size: number;
  /** Blocks that wait with it. */
  readonly waiters: number;
}

/** From what a later run goes on. */
export interface StoredState {
  readonly storedBlocks: number;
  readonly compressedBlocks: number;
  readonly packedBlocks: number;
  readonly nextBlock: number;
  readonly kernel: KernelPackerState;
  readonly waiting: readonly WaitingFragment[];
}

/** Whether a record's word 2 says where the content is stored. */
export function isPlace(word2: number): boolean {
  return word2 < WAITING;
}

/** What arrived in one batch: a batch is gathered while the fragments of the one before are made. */
class Arrivals {
  /** Rows to be compressed: contents that are stored now. */
  readonly rows: Int32Array;
  count = 0;
  /** All rows, in order: of new contents, and (as ~row) of known ones. */
  readonly all: Int32Array;
  arrived = 0;

  constructor(rows: number) {
    this.rows = new Int32Array(rows);
    // A content that is stored anew arrives twice.
    this.all = new Int32Array(2 * rows);
  }
}

export class StoredModel {
  storedBlocks = 0;
  /** Fragments in blocks with company, and those blocks. */
  compressedBlocks = 0;
  packedBlocks = 0;
  readonly kernel = new KernelPacker();
  readonly #arena: Arena;
  readonly #names: Uint32Array;
  readonly #table: FingerprintTable;
  readonly #packer: Packer;
  readonly #references = new ByteColumn();
  readonly #firstFollower: Int32Array;
  readonly #nextFollower: Int32Array;
  readonly #nameWords = new Uint32Array(NAME_WORDS);
  readonly #emit = (fragments: readonly number[]): void => this.#write(fragments);
  /** The batch that is gathered, and those that wait for their fragments. */
  #open: Arrivals;
  readonly #sealed: Arrivals[] = [];
  readonly #spare: Arrivals[];
  #nextBlock = 0;
  /** Logical blocks as the packer knows them: running numbers. */
  #lbn = 0;

  /** The arena has the bins. */
  constructor(arena: Arena, table: FingerprintTable) {
    const { rows } = arena;
    assert(rows <= MAX_PENDING_ROWS, 'rows that wait for their fragments');
    this.#arena = arena;
    this.#names = new Uint32Array(arena.names.buffer, arena.names.byteOffset, rows * 4);
    this.#table = table;
    this.#packer = new Packer(arena, createKernels(arena));
    this.#open = new Arrivals(rows);
    this.#spare = [new Arrivals(rows), new Arrivals(rows)];
    this.#firstFollower = new Int32Array(rows);
    this.#nextFollower = new Int32Array(rows);
  }

  /** Bytes that it takes beside the table, packer excluded. */
  get bytes(): number {
    return this.#references.bytes;
  }

  /** Blocks stored so far, and one for each fragment that waits: an upper bound, for progress. */
  get storedSoFar(): number {
    return this.storedBlocks + Math.ceil(this.#packer.fragmentCount / 2);
  }

  /** The content of `row` is new, or stored anew; its record begins at `at`. */
  addNew(words: Uint32Array, at: number, row: number): void {
    const open = this.#open;
    words[at + 2] = PENDING + row;
    this.#firstFollower[row] = NONE;
    open.rows[open.count++] = row;
    open.all[open.arrived++] = row;
  }

  /** The content of `row` is known: shares what is stored, or is stored anew where that is full. */
  addDuplicate(words: Uint32Array, at: number, row: number): void {
    const place = words[at + 2]!;
    if (place === ELSEWHERE) return;
    this.#open.all[this.#open.arrived++] = ~row;
    if (place >= PENDING) {
      const owner = place - PENDING;
      this.#nextFollower[row] = this.#firstFollower[owner]!;
      this.#firstFollower[owner] = row;
      return;
    }
    if (place >= WAITING) {
      if (!this.#packer.join(place - WAITING, this.#lbn++)) this.addNew(words, at, row);
      return;
    }
    const references = this.#references.get(place);
    if (references >= MAXIMUM_REFERENCE_COUNT) this.addNew(words, at, row);
    else this.#references.set(place, references + 1);
  }

  /** Ends a batch: returns the rows to be compressed. One batch before may still wait for `store`. */
  seal(): Int32Array {
    const batch = this.#open;
    this.#sealed.push(batch);
    const next = this.#spare.pop();
    assert(next !== undefined, 'batches that wait');
    this.#open = next;
    return batch.rows.subarray(0, batch.count);
  }

  /** Stores the oldest sealed batch, now that its fragments are there. */
  store(): void {
    const batch = this.#sealed.shift();
    assert(batch !== undefined, 'a batch to be stored');
    this.#storeInKernel(batch);
    for (let i = 0; i < batch.count; i++) {
      const row = batch.rows[i]!;
      const size = this.#arena.fragmentSizes[row]!;
      if (size === 0 || size > LARGEST_PACKED_FRAGMENT || !this.#pack(row, size)) {
        this.#storeRows(row);
      }
    }
    batch.count = 0;
    batch.arrived = 0;
    this.#spare.push(batch);
  }

  /** The kernel's packer sees blocks one by one, as they came. */
  #storeInKernel({ all, arrived }: Arrivals): void {
    const { fragmentSizes } = this.#arena;
    const names = this.#names;
    for (let i = 0; i < arrived; i++) {
      const arrival = all[i]!;
      const row = arrival < 0 ? ~arrival : arrival;
      const key = keyOf(names[row * 4]!, names[row * 4 + 1]!);
      if (arrival < 0) this.kernel.meet(key);
      else this.kernel.add(fragmentSizes[row]!, key);
    }
  }

  /** Writes what waits. Returns the state before that, from which a later run goes on. */
  finish(): StoredState {
    const waiting: WaitingFragment[] = [];
    const { storedBlocks, compressedBlocks, packedBlocks, kernel } = this;
    const state = {
      storedBlocks,
      compressedBlocks,
      packedBlocks,
      nextBlock: this.#nextBlock,
      kernel: kernel.state(),
      waiting,
    };
    this.#packer.drain((fragments) => {
      for (const fragment of fragments) waiting.push(this.#describe(fragment));
      this.#write(fragments);
    });
    return state;
  }

  /**
   * Goes on from where another run has ended; the table holds its records. Fragments that waited wait
   * again, in the bins that they choose now.
   */
  restore(state: StoredState): void {
    this.storedBlocks = state.storedBlocks;
    this.compressedBlocks = state.compressedBlocks;
    this.packedBlocks = state.packedBlocks;
    this.#nextBlock = state.nextBlock;
    this.kernel.restore(state.kernel);
    for (const { name, size, waiters } of state.waiting) {
      this.#names.set(name, 0);
      const fragment = this.#packer.add(0, size, this.#lbn++, this.#emit);
      if (fragment < 0) {
        this.#newBlock();
        continue;
      }
      for (let i = 1; i < waiters; i++) this.#packer.join(fragment, this.#lbn++);
      const [n0, n1, , n3] = name;
      const at = this.#table.find(n0, n1, n3);
      if (at >= 0) this.#table.words[at + 2] = WAITING + fragment;
      this.#packer.emitIfFull(fragment, this.#emit);
    }
  }

  /** A record of an earlier run came into the table: its references count where it is stored. */
  addKept(place: number, times: number): void {
    if (place >= WAITING) return;
    const held = this.#references.has(place) ? this.#references.get(place) : 0;
    const references = held + ((times - 1) % MAXIMUM_REFERENCE_COUNT) + 1;
    this.#references.set(place, Math.min(MAXIMUM_REFERENCE_COUNT, references));
  }

  #describe(fragment: number): WaitingFragment {
    let waiters = 0;
    let waiter = this.#packer.firstWaiter(fragment);
    for (; waiter >= 0; waiter = this.#packer.nextWaiter(waiter)) waiters++;
    this.#packer.copyName(fragment, this.#nameWords, 0);
    const name = [...this.#nameWords] as [number, number, number, number];
    return { name, size: this.#packer.fragmentBytes(fragment).length, waiters };
  }

  #pack(row: number, size: number): boolean {
    const fragment = this.#packer.add(row, size, this.#lbn++, this.#emit);
    if (fragment < 0) return false;
    const at = this.#find(row);
    const { words } = this.#table;
    words[at + 2] = WAITING + fragment;
    const units = Math.ceil(size / SIZE_UNIT) << SIZE_SHIFT;
    words[at + 3] = ((words[at + 3]! & ~SIZE_MASK) | units) >>> 0;
    let next = this.#firstFollower[row]!;
    while (next !== NONE && this.#packer.join(fragment, this.#lbn++)) {
      next = this.#nextFollower[next]!;
    }
    this.#packer.emitIfFull(fragment, this.#emit);
    if (next !== NONE) {
      this.#firstFollower[next] = this.#nextFollower[next]!;
      this.#storeRows(next);
    }
    return true;
  }

  /** Stores a row as it is, and its followers with it: 254 to a block. */
  #storeRows(first: number): void {
    let references = 1;
    let block = this.#newBlock();
    for (let row = this.#firstFollower[first]!; row !== NONE; row = this.#nextFollower[row]!) {
      if (references < MAXIMUM_REFERENCE_COUNT) references++;
      else {
        this.#references.set(block, references);
        block = this.#newBlock();
        references = 1;
      }
    }
    this.#references.set(block, references);
    const at = this.#find(first);
    this.#table.words[at + 2] = block;
  }

  #newBlock(): number {
    const block = this.#nextBlock++;
    assert(block < WAITING, 'number of a stored block');
    this.storedBlocks++;
    return block;
  }

  /** Where the record of the content of `row` begins; it is there. */
  #find(row: number): number {
    const at = row * 4;
    const names = this.#names;
    const record = this.#table.find(names[at]!, names[at + 1]!, names[at + 3]!);
    assert(record >= 0, 'a row that is stored has a record');
    return record;
  }

  /** A bin leaves the packer as a block. */
  #write(fragments: readonly number[]): void {
    const block = this.#newBlock();
    let references = 0;
    for (const fragment of fragments) {
      let waiter = this.#packer.firstWaiter(fragment);
      for (; waiter >= 0; waiter = this.#packer.nextWaiter(waiter)) references++;
      this.#packer.copyName(fragment, this.#nameWords, 0);
      const [n0, n1, , n3] = this.#nameWords as unknown as [number, number, number, number];
      const at = this.#table.find(n0, n1, n3);
      const { words } = this.#table;
      if (at >= 0 && words[at + 2] === WAITING + fragment) words[at + 2] = block;
    }
    this.#references.set(block, Math.min(references, MAXIMUM_REFERENCE_COUNT));
    if (fragments.length === 1) return;
    this.compressedBlocks += fragments.length;
    this.packedBlocks++;
  }
}

assert(BLOCK_SIZE / SIZE_UNIT <= 256, 'fragment sizes fit in a byte');
