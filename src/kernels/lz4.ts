/**
 * LZ4 blocks of 4096 bytes in plain TypeScript, written from the published description of the block
 * format: the twin that the WebAssembly kernel (wasm/lz4.ts) is tested against, byte for byte, and what
 * takes its place where there is none, at a tenth of the speed. docs/FORMAT.md §4.
 *
 * Compression is greedy: the last place of every five bytes is remembered in a table of 4096; where four of
 * them occur again, the match is made as long as it goes. By four bytes alone there are a third more matches,
 * nearly all of four bytes: each saves one byte and costs both sides a mispredicted branch or two. The longer
 * nothing is found, the wider the steps: so noise costs little, and needs no test of its own. The format's rules for the end are kept: no match
 * begins in the last twelve bytes or reaches into the last five.
 *
 * Both ways, fragments are raw LZ4 blocks, as the kernel's dm-vdo writes and reads them.
 */
import { getU16, getU32 } from '../base/bytes.ts';
import { assert } from '../base/assert.ts';
import { BLOCK_SIZE, MAX_FRAGMENT_SIZE } from '../base/constants.ts';

const MIN_MATCH = 4;
const LAST_MATCH = BLOCK_SIZE - 12;
const MATCH_END = BLOCK_SIZE - 5;
/** The step grows by one with so many (2^n) misses in a row. */
const SKIP_SHIFT = 6;
/** A match is lengthened backwards by so much at most. */
const MAX_BACK = 8;
/** What a sequence, or the end, takes at most besides its literals. */
const SEQUENCE_COST = 36;
const END_COST = 20;

const table = new Uint16Array(4096);

/** The place in the table of the five bytes at `at`: high bits of their product with 0x9e3779b185ebca87. */
function placeOf(source: Uint8Array, at: number): number {
  const word = getU32(source, at);
  const high = (source[at + 4]! << 24) | (word >>> 8);
  const carried = Math.floor(((word & 0xff) * 0x85ebca87) / 256);
  const product = carried + Math.imul(high, 0x85ebca87) + Math.imul(word << 24, 0x9e3779b1);
  return (product >>> 0) >>> 20;
}

/** The length in a token is `length`, up to 15; from 15 on bytes follow it. Returns where they end. */
function putLength(into: Uint8Array, at: number, length: number): number {
  if (length < 15) return at;
  let rest = length - 15;
  for (; rest >= 255; rest -= 255) into[at++] = 255;
  into[at++] = rest;
  return at;
}

function putLiterals(into: Uint8Array, at: number, literals: Uint8Array): number {
  at = putLength(into, at, literals.length);
  into.set(literals, at);
  return at + literals.length;
}

/**
 * Compresses one block into `into` (at least 4059 bytes) and returns the size of the fragment, or 0
 * where it exceeds 4059 bytes: what is in `into` then is of no use.
 */
export function compressBlock(source: Uint8Array, into: Uint8Array): number {
  assert(source.length === BLOCK_SIZE, 'size of a block to compress');
  assert(into.length >= MAX_FRAGMENT_SIZE, 'room for a fragment');
  table.fill(0);
  let anchor = 0;
  let out = 0;
  let misses = 1 << SKIP_SHIFT;
  for (let at = 1; at <= LAST_MATCH;) {
    const word = getU32(source, at);
    const place = placeOf(source, at);
    let match = table[place]!;
    table[place] = at;
    if (getU32(source, match) !== word) {
      at += misses++ >> SKIP_SHIFT;
      continue;
    }
    misses = 1 << SKIP_SHIFT;
    let end = at + MIN_MATCH;
    const distance = at - match;
    while (end < MATCH_END && source[end] === source[end - distance]) end++;
    const first = Math.max(anchor, at - MAX_BACK);
    for (; at > first && match > 0 && source[at - 1] === source[match - 1]; at--) match--;
    if (out + at - anchor > MAX_FRAGMENT_SIZE - SEQUENCE_COST) return 0;
    const token = out;
    const length = end - at - MIN_MATCH;
    into[token] = (Math.min(at - anchor, 15) << 4) | Math.min(length, 15);
    out = putLiterals(into, out + 1, source.subarray(anchor, at));
    into[out++] = distance;
    into[out++] = distance >>> 8;
    out = putLength(into, out, length);
    anchor = at = end;
    table[placeOf(source, end - 2)] = end - 2;
  }
  const literals = BLOCK_SIZE - anchor;
  if (out + literals > MAX_FRAGMENT_SIZE - END_COST) return 0;
  into[out] = Math.min(literals, 15) << 4;
  return putLiterals(into, out + 1, source.subarray(anchor));
}

/** Reads a length that goes on behind its token; `at` moves along. A negative one: it has no end. */
class Cursor {
  at = 0;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  length(first: number): number {
    if (first < 15) return first;
    for (let length = first; this.at < this.#bytes.length;) {
      const more = this.#bytes[this.at++]!;
      length += more;
      if (more < 255) return length;
    }
    return -1;
  }
}

/**
 * Decompresses a fragment into the 4096 bytes of `into`. False where the fragment is no LZ4 block of
 * exactly 4096 bytes, whatever its bytes are: what is in `into` then is of no use.
 */
export function decompressBlock(fragment: Uint8Array, into: Uint8Array): boolean {
  assert(into.length === BLOCK_SIZE, 'room for a block');
  const size = fragment.length;
  const cursor = new Cursor(fragment);
  for (let out = 0; cursor.at < size;) {
    const token = fragment[cursor.at++]!;
    const literals = cursor.length(token >> 4);
    if (literals < 0 || literals > size - cursor.at || literals > BLOCK_SIZE - out) return false;
    into.set(fragment.subarray(cursor.at, cursor.at + literals), out);
    cursor.at += literals;
    out += literals;
    if (cursor.at === size) return out === BLOCK_SIZE;
    if (cursor.at + 2 > size) return false;
    const distance = getU16(fragment, cursor.at);
    cursor.at += 2;
    const length = cursor.length(token & 15) + MIN_MATCH;
    if (length < MIN_MATCH || length > BLOCK_SIZE - out) return false;
    if (distance === 0 || distance > out) return false;
    // Byte by byte: a match may reach into what it makes.
    for (const end = out + length; out < end; out++) into[out] = into[out - distance]!;
  }
  return false;
}
