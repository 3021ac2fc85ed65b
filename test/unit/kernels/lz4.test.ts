/**
 * LZ4: the kernel in WebAssembly against its twin, byte for byte, and both against judges of other
 * make: a decoder that is the format written out, and the package lz4-napi, both ways.
 */
import { compressSync, uncompressSync } from 'lz4-napi';
import { describe, expect, it } from 'vitest';
import {
  compressibleFill,
  programFill,
  Random,
  randomFill,
  textFill,
} from '../../../bench/data.ts';
import { encodeCompressedBlock } from '../../../src/format/compressed-block.ts';
import { Arena } from '../../../src/kernels/arena.ts';
import { createKernels, referenceKernels } from '../../../src/kernels/kernels.ts';
import { compressBlock, decompressBlock } from '../../../src/kernels/lz4.ts';

const BLOCK = 4096;
const ROWS = 64;

type Fill = (block: Uint8Array, seed: number) => void;

/** Repeats of all lengths at all distances, with literals of all lengths between. */
const patchwork: Fill = (block, seed) => {
  const random = new Random(seed);
  randomFill(block, seed);
  for (let at = 1 + random.below(40); at < BLOCK;) {
    const size = random.below(4) === 0 ? 1 + random.below(900) : 1 + random.below(30);
    const distance = 1 + random.below(random.below(3) === 0 ? Math.min(at, 20) : at);
    for (let i = 0; i < size && at < BLOCK; i++, at++) block[at] = block[at - distance]!;
    at += random.below(3) === 0 ? random.below(600) : random.below(20);
  }
};

/** Few different bytes: many false candidates, matches that overlap themselves. */
const fewSymbols: Fill = (block, seed) => {
  const random = new Random(seed);
  const symbols = 1 + random.below(5);
  for (let at = 0; at < BLOCK; at++) block[at] = random.below(symbols);
};

/** Noise, but for one repeat near one of the ends, where the format has rules of its own. */
const edges: Fill = (block, seed) => {
  const random = new Random(seed);
  randomFill(block, seed);
  const size = 4 + random.below(40);
  const to = random.below(2) === 0 ? random.below(64) : BLOCK - size - random.below(20);
  block.copyWithin(to, 2000, 2000 + size);
  if (random.below(2) === 0) block.fill(7, BLOCK - 1 - random.below(3000));
};

const SAMPLES: readonly [name: string, fill: Fill][] = [
  ['text', textFill],
  ['half noise', compressibleFill],
  ['noise', randomFill],
  ['programs', programFill],
  ['patchwork', patchwork],
  ['few symbols', fewSymbols],
  ['edges', edges],
  ['zeros', (block) => block.fill(0)],
  ['one byte', (block, seed) => block.fill(seed)],
];

/** The LZ4 block format written out, end rules included. */
function decodeStrictly(fragment: Uint8Array): Uint8Array {
  const out: number[] = [];
  let at = 0;
  const longer = (size: number): number => {
    if (size !== 15) return size;
    for (;;) {
      const byte = fragment[at++]!;
      size += byte;
      if (byte !== 255) return size;
    }
  };
  let lastMatch = 0;
  while (at < fragment.length) {
    const token = fragment[at++]!;
    const literals = longer(token >> 4);
    for (let i = 0; i < literals; i++) out.push(fragment[at++]!);
    if (at >= fragment.length) {
      expect(literals).toBeGreaterThanOrEqual(5);
      break;
    }
    lastMatch = out.length;
    const distance = fragment[at]! | (fragment[at + 1]! << 8);
    at += 2;
    const size = longer(token & 15) + 4;
    expect(distance).toBeGreaterThan(0);
    expect(distance).toBeLessThanOrEqual(out.length);
    for (let i = 0; i < size; i++) out.push(out[out.length - distance]!);
  }
  expect(lastMatch).toBeLessThanOrEqual(BLOCK - 12);
  return Uint8Array.from(out);
}

/** As the package wants it: behind its size. */
function withSize(fragment: Uint8Array): Buffer {
  const bytes = Buffer.alloc(4 + fragment.length);
  bytes.writeUInt32LE(BLOCK, 0);
  bytes.set(fragment, 4);
  return bytes;
}

