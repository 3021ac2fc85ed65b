/** What the benches rest on: their data is what it claims to be, their table goes where it should. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { compressibleFill, programFill, randomFill, textFill } from '../../../bench/data.ts';
import { runsToProfile } from '../../../bench/engine.ts';
import { overBudget, phaseOf, profiled, readBudget } from '../../../bench/profile.ts';
import { machine, percentile, tableOf, writeBetweenMarks } from '../../../bench/table.ts';
import { compressBlock } from '../../../src/kernels/lz4.ts';
import { murmur3 } from '../../../src/kernels/murmur3.ts';

const BLOCKS = 64;

function fragmentSizes(bytes: Uint8Array): number[] {
  const into = new Uint8Array(4096);
  return Array.from({ length: bytes.length / 4096 }, (_, i) =>
    compressBlock(bytes.subarray(i * 4096, (i + 1) * 4096), into),
  );
}

function hashOf(bytes: Uint8Array): string {
  const into = Buffer.alloc(16);
  murmur3(bytes, 0, into, 0);
  return into.toString('hex');
}

describe('data to measure with', () => {
  it('is the same bytes for the same seed', () => {
    for (const fill of [randomFill, compressibleFill, textFill]) {
      const [a, b, c] = [1, 1, 2].map((seed) => {
        const bytes = new Uint8Array(8192);
        fill(bytes, seed);
        return hashOf(bytes);
      });
      expect(b).toBe(a);
      expect(c).not.toBe(a);
    }
  });

  it('shrinks by LZ4 as much as it says, block by block', () => {
    const bytes = new Uint8Array(BLOCKS * 4096);
    compressibleFill(bytes, 5);
    const sizes = fragmentSizes(bytes);
    const mean = sizes.reduce((sum, size) => sum + size) / BLOCKS;
    expect(Math.min(...sizes)).toBeGreaterThan(1800);
    expect(Math.max(...sizes)).toBeLessThan(2150);
    // Two of the usual size share a block.
    expect(mean).toBeGreaterThan(1900);
    expect(mean).toBeLessThan(2030);
    randomFill(bytes, 5);
    expect(fragmentSizes(bytes).every((size) => size === 0)).toBe(true);
  });

  it('reads machine code from the running program', () => {
    const bytes = new Uint8Array(1 << 20);
    programFill(bytes);
    expect(new Set(fragmentSizes(bytes)).size).toBeGreaterThan(20);
  });
});

describe('the table', () => {
  const row = { name: 'a', cpuMicroseconds: 1.234, p50Microseconds: 23.45, p99Microseconds: 678.9 };

  it('is aligned, with as many digits as matter', () => {
    expect(tableOf([row, { ...row, name: 'bcd', megabytesPerSecond: 0.5, remark: 'x' }])).toBe(
      [
        '|     |  MB/s | CPU µs | p50 µs | p99 µs |     |',
        '| --- | ----: | -----: | -----: | -----: | --- |',
        '| a   |       |   1.23 |   23.4 |    679 |     |',
        '| bcd | 0.500 |   1.23 |   23.4 |    679 | x   |',
      ].join('\n'),
    );
    expect(machine()).toContain(`Node ${process.versions.node}`);
  });

  it('takes percentiles', () => {
    const sorted = Float64Array.from({ length: 100 }, (_, i) => i);
    expect([percentile(sorted, 0.5), percentile(sorted, 0.99)]).toEqual([50, 99]);
    expect(percentile(sorted, 1)).toBe(99);
    expect(percentile(new Float64Array(0), 0.5)).toBeNaN();
  });

  it('replaces the one in a document and leaves the rest of it alone', () => {
    const directory = mkdtempSync(join(tmpdir(), 'uvdo-bench-'));
    try {
      const path = join(directory, 'PERFORMANCE.md');
      writeBetweenMarks(path, 'one');
      expect(readFileSync(path, 'utf8')).toContain('# Performance');
      writeFileSync(path, `before\n${readFileSync(path, 'utf8')}after\n`);
      const old = readFileSync(path, 'utf8');
      writeBetweenMarks(path, 'two');
      expect(readFileSync(path, 'utf8')).toBe(old.replace('one', 'two'));
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

describe('the profile', () => {
  it('knows the phase of a function', () => {
    expect(phaseOf('kernels/hashTwo', 'wasm://wasm/0')).toBe('hash');
    expect(phaseOf('lz4/compress', 'wasm://wasm/0')).toBe('compress');
    expect(phaseOf('lz4/decompress', 'wasm://wasm/0')).toBe('verify');
    expect(phaseOf('#choose', 'file:///x/dist/src/data-path/packer.js')).toBe('pack');
    expect(phaseOf('appendData', 'file:///x/dist/src/recovery-journal/recovery-journal.js')).toBe(
      'journal',
    );
    expect(phaseOf('(garbage collector)', '')).toBe('GC');
    expect(phaseOf('unknown', '')).toBe('other');
  });

  it('measures what a run spends, and no phase is lost', async () => {
    const result = await profiled('hashing', 300, () => {
      const block = new Uint8Array(4096);
      const name = new Uint8Array(16);
      for (let i = 0; i < 3000; i++) murmur3(block, i, name, 0);
      return Promise.resolve();
    });
    const sum = [...result.phases.values()].reduce((a, b) => a + b);
    expect(result.total).toBeGreaterThan(0);
    expect(Math.abs(sum - result.total)).toBeLessThan(result.total * 0.01 + 0.01);
  });

  it('tells what costs over 15 % more than its budget, and lets new runs pass', () => {
    const budget = { a: 1, b: 2 };
    expect(overBudget(budget, { a: 1.14, b: 2.2, c: 9 })).toEqual([]);
    expect(overBudget(budget, { a: 1.2, b: 1 })).toEqual([
      'a: 1.2 units a block, 20 % over the budget of 1',
    ]);
  });

  it('has a budget for every run', () => {
    const runs = runsToProfile({ bytes: 1 << 20 }).map(({ name }) => name);
    expect(Object.keys(readBudget()).sort()).toEqual(runs.sort());
  });
});
