/** The tightest place, against a plain search. */
import { expect, test } from 'vitest';
import { FitList } from '../../../src/base/fit-list.ts';
import { random } from '../../support/volumes.ts';

test('finds the least size that is large enough, as a plain search does', () => {
  for (const maxSize of [0, 31, 32, 1023, 1024, 4060]) {
    const next = random(maxSize + 1);
    const list = new FitList(50, maxSize);
    const sizes = new Map<number, number>();
    for (let i = 0; i < 4000; i++) {
      const place = Math.floor(next() * 50);
      const size = Math.floor(next() * (maxSize + 1));
      list.set(place, size);
      sizes.set(place, size);
      const wanted = Math.floor(next() * (maxSize + 2));
      const fits = [...sizes.values()].filter((other) => other >= wanted).sort((a, b) => a - b);
      const found = list.find(wanted);
      if (fits.length === 0) expect(found).toBe(-1);
      else expect(sizes.get(found)).toBe(fits[0]);
      if (i % 20 !== 0) continue;
      // All places in order, each once.
      const order: number[] = [];
      for (let at = list.find(0); at >= 0; at = list.after(at)) order.push(at);
      expect(new Set(order)).toEqual(new Set(sizes.keys()));
      expect(order).toHaveLength(sizes.size);
      const inOrder = order.map((at) => sizes.get(at)!);
      expect(inOrder).toEqual([...inOrder].sort((a, b) => a - b));
    }
  }
});

test('of one size the place filed last comes first; a size out of range is refused', () => {
  const list = new FitList(3, 100);
  list.set(0, 7);
  list.set(1, 7);
  expect(list.find(3)).toBe(1);
  list.set(1, 7);
  expect(list.after(1)).toBe(0);
  expect(() => list.set(2, 101)).toThrow('size of a place');
});
