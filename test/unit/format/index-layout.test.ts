import { describe, expect, test } from 'vitest';
import {
  decodeIndexConfig,
  decodeIndexSave,
  decodeIndexSuperBlock,
  decodeRegionTable,
  encodeIndexConfig,
  encodeIndexSave,
  encodeIndexSuperBlock,
  encodeRegionTable,
} from '../../../src/format/index-layout.ts';
import { codeOf, hex } from './support.ts';

function block(text: string): Uint8Array {
  const bytes = new Uint8Array(4096);
  bytes.set(hex(text));
  return bytes;
}

/** What dm-vdo wrote for 0.25 GB, dense, region at block 1. */
const SUPER = block(`31306e6752626c41d75c0a0000000000 01000100 0700 6800
  0100000000000000 0100000000000000 00000000 0100 ffff
  0200000000000000 0100000000000000 00000000 6400 ffff
  0300000000000000 d45c0a0000000000 00000000 6500 0000
  0300000000000000 08c0080000000000 00000000 c900 ffff
  0bc0080000000000 66ce000000000000 00000000 ca00 0000
  718e090000000000 66ce000000000000 00000000 ca00 0100
  d75c0a0000000000 0100000000000000 00000000 6600 ffff
  2a414c424952454f2a53494e474c452a46494c452a4c41594f55542a3030312a
  5320f2e7cb04eb183d62909b5320f2e7cb04eb183d62909b5320f2e7cb04eb18
  97decb8985dfeacb 03000000 00100000 0100 0200 00000000 0102000000000000 0300000000000000`);

const CONFIG = block(`414c42494330362e3032 40000000 00040000 00000000 07000000 00000000
  00100000 00800000 00000000 4181215f07610600`);

const SAVE = block(`31306e6752626c4166ce000000000000 02000100 0600 4000
  0bc0080000000000 0100000000000000 00000000 0100 ffff
  0cc0080000000000 0300000000000000 00000000 2d01 ffff
  0fc0080000000000 3066000000000000 00000000 2e01 0000
  3f26090000000000 3066000000000000 00000000 2e01 0100
  6f8c090000000000 0102000000000000 00000000 2f01 ffff
  708e090000000000 0100000000000000 00000000 0000 ffff
  ea97370ea2010000 ec1c9d2dfcee31ce 01000000 00000000 ffffffff 2d010000
  0300000000000000 0000000000000000 0200000000000000 0000000000000000`);

describe('the super block of the index', () => {
  test('is the bytes that dm-vdo wrote, both ways', () => {
    const table = decodeRegionTable(SUPER);
    expect(table.type).toBe(1);
    expect(table.regions.map(({ kind }) => kind)).toEqual([1, 100, 101, 201, 202, 202, 102]);
    const value = decodeIndexSuperBlock(table.payload);
    expect(value).toMatchObject({ openChapterBlocks: 513, pageMapBlocks: 3 });
    const back = encodeRegionTable({ ...table, payload: encodeIndexSuperBlock(value) });
    expect(back).toEqual(SUPER);
  });

  test('of another version, label or shape is refused', () => {
    const payload = 24 + 7 * 24;
    const change = (at: number, byte: number): string => {
      const bytes = SUPER.slice();
      bytes[at] = byte;
      return codeOf(() => decodeIndexSuperBlock(decodeRegionTable(bytes).payload));
    };
    expect(change(0, 0)).toBe('NotVdo');
    expect(change(18, 2)).toBe('UnsupportedVersion');
    expect(change(20, 200)).toBe('Corrupt');
    expect(change(payload, 0)).toBe('Corrupt');
    expect(change(payload + 72, 8)).toBe('UnsupportedVersion');
    // Version 7 has more than this one holds.
    expect(change(payload + 72, 7)).toBe('Corrupt');
    expect(change(payload + 76, 1)).toBe('Corrupt');
    expect(change(payload + 80, 2)).toBe('Corrupt');
    expect(change(payload + 82, 3)).toBe('Corrupt');
    expect(change(15, 1)).toBe('Corrupt');
  });
});

describe('the configuration of the index', () => {
  test('is the bytes that dm-vdo wrote, both ways', () => {
    const { config, remapping } = decodeIndexConfig(CONFIG);
    expect(remapping).toBeNull();
    expect(config).toMatchObject({ recordPages: 64, chapters: 1024, meanDelta: 4096 });
    expect(encodeIndexConfig(config)).toEqual(CONFIG);
  });

  test('of a converted volume names the chapter that was moved; other versions are refused', () => {
    const moved = CONFIG.slice();
    moved[6] = 0x38;
    moved.set([5, 1], 50);
    moved[58] = 7;
    expect(decodeIndexConfig(moved).remapping).toEqual({ virtual: 261, physical: 7 });
    expect(codeOf(() => decodeIndexConfig(new Uint8Array(4096)))).toBe('Corrupt');
    moved[6] = 0x39;
    expect(codeOf(() => decodeIndexConfig(moved))).toBe('Corrupt');
  });
});

describe('a save of the index', () => {
  test('is the bytes that dm-vdo wrote, both ways', () => {
    const table = decodeRegionTable(SAVE);
    const save = decodeIndexSave(table.payload);
    expect(save).toMatchObject({ timestamp: 1795534854122, newest: 3, oldest: 0 });
    expect(encodeRegionTable({ ...table, payload: encodeIndexSave(save) })).toEqual(SAVE);
  });

  test('before the first chapter names none as its last', () => {
    const payload = encodeIndexSave({
      timestamp: 1,
      nonce: new Uint8Array(8),
      newest: 0,
      oldest: 0,
    });
    expect(payload.subarray(48, 56)).toEqual(new Uint8Array(8).fill(255));
    payload[16] = 2;
    expect(codeOf(() => decodeIndexSave(payload))).toBe('UnsupportedVersion');
    expect(codeOf(() => decodeIndexSave(new Uint8Array(24)))).toBe('Corrupt');
  });
});
