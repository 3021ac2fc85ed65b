/** A pool without workers: everything is done when the call returns. Same answers, one thread. */
import { assert } from '../base/assert.ts';
import type { Arena } from '../kernels/arena.ts';
import type { Kernels } from '../kernels/kernels.ts';
import type { Ahead, ComputePool, ReadAhead } from './compute-pool.ts';
import * as protocol from './protocol.ts';
import { FETCH_ROWS, fetchRows, type BlockFile } from './fetch.ts';
import type { FileRead } from './protocol.ts';

/** Work that was done at once. */
export const DONE: Ahead = { finish: () => Promise.resolve() };

export class InlinePool implements ComputePool {
  readonly workers = 0;
  readonly kernels: Kernels;
  readonly #share: protocol.Share;

  constructor(arena: Arena, kernels: Kernels) {
    this.kernels = kernels;
    this.#share = { arena, kernels, thread: 0, failure: null };
  }

  hash(first: number, end: number): void {
    this.kernels.hash(first, end);
  }

  compress(rows: Int32Array, count: number): void {
    compressInline(this.#share, rows, count);
  }

  verify(count: number): void {
    protocol.verifyRows(this.#share, 0, count);
  }

  expandAhead(first: number, end: number): Ahead {
    protocol.expandRows(this.#share, first, end);
    return DONE;
  }

  compressAhead(rows: Int32Array, count: number): Ahead {
    this.compress(rows, count);
    return DONE;
  }

  readAhead(reads: readonly FileRead[], staging = -1): ReadAhead {
    const { arena } = this.#share;
    const short: number[] = [];
    reads.forEach((read, i) => {
      protocol.putRead(arena, 0, 0, read, staging);
      protocol.runTask(this.#share, 0);
      if (protocol.bytesRead(arena, 0) !== read.length) short.push(i);
    });
    return { finish: () => Promise.resolve(short) };
  }

  fetchAhead(first: number, end: number, file: BlockFile): Ahead {
    for (let at = first; at < end; at += FETCH_ROWS) {
      fetchRows(this.#share, at, Math.min(end, at + FETCH_ROWS), file);
    }
    return DONE;
  }

  during<T>(work: Promise<T>): Promise<T> {
    return work;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** Compresses on the calling thread. */
export function compressInline(
  { arena, kernels }: protocol.Share,
  rows: Int32Array,
  count: number,
): void {
  assert(count >= 0 && count <= rows.length && count <= arena.rows, 'rows to compress');
  arena.rowList.set(rows.subarray(0, count));
  kernels.compress(0, count);
}
