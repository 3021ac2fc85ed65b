/** The packer: which bin a fragment goes to, when a bin leaves, and who waits for it. */
import { beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_SIZE, RECORD_NAME_SIZE } from '../../../src/base/constants.ts';
import { Packer } from '../../../src/data-path/packer.ts';
import { Arena } from '../../../src/kernels/arena.ts';
import { createKernels } from '../../../src/kernels/kernels.ts';
import { compressBlock } from '../../../src/kernels/lz4.ts';
import { random, squashy } from '../../support/volumes.ts';

const ROOM = 4060;

/** An arena of rows with names of their own; the bytes of the fragment of row r are all r. */
const ROWS = 64;
function newPacker(bins: number): Packer {
  const arena = new Arena(ROWS, bins);
  for (let row = 0; row < ROWS; row++) {
    arena.fragments.fill(row, row * BLOCK_SIZE, (row + 1) * BLOCK_SIZE);
    arena.names.fill(row + 1, row * RECORD_NAME_SIZE, (row + 1) * RECORD_NAME_SIZE);
  }
  return new Packer(arena, createKernels(arena));
}
/** What left a packer: sizes and waiters of each bin's fragments, by slot. */
interface Left {
  readonly sizes: number[];
  readonly lbns: number[][];
}

class Bench {
  readonly packer: Packer;
  readonly left: Left[] = [];
  readonly emit = (fragments: readonly number[]): void => {
    const lbns = fragments.map((fragment) => {
      const waiters: number[] = [];
      const { packer } = this;
      for (let w = packer.firstWaiter(fragment); w >= 0; w = packer.nextWaiter(w)) {
        waiters.push(packer.lbnOf(w));
      }
      return waiters.sort((a, b) => a - b);
    });
    const sizes = fragments.map((fragment) => this.packer.fragmentBytes(fragment).length);
    this.left.push({ sizes, lbns });
  };

  constructor(bins: number) {
    this.packer = newPacker(bins);
  }

  /** Adds a fragment for `lbn` and emits its bin if that is full, as the store does. */
  add(size: number, lbn: number, row = lbn % ROWS): number {
    const fragment = this.packer.add(row, size, lbn, this.emit);
    if (fragment >= 0) this.packer.emitIfFull(fragment, this.emit);
    return fragment;
  }

  get sizesLeft(): number[][] {
    return this.left.map(({ sizes }) => sizes);
  }
}

describe('the bin a fragment goes to', () => {
  test('is the fullest one with room for it', () => {
    const bench = new Bench(3);
    bench.add(3000, 1);
    bench.add(2000, 2);
    bench.add(1000, 3); // beside 3000, not beside 2000
    bench.add(1500, 4); // beside 2000
    bench.packer.drain(bench.emit);
    expect(bench.sizesLeft).toEqual([
      [3000, 1000],
      [2000, 1500],
    ]);
  });

  test('is made by writing out the fullest, where none has room', () => {
    const bench = new Bench(2);
    bench.add(3900, 1);
    bench.add(3000, 2);
    bench.add(3500, 3);
    expect(bench.sizesLeft).toEqual([[3900]]);
    bench.packer.drain(bench.emit);
    expect(bench.sizesLeft).toEqual([[3900], [3500], [3000]]);
  });

  test('does not exist for a fragment that takes as much as the fullest holds', () => {
    const bench = new Bench(2);
    bench.add(2100, 1);
    bench.add(3000, 2);
    expect(bench.add(3000, 3)).toBe(-1);
    expect(bench.left).toEqual([]);
    expect(bench.add(2999, 4)).toBeGreaterThanOrEqual(0);
    expect(bench.sizesLeft).toEqual([[3000]]);
  });
});

