/**
 * Which bits of a record name are used where (INDEX §3). A name is 16 bytes, read big-endian here:
 *
 *     0 … 7     x: the low 20 bits are the address in a list of the volume index, x >> 20 chooses the list
 *     8 … 13    y: the low 22 bits are the address in a list of a chapter index, y >> 22 the list
 *     14, 15    sparse indexes: a hook, if divisible by 32
 *
 * All functions take the offset `at` of the name's first byte.
 */

/** A name is a hook, known for as long as its chapter exists, if these bits are divisible by it. */
export const SPARSE_SAMPLE_RATE = 32;
export const VOLUME_ADDRESS_BITS = 20;
export const CHAPTER_ADDRESS_BITS = 22;

function bigEndian32(names: Uint8Array, at: number): number {
  return (
    ((names[at]! << 24) | (names[at + 1]! << 16) | (names[at + 2]! << 8) | names[at + 3]!) >>> 0
  );
}

/** The key within a list of the volume index. */
export function volumeAddress(names: Uint8Array, at: number): number {
  return bigEndian32(names, at + 4) & ((1 << VOLUME_ADDRESS_BITS) - 1);
}

/** The list of a volume index (or sub-index) that has `lists` of them. */
export function volumeList(names: Uint8Array, at: number, lists: number): number {
  // 44 bits: exact as a number.
  const x = bigEndian32(names, at) * 4096 + (bigEndian32(names, at + 4) >>> VOLUME_ADDRESS_BITS);
  return x % lists;
}

/** The key within a list of a chapter index. */
export function chapterAddress(names: Uint8Array, at: number): number {
  return bigEndian32(names, at + 10) & ((1 << CHAPTER_ADDRESS_BITS) - 1);
}

/** The list of a chapter index that has 2^`listBits` of them, at most 4096. */
export function chapterList(names: Uint8Array, at: number, listBits: number): number {
  const y = ((names[at + 9]! & 3) << 10) | (bigEndian32(names, at + 10) >>> CHAPTER_ADDRESS_BITS);
  return y & ((1 << listBits) - 1);
}

/** Whether a sparse index samples the name. */
export function isHook(names: Uint8Array, at: number): boolean {
  return ((names[at + 14]! << 8) | names[at + 15]!) % SPARSE_SAMPLE_RATE === 0;
}
