import { beforeAll, describe, expect, it } from 'vitest';
import { Arena } from '../../../src/kernels/arena.ts';
import { createKernels, referenceKernels, type Kernels } from '../../../src/kernels/kernels.ts';
import { compressBlock } from '../../../src/kernels/lz4.ts';
import { Random, randomFill, textFill } from '../../../bench/data.ts';

const ROWS = 64;
const BLOCK = 4096;

/** Blocks that a careless kernel gets wrong: one bit anywhere, runs of ff, equal words, halves. */
function fillAdversarial(blocks: Uint8Array): void {
  blocks.fill(0);
  const row = (r: number): Uint8Array => blocks.subarray(r * BLOCK, (r + 1) * BLOCK);
  const places = [0, 1, 15, 16, 63, 64, 127, 2047, 2048, 4031, 4032, 4095];
  places.forEach((at, r) => (row(r)[at] = 0x80));
  places.forEach((at, r) => (row(12 + r)[at] = 1));
  row(24).fill(255);
  row(25).fill(0x80);
  for (let i = 0; i < BLOCK; i += 8) row(26)[i + 7] = 0x80; // −0 in every word
  for (let i = 0; i < BLOCK; i++) row(27)[i] = i;
  row(28).fill(255, 0, 2048);
  row(29).fill(255, 2048);
  for (let r = 30; r < 48; r++) randomFill(row(r), r);
  // Rows 48 … stay zero but one, so that pairs are torn apart by zeros.
  row(50).fill(7);
}

describe('kernels', () => {
  let arena: Arena;
  let wasm: Kernels;
  let reference: Kernels;
  beforeAll(() => {
    arena = new Arena(ROWS);
    wasm = createKernels(arena);
    reference = referenceKernels(arena);
    fillAdversarial(arena.blocks);
  });

  const results = (kernels: Kernels, first: number, end: number): [string, string] => {
    arena.names.fill(0xaa);
    arena.zero.fill(0xaa);
    kernels.hash(first, end);
    return [Buffer.from(arena.names).toString('hex'), Buffer.from(arena.zero).toString('hex')];
  };

  it.each([
    [0, ROWS],
    [0, 0],
    [3, 4],
    [11, 52],
    [48, 50],
    [50, 51],
    [63, 64],
  ])('hash rows %i … %i as the reference does, and no others', (first, end) => {
    expect(results(wasm, first, end)).toEqual(results(reference, first, end));
  });

  it('hash random blocks as the reference does', () => {
    const copy = arena.blocks.slice();
    for (let seed = 1; seed <= 5; seed++) {
      randomFill(arena.blocks, seed);
      expect(results(wasm, 0, ROWS)).toEqual(results(reference, 0, ROWS));
    }
    arena.blocks.set(copy);
  });

  it('flag exactly the blocks of zeros', () => {
    wasm.hash(0, ROWS);
    const zeros = [...arena.zero.keys()].filter((row) => arena.zero[row] === 1);
    expect(zeros).toEqual([48, 49, ...Array.from({ length: 13 }, (_, i) => 51 + i)]);
  });

  it('tell equal blocks from those that differ in any one byte', () => {
    for (const kernels of [wasm, reference]) {
      arena.verify.set(arena.blocks);
      for (let row = 0; row < ROWS; row++) expect(kernels.equalsVerify(row, row)).toBe(true);
      expect(kernels.equalsVerify(0, 1)).toBe(false);
      expect(kernels.rowsEqual(48, 49)).toBe(true);
      expect(kernels.rowsEqual(24, 25)).toBe(false);
    }
    for (let at = 0; at < BLOCK; at++) {
      arena.verify[30 * BLOCK + at]! ^= 1;
      expect(wasm.equalsVerify(30, 30)).toBe(false);
      arena.verify[30 * BLOCK + at]! ^= 1;
    }
  });

  it('probe for what LZ4 could shrink as the reference does', () => {
    const copy = arena.blocks.slice();
    const probes = (kernels: Kernels): boolean[] =>
      Array.from({ length: ROWS }, (_, row) => kernels.isCompressible(row));
    expect(probes(wasm)).toEqual(probes(reference));
    for (let seed = 1; seed <= 20; seed++) {
      // Noise with a repeat of some length somewhere, around the limit in most blocks.
      randomFill(arena.blocks, seed);
      const random = new Random(seed);
      for (let row = 0; row < ROWS; row++) {
        const from = random.below(4000);
        const to = random.below(4000);
        const size = random.below(Math.min(96, BLOCK - Math.max(from, to)));
        arena.blocks.copyWithin(row * BLOCK + to, row * BLOCK + from, row * BLOCK + from + size);
      }
      expect(probes(wasm)).toEqual(probes(reference));
    }
    arena.blocks.set(copy);
  });

  it('probe yes for every block that LZ4 brings well below a block', () => {
    const block = arena.blocks.subarray(0, BLOCK);
    const copy = block.slice();
    const fragment = new Uint8Array(BLOCK);
    const text = new Uint8Array(BLOCK);
    let no = 0;
    for (let seed = 1; seed <= 400; seed++) {
      const random = new Random(seed);
      randomFill(block, seed);
      textFill(text, seed);
      // A stretch of text, or a repeat of what came before, in noise.
      const at = 600 + random.below(BLOCK - 1200);
      const size = random.below(600);
      if (seed % 2 === 0) block.set(text.subarray(0, size), at);
      else block.copyWithin(at, at - 600, at - 600 + size);
      const fragmentSize = compressBlock(block, fragment);
      if (wasm.isCompressible(0)) continue;
      no++;
      expect(fragmentSize === 0 || fragmentSize > 3800).toBe(true);
    }
    expect(no).toBeGreaterThan(30);
    block.set(copy);
  });

  it('refuse rows outside of the arena', () => {
    for (const kernels of [wasm, reference]) {
      expect(() => kernels.hash(0, ROWS + 1)).toThrow('rows to hash');
      expect(() => kernels.equalsVerify(ROWS, 0)).toThrow();
      expect(() => kernels.rowsEqual(-1, 0)).toThrow();
      expect(() => kernels.isCompressible(ROWS)).toThrow();
    }
  });
});
