/**
 * The contents seen so far, one record each, in typed arrays: a few words per distinct block.
 *
 * A content is known by 80 bits of its record name (MurmurHash3-x64-128, docs/FORMAT.md): words 0 and 1,
 * bits 0 … 7 of word 3, which choose one of 256 segments, and its top eight bits. A segment is an
 * array of records of `stride` words:
 *
 *     0   word 0 of the name
 *     1   word 1 of the name
 *     2   the owner's: where the content is stored, or how often it was seen
 *     3   bits 31 … 24  top eight bits of word 3 of the name
 *         bits 23 … 16  the owner's: size of the fragment, in units of 16 bytes
 *         bits 15 … 0   times seen, 65,535 for more; 0 = the place is free
 *     4 … the owner's, as many as it wants
 *
 * Invariants:
 * - Records of a segment are ordered by name, with free places between: a record lies at or behind
 *   word 0 · places / 2^32, and no free place lies between that place and the record. So a search ends
 *   at the first larger name, and a segment read from front to back is sorted.
 * - The last place of a segment is always free: a search needs no other end.
 * - A segment that is 88 % full grows by 15 %; the first sizes are staggered, so that at any time some
 *   are fresh and some are full: 18.2 to 20.9 bytes a record with four words, growing included.
 */
import { assert } from '../base/assert.ts';

const SEGMENT_BITS = 8;
const SEGMENTS = 1 << SEGMENT_BITS;
const SEGMENT_MASK = SEGMENTS - 1;
/** 17 MiB to begin with. */
const FIRST_PLACES = 4096;
const GROWTH = 1.15;
const MAX_LOAD = 0.88;
/** Places behind the last home place, for records that were pushed on. */
const SPARE_PLACES = 24;
const TWO_32 = 2 ** 32;
const COUNT_MASK = 0xffff;

/** Bits of a name that a record holds, the choice of its segment included. */
export const FINGERPRINT_BITS = 64 + SEGMENT_BITS + 8;
/** Times seen are counted up to here. */
export const MAX_TIMES = COUNT_MASK;

/** False matches to be expected among so many distinct contents: pairs · 2^−80. */
export function expectedFalseMatches(contents: number): number {
  return (contents * Math.max(0, contents - 1)) / 2 / 2 ** FINGERPRINT_BITS;
}

export class FingerprintTable {
  /** Words of a record. */
  readonly stride: number;
  /** The segment of the last search or insertion. */
  words: Uint32Array;
  readonly #segments: Uint32Array[];
  /** Home places of each segment, and how many of its places are taken. */
  readonly #places: Float64Array;
  readonly #taken: Uint32Array;
  #size = 0;
  #bytes = 0;

  constructor(stride: number) {
    assert(Number.isInteger(stride) && stride >= 4, 'words of a record');
    this.stride = stride;
    this.#places = new Float64Array(SEGMENTS);
    this.#taken = new Uint32Array(SEGMENTS);
    this.#segments = Array.from({ length: SEGMENTS }, () => new Uint32Array(0));
    this.clear();
    this.words = this.#segments[0]!;
  }

  /** Distinct contents. */
  get size(): number {
    return this.#size;
  }

