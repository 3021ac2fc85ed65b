import { describe, expect, it } from 'vitest';
import { Random } from '../../../bench/data.ts';
import { NumberMap } from '../../../src/base/number-map.ts';

describe('NumberMap', () => {
  it('holds keys of any size and sign', () => {
    const map = new NumberMap(10);
    const keys = [0, 1, -1, 2 ** 31, 2 ** 32, 2 ** 32 + 1, 2 ** 36 - 1, 2 ** 53 - 1, 1 - 2 ** 53];
    keys.forEach((key, i) => map.set(key, i * 1000));
    keys.forEach((key, i) => expect(map.get(key)).toBe(i * 1000));
    expect(map.size).toBe(keys.length);
    expect(map.get(2)).toBe(-1);
    expect([map.has(0), map.has(2)]).toEqual([true, false]);
  });

  it('refuses what it cannot hold', () => {
    const map = new NumberMap(3);
    for (let i = 0; i < 3; i++) map.set(i, i);
    map.set(1, -(2 ** 31));
    expect(map.get(1)).toBe(-(2 ** 31));
    expect(() => map.set(3, 3)).toThrow('overflows');
    expect(() => map.set(1, 2 ** 31)).toThrow('key and value');
    expect(() => map.set(0.5, 1)).toThrow('key and value');
    expect(() => map.set(2 ** 53, 1)).toThrow('key and value');
    expect(() => new NumberMap(0)).toThrow('capacity');
  });

  it.each([
    ['dense', 40, 1],
    ['spread', 400, 2 ** 33 + 1],
    ['in steps of the table', 300, 128],
  ])('does as a Map does, keys %s', (_, range, step) => {
    const random = new Random(range);
    const map = new NumberMap(60);
    const model = new Map<number, number>();
    for (let i = 0; i < 20_000; i++) {
      const key = random.below(range) * step;
      const what = random.below(100);
      if (what < 45) {
        if (model.size === map.capacity && !model.has(key)) continue;
        map.set(key, i);
        model.set(key, i);
      } else if (what < 85) {
        if (map.delete(key) !== model.delete(key)) expect.fail(`delete differs at step ${i}`);
      } else if (what === 99 && random.below(50) === 0) {
        map.clear();
        model.clear();
      } else {
        if (map.get(key) !== (model.get(key) ?? -1)) expect.fail(`get differs at step ${i}`);
      }
      if (map.size !== model.size) expect.fail(`sizes differ at step ${i}`);
    }
    for (let i = 0; i < range; i++) expect(map.get(i * step)).toBe(model.get(i * step) ?? -1);
  });

  it('is empty after clear, however often', () => {
    const map = new NumberMap(4);
    for (let i = 0; i < 1000; i++) {
      expect(map.get(i)).toBe(-1);
      map.set(i, i);
      map.set(i + 1, i);
      map.clear();
      expect([map.size, map.get(i), map.delete(i + 1)]).toEqual([0, -1, false]);
    }
  });
});
