/**
 * Blocks to measure and test with: deterministic, from a seed, of known compressibility. The same
 * seed gives the same bytes on every machine.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { BLOCK_SIZE, MiB } from '../src/base/constants.ts';

/** The xorshift128 generator on 32-bit words: `next()` is uniform in 0 … 2^32 − 1. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  constructor(seed: number) {
    // Weyl steps through a mixer, so that near seeds give unrelated streams.
    let state = seed | 0;
    const word = (): number => {
      state = (state + 0x9e3779b9) | 0;
      let z = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      return z ^ (z >>> 16);
    };
    this.#a = word();
    this.#b = word();
    this.#c = word();
    this.#d = word() | 1;
  }

  next(): number {
    let t = this.#d;
    const s = this.#a;
    this.#d = this.#c;
    this.#c = this.#b;
    this.#b = s;
    t ^= t << 11;
    t ^= t >>> 8;
    this.#a = t ^ s ^ (s >>> 19);
    return this.#a >>> 0;
  }

  /** Uniform in 0 … `bound` − 1. */
  below(bound: number): number {
    return Math.floor((this.next() / 2 ** 32) * bound);
  }
}

/** Fills `bytes` with noise that nothing compresses. */
export function randomFill(bytes: Uint8Array, seed: number): void {
  const random = new Random(seed);
  const whole = bytes.length & ~3;
  for (let at = 0; at < whole; at += 4) {
    const word = random.next();
    bytes[at] = word;
    bytes[at + 1] = word >>> 8;
    bytes[at + 2] = word >>> 16;
    bytes[at + 3] = word >>> 24;
  }
  for (let at = whole; at < bytes.length; at++) bytes[at] = random.next();
}

/** Noise and repeats of it in turns: LZ4 makes it about half as large, block by block. */
const NOISE_RUN = 52;
const REPEAT_RUN = 76;

/**
 * Fills `bytes` (whole blocks) with unique data that LZ4 shrinks to about half: short runs of noise,
 * each followed by bytes that occurred earlier in the same block.
 */
export function compressibleFill(bytes: Uint8Array, seed: number): void {
  randomFill(bytes, seed);
  const random = new Random(seed ^ 0x5bd1e995);
  for (let block = 0; block < bytes.length; block += BLOCK_SIZE) {
    for (let at = NOISE_RUN; at + REPEAT_RUN <= BLOCK_SIZE; at += NOISE_RUN + REPEAT_RUN) {
      // A first repeat finds less than a whole run before it: it repeats what there is.
      const from = random.below(Math.max(1, at - REPEAT_RUN));
      bytes.copyWithin(block + at, block + from, block + Math.min(from + REPEAT_RUN, at));
    }
  }
}

/** Words of an English-like text, drawn by a skewed law: compresses like prose. */
const WORDS = (
  'the of and to in is that for it as was with be by on not he his but at are this have from ' +
  'or had an they which one you were her all she there would their we him been has when who ' +
  'volume block journal slab index chapter record name reference count packer fragment'
).split(' ');

/** Fills `bytes` with text-like data. */
export function textFill(bytes: Uint8Array, seed: number): void {
  const random = new Random(seed);
  const encoder = new TextEncoder();
  let at = 0;
  while (at < bytes.length) {
    const skewed = random.below(WORDS.length) * random.below(WORDS.length);
    const word = WORDS[Math.floor(skewed / WORDS.length)]!;
    const number = random.below(8) === 0 ? ` ${random.below(100000)}` : '';
    const piece = encoder.encode(`${word}${number}${random.below(11) === 0 ? '.\n' : ' '}`);
    bytes.set(piece.subarray(0, bytes.length - at), at);
    at += piece.length;
  }
}

/** Fills `bytes` with machine code: the running node binary, from its middle on. */
export function programFill(bytes: Uint8Array): void {
  const file = openSync(process.execPath, 'r');
  try {
    const { size } = fstatSync(file);
    const start = Math.floor(size / 2 / BLOCK_SIZE) * BLOCK_SIZE;
    let done = 0;
    while (done < bytes.length) {
      const got = readSync(file, bytes, done, bytes.length - done, start + done);
      if (got === 0) throw new Error('the node binary is smaller than the sample asked for');
      done += got;
    }
  } finally {
    closeSync(file);
  }
}

/** Larger than the processor's caches; blocks are stamped to be unique as they are written. */
export const POOL_MIB = 64;
const BLOCKS_PER_MIB = MiB / BLOCK_SIZE;

/** A source of blocks in 64 MiB: whole mebibytes that are made unique by a stamp in each block. */
export class BlockPool {
  readonly #bytes = new Uint8Array(POOL_MIB * MiB);
  #stamp = 0;

  constructor(fill: (bytes: Uint8Array, seed: number) => void) {
    fill(this.#bytes, 1);
  }

  /** Mebibyte `i` of the pool; every `step`-th block of it is made unlike any before (0: none). */
  take(i: number, step: number): Uint8Array {
    const start = (i % POOL_MIB) * MiB;
    const piece = this.#bytes.subarray(start, start + MiB);
    const view = new DataView(piece.buffer, piece.byteOffset, MiB);
    for (let block = 0; step > 0 && block < BLOCKS_PER_MIB; block += step) {
      view.setFloat64(block * BLOCK_SIZE + 16, ++this.#stamp);
    }
    return piece;
  }

  /** One block, made unlike any before. */
  takeBlock(i: number): Uint8Array {
    const start = (i * BLOCK_SIZE) % (POOL_MIB * MiB);
    const block = this.#bytes.subarray(start, start + BLOCK_SIZE);
    new DataView(block.buffer, block.byteOffset).setFloat64(16, ++this.#stamp);
    return block;
  }
}
