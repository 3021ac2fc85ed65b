/**
 * LZ4 through the package `lz4-napi`; no other file knows it. Fragments are raw LZ4 blocks, as the
 * kernel's dm-vdo writes and reads them; the package puts a 32-bit size in front, which is cut off
 * here and put back.
 *
 * The package believes any size in that prefix and allocates as much: it is always 4096 here, never
 * taken from the volume, so a hostile fragment costs one block and an error.
 *
 * Whoever calls often must let its event loop turn: the package's results are given back only then.
 * Compressing 16 blocks a turn costs 3.5 to 7 µs a block, without turns 12 to 20 and the memory grows
 * by all that was compressed; src/workers takes care of that.
 */
import { compressSync, uncompressSync } from 'lz4-napi';
import { asBuffer } from '../base/bytes.ts';
import { assert } from '../base/assert.ts';
import { BLOCK_SIZE, MAX_FRAGMENT_SIZE } from '../base/constants.ts';

const PREFIX_SIZE = 4;

/** Prefix and fragment, side by side; one per thread, since no call is interrupted. */
const prefixed = Buffer.alloc(PREFIX_SIZE + BLOCK_SIZE);
prefixed.writeUInt32LE(BLOCK_SIZE, 0);

/**
 * Compresses one block into `into` (at least 4059 bytes) and returns the size of the fragment, or 0
 * where it exceeds 4059 bytes (`into` is left alone then). The native call reads `source` in place,
 * shared memory too, but allocates its result.
 */
export function compressBlock(source: Uint8Array, into: Uint8Array): number {
  assert(source.length === BLOCK_SIZE, 'size of a block to compress');
  assert(into.length >= MAX_FRAGMENT_SIZE, 'room for a fragment');
  const result = compressSync(asBuffer(source));
  const size = result.length - PREFIX_SIZE;
  if (size > MAX_FRAGMENT_SIZE) return 0;
  into.set(result.subarray(PREFIX_SIZE));
  return size;
}

/**
 * Decompresses a fragment into the 4096 bytes of `into`. False where the fragment is no LZ4 block
 * of exactly 4096 bytes, whatever its bytes are (`into` is left alone then).
 */
export function decompressBlock(fragment: Uint8Array, into: Uint8Array): boolean {
  assert(into.length === BLOCK_SIZE, 'room for a block');
  const { length } = fragment;
  if (length === 0 || length > BLOCK_SIZE) return false;
  prefixed.set(fragment, PREFIX_SIZE);
  let block: Buffer;
  try {
    block = uncompressSync(prefixed.subarray(0, PREFIX_SIZE + length));
  } catch {
    return false;
  }
  if (block.length !== BLOCK_SIZE) return false;
  into.set(block);
  return true;
}
