/**
 * Finds the tightest place: numbered places, each with a size, filed under that size; the one with the
 * least size that is large enough is found in a few steps, however many there are. Bounded typed arrays,
 * nothing allocated after construction.
 *
 * - Places of one size form a list, the one filed last in front.
 * - A bit for every size that has places, and a bit for every word of such bits: the next size in use is
 *   found by counting zeros.
 */
import { assert } from './assert.ts';

const NONE = -1;

export class FitList {
  readonly maxSize: number;
  /** Size of each place, or −1 where it is not filed. */
  readonly #size: Int32Array;
  readonly #next: Int32Array;
  readonly #before: Int32Array;
  /** First place of each size. */
  readonly #head: Int32Array;
  readonly #used: Uint32Array;
  readonly #usedWords: Uint32Array;

  /** For `places` places with sizes 0 … `maxSize`. None is filed yet. */
  constructor(places: number, maxSize: number) {
    const words = (maxSize >>> 5) + 1;
    this.maxSize = maxSize;
    this.#size = new Int32Array(places).fill(NONE);
    this.#next = new Int32Array(places);
    this.#before = new Int32Array(places);
    this.#head = new Int32Array(maxSize + 1).fill(NONE);
    this.#used = new Uint32Array(words);
    this.#usedWords = new Uint32Array((words >>> 5) + 1);
  }

  /** Files `place` under `size`, wherever it was before. */
  set(place: number, size: number): void {
    assert(size >= 0 && size <= this.maxSize, 'size of a place');
    if (this.#size[place] !== NONE) this.#remove(place);
    const head = this.#head[size]!;
    this.#size[place] = size;
    this.#next[place] = head;
    this.#before[place] = NONE;
    this.#head[size] = place;
    if (head !== NONE) this.#before[head] = place;
    else {
      this.#used[size >>> 5]! |= 1 << (size & 31);
      this.#usedWords[size >>> 10]! |= 1 << ((size >>> 5) & 31);
    }
  }

  /** A place with the least size of at least `size`, or −1. */
  find(size: number): number {
    const found = this.#usedFrom(size);
    return found === NONE ? NONE : this.#head[found]!;
  }

  /** The place that `find` would have given next after `place`, or −1. */
  after(place: number): number {
    const next = this.#next[place]!;
    return next === NONE ? this.find(this.#size[place]! + 1) : next;
  }

  /** The least size in use from `size` on, or −1. */
  #usedFrom(size: number): number {
    if (size > this.maxSize) return NONE;
    let word = size >>> 5;
    let bits = this.#used[word]! & (-1 << (size & 31));
    if (bits === 0) {
      word = this.#wordFrom(word + 1);
      if (word === NONE) return NONE;
      bits = this.#used[word]!;
    }
    return (word << 5) + lowestBit(bits);
  }

  #wordFrom(word: number): number {
    let group = word >>> 5;
    if (group >= this.#usedWords.length) return NONE;
    let bits = this.#usedWords[group]! & (-1 << (word & 31));
    while (bits === 0) {
      if (++group >= this.#usedWords.length) return NONE;
      bits = this.#usedWords[group]!;
    }
    return (group << 5) + lowestBit(bits);
  }

  #remove(place: number): void {
    const size = this.#size[place]!;
    const next = this.#next[place]!;
    const before = this.#before[place]!;
    if (next !== NONE) this.#before[next] = before;
    if (before !== NONE) {
      this.#next[before] = next;
      return;
    }
    this.#head[size] = next;
    if (next !== NONE) return;
    const word = size >>> 5;
    this.#used[word]! &= ~(1 << (size & 31));
    if (this.#used[word] === 0) this.#usedWords[word >>> 5]! &= ~(1 << (word & 31));
  }
}

/** Number of the lowest bit of `bits`, which is not 0. */
function lowestBit(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}
