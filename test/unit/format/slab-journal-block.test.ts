import { describe, expect, test } from 'vitest';
import {
  beginSlabJournalBlock,
  finishSlabJournalBlock,
  makeFullSlabJournalBlock,
  readSlabJournalEntry,
  readSlabJournalHeader,
  setBlockMapIncrement,
  setSlabJournalEntry,
  slabJournalCapacity,
} from '../../../src/format/slab-journal-block.ts';
import { hex, NONCE, random } from './support.ts';

describe('slab journal block', () => {
  test('is the block that dm-vdo wrote', () => {
    const bytes = new Uint8Array(4096).fill(0x77);
    beginSlabJournalBlock(bytes, NONCE, 1);
    makeFullSlabJournalBlock(bytes);
    for (let i = 0; i < 1299; i++) setSlabJournalEntry(bytes, i, i, true);
    for (const i of [0, 1, 2, 3, 32, 33, 34, 35]) setBlockMapIncrement(bytes, i);
    finishSlabJournalBlock(bytes, {
      head: 1,
      entryCount: 1299,
      recoverySequence: 6,
      recoveryIndex: 430,
    });
    expect(bytes.subarray(0, 45)).toEqual(
      hex(`0100000000000000 0100000000000000 ae01060000000000 c2b0256d07610600 02 01 1305
           000080 010080 020080`),
    );
    expect(bytes.subarray(3933, 3940)).toEqual(hex('0f 00 00 00 0f 00 00'));
    expect(bytes.subarray(3938).every((byte) => byte === 0)).toBe(true);
    expect(readSlabJournalHeader(bytes)).toEqual({
      head: 1,
      sequence: 1,
      recoverySequence: 6,
      recoveryIndex: 430,
      nonce: NONCE,
      metadataType: 2,
      hasBlockMapIncrements: true,
      entryCount: 1299,
    });
    expect(readSlabJournalEntry(bytes, 33)).toEqual({ sbn: 33, increment: true, blockMap: true });
    expect(readSlabJournalEntry(bytes, 36)).toEqual({ sbn: 36, increment: true, blockMap: false });
  });

  test('entries of both forms come back', () => {
    const next = random(3);
    for (const full of [false, true]) {
      const bytes = new Uint8Array(4096);
      beginSlabJournalBlock(bytes, NONCE, 77);
      if (full) makeFullSlabJournalBlock(bytes);
      const entries = Array.from({ length: slabJournalCapacity(full) }, () => {
        const blockMap = full && next(3) === 0;
        return { sbn: next(2 ** 23), increment: blockMap || next(2) === 0, blockMap };
      });
      entries.forEach(({ sbn, increment, blockMap }, i) => {
        setSlabJournalEntry(bytes, i, sbn, increment);
        if (blockMap) setBlockMapIncrement(bytes, i);
      });
      expect(entries.map((_, i) => readSlabJournalEntry(bytes, i))).toEqual(entries);
    }
    expect([slabJournalCapacity(false), slabJournalCapacity(true)]).toEqual([1353, 1299]);
  });

  test('turning full clears only the bitmap', () => {
    const bytes = new Uint8Array(4096).fill(0xff);
    makeFullSlabJournalBlock(bytes);
    expect(bytes[33]).toBe(1);
    expect(bytes[3932]).toBe(0xff);
    expect(bytes.subarray(3933).every((byte) => byte === 0)).toBe(true);
  });

  test('a recovery point uses all 64 bits', () => {
    const bytes = new Uint8Array(4096);
    beginSlabJournalBlock(bytes, NONCE, 2);
    const recoverySequence = 2 ** 48 - 1;
    finishSlabJournalBlock(bytes, { head: 1, entryCount: 1, recoverySequence, recoveryIndex: 433 });
    expect(readSlabJournalHeader(bytes)).toMatchObject({ recoverySequence, recoveryIndex: 433 });
    expect(bytes.subarray(16, 24)).toEqual(hex('b101ffffffffffff'));
  });

  test('every header byte counts', () => {
    const image = new Uint8Array(4096);
    beginSlabJournalBlock(image, NONCE, 5);
    finishSlabJournalBlock(image, {
      head: 2,
      entryCount: 9,
      recoverySequence: 3,
      recoveryIndex: 4,
    });
    const header = readSlabJournalHeader(image);
    for (let at = 0; at < 36; at++) {
      const bytes = image.slice();
      bytes[at] = bytes[at]! ^ 1;
      expect(readSlabJournalHeader(bytes), `byte ${at}`).not.toEqual(header);
    }
  });
});
