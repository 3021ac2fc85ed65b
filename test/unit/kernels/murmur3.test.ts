import { describe, expect, it } from 'vitest';
import { RECORD_NAME_SEED } from '../../../src/base/constants.ts';
import { murmur3 } from '../../../src/kernels/murmur3.ts';

const ascii = (text: string): Uint8Array => new TextEncoder().encode(text);
const counting = (size: number): Uint8Array => Uint8Array.from({ length: size }, (_, i) => i);

function words(word: (j: bigint) => bigint): Uint8Array {
  const column = BigUint64Array.from({ length: 512 }, (_, j) => word(BigInt(j)));
  return new Uint8Array(column.buffer);
}

/** Published vectors: those of 4096 bytes as dm-vdo's kernel stores them. */
const VECTORS: readonly [name: string, bytes: Uint8Array, seed: number, hash: string][] = [
  ['zeros', new Uint8Array(4096), RECORD_NAME_SEED, '81a3ec86657ee7844a63fd811c8008b7'],
  ['i mod 256', counting(4096), RECORD_NAME_SEED, 'e780e2dafd9f88cdac7f54d5960be94c'],
  ['ff', new Uint8Array(4096).fill(255), RECORD_NAME_SEED, '2cf69009d52d6d3523e969b0c066121a'],
  [
    'Hello, VDO!',
    ascii('Hello, VDO! '.repeat(400)).subarray(0, 4096),
    RECORD_NAME_SEED,
    '2b52741259d30ac043101dd70e2f24cb',
  ],
  ['word j = j', words((j) => j), RECORD_NAME_SEED, 'f46566456b026c21d8b71fda4b402bdb'],
  [
    'word j = golden ratio + j',
    words((j) => 0x9e3779b97f4a7c15n + j),
    RECORD_NAME_SEED,
    '0c5de5da992f407cd7f59dc08d5d5900',
  ],
  ['empty', new Uint8Array(0), RECORD_NAME_SEED, '59fa93fb5bf05b18f08dec3848cb37a9'],
  ['a', ascii('a'), RECORD_NAME_SEED, 'f63b22c34dceee014284ecb0799be3f2'],
  ['bytes 0..8', counting(9), RECORD_NAME_SEED, 'b73b9285b7a39a7d54bd243904d96195'],
  ['bytes 0..14', counting(15), RECORD_NAME_SEED, 'bacd1763809c6dbe2c1586e19b5560b9'],
  [
    'the quick brown fox',
    ascii('The quick brown fox jumps over the lazy dog'),
    RECORD_NAME_SEED,
    '43796d74e3938645c389397e23fcfd54',
  ],
  [
    'the same, seed 0',
    ascii('The quick brown fox jumps over the lazy dog'),
    0,
    '6c1b07bc7bbc4be347939ac4a93c437a',
  ],
];

describe('murmur3', () => {
  it.each(VECTORS)('of %s is the published hash', (_, bytes, seed, hash) => {
    const into = new Uint8Array(18).fill(0xee);
    murmur3(bytes, seed, into, 1);
    expect(Buffer.from(into.subarray(1, 17)).toString('hex')).toBe(hash);
    expect([into[0], into[17]]).toEqual([0xee, 0xee]);
  });
});