describe('a bin leaves', () => {
  test('with its fourteenth fragment', () => {
    const bench = new Bench(2);
    for (let lbn = 0; lbn < 13; lbn++) bench.add(100, lbn);
    expect(bench.left).toEqual([]);
    bench.add(100, 13);
    expect(bench.left).toHaveLength(1);
    expect(bench.left[0]!.lbns).toEqual(Array.from({ length: 14 }, (_, lbn) => [lbn]));
    expect(bench.packer.fragmentCount).toBe(0);
    expect(bench.packer.waiterCount).toBe(0);
  });

  test('when not one byte is left', () => {
    const bench = new Bench(2);
    bench.add(4000, 1);
    bench.add(59, 2);
    expect(bench.left).toEqual([]);
    bench.add(1, 3);
    expect(bench.sizesLeft).toEqual([[4000, 59, 1]]);
    expect(4000 + 59 + 1).toBe(ROOM);
  });

  test('when it is old enough, and not before', () => {
    const bench = new Bench(3);
    bench.add(3000, 1);
    bench.packer.tick();
    bench.add(3001, 2);
    bench.packer.tick();
    bench.packer.drain(bench.emit, 2);
    expect(bench.sizesLeft).toEqual([[3000]]);
    bench.packer.drain(bench.emit, 2);
    expect(bench.left).toHaveLength(1);
    bench.packer.tick();
    bench.packer.drain(bench.emit, 2);
    expect(bench.sizesLeft).toEqual([[3000], [3001]]);
  });

  test('and its age is that of its oldest fragment', () => {
    const bench = new Bench(1);
    bench.add(1000, 1);
    bench.packer.tick();
    bench.add(1000, 2);
    bench.packer.drain(bench.emit, 1);
    expect(bench.sizesLeft).toEqual([[1000, 1000]]);
    bench.add(500, 3);
    bench.packer.drain(bench.emit, 1);
    expect(bench.left).toHaveLength(1);
  });
});

describe('logical blocks that wait', () => {
  let bench: Bench;
  beforeEach(() => {
    bench = new Bench(2);
  });

  test('are found by number and their fragment by name', () => {
    const fragment = bench.add(1000, 7, 3);
    expect(bench.packer.findLbn(7)).toBe(fragment);
    expect(bench.packer.findLbn(8)).toBe(-1);
    expect(bench.packer.findName(3)).toBe(fragment);
    expect(bench.packer.findName(4)).toBe(-1);
    expect(bench.packer.join(fragment, 8)).toBe(true);
    expect(bench.packer.findLbn(8)).toBe(fragment);
    expect(bench.packer.waiterCount).toBe(2);
    const name = new Uint32Array(6);
    bench.packer.copyName(fragment, name, 1);
    expect([...name]).toEqual([0, ...new Array<number>(4).fill(0x04040404), 0]);
  });

  test('leave one by one; the last one takes the fragment along', () => {
    const fragment = bench.add(1000, 1);
    bench.packer.join(fragment, 2);
    bench.packer.join(fragment, 3);
    bench.add(500, 4);
    for (const lbn of [2, 3]) bench.packer.detach(lbn);
    expect(bench.packer.fragmentCount).toBe(2);
    bench.packer.detach(1);
    bench.packer.detach(1);
    expect(bench.packer.fragmentCount).toBe(1);
    expect(bench.packer.findName(1)).toBe(-1);
    // Its room is free again: exactly 3560 bytes beside the 500.
    bench.add(3560, 5);
    expect(bench.sizesLeft).toEqual([[500, 3560]]);
  });

  test.for([
    ['few numbers', 100, 103],
    ['more numbers than wait', 100, 100_000],
  ] as const)('leave by range, over %s', ([, first, end]) => {
    const fragment = bench.add(1000, 99, 1);
    bench.packer.join(fragment, 100);
    bench.packer.join(fragment, 101);
    bench.add(600, 102, 2);
    bench.packer.detachRange(first, end);
    expect([99, 100, 101, 102].map((lbn) => bench.packer.findLbn(lbn) >= 0)).toEqual([
      true,
      false,
      false,
      false,
    ]);
    bench.packer.drain(bench.emit);
    expect(bench.left).toEqual([{ sizes: [1000], lbns: [[99]] }]);
  });

  test('are at most 254 a bin, whatever fragment of it they wait for', () => {
    const first = bench.add(1000, 0, 1);
    const second = bench.add(1000, 1, 2);
    for (let lbn = 2; lbn < 254; lbn++) {
      expect(bench.packer.join(lbn % 2 === 0 ? first : second, lbn)).toBe(true);
    }
    expect(bench.packer.join(first, 254)).toBe(false);
    expect(bench.packer.join(second, 254)).toBe(false);
    // Nor does the bin take a further fragment: that goes to the other one.
    bench.add(100, 255, 3);
    bench.packer.drain(bench.emit);
    expect(bench.sizesLeft).toEqual([[1000, 1000], [100]]);
    expect(bench.left[0]!.lbns.flat()).toHaveLength(254);
  });

  test('leave a place for every fragment that can still come', () => {
    // 40 bins of 254 each would be more waiters than there are rows for.
    const large = new Bench(40);
    const fragments = Array.from({ length: 40 }, (_, i) => large.add(2500, i, i));
    let lbn = 1000;
    for (const fragment of fragments) while (large.packer.join(fragment, lbn)) lbn++;
    expect(large.packer.waiterCount).toBeGreaterThan(4096);
    expect(large.packer.waiterCount).toBeLessThan(40 * 254);
    // Every slot that is left can be taken, each by a fragment with its first waiter.
    let added = 0;
    for (let i = 0; i < 40 * 13; i++) if (large.add(100, 1_000_000 + i, i % ROWS) >= 0) added++;
    expect(added).toBeGreaterThan(300);
    large.packer.drain(large.emit);
    expect(large.packer.waiterCount).toBe(0);
    for (const { lbns } of large.left) expect(lbns.flat().length).toBeLessThanOrEqual(254);
  });
});

