/**
 * Gets stored blocks from a file and puts what they hold into rows of the arena: reads them as they are, or
 * reads the compressed blocks that they lie in and expands them.
 *
 * The check of a row says what to get: its physical block, low word and high word, and the mapping state. No block 0
 * is read: it stands for zeros. The state becomes 1, or 0 where the block could not be read or expanded.
 */
import { readSync } from 'node:fs';
import { BLOCK_SIZE, COMPRESSED_BASE, UNCOMPRESSED } from '../base/constants.ts';
import { CHECK_WORDS } from '../kernels/arena.ts';
import type { Share } from './protocol.ts';

/** The plain file that a volume's blocks lie in. */
export interface BlockFile {
  readonly fd: number;
  /** Byte of block 0. */
  readonly offset: number;
}

/** Rows of one task. Compressed blocks are read once for all of them. */
export const FETCH_ROWS = 128;

/** Of compressed blocks, by place: the block, and the row of `verify` that it is read into. */
const places = new Float64Array(FETCH_ROWS);
/** The place of each row. */
const placeOf = new Int32Array(FETCH_ROWS);

const pbnAt = (checks: Int32Array, at: number): number =>
  (checks[at]! >>> 0) + checks[at + 1]! * 2 ** 32;

/**
 * Reads `length` bytes of a file to byte `at` of `into`; returns how many came. What an error kept away is missing:
 * who reads it again gets the error.
 */
export function readBytes(
  fd: number,
  into: Uint8Array,
  at: number,
  length: number,
  offset: number,
): number {
  let done = 0;
  try {
    for (let moved = 1; done < length && moved > 0; done += moved) {
      moved = readSync(fd, into, at + done, length - done, offset + done);
    }
  } catch {
    // Told by the count.
  }
  return done;
}

/** Whether `count` blocks from `pbn` on were read to block `row` of `into`. */
function readBlocks(
  into: Uint8Array,
  row: number,
  { fd, offset }: BlockFile,
  pbn: number,
  count: number,
): boolean {
  const length = count * BLOCK_SIZE;
  return readBytes(fd, into, row * BLOCK_SIZE, length, offset + pbn * BLOCK_SIZE) === length;
}

/** Fills rows `first` … `end` − 1, `FETCH_ROWS` at most, as their checks say. */
export function fetchRows(share: Share, first: number, end: number, file: BlockFile): void {
  fetchPlain(share, first, end, file);
  fetchCompressed(share, first, end, file);
}

/** The rows of zeros, and those that are stored as they are: neighbours in one read. */
function fetchPlain({ arena }: Share, first: number, end: number, file: BlockFile): void {
  const { checks, blocks } = arena;
  for (let row = first; row < end;) {
    const pbn = pbnAt(checks, row * CHECK_WORDS);
    const state = checks[row * CHECK_WORDS + 2]!;
    let next = row + 1;
    if (pbn === 0) {
      blocks.fill(0, row * BLOCK_SIZE, next * BLOCK_SIZE);
      checks[row * CHECK_WORDS + 2] = 1;
    } else if (state === UNCOMPRESSED) {
      const isNext = (at: number): boolean =>
        checks[at + 2] === UNCOMPRESSED && pbnAt(checks, at) === pbn + next - row;
      while (next < end && isNext(next * CHECK_WORDS)) next++;
      const isRead = readBlocks(blocks, row, file, pbn, next - row) ? 1 : 0;
      for (let i = row; i < next; i++) checks[i * CHECK_WORDS + 2] = isRead;
    }
    row = next;
  }
}

/** The other rows: every compressed block is read once, neighbours together. */
function fetchCompressed({ arena, kernels }: Share, first: number, end: number, file: BlockFile) {
  const { checks, verify, blocks } = arena;
  let count = 0;
  for (let row = first; row < end; row++) {
    placeOf[row - first] = -1;
    if (checks[row * CHECK_WORDS + 2]! < COMPRESSED_BASE) continue;
    const pbn = pbnAt(checks, row * CHECK_WORDS);
    let place = count - 1;
    while (place >= 0 && places[place] !== pbn) place--;
    if (place < 0) places[(place = count++)] = pbn;
    placeOf[row - first] = place;
  }
  for (let place = 0; place < count;) {
    const pbn = places[place]!;
    let next = place + 1;
    while (next < count && places[next] === pbn + next - place) next++;
    if (!readBlocks(verify, first + place, file, pbn, next - place)) {
      places.fill(-1, place, next);
    }
    place = next;
  }
  for (let row = first; row < end; row++) {
    const place = placeOf[row - first]!;
    if (place < 0) continue;
    const at = row * CHECK_WORDS + 2;
    const stored = verify.byteOffset + (first + place) * BLOCK_SIZE;
    const into = blocks.byteOffset + row * BLOCK_SIZE;
    const isThere = places[place]! >= 0;
    checks[at] = isThere && kernels.expand(stored, checks[at]! - COMPRESSED_BASE, into) ? 1 : 0;
  }
}
