/**
 * An index in memory, gone when the volume is closed: open addressing in one typed array.
 *
 * The table is an array of buckets of 64 bytes, one cache line each:
 *
 *     words 0 … 14    five records of three words:
 *                       0   32 bits of the name; their low bits are the first bucket of two
 *                       1   low 32 bits of the physical block number
 *                       2   24 further bits of the name, 4 of state, high 4 of the block number
 *     word 15         bit 0: a record whose first bucket this is lies in its second one;
 *                     the other bits: whose turn it is to be discarded
 *
 * - A record lies in its first bucket while there is room, else in its second one, which all its bits
 *   choose together. Where both are full, a record of either makes room by moving to its other one.
 *   Tables fill to two thirds at least before that fails; at nine tenths it fails for one in 300.
 * - Then the table doubles, up to its bound; at the bound the new record replaces one of the ten,
 *   each in turn: about the oldest. The same operations always give the same answers.
 * - 56 bits of a name are kept. Two names that agree in them are one to the index; the engine's
 *   comparison of the blocks finds out.
 * - A state of 0 marks a free place. Records are never removed, only replaced.
 */
import { assert } from '../base/assert.ts';
import { getU32 } from '../base/bytes.ts';
import { RECORD_NAME_SIZE } from '../base/constants.ts';
import type { Advice, HashIndex, IndexStatistics } from './hash-index.ts';

const WORDS_PER_BUCKET = 16;
const WORDS_PER_RECORD = 3;
const RECORDS_PER_BUCKET = 5;
const LAST_WORD = 15;
const SPILLED = 1;
const STATE_BITS = 0xf0;
const NAME_BITS = 0xffffff00;
const TWO_32 = 2 ** 32;
/** 64 KiB to begin with. */
const FIRST_BUCKETS = 1024;
const MAX_BUCKETS = 2 ** 25;

/** 64 GiB of unique blocks, in 256 MiB when full. */
export const DEFAULT_MEMORY_INDEX_CAPACITY = 16 * 2 ** 20;

export interface MemoryIndexOptions {
  /**
   * Records: at least nine tenths of it are held before any is discarded. At most 160 million; takes
   * 13 to 26 bytes each.
   */
  readonly capacity?: number;
  /** What its user should hear: why there is no better one. */
  readonly warning?: Error;
}

export function createMemoryIndex(options: MemoryIndexOptions = {}): HashIndex {
  return new MemoryIndex(options);
}

class MemoryIndex implements HashIndex {
  readonly kind = 'memory';
  readonly warning: Error | null;
  readonly #maxBuckets: number;
  #words: Uint32Array;
  #mask: number;
  #records = 0;
  #queriesFound = 0;
  #queriesNotFound = 0;
  #updatesFound = 0;
  #updatesNotFound = 0;
  #discarded = 0;

  constructor({ capacity = DEFAULT_MEMORY_INDEX_CAPACITY, warning }: MemoryIndexOptions) {
    this.warning = warning ?? null;
    assert(Number.isInteger(capacity) && capacity > 0, 'capacity of an index');
    let buckets = 2;
    while (buckets * RECORDS_PER_BUCKET < capacity) buckets *= 2;
    assert(buckets <= MAX_BUCKETS, 'capacity of an index');
    this.#maxBuckets = buckets;
    const first = Math.min(buckets, FIRST_BUCKETS);
    this.#words = new Uint32Array(first * WORDS_PER_BUCKET);
    this.#mask = first - 1;
  }

  lookup(names: Uint8Array, count: number, advice: Advice): void {
    for (let i = 0; i < count; i++) {
      const at = i * RECORD_NAME_SIZE;
      const record = this.#find(getU32(names, at), getU32(names, at + 4) << 8);
      let pbn = 0;
      let state = 0;
      if (record >= 0) {
        const rest = this.#words[record + 2]!;
        pbn = (rest & 15) * TWO_32 + this.#words[record + 1]!;
        state = pbn === 0 ? 0 : (rest >>> 4) & 15;
      }
      advice.pbn[i] = pbn;
      advice.state[i] = state;
      if (pbn === 0) this.#queriesNotFound++;
      else this.#queriesFound++;
    }
  }

  mayHold(names: Uint8Array, count: number, result: Uint8Array): void {
    for (let i = 0; i < count; i++) {
      const at = i * RECORD_NAME_SIZE;
      const record = this.#find(getU32(names, at), getU32(names, at + 4) << 8);
      result[i] = record >= 0 ? 1 : 0;
    }
  }

  update(names: Uint8Array, count: number, locations: Advice): void {
    for (let i = 0; i < count; i++) {
      const at = i * RECORD_NAME_SIZE;
      const tag = getU32(names, at);
      const name = getU32(names, at + 4) << 8;
      const pbn = locations.pbn[i]!;
      const state = locations.state[i]!;
      assert(pbn < 2 ** 36 && state < 16, 'location of a record');
      let record = this.#find(tag, name);
      if (record >= 0) {
        this.#updatesFound++;
      } else {
        this.#updatesNotFound++;
        if (pbn === 0) continue;
        record = this.#place(tag, name);
        this.#records++;
      }
      this.#store(record, tag, pbn % TWO_32, name, Math.max(state, 1), Math.floor(pbn / TWO_32));
    }
  }

