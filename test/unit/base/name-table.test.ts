import { describe, expect, it } from 'vitest';
import { randomFill } from '../../../bench/data.ts';
import { NameTable } from '../../../src/base/name-table.ts';

const ROWS = 256;

describe('NameTable', () => {
  it('finds the row with the same name', () => {
    const names = new Uint8Array(ROWS * 16);
    randomFill(names, 1);
    names.copyWithin(100 * 16, 3 * 16, 4 * 16);
    const table = new NameTable(names);
    expect(table.find(100)).toBe(-1);
    expect(table.add(3)).toBe(3);
    expect([table.find(100), table.find(3), table.find(4)]).toEqual([3, 3, -1]);
    expect(table.add(100)).toBe(3);
    expect(table.size).toBe(1);
  });

  it('tells names apart that differ in one bit anywhere, full', () => {
    const names = new Uint8Array(ROWS * 16);
    for (let row = 1; row <= 128; row++) names[row * 16 + ((row - 1) >> 3)] = 1 << ((row - 1) & 7);
    for (let row = 129; row < ROWS; row++) names[row * 16 + 15] = row - 127;
    names[ROWS * 16 - 1] = 255;
    const expected = new Map<string, number>();
    const table = new NameTable(names);
    for (let row = 0; row < ROWS; row++) {
      const name = Buffer.from(names.subarray(row * 16, row * 16 + 16)).toString('hex');
      if (!expected.has(name)) expected.set(name, row);
      expect(table.add(row)).toBe(expected.get(name));
    }
    expect(table.size).toBe(expected.size);
    expect(expected.size).toBeGreaterThan(230);
  });

  it('forgets all at once', () => {
    const names = new Uint8Array(ROWS * 16);
    const table = new NameTable(names);
    for (let batch = 1; batch < 50; batch++) {
      randomFill(names, batch);
      for (let row = 0; row < ROWS; row++) {
        if (table.add(row) !== row)
          expect.fail(`row ${row} of batch ${batch} is taken for another`);
      }
      table.clear();
      expect([table.size, table.find(0)]).toEqual([0, -1]);
    }
  });

  it('refuses rows and columns that are none', () => {
    const table = new NameTable(new Uint8Array(32));
    expect(() => table.find(2)).toThrow('row');
    expect(() => table.add(-1)).toThrow('row');
    expect(() => new NameTable(new Uint8Array(31))).toThrow('column');
  });
});
