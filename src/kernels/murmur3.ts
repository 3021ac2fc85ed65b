/**
 * MurmurHash3-x64-128 in plain TypeScript: 64-bit words as two 32-bit halves, no bigint. It is the
 * twin that the WebAssembly kernel is tested against, and takes its place where there is none; some
 * 25 times slower, since every 64-bit product costs a dozen operations here. docs/FORMAT.md, record
 * names.
 */
import { getU32, setU32 } from '../base/bytes.ts';

const C1_LOW = 0x114253d5;
const C1_HIGH = 0x87c37b91;
const C2_LOW = 0x2745937f;
const C2_HIGH = 0x4cf5ad43;
const MIX1_LOW = 0xed558ccd;
const MIX1_HIGH = 0xff51afd7;
const MIX2_LOW = 0x1a85ec53;
const MIX2_HIGH = 0xc4ceb9fe;

/** A 64-bit word, changed in place: the functions below work on these, never allocating one. */
interface Word {
  low: number;
  high: number;
}

const h1: Word = { low: 0, high: 0 };
const h2: Word = { low: 0, high: 0 };
const k: Word = { low: 0, high: 0 };

/** High half of the 64-bit product of two unsigned 32-bit numbers. */
function productHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const low = Math.imul(aLow, bLow) >>> 16;
  const middle = Math.imul(aHigh, bLow) >>> 0;
  const other = (Math.imul(aLow, bHigh) >>> 0) + (middle & 0xffff) + low;
  // `other` stays below 2^33: its carry needs a division, not a shift.
  return (Math.imul(aHigh, bHigh) + (middle >>> 16) + Math.floor(other / 65536)) | 0;
}

function multiply(w: Word, low: number, high: number): void {
  const product = productHigh(w.low, low) + Math.imul(w.high, low) + Math.imul(w.low, high);
  w.low = Math.imul(w.low, low);
  w.high = product | 0;
}

function add(w: Word, low: number, high: number): void {
  const sum = (w.low >>> 0) + (low >>> 0);
  w.low = sum | 0;
  w.high = (w.high + high + (sum > 0xffffffff ? 1 : 0)) | 0;
}

/** Rotates left by 0 < `bits` < 64, `bits` not 32. */
function rotate(w: Word, bits: number): void {
  const { low, high } = w;
  const n = bits & 31;
  const left = (low << n) | (high >>> (32 - n));
  const right = (high << n) | (low >>> (32 - n));
  w.low = bits < 32 ? left : right;
  w.high = bits < 32 ? right : left;
}

function xor(w: Word, other: Word): void {
  w.low ^= other.low;
  w.high ^= other.high;
}

/** Shifts by 33 and xors: the low half takes the high half shifted by one. */
function xorShift33(w: Word): void {
  w.low ^= w.high >>> 1;
}

function mix(w: Word): void {
  xorShift33(w);
  multiply(w, MIX1_LOW, MIX1_HIGH);
  xorShift33(w);
  multiply(w, MIX2_LOW, MIX2_HIGH);
  xorShift33(w);
}

function scramble1(): void {
  multiply(k, C1_LOW, C1_HIGH);
  rotate(k, 31);
  multiply(k, C2_LOW, C2_HIGH);
  xor(h1, k);
}

function scramble2(): void {
  multiply(k, C2_LOW, C2_HIGH);
  rotate(k, 33);
  multiply(k, C1_LOW, C1_HIGH);
  xor(h2, k);
}

function body(bytes: Uint8Array, groups: number): void {
  for (let at = 0; at < groups * 16; at += 16) {
    k.low = getU32(bytes, at);
    k.high = getU32(bytes, at + 4);
    scramble1();
    rotate(h1, 27);
    add(h1, h2.low, h2.high);
    multiply(h1, 5, 0);
    add(h1, 0x52dce729, 0);
    k.low = getU32(bytes, at + 8);
    k.high = getU32(bytes, at + 12);
    scramble2();
    rotate(h2, 31);
    add(h2, h1.low, h1.high);
    multiply(h2, 5, 0);
    add(h2, 0x38495ab5, 0);
  }
}

function tail(bytes: Uint8Array, start: number): void {
  const size = bytes.length - start;
  if (size === 0) return;
  const rest = new Uint8Array(16);
  rest.set(bytes.subarray(start));
  if (size > 8) {
    k.low = getU32(rest, 8);
    k.high = getU32(rest, 12);
    scramble2();
  }
  k.low = getU32(rest, 0);
  k.high = getU32(rest, 4);
  scramble1();
}

/** Stores the 16-byte hash of `bytes` (fewer than 2^32) at `at` in `into`. About 13 µs for 4 KiB. */
export function murmur3(bytes: Uint8Array, seed: number, into: Uint8Array, at: number): void {
  h1.low = h2.low = seed | 0;
  h1.high = h2.high = 0;
  const groups = bytes.length >>> 4;
  body(bytes, groups);
  tail(bytes, groups * 16);
  h1.low ^= bytes.length;
  h2.low ^= bytes.length;
  add(h1, h2.low, h2.high);
  add(h2, h1.low, h1.high);
  mix(h1);
  mix(h2);
  add(h1, h2.low, h2.high);
  add(h2, h1.low, h1.high);
  setU32(into, at, h1.low);
  setU32(into, at + 4, h1.high);
  setU32(into, at + 8, h2.low);
  setU32(into, at + 12, h2.high);
}
