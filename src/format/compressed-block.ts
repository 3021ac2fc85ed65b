/**
 * A compressed block: up to 14 LZ4 fragments in one physical block (FORMAT §4).
 *
 * ```
 * 0   version 1.0
 * 8   14 fragment sizes; 0 = slot unused
 * 36  the fragments, back to back
 * ```
 *
 * - Fragment k starts after the fragments of all lower slots.
 * - Each expands to exactly 4096 bytes: raw LZ4, without frame or length.
 * - Nothing after the last fragment is defined on reading; uvdo writes zeros there.
 */
import {
  BLOCK_SIZE,
  COMPRESSED_BLOCK_DATA_SIZE,
  COMPRESSED_BLOCK_HEADER_SIZE,
  COMPRESSION_SLOTS,
} from '../base/constants.ts';
import { assert } from '../base/assert.ts';
import { getU16, getU32, setU16, setU32 } from '../base/bytes.ts';
import { raw, struct, u32 } from './struct.ts';

export const compressedBlockHeader = struct(
  'CompressedBlockHeader',
  {
    versionMajor: u32('1'),
    versionMinor: u32('0'),
    sizes: raw(2 * COMPRESSION_SLOTS, '14 × u16 fragment size of the slot; 0 = unused'),
  },
  COMPRESSED_BLOCK_HEADER_SIZE,
);

const SIZES_AT = compressedBlockHeader.offset.sizes;
const VERSION_MAJOR = 1;
const VERSION_MINOR = 0;

/** Fills `bytes` with the fragments: the one at index k gets slot k. They must fit. */
export function encodeCompressedBlock(bytes: Uint8Array, fragments: readonly Uint8Array[]): void {
  let at = COMPRESSED_BLOCK_HEADER_SIZE;
  for (const fragment of fragments) {
    assert(at + fragment.length <= BLOCK_SIZE, 'fragments do not fit a compressed block');
    bytes.set(fragment, at);
    at += fragment.length;
  }
  sealCompressedBlock(
    bytes,
    0,
    fragments.map((fragment) => fragment.length),
  );
}

/** Makes a compressed block, at `at`, of fragments that lie there: header in front, zeros behind. */
export function sealCompressedBlock(bytes: Uint8Array, at: number, sizes: readonly number[]): void {
  assert(sizes.length <= COMPRESSION_SLOTS, 'too many fragments for a compressed block');
  setU32(bytes, at, VERSION_MAJOR);
  setU32(bytes, at + 4, VERSION_MINOR);
  let end = at + COMPRESSED_BLOCK_HEADER_SIZE;
  for (let slot = 0; slot < COMPRESSION_SLOTS; slot++) {
    const size = slot < sizes.length ? sizes[slot]! : 0;
    setU16(bytes, at + SIZES_AT + 2 * slot, size);
    end += size;
  }
  bytes.fill(0, end, at + BLOCK_SIZE);
}

/** Where the fragment of `slot` starts in the block. Meaningful where `fragmentSize` is not 0. */
export function fragmentOffset(bytes: Uint8Array, slot: number): number {
  let at = COMPRESSED_BLOCK_HEADER_SIZE;
  for (let k = 0; k < slot; k++) at += getU16(bytes, SIZES_AT + 2 * k);
  return at;
}

/** Bytes of the fragment of `slot`; 0 when this is no compressed block or the slot is unusable. */
export function fragmentSize(bytes: Uint8Array, slot: number): number {
  if (getU32(bytes, 0) !== VERSION_MAJOR || getU32(bytes, 4) !== VERSION_MINOR) return 0;
  if (slot < 0 || slot >= COMPRESSION_SLOTS) return 0;
  const offset = fragmentOffset(bytes, slot) - COMPRESSED_BLOCK_HEADER_SIZE;
  const size = getU16(bytes, SIZES_AT + 2 * slot);
  return offset + size > COMPRESSED_BLOCK_DATA_SIZE ? 0 : size;
}
