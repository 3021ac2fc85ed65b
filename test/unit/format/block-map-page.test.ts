import { describe, expect, test } from 'vitest';
import {
  entryPbn,
  entryState,
  formatPage,
  isInitialized,
  isLegalMapping,
  mappingPbn,
  mappingState,
  PAGE_HEADER_SIZE,
  pageValidity,
  setEntry,
  setInitialized,
  setMapping,
} from '../../../src/format/block-map-page.ts';
import { hex, NONCE, random } from './support.ts';

const ROOT = hex('04000000 01000000 c2b0256d07610600 d95c0a0000000000 0000000000000000 01 00 0000');

describe('block map page', () => {
  test('header and entries are the bytes that dm-vdo wrote', () => {
    const page = new Uint8Array(4096).fill(0xaa);
    formatPage(page, NONCE, 679129, true);
    setEntry(page, 0, 679189, 1);
    expect(page.subarray(0, PAGE_HEADER_SIZE)).toEqual(ROOT);
    expect(page.subarray(36, 41)).toEqual(hex('01 155d0a00'));
    expect(page.subarray(41).every((byte) => byte === 0)).toBe(true);

    const leaf = hex(
      '01195d0a00 01195d0a00 011b5d0a00 011b5d0a00 0100000000 0f2a5d0a00 0e2a5d0a00',
    );
    page.set(leaf, 36);
    const mappings = [0, 1, 2, 3, 4, 5, 6].map((slot) => [
      entryPbn(page, slot),
      entryState(page, slot),
    ]);
    expect(mappings).toEqual([
      [679193, 1],
      [679193, 1],
      [679195, 1],
      [679195, 1],
      [0, 1],
      [679210, 15],
      [679210, 14],
    ]);
  });

  test('every pbn of 36 bits and every state comes back', () => {
    const next = random(1);
    const bytes = new Uint8Array(16).fill(0x55);
    const pbns = [0, 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 35, 2 ** 36 - 1];
    for (let i = 0; i < 500; i++) pbns.push(next(2 ** 18) * 2 ** 18 + next(2 ** 18));
    for (const pbn of pbns) {
      for (let state = 0; state < 16; state++) {
        setMapping(bytes, 6, pbn, state);
        expect([mappingPbn(bytes, 6), mappingState(bytes, 6)]).toEqual([pbn, state]);
      }
    }
    expect([bytes[5], bytes[11]]).toEqual([0x55, 0x55]);
  });

  test('the last entry ends the block', () => {
    const page = new Uint8Array(4096);
    setEntry(page, 811, 2 ** 36 - 1, 15);
    expect(page.subarray(4091)).toEqual(hex('ffffffffff'));
  });

  test('validity: byte by byte', () => {
    const image = new Uint8Array(4096);
    formatPage(image, NONCE, 679129, true);
    expect(pageValidity(image, NONCE, 679129)).toBe('valid');
    expect(pageValidity(image, NONCE, 679130)).toBe('bad');
    for (let at = 0; at < 4096; at++) {
      const page = image.slice();
      page[at] = page[at]! ^ 1;
      const expected = at < 16 || at === 32 ? 'empty' : at < 24 ? 'bad' : 'valid';
      expect(pageValidity(page, NONCE, 679129), `byte ${at}`).toBe(expected);
    }
    image.fill(0xff, 16, 24);
    expect(pageValidity(image, NONCE, 679129)).toBe('bad');
    expect(pageValidity(new Uint8Array(4096), NONCE, 679129)).toBe('empty');
  });

  test('a page that is not initialized is empty, wherever it says it belongs', () => {
    const page = new Uint8Array(4096);
    formatPage(page, NONCE, 5, false);
    setEntry(page, 3, 77, 1);
    expect(isInitialized(page)).toBe(false);
    expect(pageValidity(page, NONCE, 6)).toBe('empty');
    setInitialized(page, true);
    expect(isInitialized(page)).toBe(true);
    expect(pageValidity(page, NONCE, 5)).toBe('valid');
    setInitialized(page, false);
    expect(pageValidity(page, NONCE, 5)).toBe('empty');
  });

  test('legal mappings', () => {
    expect([0, 1, 2, 15].map((state) => isLegalMapping(0, state))).toEqual([
      true,
      true,
      false,
      false,
    ]);
    expect([0, 1, 2, 15, 16].map((state) => isLegalMapping(9, state))).toEqual([
      false,
      true,
      true,
      true,
      false,
    ]);
  });
});
