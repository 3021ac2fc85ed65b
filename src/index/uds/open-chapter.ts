/**
 * A chapter that is being filled: records in order of arrival, found by a hash table. It stays in
 * use while it is written out as a closed chapter (FORMAT §9.4).
 *
 * - A record keeps its number for good; a name that comes again gets new data in place.
 * - Memory is fixed, and resident only as far as it was filled.
 */
import { assert } from '../../base/assert.ts';
import { getU32, getU64, setU64 } from '../../base/bytes.ts';
import { RECORD_NAME_SIZE } from '../../base/constants.ts';
import { RECORD_SIZE } from '../../format/chapter-page.ts';
import {
  openChapterHeader,
  readOpenChapterHeader,
  writeOpenChapterHeader,
} from '../../format/index-save.ts';
import { bitLength } from './delta-code.ts';

/** First byte of a record's data; others are not understood. */
const DATA_VERSION = 2;

/** Stores where a block lies as a record's data. */
export function writeRecordData(record: Uint8Array, at: number, pbn: number, state: number): void {
  for (let i = at + RECORD_NAME_SIZE; i < at + RECORD_SIZE; i++) record[i] = 0;
  record[at + RECORD_NAME_SIZE] = DATA_VERSION;
  record[at + RECORD_NAME_SIZE + 1] = state;
  setU64(record, at + RECORD_NAME_SIZE + 2, pbn);
}

/** Physical block that a record's data names, or 0 where they are not understood. */
export function recordPbn(record: Uint8Array, at: number): number {
  if (record[at + RECORD_NAME_SIZE] !== DATA_VERSION) return 0;
  const pbn = getU64(record, at + RECORD_NAME_SIZE + 2);
  return Number.isNaN(pbn) ? 0 : pbn;
}

/** Mapping state that a record's data names. */
export const recordState = (record: Uint8Array, at: number): number =>
  record[at + RECORD_NAME_SIZE + 1]!;

export class OpenChapter {
  /** All records, 32 bytes each. */
  readonly records: Uint8Array;
  readonly capacity: number;
  readonly #slots: Uint32Array;
  readonly #mask: number;
  #count = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.records = new Uint8Array(capacity * RECORD_SIZE);
    this.#slots = new Uint32Array(2 ** bitLength(2 * capacity));
    this.#mask = this.#slots.length - 1;
  }

  get count(): number {
    return this.#count;
  }

  get isFull(): boolean {
    return this.#count === this.capacity;
  }

  get memoryBytes(): number {
    return this.records.byteLength + this.#slots.byteLength;
  }

  /** Number of the record with the name at `at` of `names`, or −1. */
  find(names: Uint8Array, at: number): number {
    for (let slot = this.#slotOf(names, at); ; slot = (slot + 1) & this.#mask) {
      const number = this.#slots[slot]! - 1;
      if (number < 0) return -1;
      const record = number * RECORD_SIZE;
      let i = 0;
      while (i < RECORD_NAME_SIZE && this.records[record + i] === names[at + i]) i++;
      if (i === RECORD_NAME_SIZE) return number;
    }
  }

  /** Appends a record for a name that is not there; returns its number. Its data are unset. */
  append(names: Uint8Array, at: number): number {
    assert(this.#count < this.capacity, 'room in the open chapter');
    let slot = this.#slotOf(names, at);
    while (this.#slots[slot] !== 0) slot = (slot + 1) & this.#mask;
    const number = this.#count++;
    this.#slots[slot] = number + 1;
    const record = number * RECORD_SIZE;
    for (let i = 0; i < RECORD_NAME_SIZE; i++) this.records[record + i] = names[at + i]!;
    return number;
  }

  /** Empties the chapter for another use of its memory. */
  clear(): void {
    this.#slots.fill(0);
    this.#count = 0;
  }

  /** Bytes of the saved form. */
  get saveSize(): number {
    return openChapterHeader.size + this.#count * RECORD_SIZE;
  }

  /** The saved form. */
  encode(): Uint8Array {
    assert(!this.isFull, 'a full chapter is closed, not saved');
    const bytes = new Uint8Array(this.saveSize);
    writeOpenChapterHeader(bytes, this.#count);
    bytes.set(this.records.subarray(0, this.#count * RECORD_SIZE), openChapterHeader.size);
    return bytes;
  }

  /** Takes over a saved chapter, but for what exceeds its room. Fails with `Corrupt`. */
  decode(bytes: Uint8Array): void {
    const count = Math.min(readOpenChapterHeader(bytes), this.capacity - 1);
    for (let i = 0; i < count; i++) {
      const at = openChapterHeader.size + i * RECORD_SIZE;
      if (this.find(bytes, at) >= 0) continue;
      const record = this.append(bytes, at) * RECORD_SIZE;
      this.records.set(bytes.subarray(at, at + RECORD_SIZE), record);
    }
  }

  #slotOf(names: Uint8Array, at: number): number {
    return getU32(names, at + 10) & this.#mask;
  }
}
