/**
 * The kernels in AssemblyScript: what costs most per 4 KiB block, over a memory that is imported and
 * shared. Every argument is an address in that memory or a row; the caller has checked them. Compiled
 * into kernels.wasm by `npm run build`; `src/kernels/murmur3.ts` is the twin that the tests compare
 * with. No allocation, no static data, no runtime.
 */

import { compress } from './lz4';

export { decompress, expandSlot } from './lz4';

const BLOCK_SIZE: usize = 4096;
const NAME_SIZE: usize = 16;
const NONE: u32 = 0xffffffff;

const SEED: u64 = 0x62ea60be;
const C1: u64 = 0x87c37b91114253d5;
const C2: u64 = 0x4cf5ad432745937f;
const ADD1: u64 = 0x52dce729;
const ADD2: u64 = 0x38495ab5;
/** The name of a block of zeros: they need no hashing. */
const ZERO_NAME_LOW: u64 = 0x84e77e6586eca381;
const ZERO_NAME_HIGH: u64 = 0xb708801c81fd634a;

function scramble1(k: u64): u64 {
  return rotl<u64>(k * C1, 31) * C2;
}

function scramble2(k: u64): u64 {
  return rotl<u64>(k * C2, 33) * C1;
}

function mix(x: u64): u64 {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccd;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53;
  return x ^ (x >> 33);
}

function finish(h1: u64, h2: u64, name: usize): void {
  h1 ^= BLOCK_SIZE;
  h2 ^= BLOCK_SIZE;
  h1 += h2;
  h2 += h1;
  h1 = mix(h1);
  h2 = mix(h2);
  h1 += h2;
  h2 += h1;
  store<u64>(name, h1);
  store<u64>(name, h2, 8);
}

function hashOne(block: usize, name: usize): void {
  let h1 = SEED;
  let h2 = SEED;
  const end = block + BLOCK_SIZE;
  for (; block < end; block += 16) {
    h1 = (rotl<u64>(h1 ^ scramble1(load<u64>(block)), 27) + h2) * 5 + ADD1;
    h2 = (rotl<u64>(h2 ^ scramble2(load<u64>(block, 8)), 31) + h1) * 5 + ADD2;
  }
  finish(h1, h2, name);
}

/** Two blocks in step: one chain of dependent operations leaves half of the processor idle. */
function hashTwo(a: usize, b: usize, nameA: usize, nameB: usize): void {
  let h1 = SEED;
  let h2 = SEED;
  let g1 = SEED;
  let g2 = SEED;
  const end = a + BLOCK_SIZE;
  for (; a < end; a += 16, b += 16) {
    h1 = (rotl<u64>(h1 ^ scramble1(load<u64>(a)), 27) + h2) * 5 + ADD1;
    g1 = (rotl<u64>(g1 ^ scramble1(load<u64>(b)), 27) + g2) * 5 + ADD1;
    h2 = (rotl<u64>(h2 ^ scramble2(load<u64>(a, 8)), 31) + h1) * 5 + ADD2;
    g2 = (rotl<u64>(g2 ^ scramble2(load<u64>(b, 8)), 31) + g1) * 5 + ADD2;
  }
  finish(h1, h2, nameA);
  finish(g1, g2, nameB);
}

/** Whether the block is all zeros; returns at the first 64 bytes that are not. */
export function isZero(block: usize): bool {
  const end = block + BLOCK_SIZE;
  for (; block < end; block += 64) {
    const any = v128.or(
      v128.or(v128.load(block), v128.load(block, 16)),
      v128.or(v128.load(block, 32), v128.load(block, 48)),
    );
    if (v128.any_true(any)) return false;
  }
  return true;
}

/** Whether two blocks hold the same bytes; returns at the first 64 bytes that differ. */
export function blocksEqual(a: usize, b: usize): bool {
  const end = a + BLOCK_SIZE;
  for (; a < end; a += 64, b += 64) {
    const any = v128.or(
      v128.or(v128.xor(v128.load(a), v128.load(b)), v128.xor(v128.load(a, 16), v128.load(b, 16))),
      v128.or(
        v128.xor(v128.load(a, 32), v128.load(b, 32)),
        v128.xor(v128.load(a, 48), v128.load(b, 48)),
      ),
    );
    if (v128.any_true(any)) return false;
  }
  return true;
}

export function copy(from: usize, to: usize, size: usize): void {
  memory.copy(to, from, size);
}

/** Compresses the blocks of rows rowList[first …]; `sizes` gets 0 for those that make no fragment. */
export function compressRows(
  blocks: usize,
  fragments: usize,
  sizes: usize,
  rowList: usize,
  first: u32,
  end: u32,
  table: usize,
): void {
  for (let i = first; i < end; i++) {
    const row = <usize>load<u32>(rowList + ((<usize>i) << 2));
    const at = row * BLOCK_SIZE;
    store<u16>(sizes + (row << 1), <u16>compress(blocks + at, fragments + at, table));
  }
}

/** Fills the names and zero flags of rows first … end − 1. */
export function hash(blocks: usize, names: usize, zero: usize, first: u32, end: u32): void {
  let waiting = NONE;
  for (let row = first; row < end; row++) {
    const block = blocks + <usize>row * BLOCK_SIZE;
    const name = names + <usize>row * NAME_SIZE;
    if (isZero(block)) {
      store<u8>(zero + row, 1);
      store<u64>(name, ZERO_NAME_LOW);
      store<u64>(name, ZERO_NAME_HIGH, 8);
      continue;
    }
    store<u8>(zero + row, 0);
    if (waiting == NONE) {
      waiting = row;
    } else {
      hashTwo(
        blocks + <usize>waiting * BLOCK_SIZE,
        block,
        names + <usize>waiting * NAME_SIZE,
        name,
      );
      waiting = NONE;
    }
  }
  if (waiting != NONE) {
    hashOne(blocks + <usize>waiting * BLOCK_SIZE, names + <usize>waiting * NAME_SIZE);
  }
}
