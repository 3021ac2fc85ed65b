/**
 * Hostile clients: random bytes and damaged messages at every state, while a well-behaved client
 * works beside them and must notice nothing. Seeded; a failure names its seed.
 */
import { describe, expect, it } from 'vitest';
import { MemoryDevice } from '../../support/memory-device.ts';
import {
  infoPayload,
  NBD,
  NbdSocket,
  optionRequest,
  requestHeader,
} from '../../support/nbd-client.ts';
import { Random } from '../../sim/random.ts';
import { World } from './support.ts';

const MiB = 1 << 20;
const FUZZ_MS = 2500;
/** Where the good client works; the device's rest is the others'. */
const GOOD_BYTES = MiB;

const bytesOf = (random: Random, length: number): Buffer =>
  Buffer.from(Array.from({ length }, () => random.below(256)));

const strangeNumber = (random: Random): number =>
  random.pick([0, 1, 4096, 65_535, 65_537, 1 << 20, 0x7fffffff, 0xffffffff, random.next()]);

function option(random: Random): Buffer {
  const payloads = [
    Buffer.alloc(0),
    infoPayload(random.pick(['evil', '', 'none', 'x'.repeat(5000)]), [random.below(6), 3]),
    bytesOf(random, random.below(200)),
  ];
  const bytes = optionRequest(
    random.pick([1, 2, 3, 6, 7, 7, 8, 10, 11, random.next()]),
    random.pick(payloads),
  );
  if (random.chance(0.1)) bytes.writeUInt32BE(strangeNumber(random), 12);
  return bytes;
}

function request(random: Random): Buffer {
  const command = random.pick([0, 1, 1, 3, 4, 6, 5, 7, 2, random.below(65_536)]);
  const length = random.chance(0.8) ? random.below(50_000) : strangeNumber(random);
  const offset = random.chance(0.8)
    ? random.below(4 * MiB)
    : BigInt(random.next()) * BigInt(random.next());
  const flags = random.chance(0.8) ? 0 : random.below(65_536);
  const header = requestHeader(command, offset, length, flags, random.next());
  if (command !== 1 || length > 100_000) return header;
  return Buffer.concat([header, Buffer.alloc(length, random.below(256))]);
}

function damage(random: Random, bytes: Buffer): Buffer {
  if (random.chance(0.9) || bytes.length === 0) return bytes;
  if (random.chance(0.3)) return bytes.subarray(0, random.below(bytes.length));
  const copy = Buffer.from(bytes);
  for (let i = random.below(4); i >= 0; i--) copy[random.below(copy.length)] = random.below(256);
  return copy;
}

/** One hostile connection from beginning to end. Returns the messages it sent. */
async function attack(world: World, random: Random): Promise<number> {
  const line = await NbdSocket.connect(world.address);
  if (random.chance(0.1)) line.socket.pause();
  const messages: Buffer[] = [];
  if (random.chance(0.9))
    messages.push(Buffer.from([0, 0, 0, random.chance(0.9) ? 3 : random.below(256)]));
  for (let i = random.below(6); i > 0; i--) messages.push(damage(random, option(random)));
  if (random.chance(0.8)) messages.push(optionRequest(NBD.GO, infoPayload('evil')));
  for (let i = random.below(60); i > 0; i--) messages.push(damage(random, request(random)));
  if (random.chance(0.2)) messages.push(bytesOf(random, random.below(1000)));
  for (const message of messages) {
    if (line.socket.destroyed) break;
    line.send(message);
    if (random.chance(0.1)) await new Promise(setImmediate);
  }
  if (random.chance(0.5)) line.socket.end();
  if (random.chance(0.5))
    await Promise.race([line.untilClosed(), new Promise((r) => setTimeout(r, 20))]);
  line.destroy();
  return messages.length;
}

describe('an NBD server among hostile clients', () => {
  const world = World.each();

  it('answers the good one as if it were alone, and keeps nothing of the others', async () => {
    world.current = new World();
    const good = new MemoryDevice(GOOD_BYTES, { random: new Random(1) });
    const evil = new MemoryDevice(4 * MiB, { random: new Random(2) });
    const server = await world.current.serve([
      // First, so that the empty name means it as well.
      { name: 'evil', volume: evil },
      { name: 'good', volume: good },
    ]);
    const client = await world.current.client('good');
    const endMs = performance.now() + FUZZ_MS;
    let seed = 0;
    let messages = 0;
    const attackers = Array.from({ length: 6 }, async () => {
      while (performance.now() < endMs) {
        const random = new Random(seed++);
        messages += await attack(world.current, random);
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
      expect(back.equals(expected.subarray(start, start + 30_000)), `seeds up to ${seed}`).toBe(
        true,
      );
    }
    await Promise.all(attackers);
    expect(messages).toBeGreaterThan(100);
    const deadlineMs = performance.now() + 10_000;
    while (server.clients > 1 && performance.now() < deadlineMs) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    expect(server.clients).toBe(1);
    expect(evil.inFlight).toBe(0);
    expect((await client.read(0, GOOD_BYTES)).equals(expected)).toBe(true);
  });
});
