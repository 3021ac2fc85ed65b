/**
 * Little-endian loads and stores on byte arrays, block comparisons, and the format's CRC-32.
 * A 64-bit field is an exact JavaScript number; a larger value than 2^53 − 1 is reported as `NaN`,
 * which every decoder turns into a `VdoError`, since no legal field is that large (nonces are
 * handled as eight bytes).
 */
import { crc32 as zlibCrc32 } from 'node:zlib';

const TWO_32 = 2 ** 32;

export function getU16(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

export function getU32(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0
  );
}

/** The u64 at `at`, or `NaN` where it exceeds 2^53 − 1. */
export function getU64(bytes: Uint8Array, at: number): number {
  const high = getU32(bytes, at + 4);
  return high >= 0x200000 ? NaN : high * TWO_32 + getU32(bytes, at);
}

export function setU16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
}

export function setU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

/** Stores `value`, an integer from 0 to 2^53 − 1. */
export function setU64(bytes: Uint8Array, at: number, value: number): void {
  setU32(bytes, at, (value % TWO_32) | 0);
  setU32(bytes, at + 4, Math.floor(value / TWO_32));
}

/** The same bytes as a `Buffer` (for its native compare, copy and fill), without a copy. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Copies bytes `start` … `end` − 1 of `source` to `at` of `target`; they do not overlap. To be used where
 * one of the two is shared memory, as the arena is: there `Buffer.copy` and `TypedArray.set` move word
 * by word, and byte by byte between addresses that are not aligned alike (4 KiB in 0.7 and 3 µs); `fill`
 * is a `memcpy` (0.3 µs).
 */
export function copyBytes(
  source: Uint8Array,
  start: number,
  end: number,
  target: Buffer,
  at: number,
): void {
  if (end > start) target.fill(source.subarray(start, end), at, at + end - start);
}

/** Whether two ranges of equal length hold the same bytes. */
export function bytesEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && asBuffer(a).equals(b);
}

/** Whether every byte is zero. Cheap on the first difference; about 0.2 µs for 4 KiB of zeros. */
export function isZero(bytes: Uint8Array): boolean {
  let at = 0;
  const { length } = bytes;
  if (length >= 64 && bytes.byteOffset % 8 === 0) {
    const words = new Float64Array(bytes.buffer, bytes.byteOffset, length >>> 3);
    // Compared as numbers −0 equals 0 and NaN equals nothing: −0 is told apart below.
    for (let i = 0; i < words.length; i++) if (words[i] !== 0) return false;
    if (words.length > 0 && hasNegativeZero(bytes, words.length * 8)) return false;
    at = words.length * 8;
  }
  for (; at < length; at++) if (bytes[at] !== 0) return false;
  return true;
}

function hasNegativeZero(bytes: Uint8Array, end: number): boolean {
  for (let at = 7; at < end; at += 8) if (bytes[at] !== 0) return true;
  return false;
}

/**
 * The format's CRC-32: the register starts at 0, not at all ones (in zlib's terms a previous CRC of
 * 0xFFFFFFFF). Geometry block and super block carry it.
 */
export function vdoCrc32(bytes: Uint8Array): number {
  return zlibCrc32(bytes, 0xffffffff);
}