test('a fragment expands to what was compressed', () => {
  const arena = new Arena(1, 1);
  const packer = new Packer(arena, createKernels(arena));
  const block = squashy(5, 1200);
  const size = compressBlock(block, arena.fragments);
  const fragment = packer.add(0, size, 1, () => undefined);
  const into = new Uint8Array(BLOCK_SIZE);
  packer.read(fragment, into, 0);
  expect(Buffer.compare(into, block)).toBe(0);
});

test('what comes in comes out once, whatever the order', () => {
  const next = random(3);
  const bench = new Bench(6);
  const waiting = new Set<number>();
  const out = new Set<number>();
  const drop = (): void => {
    for (const { lbns } of bench.left.splice(0)) {
      for (const lbn of lbns.flat()) {
        expect(waiting.delete(lbn)).toBe(true);
        out.add(lbn);
      }
    }
  };
  for (let i = 0; i < 5000; i++) {
    const lbn = Math.floor(next() * 500);
    const what = next();
    if (what < 0.6) {
      bench.packer.detach(lbn);
      waiting.delete(lbn);
      // Before the call: a bin that is emitted within holds others only.
      const fragment = bench.packer.add(i % ROWS, 20 + Math.floor(next() * 3000), lbn, bench.emit);
      drop();
      if (fragment >= 0) {
        waiting.add(lbn);
        bench.packer.emitIfFull(fragment, bench.emit);
      }
    } else if (what < 0.8) {
      bench.packer.detach(lbn);
      waiting.delete(lbn);
      const fragment = bench.packer.findName(i % ROWS);
      if (fragment >= 0 && bench.packer.join(fragment, lbn)) waiting.add(lbn);
    } else if (what < 0.9) {
      bench.packer.detachRange(lbn, lbn + 10);
      for (let gone = lbn; gone < lbn + 10; gone++) waiting.delete(gone);
    }
    drop();
    expect(bench.packer.waiterCount).toBe(waiting.size);
  }
  bench.packer.drain(bench.emit);
  drop();
  expect(waiting.size).toBe(0);
  expect(out.size).toBeGreaterThan(450);
  expect(bench.packer.fragmentCount).toBe(0);
});
