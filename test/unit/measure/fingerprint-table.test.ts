/** The table of contents against a Map: growth, order, names that differ in one word only. */
import { describe, expect, test } from 'vitest';
import {
  expectedFalseMatches,
  FINGERPRINT_BITS,
  FingerprintTable,
} from '../../../src/measure/fingerprint-table.ts';
import { random } from '../../support/volumes.ts';

type Name = [n0: number, n1: number, n3: number];

/** Names that collide in some words. */
function someName(next: () => number): Name {
  const word = (): number => Math.floor(next() * 2 ** 32);
  const few = (): number => Math.floor(next() * 60) * 0x4444444;
  const n0 = next() < 0.3 ? few() : word();
  const n1 = next() < 0.3 ? few() : word();
  const n3 = next() < 0.5 ? Math.floor(next() * 40) | (Math.floor(next() * 4) << 30) : word();
  return [n0, n1, n3 >>> 0];
}

/** What the table tells apart. */
const keyOf = ([n0, n1, n3]: Name): string => `${n0} ${n1} ${n3 & 0xff} ${n3 >>> 24}`;

describe('a table of fingerprints', () => {
  test.each([4, 5, 7])(
    'of %i words a record finds what was inserted, and nothing else',
    (stride) => {
      const table = new FingerprintTable(stride);
      const model = new Map<string, number>();
      const next = random(stride);
      let wrong = 0;
      for (let i = 0; i < 30_000; i++) {
        const name = someName(next);
        const key = keyOf(name);
        let at = table.find(...name);
        if (at >= 0 !== model.has(key)) wrong++;
        if (at < 0) {
          at = table.insert(at, ...name);
          table.words[at + 2] = i;
          if (stride > 4) table.words[at + stride - 1] = i;
          model.set(key, i);
        }
        if (table.words[at + 2] !== model.get(key)) wrong++;
        if (stride > 4 && table.words[at + stride - 1] !== model.get(key)) wrong++;
      }
      expect(wrong).toBe(0);
      expect(table.size).toBe(model.size);
      let records = 0;
      let before = [-1, 0, 0];
      table.each((words, at, segment) => {
        records++;
        const name = [segment, words[at]!, words[at + 1]!];
        const order = name.findIndex((word, i) => word !== before[i]);
        if (order >= 0) expect(name[order]!).toBeGreaterThan(before[order]!);
        before = name;
      });
      expect(records).toBe(model.size);
      expect(wrong).toBe(0);
      table.clear();
      expect(table.size).toBe(0);
      expect(table.find(1, 2, 3)).toBeLessThan(0);
    },
  );

  test('takes at most 21 bytes a record, growing included', () => {
    const table = new FingerprintTable(4);
    const next = random(9);
    const word = (): number => Math.floor(next() * 2 ** 32);
    let most = 0;
    for (let i = 0; i < 2_600_000; i++) {
      const name: Name = [word(), word(), word()];
      table.insert(table.find(...name), ...name);
      if (i > 2_000_000 && i % 1000 === 0) most = Math.max(most, table.bytes / table.size);
    }
    expect(most).toBeLessThan(21.5);
    expect(most).toBeGreaterThan(18);
  });

  test('of 100 TB expects less than one false match', () => {
    expect(FINGERPRINT_BITS).toBe(80);
    expect(expectedFalseMatches(100e12 / 4096)).toBeLessThan(0.001);
    expect(expectedFalseMatches(0)).toBe(0);
  });
});
