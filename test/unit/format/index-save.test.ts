import { expect, test } from 'vitest';
import {
  readOpenChapterHeader,
  readPageMapHeader,
  writeOpenChapterHeader,
  writePageMapHeader,
} from '../../../src/format/index-save.ts';
import { codeOf, hex } from './support.ts';

test('headers are the bytes that dm-vdo wrote', () => {
  const open = hex('414c424f4330322e3030 54670000');
  expect(readOpenChapterHeader(open)).toBe(26452);
  const back = new Uint8Array(14);
  writeOpenChapterHeader(back, 26452);
  expect(back).toEqual(open);
  const map = hex('414c4249504d3032 0200000000000000');
  expect(readPageMapHeader(map)).toBe(2);
  const again = new Uint8Array(16);
  writePageMapHeader(again, 2);
  expect(again).toEqual(map);
});

test('anything else is refused', () => {
  expect(codeOf(() => readOpenChapterHeader(new Uint8Array(14)))).toBe('Corrupt');
  expect(codeOf(() => readOpenChapterHeader(new Uint8Array(4)))).toBe('Corrupt');
  expect(codeOf(() => readPageMapHeader(new Uint8Array(16)))).toBe('Corrupt');
});
