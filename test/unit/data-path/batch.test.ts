/** Rows of a batch: each logical block once, parts merged in place while that leaves no gap. */
import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { makeColumns, WriteBatch } from '../../../src/data-path/batch.ts';
import { Arena } from '../../../src/kernels/arena.ts';
import { noise } from '../../support/volumes.ts';

const arena = new Arena(8);
const source = Buffer.from(noise(1));

/** A batch in the second half of the arena. */
function makeBatch(): WriteBatch {
  return new WriteBatch(makeColumns(arena, 4, 4), false);
}

const bytesOf = (batch: WriteBatch, row: number): Buffer => {
  batch.copyRun();
  const at = (batch.base + row) * BLOCK_SIZE;
  return Buffer.from(arena.blocks.subarray(at, at + BLOCK_SIZE));
};

describe('a row', () => {
  test('holds its bytes in its half of the arena, and is found by its block', () => {
    const batch = makeBatch();
    batch.add(70, 0, source, 0, BLOCK_SIZE);
    batch.add(71, 100, source, 50, 10);
    expect([batch.rowOf(70), batch.rowOf(71), batch.rowOf(72)]).toEqual([0, 1, -1]);
    expect(bytesOf(batch, 0).equals(source)).toBe(true);
    expect(bytesOf(batch, 1).subarray(100, 110).equals(source.subarray(50, 60))).toBe(true);
    expect([batch.from[1], batch.to[1], batch.partialRows, batch.count]).toEqual([100, 110, 1, 2]);
  });

  test('has its bytes whatever it was copied together with', () => {
    const batch = makeBatch();
    const three = Buffer.concat([1, 2, 3].map((seed) => noise(seed)));
    const other = Buffer.from(noise(9));
    batch.add(5, 0, three, 0, BLOCK_SIZE);
    batch.add(6, 0, three, BLOCK_SIZE, BLOCK_SIZE);
    batch.add(9, 0, other, 0, BLOCK_SIZE);
    batch.add(7, 10, three, 2 * BLOCK_SIZE + 10, 50);
    const [first, second, third, fourth] = [0, 1, 2, 3].map((row) => bytesOf(batch, row));
    expect(first!.equals(noise(1))).toBe(true);
    expect(second!.equals(noise(2))).toBe(true);
    expect(third!.equals(other)).toBe(true);
    expect(fourth!.subarray(10, 60).equals(noise(3).subarray(10, 60))).toBe(true);
  });

  test('of whole zeros is marked, not copied; one that begins with zero is not', () => {
    const batch = makeBatch();
    const almost = Buffer.alloc(BLOCK_SIZE);
    almost[BLOCK_SIZE - 1] = 1;
    batch.add(1, 0, Buffer.alloc(BLOCK_SIZE), 0, BLOCK_SIZE);
    expect([batch.isZero[0], batch.endHashed]).toEqual([1, 0]);
    batch.add(2, 0, almost, 0, BLOCK_SIZE);
    batch.add(3, 0, Buffer.alloc(BLOCK_SIZE), 0, BLOCK_SIZE);
    expect([...batch.isZero.subarray(0, 3)]).toEqual([1, 0, 1]);
    expect([batch.firstHashed, batch.endHashed]).toEqual([1, 2]);
  });

  test('of zero bytes that are only part of a block is no zero block', () => {
    const batch = makeBatch();
    batch.add(1, 10, Buffer.alloc(100), 0, 100);
    expect([batch.isZero[0], batch.partialRows]).toEqual([0, 1]);
  });

  test('of an earlier batch is forgotten when the columns are used again', () => {
    const columns = makeColumns(arena, 4, 4);
    new WriteBatch(columns, false).add(70, 0, source, 0, BLOCK_SIZE);
    const batch = new WriteBatch(columns, false);
    expect(batch.rowOf(70)).toBe(-1);
    expect([batch.count, batch.endHashed, batch.firstHashed, batch.reserved]).toEqual([0, 0, 4, 0]);
  });

  test('fills the batch in the end', () => {
    const batch = makeBatch();
    for (let lbn = 0; lbn < 4; lbn++) {
      expect(batch.isFull).toBe(false);
      batch.add(lbn, 0, source, 0, BLOCK_SIZE);
    }
    expect(batch.isFull).toBe(true);
  });
});

describe('a later write of the same block', () => {
  test.for([
    ['within', 120, 20, [100, 200]],
    ['overlapping the front', 50, 60, [50, 200]],
    ['overlapping the end', 190, 50, [100, 240]],
    ['touching the front', 80, 20, [80, 200]],
    ['touching the end', 200, 1, [100, 201]],
    ['around it', 0, BLOCK_SIZE, [0, BLOCK_SIZE]],
  ] as const)('%s is merged in place', ([, from, length, [start, end]]) => {
    const batch = makeBatch();
    batch.add(1, 100, source, 0, 100);
    expect(batch.overlay(0, from, source, 0, length)).toBe(true);
    expect([batch.from[0], batch.to[0]]).toEqual([start, end]);
    const expected = Buffer.alloc(BLOCK_SIZE);
    source.copy(expected, 100, 0, 100);
    source.copy(expected, from, 0, length);
    const found = bytesOf(batch, 0).subarray(start, end);
    expect(found.equals(expected.subarray(start, end))).toBe(true);
    expect(batch.partialRows).toBe(length === BLOCK_SIZE ? 0 : 1);
  });

  test.for([
    ['before', 0, 99],
    ['behind', 201, 10],
  ] as const)('with a gap, %s, is refused and changes nothing', ([, from, length]) => {
    const batch = makeBatch();
    batch.add(1, 100, source, 0, 100);
    const before = bytesOf(batch, 0);
    expect(batch.overlay(0, from, source, 0, length)).toBe(false);
    expect(bytesOf(batch, 0).equals(before)).toBe(true);
    expect([batch.from[0], batch.to[0], batch.partialRows]).toEqual([100, 200, 1]);
  });

  test('makes two halves whole, once', () => {
    const batch = makeBatch();
    batch.add(1, 0, source, 0, 2048);
    batch.overlay(0, 2048, source, 2048, 2048);
    expect(batch.partialRows).toBe(0);
    batch.overlay(0, 5, source, 5, 5);
    expect(batch.partialRows).toBe(0);
    expect(bytesOf(batch, 0).equals(source)).toBe(true);
  });

  test('over a zero block brings its zeros into the arena, whatever lay there', () => {
    const batch = makeBatch();
    arena.blocks.fill(7, batch.base * BLOCK_SIZE, (batch.base + 1) * BLOCK_SIZE);
    batch.add(1, 0, Buffer.alloc(BLOCK_SIZE), 0, BLOCK_SIZE);
    batch.overlay(0, 10, source, 0, 5);
    const expected = Buffer.alloc(BLOCK_SIZE);
    source.copy(expected, 10, 0, 5);
    expect(bytesOf(batch, 0).equals(expected)).toBe(true);
    expect([batch.isZero[0], batch.firstHashed, batch.endHashed]).toEqual([0, 0, 1]);
  });
});

test('done tells how it ended, and nobody has to listen', async () => {
  const good = makeBatch();
  good.finish();
  await expect(good.done).resolves.toBeUndefined();
  const bad = makeBatch();
  bad.finish(new Error('no'));
  await expect(bad.done).rejects.toThrow('no');
});