const arena = new Arena(ROWS);
const wasm = createKernels(arena);
const reference = referenceKernels(arena);
for (let row = 0; row < ROWS; row++) arena.rowList[row] = row;
const rowOf = (region: Uint8Array, row: number): Uint8Array =>
  region.subarray(row * BLOCK, (row + 1) * BLOCK);
const fragmentOf = (row: number): Uint8Array =>
  rowOf(arena.fragments, row).subarray(0, arena.fragmentSizes[row]);

/** Fills all rows, row r with seed `seed` · ROWS + r, but `programs` go through the whole region. */
function fillRows(fill: Fill, seed: number): void {
  if (fill === programFill) return programFill(arena.blocks);
  for (let row = 0; row < ROWS; row++) fill(rowOf(arena.blocks, row), seed * ROWS + row);
}

describe.each(SAMPLES)('LZ4 of %s', (name, fill) => {
  it('is the same by both, fits its row, and other decoders read it', () => {
    for (let seed = 1; seed <= 2; seed++) {
      fillRows(fill, seed);
      reference.compress(0, ROWS);
      const sizes = arena.fragmentSizes.slice();
      const fragments = Array.from({ length: ROWS }, (_, row) => fragmentOf(row).slice());
      arena.fragments.fill(0xee);
      wasm.compress(0, ROWS);
      expect(arena.fragmentSizes).toEqual(sizes);
      for (let row = 0; row < ROWS; row++) {
        const block = rowOf(arena.blocks, row);
        const size = sizes[row]!;
        expect(size === 0).toBe(name === 'noise' || (name === 'edges' && size === 0));
        expect(size).toBeLessThanOrEqual(4059);
        if (size === 0) continue;
        expect(Buffer.compare(fragments[row]!, fragmentOf(row))).toBe(0);
        expect(Buffer.compare(uncompressSync(withSize(fragments[row]!)), block)).toBe(0);
        if (row % 8 === 0) {
          expect(Buffer.compare(decodeStrictly(fragments[row]!), block)).toBe(0);
        }
      }
    }
  });

  it('comes back by both, ours and what the package made', () => {
    fillRows(fill, 99);
    wasm.compress(0, ROWS);
    const into = new Uint8Array(BLOCK);
    for (let row = 0; row < ROWS; row++) {
      const block = rowOf(arena.blocks, row);
      for (const fragment of [
        fragmentOf(row).slice(),
        compressSync(Buffer.from(block)).subarray(4),
      ]) {
        if (fragment.length === 0 || fragment.length > 4059) continue;
        arena.verify.set(fragment);
        const { byteOffset: source } = arena.verify;
        arena.expanded.fill(0xee);
        expect(wasm.decompress(source, fragment.length, arena.expanded.byteOffset)).toBe(true);
        expect(Buffer.compare(arena.expanded, block)).toBe(0);
        expect(decompressBlock(fragment, into)).toBe(true);
        expect(Buffer.compare(into, block)).toBe(0);
      }
    }
  });

  it('is as small as that of the package, but for a hundredth', () => {
    let ours = 0;
    let theirs = 0;
    fillRows(fill, 7);
    wasm.compress(0, ROWS);
    for (let row = 0; row < ROWS; row++) {
      ours += arena.fragmentSizes[row]! || BLOCK;
      const size = compressSync(Buffer.from(rowOf(arena.blocks, row))).length - 4;
      theirs += size > 4059 ? BLOCK : size;
    }
    expect(ours).toBeLessThan(theirs * 1.01 + ROWS);
  });
});