  /** Bytes that the records and their free places take. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Forgets everything. */
  clear(): void {
    this.#size = 0;
    this.#bytes = 0;
    this.#taken.fill(0);
    for (let segment = 0; segment < SEGMENTS; segment++) {
      // First sizes differ by as much as one growth step, spread evenly.
      const places = Math.floor(FIRST_PLACES * GROWTH ** (segment / SEGMENTS));
      this.#places[segment] = places;
      this.#replace(segment, new Uint32Array((places + SPARE_PLACES) * this.stride));
    }
    this.#bytes = this.#segments.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  /**
   * Where in `words` the record of a name begins; where there is none −1 − the place at which it would.
   * The name as four little-endian words.
   */
  find(n0: number, n1: number, n3: number): number {
    const { stride } = this;
    const segment = n3 & SEGMENT_MASK;
    const words = this.#segments[segment]!;
    this.words = words;
    const tag = n3 >>> 24;
    let at = Math.floor((n0 / TWO_32) * this.#places[segment]!) * stride;
    for (; ; at += stride) {
      const word3 = words[at + 3]!;
      if ((word3 & COUNT_MASK) === 0) return -1 - at;
      const word0 = words[at]!;
      if (word0 < n0) continue;
      if (word0 > n0) return -1 - at;
      const word1 = words[at + 1]!;
      if (word1 < n1) continue;
      if (word1 > n1 || word3 >>> 24 > tag) return -1 - at;
      if (word3 >>> 24 === tag) return at;
    }
  }

  /**
   * Adds a record for a name that `find` has just not found, at the place it gave (negative), seen once.
   * Returns where in `words` it begins; its other words are 0.
   */
  insert(place: number, n0: number, n1: number, n3: number): number {
    const segment = n3 & SEGMENT_MASK;
    if (this.#taken[segment]! >= this.#places[segment]! * MAX_LOAD) {
      this.#grow(segment);
      place = this.find(n0, n1, n3);
    }
    let at = -1 - place;
    while (!this.#open(segment, at)) {
      this.#grow(segment);
      at = -1 - this.find(n0, n1, n3);
    }
    const { words } = this;
    words[at] = n0;
    words[at + 1] = n1;
    words[at + 2] = 0;
    words[at + 3] = (((n3 >>> 24) << 24) | 1) >>> 0;
    for (let word = 4; word < this.stride; word++) words[at + word] = 0;
    this.#taken[segment]!++;
    this.#size++;
    return at;
  }

  /** Calls `visit` for every record, ordered by segment and name. */
  each(visit: (words: Uint32Array, at: number, segment: number) => void): void {
    for (let segment = 0; segment < SEGMENTS; segment++) {
      this.eachOf(segment, (words, at) => visit(words, at, segment));
    }
  }

  /** Calls `visit` for every record of one of 256 segments, ordered by name. */
  eachOf(segment: number, visit: (words: Uint32Array, at: number) => void): void {
    const { stride } = this;
    const words = this.#segments[segment]!;
    for (let at = 0; at < words.length; at += stride) {
      if ((words[at + 3]! & COUNT_MASK) !== 0) visit(words, at);
    }
  }

  /** Makes the place at `at` free by moving the records from there on; false where none is left. */
  #open(segment: number, at: number): boolean {
    const { stride, words } = this;
    assert(at >= 0 && words === this.#segments[segment], 'an insertion follows its search');
    const last = words.length - stride;
    let free = at;
    while (free < last && (words[free + 3]! & COUNT_MASK) !== 0) free += stride;
    if (free >= last) return false;
    if (free > at) words.copyWithin(at + stride, at, free);
    return true;
  }

  /** Gives a segment more places, and its records their new ones. */
  #grow(segment: number): void {
    const { stride } = this;
    const old = this.#segments[segment]!;
    let places = this.#places[segment]!;
    for (let spare = SPARE_PLACES; ; spare *= 2) {
      places = Math.ceil(places * GROWTH);
      const grown = new Uint32Array((places + spare) * stride);
      if (!spread(old, grown, places, stride)) continue;
      this.#places[segment] = places;
      this.#replace(segment, grown);
      return;
    }
  }

  #replace(segment: number, words: Uint32Array): void {
    this.#bytes += words.byteLength - this.#segments[segment]!.byteLength;
    this.#segments[segment] = words;
    this.words = words;
  }
}

/** Copies records, in order, to their places in `to`; false where they do not fit. */
function spread(from: Uint32Array, to: Uint32Array, places: number, stride: number): boolean {
  const last = to.length - stride;
  let next = 0;
  for (let at = 0; at < from.length; at += stride) {
    if ((from[at + 3]! & COUNT_MASK) === 0) continue;
    const home = Math.floor((from[at]! / TWO_32) * places) * stride;
    const place = home > next ? home : next;
    if (place >= last) return false;
    for (let word = 0; word < stride; word++) to[place + word] = from[at + word]!;
    next = place + stride;
  }
  return true;
}
