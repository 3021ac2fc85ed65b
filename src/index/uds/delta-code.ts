/**
 * How the distance between two neighbouring keys of a delta list is written (INDEX §5.3): the short
 * form of Golomb's code, tuned to a mean distance, and the bits it lies in.
 *
 * - Bit n of a stream is bit n mod 8 of byte n / 8, counted from the least significant.
 * - A distance d below `minKeys` is a field of `minBits` bits. Else, with t = d − minKeys, a field of
 *   `minBits` bits holding minKeys + t mod incrementKeys, then t / incrementKeys zeros, then a one.
 */
import { assert } from '../../base/assert.ts';

export interface DeltaCode {
  readonly minBits: number;
  readonly minKeys: number;
  readonly incrementKeys: number;
}

/** Bits it takes to write `n`, at least 1. Exact up to 2^53. */
export function bitLength(n: number): number {
  let bits = 1;
  for (let limit = 2; limit <= n; limit *= 2) bits++;
  return bits;
}

/** The code for lists whose keys lie `mean` apart on average. */
export function deltaCode(mean: number): DeltaCode {
  const incrementKeys = Math.floor((836158 * mean + 603160) / 1206321);
  const minBits = bitLength(incrementKeys + 1);
  return { minBits, minKeys: 2 ** minBits - incrementKeys, incrementKeys };
}

/** Bits that the distance takes. */
export function deltaBits(code: DeltaCode, delta: number): number {
  const { minBits, minKeys, incrementKeys } = code;
  return minBits + Math.floor((incrementKeys - minKeys + delta) / incrementKeys);
}

/** The `width` bits (at most 25) that begin at `bit`. Bytes past the end read as zeros. */
export function getBits(bytes: Uint8Array, bit: number, width: number): number {
  const at = bit >>> 3;
  const word =
    (bytes[at]! |
      ((bytes[at + 1] ?? 0) << 8) |
      ((bytes[at + 2] ?? 0) << 16) |
      ((bytes[at + 3] ?? 0) << 24)) >>>
    (bit & 7);
  return word & (2 ** width - 1);
}

/** Stores the `width` bits (at most 25) that begin at `bit`; all others stay. */
export function setBits(bytes: Uint8Array, bit: number, width: number, value: number): void {
  let at = bit >>> 3;
  let shift = bit & 7;
  let rest = value;
  for (let left = width; left > 0; at++) {
    const taken = Math.min(8 - shift, left);
    const mask = ((1 << taken) - 1) << shift;
    bytes[at] = (bytes[at]! & ~mask) | ((rest << shift) & mask);
    rest = rest >>> taken;
    left -= taken;
    shift = 0;
  }
}

/** Writes a distance at `bit`; returns the bit after it. */
export function writeDelta(bytes: Uint8Array, bit: number, code: DeltaCode, delta: number): number {
  const { minBits, minKeys, incrementKeys } = code;
  assert(delta >= 0, 'distance of two keys');
  if (delta < minKeys) {
    setBits(bytes, bit, minBits, delta);
    return bit + minBits;
  }
  const above = delta - minKeys;
  setBits(bytes, bit, minBits, minKeys + (above % incrementKeys));
  let at = bit + minBits;
  for (let zeros = Math.floor(above / incrementKeys); zeros > 0;) {
    const width = Math.min(zeros, 24);
    setBits(bytes, at, width, 0);
    at += width;
    zeros -= width;
  }
  setBits(bytes, at, 1, 1);
  return at + 1;
}
