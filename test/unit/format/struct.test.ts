import { describe, expect, test } from 'vitest';
import {
  i32,
  point,
  raw,
  struct,
  u16,
  u32,
  u64,
  u8,
  unused,
  zero,
} from '../../../src/format/struct.ts';
import { codeOf, hex } from './support.ts';

const sample = struct(
  'Sample',
  {
    a: u8('a'),
    b: u16('b'),
    c: u32('c'),
    d: u64('d'),
    e: i32('e'),
    f: raw(3, 'f'),
    g: zero(2),
    h: unused(2),
    p: point('p'),
  },
  34,
);

const value = {
  a: 1,
  b: 0x0302,
  c: 0x87060504,
  d: 2 ** 53 - 1,
  e: -256,
  f: hex('aabbcc'),
  p: { sequence: 2 ** 48 - 1, index: 7 },
};

describe('struct', () => {
  test('offsets, size, bytes and back', () => {
    expect(sample.offset).toEqual({ a: 0, b: 1, c: 3, d: 7, e: 15, f: 19, g: 22, h: 24, p: 26 });
    const bytes = new Uint8Array(40).fill(0xee);
    sample.write(bytes, value, 3);
    expect(bytes).toEqual(
      hex(`eeeeee 01 0203 04050687 ffffffffffff1f00 00ffffff aabbcc 0000 0000
           0700 ffffffffffff eeeeee`),
    );
    expect(sample.read(bytes, 3)).toEqual(value);
    expect(sample.decode(bytes, 3)).toEqual(value);
  });

  test('reserved bytes are checked, unused ones are not', () => {
    const bytes = new Uint8Array(34);
    bytes[24] = 1;
    expect(codeOf(() => sample.decode(bytes))).toBe('none');
    bytes[23] = 1;
    expect(codeOf(() => sample.decode(bytes))).toBe('Corrupt');
    expect(sample.read(bytes).a).toBe(0);
  });

  test('a 64-bit field above 2^53 reads as NaN and decodes as corrupt', () => {
    const bytes = new Uint8Array(34);
    bytes[13] = 0x20;
    expect(sample.read(bytes).d).toBeNaN();
    expect(codeOf(() => sample.decode(bytes))).toBe('Corrupt');
    expect(codeOf(() => sample.decode(bytes.subarray(0, 33)))).toBe('Corrupt');
  });

  test('a declaration that contradicts its size is a bug', () => {
    expect(() => struct('Wrong', { a: u8('') }, 2)).toThrow('declared with 1 bytes, not 2');
  });
});
