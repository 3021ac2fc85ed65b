/**
 * How the calling thread and its workers share one job: words in the arena's control region, no
 * messages. Both sides run `doShare`; a slow core takes fewer chunks, never holds up a fast one.
 *
 * - `STATE` is even while no job is open, odd while one is. Everything that describes the job is
 *   written before `STATE` becomes odd and stays until it is even and every `busy` word is 0.
 * - A worker sets its `busy` word first and looks at `STATE` second: after the caller has closed the
 *   job, a worker is either seen to be busy, or sees that the job is closed.
 * - `NEXT` is the place of the next chunk, taken by an atomic addition.
 */
import { readSync } from 'node:fs';
import { BLOCK_SIZE, RECORD_NAME_SIZE } from '../base/constants.ts';
import type { Arena } from '../kernels/arena.ts';
import type { Kernels } from '../kernels/kernels.ts';

/** Places in the control words, 16 apart: each in a cache line of its own. */
export const STATE = 0;
export const NEXT = 16;
export const JOB = 32;
export const END = 33;
export const CHUNK = 34;
/** For `LOAD`: the first staging row, or −1. */
export const STAGING = 35;
/** For `LOAD`: how many places of the row list, in front of the reads, name rows to be compressed. */
export const PLACES = 36;
/** Set by a worker that ran into an exception: the job has failed. */
export const FAILED = 48;
const FIRST_BUSY = 64;

/** A job over rows, one over places of the arena's row list, and one over such places and reads behind. */
export const HASH = 1;
export const COMPRESS = 2;
export const LOAD = 3;
/**
 * Words of a read: file descriptor (−1: the bytes are there), bytes, offset in 2^32 bytes and its low
 * word, first row. When it is done, the second word says how many bytes came.
 */
export const LOAD_WORDS = 5;
/** Rows compressed at once: few enough that the last chunks end together. */
export const COMPRESS_CHUNK_ROWS = 16;
/** Rows of a read at most, where it is staged: what a core's cache holds. */
export const STAGING_ROWS = 64;

/** Place of the word that is 1 while worker `n` = 0, 1 … works. */
export const busyOf = (n: number): number => FIRST_BUSY + 16 * n;

/** What a thread needs to take part. */
export interface Share {
  readonly arena: Arena;
  readonly kernels: Kernels;
  /** 0 for the calling thread, then the workers. */
  readonly thread: number;
}

/** The calling thread and a worker let their event loops turn after working this long. */
const SLICE_MS = 1;

export const eventLoopTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/**
 * Fills the rows of read `index` of the list from its file, zeros behind the end, and names them. Bytes
 * that an error kept away are missing in the count: the caller reads again and gets the error.
 *
 * With staging rows the bytes go to this thread's own, which stay in its cache, and only names and zero
 * flags go to the rows of the read.
 */
export function loadRows({ arena, kernels, thread }: Share, index: number): void {
  const { rowList, blocks } = arena;
  const at = Atomics.load(arena.control, PLACES) + index * LOAD_WORDS;
  const fd = rowList[at]!;
  const length = rowList[at + 1]!;
  const offset = rowList[at + 2]! * 2 ** 32 + (rowList[at + 3]! >>> 0);
  const row = rowList[at + 4]!;
  const rows = Math.ceil(length / BLOCK_SIZE);
  if (fd < 0) return kernels.hash(row, row + rows);
  const staging = Atomics.load(arena.control, STAGING);
  const first = staging < 0 ? row : staging + thread * STAGING_ROWS;
  let done = 0;
  try {
    for (let moved = 1; done < length && moved > 0; done += moved) {
      moved = readSync(fd, blocks, first * BLOCK_SIZE + done, length - done, offset + done);
    }
  } catch {
    // Told by the count.
  }
  rowList[at + 1] = done;
  blocks.fill(0, first * BLOCK_SIZE + done, (first + rows) * BLOCK_SIZE);
  kernels.hash(first, first + rows);
  if (first === row) return;
  const { names, zero } = arena;
  names.copyWithin(
    row * RECORD_NAME_SIZE,
    first * RECORD_NAME_SIZE,
    (first + rows) * RECORD_NAME_SIZE,
  );
  zero.copyWithin(row, first, first + rows);
}

/** Chunks of a `LOAD` that compress; the reads come behind them. */
export const compressChunks = (places: number): number => Math.ceil(places / COMPRESS_CHUNK_ROWS);

/** Does chunk `index` of a `LOAD`. */
export function loadChunk(share: Share, index: number): void {
  const places = Atomics.load(share.arena.control, PLACES);
  const chunks = compressChunks(places);
  if (index >= chunks) return loadRows(share, index - chunks);
  const first = index * COMPRESS_CHUNK_ROWS;
  share.kernels.compress(first, Math.min(first + COMPRESS_CHUNK_ROWS, places));
}

/** Takes a chunk of the open job and does it. False where none is left. */
export function doChunk(share: Share): boolean {
  const { arena, kernels } = share;
  const { control } = arena;
  const job = Atomics.load(control, JOB);
  const end = Atomics.load(control, END);
  const chunk = Atomics.load(control, CHUNK);
  const first = Atomics.add(control, NEXT, chunk);
  if (first >= end) return false;
  const last = Math.min(first + chunk, end);
  if (job === HASH) kernels.hash(first, last);
  else if (job === COMPRESS) kernels.compress(first, last);
  else for (let i = first; i < last; i++) loadChunk(share, i);
  return true;
}

/** Works on the open job until no chunk is left, letting the event loop turn now and then. */
export async function doShare(share: Share): Promise<void> {
  let until = performance.now() + SLICE_MS;
  while (doChunk(share)) {
    if (performance.now() < until) continue;
    await eventLoopTurn();
    until = performance.now() + SLICE_MS;
  }
}
