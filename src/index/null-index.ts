/**
 * The index that knows nothing: no deduplication beyond one batch, at no cost. What `--index off`
 * gives.
 */
import type { Advice, HashIndex, IndexStatistics } from './hash-index.ts';

class NullIndex implements HashIndex {
  readonly kind = 'off';
  #queries = 0;
  #updates = 0;

  lookup(_names: Uint8Array, count: number, advice: Advice): void {
    advice.pbn.fill(0, 0, count);
    advice.state.fill(0, 0, count);
    this.#queries += count;
  }

  update(_names: Uint8Array, count: number): void {
    this.#updates += count;
  }

  statistics(): IndexStatistics {
    return {
      entriesIndexed: 0,
      queriesFound: 0,
      queriesNotFound: this.#queries,
      updatesFound: 0,
      updatesNotFound: this.#updates,
      entriesDiscarded: 0,
      memoryBytes: 0,
    };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

export function createNullIndex(): HashIndex {
  return new NullIndex();
}
