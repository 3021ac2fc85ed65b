/** How the bytes of a write become rows of a batch, and are acknowledged by that. */
import { BLOCK_MAP_ENTRIES_PER_PAGE, BLOCK_SIZE } from '../base/constants.ts';
import type { BlockMap } from '../block-map/block-map.ts';
import type { WriteBatch } from './batch.ts';

export interface Filling {
  /** Where the first byte of `source` goes, in bytes. */
  readonly offset: number;
  readonly source: Buffer;
  /** The first byte of `source` that is to be copied. */
  readonly start: number;
  /** Free blocks that nobody has been promised. */
  readonly free: number;
}

/**
 * Copies blocks into `batch` and returns how far it came: to the end of `source`, until the batch is
 * full, is closed since a block has to wait for the next one, or space for a block is not certain.
 */
export function fillBatch(blockMap: BlockMap, batch: WriteBatch, filling: Filling): number {
  const end = addRows(blockMap, batch, filling);
  batch.copyRun();
  return end;
}

function addRows(
  blockMap: BlockMap,
  batch: WriteBatch,
  { offset, source, start, free }: Filling,
): number {
  let lastPage = -1;
  let left = free;
  for (let at = start; ;) {
    if (at === source.length) return at;
    const position = offset + at;
    const lbn = Math.floor(position / BLOCK_SIZE);
    const from = position - lbn * BLOCK_SIZE;
    const length = Math.min(BLOCK_SIZE - from, source.length - at);
    const row = batch.rowOf(lbn);
    if (row >= 0) {
      batch.closed = !batch.overlay(row, from, source, at, length);
      if (batch.closed) return at;
    } else {
      if (batch.isFull) return at;
      const page = Math.floor(lbn / BLOCK_MAP_ENTRIES_PER_PAGE);
      const needed = page === lastPage ? 1 : 1 + blockMap.missingPages(page);
      if (!batch.deferred && left < needed) return at;
      lastPage = page;
      left -= needed;
      batch.reserved += needed;
      batch.add(lbn, from, source, at, length);
    }
    at += length;
  }
}
