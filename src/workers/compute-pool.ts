/**
 * What a pool does for the rest of the program: pure work over rows of the arena, in one call a batch.
 */
import type { Kernels } from '../kernels/kernels.ts';
import type { BlockFile } from './fetch.ts';
import type { FileRead } from './protocol.ts';

export interface ComputePool {
  /** Threads beside the calling one; 0 where all runs inline. */
  readonly workers: number;
  /** The kernels of the calling thread, for single comparisons. */
  readonly kernels: Kernels;
  /** Fills `names` and `zero` of rows `first` … `end` − 1. Fails with `Io` if a worker dies. */
  hash(first: number, end: number): Promise<void> | void;
  /**
   * Fills `fragments` and `fragmentSizes` of the first `count` of `rows`, each named once. `rows` is
   * the caller's again when the call ends. Fails with `Io` if a worker dies.
   */
  compress(rows: Int32Array, count: number): Promise<void> | void;
  /**
   * Makes the first `count` of the arena's `checks`: row, place in `verify`, and mapping state, in place of
   * which 1 is put where the block of the row is what that state finds in the block at the place, else 0.
   * Fails with `Io` if a worker dies.
   */
  verify(count: number): Promise<void> | void;
  /**
   * Begins to do checks `first` … `end` − 1 of the arena: expands the compressed block at the place in
   * `verify`, by the mapping state, into the first word's block of `staging`. The state becomes 1, or 0 where
   * the block is damaged.
   */
  expandAhead(first: number, end: number): Ahead;
  /** Begins to compress as `compress` does, on the workers alone until the caller joins with `finish`. */
  compressAhead(rows: Int32Array, count: number): Ahead;
  /**
   * Begins to read files into rows and to name those, on the workers alone until the caller joins with
   * `finish`; `MAX_READS` at most. With `staging` the bytes of files go to rows from there on, 64 for each
   * thread, again and again, and only names and zero flags to the rows of each read, 64 at most.
   */
  readAhead(reads: readonly FileRead[], staging?: number): ReadAhead;
  /**
   * Begins to get rows `first` … `end` − 1 from a file as their checks say (fetch.ts), on the workers alone until
   * the caller joins with `finish`.
   */
  fetchAhead(first: number, end: number, file: BlockFile): Ahead;
  /** Waits for `work`, and does what is begun ahead meanwhile. */
  during<T>(work: Promise<T>): Promise<T>;
  /** Ends the workers, once nothing is left to do. Later jobs run inline. */
  close(): Promise<void>;
}

/** Work begun ahead. It holds its rows until it is finished. */
export interface Ahead {
  /** Takes part until all is done. Fails with `Io` if a worker dies. To be called once. */
  finish(): Promise<void>;
}

export interface ReadAhead {
  /** The same; returns the indexes of reads that came short: of a file that ended early or failed. */
  finish(): Promise<readonly number[]>;
}
