/**
 * A bounded map from exact integers to 32-bit integers: open addressing over typed arrays, nothing
 * allocated after construction.
 *
 * - A slot is in use while its stamp is the current epoch, so `clear` is one increment.
 * - Never more than half full: `capacity` entries have at least twice as many slots, and a chain of
 *   slots in use always ends.
 * - `delete` moves later entries of the chain back, so there are no tombstones.
 */
import { assert } from './assert.ts';

const LAST_EPOCH = 0xffffffff;

export class NumberMap {
  readonly capacity: number;
  readonly #mask: number;
  readonly #keys: Float64Array;
  readonly #values: Int32Array;
  readonly #stamps: Uint32Array;
  #epoch = 1;
  #size = 0;

  /** A map of at most `capacity` entries, 1 … 2^28. Takes 32 to 64 bytes for each. */
  constructor(capacity: number) {
    assert(Number.isInteger(capacity) && capacity > 0 && capacity <= 2 ** 28, 'capacity of a map');
    let slots = 4;
    while (slots < capacity * 2) slots *= 2;
    this.capacity = capacity;
    this.#mask = slots - 1;
    this.#keys = new Float64Array(slots);
    this.#values = new Int32Array(slots);
    this.#stamps = new Uint32Array(slots);
  }

  get size(): number {
    return this.#size;
  }

  /** The value of `key`, or −1: a map whose values can be negative asks `has` too. */
  get(key: number): number {
    const slot = this.#find(key);
    return this.#stamps[slot] === this.#epoch ? this.#values[slot]! : -1;
  }

  has(key: number): boolean {
    return this.#stamps[this.#find(key)] === this.#epoch;
  }

  /** Sets `key`, an integer from −(2^53 − 1) to 2^53 − 1. More than `capacity` entries are a bug. */
  set(key: number, value: number): void {
    assert(Number.isSafeInteger(key) && (value | 0) === value, 'key and value of a map');
    const slot = this.#find(key);
    if (this.#stamps[slot] !== this.#epoch) {
      assert(this.#size < this.capacity, 'a bounded map overflows');
      this.#size++;
      this.#stamps[slot] = this.#epoch;
      this.#keys[slot] = key;
    }
    this.#values[slot] = value;
  }

  /** Forgets `key`; returns whether it was there. */
  delete(key: number): boolean {
    let hole = this.#find(key);
    if (this.#stamps[hole] !== this.#epoch) return false;
    this.#size--;
    for (let slot = (hole + 1) & this.#mask; ; slot = (slot + 1) & this.#mask) {
      if (this.#stamps[slot] !== this.#epoch) break;
      // An entry whose chain begins after the hole, up to its own place, stays where it is.
      const home = this.#homeOf(this.#keys[slot]!);
      if (((slot - home) & this.#mask) < ((slot - hole) & this.#mask)) continue;
      this.#keys[hole] = this.#keys[slot]!;
      this.#values[hole] = this.#values[slot]!;
      hole = slot;
    }
    this.#stamps[hole] = 0;
    return true;
  }

  /** Forgets everything, at once. */
  clear(): void {
    this.#size = 0;
    if (this.#epoch === LAST_EPOCH) {
      this.#stamps.fill(0);
      this.#epoch = 0;
    }
    this.#epoch++;
  }

  /** The slot of `key`, or the free one where it would go. */
  #find(key: number): number {
    let slot = this.#homeOf(key);
    while (this.#stamps[slot] === this.#epoch && this.#keys[slot] !== key) {
      slot = (slot + 1) & this.#mask;
    }
    return slot;
  }

  #homeOf(key: number): number {
    // `| 0` takes the low 32 bits of any exact integer; the division the rest.
    const mixed = Math.imul((key | 0) ^ Math.imul((key / 2 ** 32) | 0, 0x85ebca6b), 0x9e3779b1);
    return (mixed ^ (mixed >>> 15)) & this.#mask;
  }
}
