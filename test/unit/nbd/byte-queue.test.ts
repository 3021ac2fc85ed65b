import { describe, expect, it } from 'vitest';
import { BufferPool } from '../../../src/nbd/buffer-pool.ts';
import { ByteQueue } from '../../../src/nbd/byte-queue.ts';
import { Random } from '../../sim/random.ts';

describe('ByteQueue', () => {
  it('gives back any stream in any portions', () => {
    for (let seed = 0; seed < 20; seed++) {
      const random = new Random(seed);
      const queue = new ByteQueue();
      let sent = 0;
      let seen = 0;
      const check = (bytes: Buffer): void => {
        const expected = Buffer.from(Array.from({ length: bytes.length }, () => seen++ & 0xff));
        expect(bytes.equals(expected)).toBe(true);
      };
      while (seen < 5000) {
        if (random.chance(0.5)) {
          const length = random.below(40);
          const chunk = Buffer.from(Array.from({ length }, () => sent++ & 0xff));
          queue.push(chunk);
          if (random.chance(0.3)) check(queue.take(Math.min(random.below(30), queue.length)));
          queue.keep();
          chunk.fill(0xee);
        }
        const length = random.below(60);
        const choice = random.below(3);
        if (choice === 0 && queue.length >= length) check(queue.take(length));
        if (choice === 1) {
          const target = Buffer.alloc(length + 3);
          const moved = queue.moveTo(target, 3);
          check(target.subarray(3, 3 + moved));
        }
        if (choice === 2) seen += queue.skip(length);
        expect(queue.length).toBe(sent - seen);
      }
    }
  });

  it('does not copy what lies in one chunk', () => {
    const queue = new ByteQueue();
    const chunk = Buffer.from('0123456789');
    queue.push(chunk);
    queue.take(2);
    const view = queue.take(5);
    chunk[2] = 0x78;
    expect(view.toString()).toBe('x3456');
    expect(queue.take(0).length).toBe(0);
    expect(queue.take(3).toString()).toBe('789');
  });
});

describe('BufferPool', () => {
  it('hands the same buffer out again, by size, and holds no more than its limit', () => {
    const pool = new BufferPool(200_000);
    const small = pool.take(4096 + 16);
    const large = pool.take(65_536 + 16);
    expect(small.length).toBeGreaterThanOrEqual(4112);
    expect(small.length).toBeLessThan(8192);
    pool.give(small);
    pool.give(large);
    // Compared by identity: a matcher would look into megabytes.
    expect(pool.take(65_000) === large).toBe(true);
    expect(pool.take(1) === small).toBe(true);
    expect(pool.take(1) === small).toBe(false);
    const many = Array.from({ length: 10 }, () => pool.take(65_536));
    for (const buffer of many) pool.give(buffer);
    const again = new Set(Array.from({ length: 10 }, () => pool.take(65_536)));
    expect(many.filter((buffer) => again.has(buffer)).length).toBe(3);
    const huge = pool.take(3 << 20);
    expect(huge.length).toBe(3 << 20);
    pool.give(huge);
    expect(pool.take(3 << 20) === huge).toBe(false);
  });
});
