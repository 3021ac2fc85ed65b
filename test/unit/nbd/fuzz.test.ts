/**
 * Hostile clients in every form, while a well-behaved one works beside them and must notice nothing.
 * Seeded; a failure names its seeds. The long version, against a server of its own with a real volume,
 * is test/interop/nbd-fuzz.test.ts.
 */
import { describe, expect, it } from 'vitest';
import { MemoryDevice } from '../../support/memory-device.ts';
import { attack, EVIL_BYTES } from '../../support/nbd-fuzz.ts';
import { Random } from '../../sim/random.ts';
import { World } from './support.ts';

const MiB = 1 << 20;
const FUZZ_MS = 2500;
/** Where the good client works; the device's rest is the others'. */
const GOOD_BYTES = MiB;

describe('an NBD server among hostile clients', () => {
  const world = World.each();

  it('answers the good one as if it were alone, and keeps nothing of the others', async () => {
    world.current = new World();
    const good = new MemoryDevice(GOOD_BYTES, { random: new Random(1) });
    const evil = new MemoryDevice(EVIL_BYTES, { random: new Random(2) });
    const server = await world.current.serve([
      // First, so that the empty name means it as well.
      { name: 'evil', volume: evil },
      { name: 'good', volume: good },
    ]);
    const client = await world.current.client('good', { form: 'structured' });
    const endMs = performance.now() + FUZZ_MS;
    let seed = 0;
    let messages = 0;
    const attackers = Array.from({ length: 6 }, async () => {
      while (performance.now() < endMs) {
        messages += await attack(world.current.address, new Random(seed++), 60);
      }
    });
    const expected = Buffer.alloc(GOOD_BYTES);
    const random = new Random(99);
    while (performance.now() < endMs) {
      const length = 1 + random.below(20_000);
      const offset = random.below(GOOD_BYTES - length);
      expected.fill(random.below(256), offset, offset + length);
      await client.write(offset, expected.subarray(offset, offset + length));
      const start = random.below(GOOD_BYTES - 30_000);
      const back = await client.read(start, 30_000);
      const isRight = back.equals(expected.subarray(start, start + 30_000));
      expect(isRight, `seeds up to ${seed}`).toBe(true);
    }
    await Promise.all(attackers);
    expect(messages).toBeGreaterThan(100);
    const deadlineMs = performance.now() + 10_000;
    while (server.clients > 1 && performance.now() < deadlineMs) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    expect(server.clients).toBe(1);
    expect(server.memory.used).toBe(0);
    expect(server.memory.most).toBeLessThanOrEqual(server.memory.limit);
    expect(evil.inFlight).toBe(0);
    expect((await client.read(0, GOOD_BYTES)).equals(expected)).toBe(true);
  });
});
