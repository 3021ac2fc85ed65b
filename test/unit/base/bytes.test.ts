/** Copies between memory that is shared and memory that is not. */
import { describe, expect, test } from 'vitest';
import { copyBytes } from '../../../src/base/bytes.ts';

const shared = (length: number): Buffer => Buffer.from(new SharedArrayBuffer(length));

describe('copyBytes', () => {
  test.for([
    [0, 100, 0],
    [3, 60, 1],
    [28, 100, 50],
    [7, 8, 99],
    [5, 5, 10],
  ] as const)('moves bytes %i to %i to place %i, and no others', ([start, end, at]) => {
    const source = Buffer.from(Array.from({ length: 100 }, (_, i) => i + 1));
    for (const make of [shared, Buffer.alloc]) {
      const from = make(100);
      source.copy(from);
      const target = make(200).fill(0xee);
      const expected = Buffer.alloc(200, 0xee);
      source.copy(expected, at, start, end);
      copyBytes(from, start, end, target, at);
      expect(Buffer.compare(target, expected)).toBe(0);
    }
  });
});