  statistics(): IndexStatistics {
    return {
      entriesIndexed: this.#records,
      queriesFound: this.#queriesFound,
      queriesNotFound: this.#queriesNotFound,
      updatesFound: this.#updatesFound,
      updatesNotFound: this.#updatesNotFound,
      entriesDiscarded: this.#discarded,
      memoryBytes: this.#words.byteLength,
    };
  }

  /** Gives the memory back; what was in it is forgotten. */
  close(): Promise<void> {
    this.#words = new Uint32Array(2 * WORDS_PER_BUCKET);
    this.#mask = 1;
    this.#records = 0;
    return Promise.resolve();
  }

  /** Index of the record's first word, or −1. `name` has its low eight bits clear. */
  #find(tag: number, name: number): number {
    const first = tag & this.#mask;
    const record = this.#findIn(first, tag, name);
    const spilled = this.#words[first * WORDS_PER_BUCKET + LAST_WORD]! & SPILLED;
    return record >= 0 || spilled === 0 ? record : this.#findIn(this.#second(tag, name), tag, name);
  }

  #findIn(bucket: number, tag: number, name: number): number {
    const words = this.#words;
    const start = bucket * WORDS_PER_BUCKET;
    for (let record = start; record < start + LAST_WORD; record += WORDS_PER_RECORD) {
      if (words[record] !== tag) continue;
      const rest = words[record + 2]!;
      if ((rest & NAME_BITS) === name && (rest & STATE_BITS) !== 0) return record;
    }
    return -1;
  }

  /** The second bucket of a record. */
  #second(tag: number, name: number): number {
    return (Math.imul(tag ^ (name >>> 8), 0x9e3779b1) >>> 5) & this.#mask;
  }

  /** A place for a record that is not there: free, or made free by growing or by discarding. */
  #place(tag: number, name: number): number {
    for (;;) {
      const free = this.#freePlace(tag, name);
      if (free >= 0) return free;
      if (this.#mask + 1 >= this.#maxBuckets) return this.#discard(tag, name);
      this.#grow();
    }
  }

  /** A free place in either bucket, or −1; a record of theirs may move away for it. */
  #freePlace(tag: number, name: number): number {
    const first = tag & this.#mask;
    let free = this.#freeIn(first);
    if (free >= 0) return free;
    free = this.#makeRoomIn(first);
    if (free >= 0) return free;
    const second = this.#second(tag, name);
    free = this.#freeIn(second);
    if (free < 0) free = this.#makeRoomIn(second);
    if (free >= 0) this.#words[first * WORDS_PER_BUCKET + LAST_WORD]! |= SPILLED;
    return free;
  }

  #freeIn(bucket: number): number {
    const start = bucket * WORDS_PER_BUCKET;
    for (let record = start; record < start + LAST_WORD; record += WORDS_PER_RECORD) {
      if ((this.#words[record + 2]! & STATE_BITS) === 0) return record;
    }
    return -1;
  }

  /** Moves a record of a full bucket to its other bucket; returns its place, or −1 if none can. */
  #makeRoomIn(bucket: number): number {
    const words = this.#words;
    const start = bucket * WORDS_PER_BUCKET;
    for (let record = start; record < start + LAST_WORD; record += WORDS_PER_RECORD) {
      const tag = words[record]!;
      const first = tag & this.#mask;
      const second = this.#second(tag, words[record + 2]! & NAME_BITS);
      const free = this.#freeIn(bucket === first ? second : first);
      if (free < 0) continue;
      words.copyWithin(free, record, record + WORDS_PER_RECORD);
      if (bucket === first) words[start + LAST_WORD]! |= SPILLED;
      return record;
    }
    return -1;
  }

  /** A place of the two full buckets, each in turn; the record in it is discarded. */
  #discard(tag: number, name: number): number {
    const words = this.#words;
    const first = tag & this.#mask;
    const last = first * WORDS_PER_BUCKET + LAST_WORD;
    const turn = words[last]! >>> 1;
    const spilled = turn >= RECORDS_PER_BUCKET ? SPILLED : words[last]! & SPILLED;
    words[last] = (((turn + 1) % (2 * RECORDS_PER_BUCKET)) << 1) | spilled;
    this.#records--;
    this.#discarded++;
    const bucket = turn < RECORDS_PER_BUCKET ? first : this.#second(tag, name);
    return bucket * WORDS_PER_BUCKET + (turn % RECORDS_PER_BUCKET) * WORDS_PER_RECORD;
  }

  #store(
    record: number,
    tag: number,
    pbnLow: number,
    name: number,
    state: number,
    pbnHigh: number,
  ): void {
    this.#words[record] = tag;
    this.#words[record + 1] = pbnLow;
    this.#words[record + 2] = name | (state << 4) | pbnHigh;
  }

  /** Doubles the table: some 50 ns for each record, once in as many updates as there are records. */
  #grow(): void {
    const old = this.#words;
    this.#words = new Uint32Array(old.length * 2);
    this.#mask = this.#mask * 2 + 1;
    for (let bucket = 0; bucket < old.length; bucket += WORDS_PER_BUCKET) {
      for (let i = 0; i < RECORDS_PER_BUCKET; i++) {
        const from = bucket + i * WORDS_PER_RECORD;
        if ((old[from + 2]! & STATE_BITS) === 0) continue;
        const to = this.#place(old[from]!, old[from + 2]! & NAME_BITS);
        this.#words.set(old.subarray(from, from + WORDS_PER_RECORD), to);
      }
    }
  }
}
