/**
 * Sets of sources as small numbers: every content remembers in which sources it occurs, and since few
 * different sets occur, a number per content is enough. Number 0 is the empty set.
 */
import { assert } from '../base/assert.ts';

/** More sets than these are not told apart: then there is no matrix. */
const MAX_SETS = 1 << 20;

export class SourceSets {
  readonly #members: (readonly number[])[] = [[]];
  readonly #numbers = new Map<string, number>([['', 0]]);
  /** At `set · sources + source`: 1 + the set with that source, 0 = not known yet. */
  #added = new Int32Array(1024);
  readonly #sources: number;
  #overflowed = false;

  constructor(sources: number) {
    assert(Number.isInteger(sources) && sources > 0, 'number of sources');
    this.#sources = sources;
  }

  /** Whether there were too many different sets to be told apart. */
  get overflowed(): boolean {
    return this.#overflowed;
  }

  /** Members of a set, ascending. */
  members(set: number): readonly number[] {
    return this.#members[set]!;
  }

  /** Every set, by number. */
  all(): readonly (readonly number[])[] {
    return this.#members;
  }

  /** The set with one source more. */
  with(set: number, source: number): number {
    const key = set * this.#sources + source;
    const known = key < this.#added.length ? this.#added[key]! : 0;
    if (known !== 0) return known - 1;
    const members = this.#members[set]!;
    const result = members.includes(source) ? set : this.of([...members, source]);
    if (key >= this.#added.length) {
      const grown = new Int32Array(2 * (key + 1));
      grown.set(this.#added);
      this.#added = grown;
    }
    this.#added[key] = result + 1;
    return result;
  }

  /** The union of two sets. */
  union(a: number, b: number): number {
    if (a === b || b === 0) return a;
    return this.#members[b]!.reduce((set, source) => this.with(set, source), a);
  }

  /** The number of a set. */
  of(members: readonly number[]): number {
    const sorted = [...new Set(members)].sort((a, b) => a - b);
    const name = sorted.join(' ');
    const known = this.#numbers.get(name);
    if (known !== undefined) return known;
    if (this.#members.length >= MAX_SETS) {
      this.#overflowed = true;
      return 0;
    }
    this.#numbers.set(name, this.#members.length);
    return this.#members.push(sorted) - 1;
  }
}

/** Contents that sources share: row i, column j counts those in both; the diagonal those in i. */
export class SharedMatrix {
  readonly counts: number[][];
  readonly #sets: SourceSets;
  #perSet = new Float64Array(64);

  constructor(sets: SourceSets, sources: number) {
    this.#sets = sets;
    this.counts = Array.from({ length: sources }, () => new Array<number>(sources).fill(0));
  }

  /** Counts one content that occurs in the sources of `set`. */
  add(set: number): void {
    if (set >= this.#perSet.length) {
      const grown = new Float64Array(Math.max(set + 1, 2 * this.#perSet.length));
      grown.set(this.#perSet);
      this.#perSet = grown;
    }
    this.#perSet[set]!++;
  }

  /** The matrix; null where the sets could not be told apart. */
  finish(scale = 1): number[][] | null {
    if (this.#sets.overflowed) return null;
    this.#perSet.forEach((count, set) => {
      if (count === 0) return;
      const members = this.#sets.members(set);
      for (const i of members) for (const j of members) this.counts[i]![j]! += count * scale;
    });
    return this.counts;
  }
}
