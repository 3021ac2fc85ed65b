import { beforeAll, describe, expect, it } from 'vitest';
import { Arena } from '../../../src/kernels/arena.ts';
import { createKernels, referenceKernels, type Kernels } from '../../../src/kernels/kernels.ts';
import { randomFill } from '../../../bench/data.ts';

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

  const blockAt = (row: number): number => arena.blocks.byteOffset + row * BLOCK;
  const verifyAt = (row: number): number => arena.verify.byteOffset + row * BLOCK;

  it('tell equal blocks from those that differ in any one byte', () => {
    for (const kernels of [wasm, reference]) {
      arena.verify.set(arena.blocks);
      for (let row = 0; row < ROWS; row++) {
        expect(kernels.equal(blockAt(row), verifyAt(row))).toBe(true);
      }
      expect(kernels.equal(blockAt(0), verifyAt(1))).toBe(false);
      expect(kernels.equal(blockAt(48), blockAt(49))).toBe(true);
      expect(kernels.equal(blockAt(24), blockAt(25))).toBe(false);
    }
    for (let at = 0; at < BLOCK; at++) {
      arena.verify[30 * BLOCK + at]! ^= 1;
      expect(wasm.equal(blockAt(30), verifyAt(30))).toBe(false);
      arena.verify[30 * BLOCK + at]! ^= 1;
    }
  });

  it('refuse rows and addresses outside of the arena', () => {
    for (const kernels of [wasm, reference]) {
      expect(() => kernels.hash(0, ROWS + 1)).toThrow('rows of a kernel');
      expect(() => kernels.compress(0, arena.rowList.length + 1)).toThrow('places of a kernel');
      arena.rowList[0] = ROWS;
      expect(() => kernels.compress(0, 1)).toThrow('row of a kernel');
      expect(() => kernels.equal(blockAt(0), arena.size - BLOCK + 1)).toThrow('address');
      expect(() => kernels.equal(0, blockAt(0))).toThrow('address');
      expect(() => kernels.expand(arena.size, 0, blockAt(0))).toThrow('address');
      expect(() => kernels.decompress(blockAt(0), arena.size, blockAt(1))).toThrow('address');
    }
  });
});
