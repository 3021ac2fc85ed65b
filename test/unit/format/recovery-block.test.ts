import { describe, expect, test } from 'vitest';
import {
  beginRecoveryBlock,
  checkByte,
  isSectorValid,
  readRecoveryEntry,
  readRecoveryHeader,
  recoveryEntryCount,
  sectorEntryCount,
  setRecoveryEntry,
  setRecoveryHeads,
  usableEntryCount,
} from '../../../src/format/recovery-block.ts';
import { hex, NONCE, random } from './support.ts';

function begun(sequence = 1, journalBlocks = 32768): Uint8Array {
  const bytes = new Uint8Array(4096).fill(0xee);
  beginRecoveryBlock(bytes, {
    sequence,
    nonce: NONCE,
    journalBlocks,
    recoveryCount: 0,
    blockMapHead: 1,
    slabJournalHead: 1,
    logicalBlocksUsed: 0,
    blockMapDataBlocks: 0,
  });
  return bytes;
}

function fill(bytes: Uint8Array, from: number, to: number): void {
  for (let i = from; i < to; i++) setRecoveryEntry(bytes, i, 0, 1000 + i, i, 5000 + i, 1, 0, 0);
}

describe('recovery journal block', () => {
  test('header and entries are the bytes that dm-vdo wrote', () => {
    const bytes = begun();
    setRecoveryEntry(bytes, 0, 1, 679129, 0, 679189, 1, 0, 0);
    setRecoveryEntry(bytes, 1, 1, 679189, 0, 679190, 1, 0, 0);
    for (let i = 2; i < 217; i++) setRecoveryEntry(bytes, i, 0, 1089, 67, 460, 2, 228, 3);
    expect(bytes.subarray(0, 53)).toEqual(
      hex(`0100000000000000 0100000000000000 0100000000000000 c2b0256d07610600
           03 d900 0000000000000000 0000000000000000 80 00`),
    );
    expect(bytes.subarray(53, 512).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(512, 512 + 3 + 48)).toEqual(
      hex(`80 00 1f  0100 d95c0a00 01155d0a00 0000000000  0100 155d0a00 01165d0a00 0000000000
           0c01 41040000 02cc010000 03e4000000`),
    );
    expect(readRecoveryEntry(bytes, 216)).toEqual({
      operation: 0,
      pagePbn: 1089,
      slot: 67,
      newPbn: 460,
      newState: 2,
      oldPbn: 228,
      oldState: 3,
    });
    expect(bytes.subarray(7 * 512 + 499).every((byte) => byte === 0)).toBe(true);
  });

  test('check bytes tell the laps apart', () => {
    expect([447, 448, 506].map((sequence) => checkByte(sequence, 64))).toEqual([0x86, 0x87, 0x87]);
    expect(checkByte(1, 32768)).toBe(0x80);
    expect(checkByte(128 * 64, 64)).toBe(0x80);
    expect(checkByte(2 ** 48 - 1, 64)).toBe(0xff);
  });

  test('header round trip; heads are refreshed in place; the recovery count is a byte', () => {
    const bytes = new Uint8Array(4096);
    beginRecoveryBlock(bytes, {
      sequence: 2 ** 48 - 1,
      nonce: NONCE,
      journalBlocks: 64,
      recoveryCount: 515,
      blockMapHead: 7,
      slabJournalHead: 8,
      logicalBlocksUsed: 2 ** 40,
      blockMapDataBlocks: 2 ** 33,
    });
    setRecoveryHeads(bytes, 2 ** 41, 2 ** 42);
    expect(readRecoveryHeader(bytes)).toEqual({
      blockMapHead: 2 ** 41,
      slabJournalHead: 2 ** 42,
      sequence: 2 ** 48 - 1,
      nonce: NONCE,
      metadataType: 3,
      entryCount: 0,
      logicalBlocksUsed: 2 ** 40,
      blockMapDataBlocks: 2 ** 33,
      checkByte: 0xff,
      recoveryCount: 3,
    });
    bytes.fill(0xff, 0, 8);
    expect(readRecoveryHeader(bytes).blockMapHead).toBeNaN();
  });

  test('entries of every shape come back, and are counted', () => {
    const next = random(7);
    const bytes = begun(9, 64);
    const entries = [];
    for (let i = 0; i < 217; i++) {
      const entry = {
        operation: next(2),
        pagePbn: next(2 ** 18) * 2 ** 18 + next(2 ** 18),
        slot: next(812),
        newPbn: next(2 ** 18) * 2 ** 18 + next(2 ** 18),
        newState: next(16),
        oldPbn: next(2 ** 18) * 2 ** 18 + next(2 ** 18),
        oldState: next(16),
      };
      entries.push(entry);
      const { operation, pagePbn, slot, newPbn, newState, oldPbn, oldState } = entry;
      setRecoveryEntry(bytes, i, operation, pagePbn, slot, newPbn, newState, oldPbn, oldState);
      expect(recoveryEntryCount(bytes)).toBe(i + 1);
      expect(usableEntryCount(bytes)).toBe(i + 1);
    }
    expect(entries.map((_, i) => readRecoveryEntry(bytes, i))).toEqual(entries);
  });

  test('sectors not reached are zero and do not count', () => {
    const bytes = begun();
    fill(bytes, 0, 40);
    expect([1, 2, 3].map((sector) => isSectorValid(bytes, sector))).toEqual([true, true, false]);
    expect([1, 2, 3].map((sector) => sectorEntryCount(bytes, sector))).toEqual([31, 9, 0]);
    expect(bytes.subarray(3 * 512).every((byte) => byte === 0)).toBe(true);
  });

  test('every mix of the sectors of two writes yields at least the older entries', () => {
    const older = begun();
    fill(older, 0, 40);
    const newer = older.slice();
    fill(newer, 40, 100);
    for (let mask = 0; mask < 256; mask++) {
      const torn = older.slice();
      for (let sector = 0; sector < 8; sector++) {
        if (mask & (1 << sector)) {
          torn.set(newer.subarray(sector * 512, (sector + 1) * 512), sector * 512);
        }
      }
      const usable = usableEntryCount(torn);
      expect(usable).toBeGreaterThanOrEqual(40);
      expect(usable).toBeLessThanOrEqual(recoveryEntryCount(torn));
      if ((mask & 0x1f) === 0x1f) expect(usable).toBe(100);
    }
  });

  test('a damaged sector ends the usable entries', () => {
    for (let sector = 1; sector < 8; sector++) {
      for (const at of [0, 1]) {
        const bytes = begun();
        fill(bytes, 0, 217);
        bytes[sector * 512 + at] = bytes[sector * 512 + at]! ^ 0x10;
        expect(usableEntryCount(bytes)).toBe((sector - 1) * 31);
      }
      const bytes = begun();
      fill(bytes, 0, 217);
      bytes[sector * 512 + 2] = 32;
      expect(usableEntryCount(bytes)).toBe((sector - 1) * 31);
      bytes[sector * 512 + 2] = 5;
      expect(usableEntryCount(bytes)).toBe((sector - 1) * 31 + 5);
    }
    const bytes = begun();
    fill(bytes, 0, 217);
    bytes.fill(0xff, 33, 35);
    expect(usableEntryCount(bytes)).toBe(217);
  });
});
