import { describe, expect, test } from 'vitest';
import {
  decodeReferenceBlock,
  encodeReferenceBlock,
  readCommitPoint,
} from '../../../src/format/reference-block.ts';
import { hex, random, randomBytes } from './support.ts';

describe('reference block', () => {
  test('is the block that dm-vdo wrote', () => {
    const bytes = new Uint8Array(4096).fill(0x99);
    encodeReferenceBlock(bytes, hex('fe fe fe fe 02 00 02'), 0, 4, 230);
    expect(bytes.subarray(0, 15)).toEqual(hex('e600040000000000 fe fe fe fe 02 00 02'));
    encodeReferenceBlock(bytes, hex('fe fe fe fe 02 ff 01'), 0, 72, 1352);
    expect(bytes.subarray(0, 15)).toEqual(hex('4805480000000000 fe fe fe fe 02 ff 01'));
    for (let sector = 0; sector < 8; sector++) {
      expect(readCommitPoint(bytes, sector)).toEqual({ sequence: 72, index: 1352 });
    }
  });

  test('counts of a slab come back block by block, the last one short', () => {
    const counts = randomBytes(random(5), 7966);
    const back = new Uint8Array(7966);
    const block = new Uint8Array(4096);
    for (let from = 0; from < counts.length; from += 4032) {
      block.fill(0x33);
      encodeReferenceBlock(block, counts, from, 2 ** 48 - 1, 65535);
      decodeReferenceBlock(block, back, from);
    }
    expect(back).toEqual(counts);
    expect(readCommitPoint(block, 7)).toEqual({ sequence: 2 ** 48 - 1, index: 65535 });
    // 7966 − 4032 = 3934 counts: seven full sectors and 406 more; the rest is zero.
    expect(block.subarray(7 * 512 + 8 + 406).every((byte) => byte === 0)).toBe(true);
  });

  test('count of offset o lies at sector o / 504, byte 8 + o mod 504', () => {
    const counts = new Uint8Array(4032);
    const block = new Uint8Array(4096);
    for (let o = 0; o < 4032; o += 97) {
      counts.fill(0);
      counts[o] = 200;
      encodeReferenceBlock(block, counts, 0, 0, 0);
      expect(block.indexOf(200)).toBe(Math.floor(o / 504) * 512 + 8 + (o % 504));
    }
  });

  test('decoding never writes past the counts', () => {
    const counts = new Uint8Array(10);
    decodeReferenceBlock(new Uint8Array(4096).fill(9), counts, 6);
    expect(Array.from(counts)).toEqual([0, 0, 0, 0, 0, 0, 9, 9, 9, 9]);
    decodeReferenceBlock(new Uint8Array(4096).fill(8), counts, 12);
    expect(Array.from(counts)).toEqual([0, 0, 0, 0, 0, 0, 9, 9, 9, 9]);
  });
});
