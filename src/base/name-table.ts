/**
 * Finds the row of a batch that has the same record name as another one: a bounded table over the
 * batch's column of names, 16 bytes a row, nothing allocated after construction. Names are hashes, so
 * their first bits choose the slot as they are.
 *
 * - A slot is in use while its stamp is the current epoch, so `clear` is one increment.
 * - The names of rows in the table must not change until `clear`.
 */
import { assert } from './assert.ts';

const WORDS_PER_NAME = 4;
const LAST_EPOCH = 0xffffffff;

export class NameTable {
  readonly rows: number;
  readonly #names: Uint32Array;
  readonly #mask: number;
  readonly #slots: Int32Array;
  readonly #stamps: Uint32Array;
  #epoch = 1;
  #size = 0;

  /** A table over `names`, a column of 16-byte names aligned to four bytes. */
  constructor(names: Uint8Array) {
    assert(names.byteOffset % 4 === 0 && names.length % 16 === 0, 'column of names');
    this.rows = names.length / 16;
    this.#names = new Uint32Array(names.buffer, names.byteOffset, names.length / 4);
    let slots = 4;
    while (slots < this.rows * 2) slots *= 2;
    this.#mask = slots - 1;
    this.#slots = new Int32Array(slots);
    this.#stamps = new Uint32Array(slots);
  }

  get size(): number {
    return this.#size;
  }

  /** The row that was added with the name of `row` (itself, if it was), or −1. */
  find(row: number): number {
    const slot = this.#find(row);
    return this.#stamps[slot] === this.#epoch ? this.#slots[slot]! : -1;
  }

  /** Adds `row`, unless its name is there; returns the row that stands for the name now. */
  add(row: number): number {
    const slot = this.#find(row);
    if (this.#stamps[slot] === this.#epoch) return this.#slots[slot]!;
    this.#size++;
    this.#stamps[slot] = this.#epoch;
    this.#slots[slot] = row;
    return row;
  }

  /** Forgets all rows, at once. */
  clear(): void {
    this.#size = 0;
    if (this.#epoch === LAST_EPOCH) {
      this.#stamps.fill(0);
      this.#epoch = 0;
    }
    this.#epoch++;
  }

  /** The slot of the name of `row`, or the free one where it would go. */
  #find(row: number): number {
    assert(row >= 0 && row < this.rows, 'row of a name');
    const names = this.#names;
    const at = row * WORDS_PER_NAME;
    let slot = names[at]! & this.#mask;
    while (this.#stamps[slot] === this.#epoch) {
      const other = this.#slots[slot]! * WORDS_PER_NAME;
      if (
        names[at] === names[other] &&
        names[at + 1] === names[other + 1] &&
        names[at + 2] === names[other + 2] &&
        names[at + 3] === names[other + 3]
      ) {
        return slot;
      }
      slot = (slot + 1) & this.#mask;
    }
    return slot;
  }
}
