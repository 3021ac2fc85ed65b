import { describe, expect, test } from 'vitest';
import {
  decodeSuperBlock,
  encodeSuperBlock,
  stateName,
  type SuperBlock,
} from '../../../src/format/super-block.ts';
import { setU64 } from '../../../src/base/bytes.ts';
import { codeOf, hex, reseal, SUPER_BLOCK } from './support.ts';

const GOLDEN = hex(`
  00000000 0c000000 00000000 a201000000000000
  00000000   43000000 00000000   29000000 00000000
  01000000   0000000000000000   0000000000000000
  0edc080000000000 0000140000000000
  0020000000000000 0080000000000000 e000000000000000
  c2b0256d07610600
  01000000 03000000 00000000 7500000000000000
  c07f130000000000 c07f130000000000 04
  01 155d0a0000000000 0000000000000000 ab22090000000000
  02 c07f130000000000 0000000000000000 0080000000000000
  03 c0ff130000000000 0000000000000000 4000000000000000
  00 d95c0a0000000000 0000000000000000 3c00000000000000
  02000000 07000000 00000000 1800000000000000
  0100000000000000 0000000000000000 0000000000000000
  03000000 02000000 00000000 4900000000000000
  0020000000000000 1e1f000000000000 0200000000000000 e000000000000000
  a800000000000000 d000000000000000 de00000000000000
  155d0a0000000000 157d130000000000 00
  04000000 02000000 00000000 2000000000000000
  0100000000000000 0000000000000000 d95c0a0000000000 3c00000000000000
  7c7cdd98`);

function resealed(change: (bytes: Uint8Array) => void): Uint8Array {
  const bytes = encodeSuperBlock(SUPER_BLOCK);
  change(bytes);
  reseal(bytes, 434);
  return bytes;
}

describe('super block', () => {
  test('is the block that dm-vdo wrote, checksum included', () => {
    const bytes = encodeSuperBlock(SUPER_BLOCK);
    expect(bytes.length).toBe(4096);
    expect(bytes.subarray(0, 438)).toEqual(GOLDEN);
    expect(bytes.subarray(438).every((byte) => byte === 0)).toBe(true);
    expect(decodeSuperBlock(bytes)).toEqual(SUPER_BLOCK);
  });

  test('round trip of every field, partitions in any order', () => {
    const other: SuperBlock = {
      ...SUPER_BLOCK,
      unusedWord: 133524,
      state: 5,
      completeRecoveries: 300,
      readOnlyRecoveries: 2,
      journalStart: 2 ** 48 - 1,
      logicalBlocks: 2 ** 40,
      logicalBlocksUsed: 4943,
      blockMapDataBlocks: 59,
      zoneCount: 16,
      partitionOrder: [0, 3, 2, 1],
    };
    expect(decodeSuperBlock(encodeSuperBlock(other))).toEqual(other);
  });

  test('any changed byte is noticed', () => {
    for (let at = 0; at < 4096; at++) {
      const bytes = encodeSuperBlock(SUPER_BLOCK);
      bytes[at] = bytes[at]! ^ 0x41;
      expect(
        codeOf(() => decodeSuperBlock(bytes)),
        `byte ${at}`,
      ).not.toBe('none');
    }
  });

  test('a smaller announced size is accepted, a larger one is not', () => {
    expect(decodeSuperBlock(resealed((bytes) => setU64(bytes, 12, 417)))).toEqual(SUPER_BLOCK);
    expect(codeOf(() => decodeSuperBlock(resealed((bytes) => setU64(bytes, 12, 419))))).toBe(
      'UnsupportedVersion',
    );
  });

  test.each([
    ['super block version', 4, 'UnsupportedVersion'],
    ['volume version', 24, 'UnsupportedVersion'],
    ['component version', 32, 'UnsupportedVersion'],
    ['layout id', 108, 'Corrupt'],
    ['layout version', 112, 'UnsupportedVersion'],
    ['layout size', 120, 'UnsupportedVersion'],
    ['journal version', 249, 'UnsupportedVersion'],
    ['depot version', 293, 'UnsupportedVersion'],
    ['block map version', 386, 'UnsupportedVersion'],
    ['partition count', 144, 'Corrupt'],
    ['partition id', 145, 'Corrupt'],
    ['reserved word of a partition', 154, 'Corrupt'],
    ['state', 40, 'Corrupt'],
    ['slab size', 76, 'Corrupt'],
    ['journal size', 84, 'Corrupt'],
    ['slab journal size', 93, 'Corrupt'],
    ['first slab', 365, 'Corrupt'],
    ['zone count', 381, 'Corrupt'],
    ['flat origin', 402, 'Corrupt'],
    ['flat count', 410, 'Corrupt'],
    ['root origin', 418, 'Corrupt'],
    ['root count', 426, 'Corrupt'],
  ] as const)('%s that makes no sense, under a good checksum', (_name, at, code) => {
    const bytes = resealed((b) => {
      b[at] = b[at]! ^ 0x58;
    });
    expect(codeOf(() => decodeSuperBlock(bytes))).toBe(code);
  });

  test('a field above 2^53 is corrupt', () => {
    for (const at of [44, 52, 60, 68, 128, 265, 273, 281, 349, 373]) {
      const bytes = resealed((b) => b.fill(0xff, at, at + 8));
      expect(
        codeOf(() => decodeSuperBlock(bytes)),
        `field at ${at}`,
      ).toBe('Corrupt');
    }
  });

  test('a partition that occurs twice is corrupt', () => {
    const bytes = resealed((b) => {
      b[170] = 1;
    });
    expect(codeOf(() => decodeSuperBlock(bytes))).toBe('Corrupt');
  });

  test('states have names', () => {
    expect([0, 1, 2, 3, 4, 5, 6, 7].map(stateName)).toEqual([
      'dirty',
      'new',
      'clean',
      'read-only',
      'force-rebuild',
      'recovering',
      'replaying',
      'rebuild-for-upgrade',
    ]);
    expect(stateName(9)).toBe('unknown (9)');
  });
});
