import { describe, expect, test } from 'vitest';
import {
  encodeCompressedBlock,
  fragmentOffset,
  fragmentSize,
} from '../../../src/format/compressed-block.ts';
import { hex, random, randomBytes } from './support.ts';

describe('compressed block', () => {
  test('the header is the one dm-vdo wrote', () => {
    const bytes = new Uint8Array(4096).fill(0x11);
    encodeCompressedBlock(
      bytes,
      [229, 229, 229, 228].map((size) => new Uint8Array(size).fill(size)),
    );
    expect(bytes.subarray(0, 18)).toEqual(hex('01000000 00000000 e500 e500 e500 e400 0000'));
    expect(bytes.subarray(36 + 229 * 3 + 228).every((byte) => byte === 0)).toBe(true);
  });

  test('fragments come back from their slots', () => {
    const next = random(11);
    for (let round = 0; round < 15; round++) {
      const fragments: Uint8Array[] = [];
      let left = 4060;
      while (fragments.length < 14 && left > 0) {
        const size = 1 + next(Math.min(left, 800));
        fragments.push(randomBytes(next, size));
        left -= size;
      }
      const bytes = new Uint8Array(4096);
      encodeCompressedBlock(bytes, fragments);
      fragments.forEach((fragment, slot) => {
        const offset = fragmentOffset(bytes, slot);
        expect(fragmentSize(bytes, slot)).toBe(fragment.length);
        expect(bytes.subarray(offset, offset + fragment.length)).toEqual(fragment);
      });
      for (let slot = fragments.length; slot < 14; slot++)
        expect(fragmentSize(bytes, slot)).toBe(0);
    }
  });

  test('a full block fits exactly; more is a bug', () => {
    const bytes = new Uint8Array(4096);
    encodeCompressedBlock(bytes, [new Uint8Array(4059).fill(1), new Uint8Array(1).fill(2)]);
    expect(fragmentSize(bytes, 1)).toBe(1);
    expect(bytes[4095]).toBe(2);
    expect(() => encodeCompressedBlock(bytes, [new Uint8Array(4061)])).toThrow('do not fit');
    const fifteen = Array.from({ length: 15 }, () => new Uint8Array(1));
    expect(() => encodeCompressedBlock(bytes, fifteen)).toThrow('too many');
  });

  test('wrong versions, slots and sizes yield no fragment', () => {
    const image = new Uint8Array(4096);
    encodeCompressedBlock(image, [new Uint8Array(100).fill(1), new Uint8Array(50).fill(2)]);
    for (let at = 0; at < 8; at++) {
      const bytes = image.slice();
      bytes[at] = bytes[at]! ^ 1;
      expect(fragmentSize(bytes, 0), `byte ${at}`).toBe(0);
    }
    expect([-1, 2, 14, 100].map((slot) => fragmentSize(image, slot))).toEqual([0, 0, 0, 0]);
    image.set([0xff, 0xff], 8);
    expect([0, 1].map((slot) => fragmentSize(image, slot))).toEqual([0, 0]);
    // Two sizes that each fit, but not together.
    image.set([0xa0, 0x0f, 0x3d, 0x00], 8);
    expect([0, 1].map((slot) => fragmentSize(image, slot))).toEqual([4000, 0]);
  });
});
