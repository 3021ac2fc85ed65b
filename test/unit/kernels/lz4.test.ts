import { describe, expect, it } from 'vitest';
import { compressibleFill, Random, randomFill, textFill } from '../../../bench/data.ts';
import { Arena } from '../../../src/kernels/arena.ts';
import { compressBlock, decompressBlock } from '../../../src/kernels/lz4.ts';

const BLOCK = 4096;
const SAMPLES: readonly [name: string, fill: (block: Uint8Array, seed: number) => void][] = [
  ['text', textFill],
  ['half noise', compressibleFill],
  ['zeros', (block) => block.fill(0)],
  ['one byte', (block, seed) => block.fill(seed)],
];

/** The LZ4 block format written out, as an independent judge of what the package produced. */
function decodeRaw(fragment: Uint8Array): number[] {
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
  while (at < fragment.length) {
    const token = fragment[at++]!;
    const literals = longer(token >> 4);
    for (let i = 0; i < literals; i++) out.push(fragment[at++]!);
    if (at >= fragment.length) break;
    const distance = fragment[at]! | (fragment[at + 1]! << 8);
    at += 2;
    const size = longer(token & 15) + 4;
    for (let i = 0; i < size; i++) out.push(out[out.length - distance]!);
  }
  return out;
}

describe('lz4', () => {
  it.each(SAMPLES)('%s comes back, through raw LZ4 blocks', (_, fill) => {
    const source = new Uint8Array(BLOCK);
    const fragment = new Uint8Array(BLOCK);
    const back = new Uint8Array(BLOCK);
    for (let seed = 1; seed <= 10; seed++) {
      fill(source, seed);
      const size = compressBlock(source, fragment);
      expect(size).toBeGreaterThan(0);
      expect(size).toBeLessThanOrEqual(4059);
      expect(Uint8Array.from(decodeRaw(fragment.subarray(0, size)))).toEqual(source);
      expect(decompressBlock(fragment.subarray(0, size), back)).toBe(true);
      expect(back).toEqual(source);
    }
  });

  it('noise does not fit, and its fragment is left alone', () => {
    const source = new Uint8Array(BLOCK);
    const fragment = new Uint8Array(BLOCK).fill(0xee);
    for (let seed = 1; seed <= 10; seed++) {
      randomFill(source, seed);
      expect(compressBlock(source, fragment)).toBe(0);
    }
    expect(fragment.every((byte) => byte === 0xee)).toBe(true);
  });

  it('works on shared memory', () => {
    const arena = new Arena(2);
    textFill(arena.blocks, 3);
    const size = compressBlock(arena.blocks.subarray(BLOCK), arena.fragments.subarray(BLOCK));
    expect(
      decompressBlock(
        arena.fragments.subarray(BLOCK, BLOCK + size),
        arena.verify.subarray(0, BLOCK),
      ),
    ).toBe(true);
    expect(arena.verify.slice(0, BLOCK)).toEqual(arena.blocks.slice(BLOCK));
  });

  it('a damaged fragment never crashes, and is refused unless it makes exactly 4096 bytes', () => {
    const random = new Random(11);
    const source = new Uint8Array(BLOCK);
    const fragment = new Uint8Array(BLOCK);
    const into = new Uint8Array(BLOCK);
    let refused = 0;
    for (let seed = 0; seed < 900; seed++) {
      textFill(source, seed);
      let size = compressBlock(source, fragment);
      if (seed % 3 === 0) size = 1 + random.below(size);
      for (let i = random.below(4); i >= 0; i--) fragment[random.below(size)] = random.below(256);
      into.fill(0xee);
      if (decompressBlock(fragment.subarray(0, size), into)) continue;
      refused++;
      expect(into.every((byte) => byte === 0xee)).toBe(true);
    }
    expect(refused).toBeGreaterThan(300);
  });

  it('a fragment that would expand to megabytes, an empty one and noise are refused', () => {
    const into = new Uint8Array(BLOCK);
    const bomb = new Uint8Array(4059).fill(255);
    bomb.set([0x1f, 0, 1, 0]);
    const before = process.memoryUsage().rss;
    expect(decompressBlock(bomb, into)).toBe(false);
    expect(decompressBlock(new Uint8Array(0), into)).toBe(false);
    expect(decompressBlock(new Uint8Array(5000), into)).toBe(false);
    for (let seed = 0; seed < 1000; seed++) {
      const noise = new Uint8Array(1 + (seed % 200));
      randomFill(noise, seed);
      expect(decompressBlock(noise, into)).toBe(false);
    }
    expect(process.memoryUsage().rss - before).toBeLessThan(256 * 1024 * 1024);
  });

  it('a short or a long block is refused', () => {
    const source = new Uint8Array(BLOCK);
    const fragment = new Uint8Array(BLOCK);
    textFill(source, 1);
    const size = compressBlock(source, fragment);
    // A last literal more or less.
    const token = Uint8Array.from([...fragment.subarray(0, size), 0x10, 1]);
    expect(decompressBlock(token, new Uint8Array(BLOCK))).toBe(false);
    expect(decompressBlock(fragment.subarray(0, size - 1), new Uint8Array(BLOCK))).toBe(false);
  });
});
