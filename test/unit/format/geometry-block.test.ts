import { describe, expect, test } from 'vitest';
import { decodeGeometryBlock, encodeGeometryBlock } from '../../../src/format/geometry-block.ts';
import { codeOf, GEOMETRY, hex, reseal } from './support.ts';

const GOLDEN = hex(`
  64 6d 76 64 6f 30 30 31  05 00 00 00  05 00 00 00
  00 00 00 00  65 00 00 00 00 00 00 00  00 00 00 00
  c2 b0 25 6d 07 61 06 00  56 ba 43 9a ba 1d 43 67
  8c b1 1a 0d 44 d5 47 6a  00 00 00 00 00 00 00 00
  00 00 00 00  01 00 00 00 00 00 00 00  01 00 00 00
  d8 5c 0a 00 00 00 00 00  00 ff ff ff  00 00 00 00
  00  6c dc 38 15`);

describe('geometry block', () => {
  test('is the block that dm-vdo wrote', () => {
    const bytes = encodeGeometryBlock(GEOMETRY);
    expect(bytes.length).toBe(4096);
    expect(bytes.subarray(0, 101)).toEqual(GOLDEN);
    expect(bytes.subarray(101).every((byte) => byte === 0)).toBe(true);
    expect(decodeGeometryBlock(bytes)).toEqual(GEOMETRY);
  });

  test('version 4 has no bio offset and 93 bytes', () => {
    const geometry = { ...GEOMETRY, formatVersion: 4, sparse: true, indexMemory: 7 } as const;
    const bytes = encodeGeometryBlock(geometry);
    expect(decodeGeometryBlock(bytes)).toEqual(geometry);
    expect(bytes[12]).toBe(4);
    expect(bytes[20]).toBe(93);
    // The same fields, eight bytes earlier: region 0 at 56, memory at 80, sparse at 88.
    expect(bytes.subarray(56, 80)).toEqual(
      hex('00000000 0100000000000000 01000000 d85c0a0000000000'),
    );
    expect([bytes[80], bytes[88]]).toEqual([7, 1]);
    expect(bytes.subarray(93).every((byte) => byte === 0)).toBe(true);
  });

  test('keeps a bio offset, an absent index and a non-zero unused word', () => {
    for (const geometry of [
      { ...GEOMETRY, bioOffset: 100, indexStart: 101, dataStart: 679228 },
      { ...GEOMETRY, dataStart: 1, indexMemory: 0 },
      { ...GEOMETRY, unusedWord: 133524 },
    ]) {
      expect(decodeGeometryBlock(encodeGeometryBlock(geometry))).toEqual(geometry);
    }
  });

  test('any changed byte is noticed', () => {
    for (let at = 0; at < 4096; at++) {
      const bytes = encodeGeometryBlock(GEOMETRY);
      bytes[at] = bytes[at]! ^ 0x41;
      const expected =
        at < 8
          ? 'NotVdo'
          : at < 12
            ? 'Corrupt'
            : at < 28
              ? 'UnsupportedVersion'
              : at < 101
                ? 'ChecksumMismatch'
                : 'Corrupt';
      expect(
        codeOf(() => decodeGeometryBlock(bytes)),
        `byte ${at}`,
      ).toBe(expected);
    }
  });

  test('nonsense under a good checksum is corrupt', () => {
    const changes: [number, number][] = [
      [64, 1], // region 0 is not the index
      [76, 2], // region 1 is not the data
      [68, 0], // the index starts in block 0
      [86, 1], // the data region starts beyond any device
      [87, 255], // … and beyond 2^53
      [96, 2], // sparse is neither 0 nor 1
    ];
    for (const [at, value] of changes) {
      const bytes = encodeGeometryBlock(GEOMETRY);
      bytes[at] = value;
      reseal(bytes, 97);
      expect(
        codeOf(() => decodeGeometryBlock(bytes)),
        `byte ${at}`,
      ).toBe('Corrupt');
    }
    // The unused word after the memory setting is not looked at.
    const bytes = encodeGeometryBlock(GEOMETRY);
    bytes[92] = 1;
    reseal(bytes, 97);
    expect(decodeGeometryBlock(bytes)).toEqual(GEOMETRY);
  });

  test('short, empty and foreign blocks are no volume', () => {
    for (const bytes of [
      new Uint8Array(0),
      new Uint8Array(4096),
      new Uint8Array(4096).fill(0xff),
    ]) {
      expect(codeOf(() => decodeGeometryBlock(bytes))).toBe('NotVdo');
    }
  });
});
