/**
 * A seeded source of choices (mulberry32): the same seed always tells the same story. Nothing in the
 * simulator may take randomness, time or order from anywhere else.
 */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = (Math.imul(seed, 0x9e3779b1) ^ 0x5bf03635) >>> 0;
  }

  /** An integer 0 … 2^32 − 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let word = this.#state;
    word = Math.imul(word ^ (word >>> 15), word | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return (word ^ (word >>> 14)) >>> 0;
  }

  /** An integer 0 … `limit` − 1. */
  below(limit: number): number {
    return Math.floor((this.next() / 0x100000000) * limit);
  }

  /** An integer `from` … `to`, both included. */
  between(from: number, to: number): number {
    return from + this.below(to - from + 1);
  }

  /** Whether an event of this probability happens. */
  chance(probability: number): boolean {
    return this.next() < probability * 0x100000000;
  }

  /** One of the choices. */
  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!;
  }
}