describe('an LZ4 decoder', () => {
  const guard = 64;
  /** Both decoders' answers on `fragment`, which must agree; nothing beside the target changes. */
  function decodeBoth(fragment: Uint8Array): boolean {
    const { verify } = arena;
    verify.fill(0xa5, 0, 3 * BLOCK);
    verify.set(fragment, BLOCK - fragment.length + 4 * BLOCK);
    const target = verify.byteOffset + BLOCK;
    const source = verify.byteOffset + 5 * BLOCK - fragment.length;
    const ok = wasm.decompress(source, fragment.length, target);
    expect(verify.subarray(BLOCK - guard, BLOCK).every((byte) => byte === 0xa5)).toBe(true);
    expect(verify.subarray(2 * BLOCK, 2 * BLOCK + guard).every((byte) => byte === 0xa5)).toBe(true);
    const into = new Uint8Array(BLOCK);
    expect(decompressBlock(fragment, into)).toBe(ok);
    if (ok) expect(Buffer.compare(into, verify.subarray(BLOCK, 2 * BLOCK))).toBe(0);
    return ok;
  }

  it('stays within bounds on damaged fragments, and both decoders agree', () => {
    const random = new Random(11);
    let refused = 0;
    const fragment = new Uint8Array(BLOCK);
    const source = new Uint8Array(BLOCK);
    for (let seed = 0; seed < 900; seed++) {
      [textFill, patchwork, fewSymbols][seed % 3]!(source, seed);
      let size = compressBlock(source, fragment);
      if (size === 0) continue;
      if (seed % 4 === 0) size = 1 + random.below(size);
      for (let i = random.below(4); i >= 0; i--) fragment[random.below(size)] = random.below(256);
      if (!decodeBoth(fragment.slice(0, size))) refused++;
    }
    expect(refused).toBeGreaterThan(300);
  });

  it('stays within bounds on noise, and on what looks like long matches', () => {
    const random = new Random(12);
    for (let seed = 0; seed < 3000; seed++) {
      const fragment = new Uint8Array(1 + random.below(seed % 4 === 0 ? 4060 : 80));
      randomFill(fragment, seed);
      if (seed % 2 === 0) {
        // Tokens and lengths at the extremes, distances short and far.
        for (let at = 0; at < fragment.length; at++) {
          if (random.below(3) === 0)
            fragment[at] = [0xff, 0xf0, 0x0f, 0, 1, 8, 16][random.below(7)]!;
        }
      }
      decodeBoth(fragment);
    }
  });

  it('refuses an empty fragment, one that would be megabytes, short and long blocks', () => {
    const bomb = new Uint8Array(4059).fill(255);
    bomb.set([0x1f, 0, 1, 0]);
    expect(decodeBoth(bomb)).toBe(false);
    expect(decodeBoth(new Uint8Array(0))).toBe(false);
    const source = new Uint8Array(BLOCK);
    const fragment = new Uint8Array(BLOCK);
    textFill(source, 1);
    const size = compressBlock(source, fragment);
    expect(decodeBoth(fragment.slice(0, size))).toBe(true);
    expect(decodeBoth(fragment.slice(0, size - 1))).toBe(false);
    expect(decodeBoth(Uint8Array.from([...fragment.subarray(0, size), 0x10, 1]))).toBe(false);
  });

  it('finds slots of compressed blocks, and refuses damaged headers', () => {
    const fragments = [3, 4, 5].map((seed) => {
      const bytes = new Uint8Array(BLOCK);
      textFill(rowOf(arena.blocks, seed), seed);
      compressibleFill(rowOf(arena.blocks, seed).subarray(0, 400), seed);
      rowOf(arena.blocks, seed).fill(0, 1000);
      return bytes.slice(0, compressBlock(rowOf(arena.blocks, seed), bytes));
    });
    const block = rowOf(arena.verify, 0);
    encodeCompressedBlock(block, fragments);
    const expand = (slot: number): boolean => {
      const into = arena.expanded.byteOffset;
      const ok = wasm.expand(block.byteOffset, slot, into);
      expect(reference.expand(block.byteOffset, slot, into)).toBe(ok);
      return ok;
    };
    fragments.forEach((_, slot) => {
      expect(expand(slot)).toBe(true);
      expect(Buffer.compare(arena.expanded, rowOf(arena.blocks, 3 + slot))).toBe(0);
    });
    for (const slot of [3, 13, 14, -1, 1000]) expect(expand(slot)).toBe(false);
    const random = new Random(5);
    for (let i = 0; i < 2000; i++) {
      encodeCompressedBlock(block, fragments);
      block[random.below(i % 2 === 0 ? 36 : 600)] = random.below(256);
      expand(random.below(15));
    }
  });
});

it('a fragment of the twin on ordinary memory is the same', () => {
  const block = new Uint8Array(BLOCK);
  const fragment = new Uint8Array(BLOCK);
  textFill(block, 3);
  arena.blocks.set(block);
  wasm.compress(0, 1);
  expect(compressBlock(block, fragment)).toBe(arena.fragmentSizes[0]);
  expect(Buffer.compare(fragment.subarray(0, arena.fragmentSizes[0]), fragmentOf(0))).toBe(0);
});
