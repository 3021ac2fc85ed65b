import { describe, expect, it } from 'vitest';
import type { HashIndex } from '../../../src/index/hash-index.ts';
import { createMemoryIndex } from '../../../src/index/memory-index.ts';
import { columns, hashIndexContract, locationsOf, namesOf } from './contract.ts';

hashIndexContract('the memory index', () => createMemoryIndex(), { remembers: true });

const BATCH = 1000;

/** Posts `batches` batches of names no two of which are equal. */
function fill(index: HashIndex, batches: number): void {
  for (let batch = 0; batch < batches; batch++) {
    void index.update(namesOf(BATCH, batch), BATCH, locationsOf(BATCH, batch));
  }
}

/** How many names of one batch the index knows; a wrong answer fails. */
function known(index: HashIndex, batch: number): number {
  const advice = columns(BATCH);
  const expected = locationsOf(BATCH, batch);
  void index.lookup(namesOf(BATCH, batch), BATCH, advice);
  let found = 0;
  for (let i = 0; i < BATCH; i++) {
    if (advice.pbn[i] === 0) continue;
    if (advice.pbn[i] !== expected.pbn[i] || advice.state[i] !== expected.state[i]) {
      expect.fail(`name ${i} of batch ${batch} got another's location`);
    }
    found++;
  }
  return found;
}

describe('the memory index', () => {
  it('grows as it fills, and forgets nothing by that', () => {
    const index = createMemoryIndex({ capacity: 100_000 });
    const before = index.statistics().memoryBytes;
    fill(index, 80);
    for (let batch = 0; batch < 80; batch++) expect(known(index, batch)).toBe(BATCH);
    const { entriesIndexed, entriesDiscarded, memoryBytes } = index.statistics();
    expect([entriesIndexed, entriesDiscarded]).toEqual([80 * BATCH, 0]);
    expect(before).toBe(65536);
    expect(memoryBytes / entriesIndexed).toBeLessThan(28);
  });

  it('keeps to its bound, and forgets the oldest first', () => {
    const index = createMemoryIndex({ capacity: 40_000 });
    fill(index, 160);
    const { entriesIndexed, entriesDiscarded, memoryBytes } = index.statistics();
    expect(entriesIndexed + entriesDiscarded).toBe(160 * BATCH);
    expect(entriesIndexed).toBeGreaterThan(36_000);
    expect(memoryBytes).toBe(8192 * 64);
    const oldest = known(index, 0) + known(index, 20) + known(index, 40);
    const newest = known(index, 159) + known(index, 155) + known(index, 150);
    expect(newest).toBeGreaterThan(2500);
    expect(oldest).toBeLessThan(600);
    let all = 0;
    for (let batch = 0; batch < 160; batch++) all += known(index, batch);
    expect(all).toBe(entriesIndexed);
  });

  it('works at the smallest size', () => {
    const index = createMemoryIndex({ capacity: 1 });
    fill(index, 3);
    const { entriesIndexed, memoryBytes } = index.statistics();
    expect([entriesIndexed, memoryBytes]).toEqual([10, 128]);
    expect(known(index, 2)).toBeGreaterThan(5);
  });

  it('gives the same answers to the same operations', () => {
    const [a, b] = [createMemoryIndex({ capacity: 5000 }), createMemoryIndex({ capacity: 5000 })];
    for (const index of [a, b]) fill(index, 20);
    expect(a.statistics()).toEqual(b.statistics());
    for (let batch = 0; batch < 20; batch++) expect(known(a, batch)).toBe(known(b, batch));
  });

  it('refuses a capacity that it cannot have', () => {
    expect(() => createMemoryIndex({ capacity: 0 })).toThrow('capacity');
    expect(() => createMemoryIndex({ capacity: 2 ** 30 })).toThrow('capacity');
  });
});
