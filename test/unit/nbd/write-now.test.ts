/** Writes that the device takes at once go to it as they lie in the socket's buffer, in whole blocks. */
import { describe, expect, it } from 'vitest';
import { CommandFlag } from '../../../src/nbd/protocol.ts';
import { MemoryDevice } from '../../support/memory-device.ts';
import { ask, greet, infoPayload, NBD, requestHeader } from '../../support/nbd-client.ts';
import type { NbdSocket } from '../../support/nbd-client.ts';
import { Random } from '../../sim/random.ts';
import { World } from './support.ts';

const MiB = 1 << 20;
const SIZE = 8 * MiB;

const bytesOf = (length: number, seed: number): Buffer => {
  const random = new Random(seed);
  const words = Uint32Array.from({ length: Math.ceil(length / 4) }, () => random.next());
  return Buffer.from(words.buffer).subarray(0, length);
};

describe('a device that writes at once', () => {
  const world = World.each();

  const start = async (takesNow?: () => number): Promise<[MemoryDevice, NbdSocket]> => {
    world.current = new World();
    const options = takesNow === undefined ? {} : { takesNow };
    const device = new MemoryDevice(SIZE, { random: new Random(5), ...options });
    await world.current.serve([{ name: 'disk', volume: device }]);
    const line = await world.current.line();
    await greet(line);
    await ask(line, NBD.GO, infoPayload('disk', []));
    return [device, line];
  };

  const answered = async (line: NbdSocket, count: number): Promise<void> => {
    const replies = await line.receive(16 * count);
    for (let i = 0; i < count; i++) expect(replies.readUInt32BE(16 * i + 4)).toBe(0);
  };

  it('is asked for nothing else while it takes everything', async () => {
    const [device, line] = await start(() => Infinity);
    const model = Buffer.alloc(SIZE);
    for (let i = 0; i < 100; i++) {
      const bytes = bytesOf(4096, i);
      bytes.copy(model, i * 8192);
      line.send(requestHeader(NBD.WRITE, i * 8192, 4096, 0, i), bytes);
    }
    const large = bytesOf(3 * MiB + 100, 7);
    large.copy(model, 4 * MiB - 50);
    line.send(requestHeader(NBD.WRITE, 4 * MiB - 50, large.length, 0, 100), large);
    await answered(line, 101);
    expect(device.calls.write).toBe(0);
    expect(Buffer.from(device.bytes).equals(model)).toBe(true);
    const ends = device.takenNow.map(({ offset, length }) => offset + length);
    const last = 7 * MiB + 50;
    expect(ends.filter((end) => end % 4096 !== 0)).toEqual([last]);
    expect(world.current.memory.used).toBe(0);
  });

  it('gets what it did not take once more, whatever it took and however the bytes came', async () => {
    const random = new Random(3);
    const mood = [0, 0, 100, 4096, 5000, 65_536, Infinity];
    const [device, line] = await start(() => mood[random.below(mood.length)]!);
    const model = Buffer.alloc(SIZE);
    for (let round = 0; round < 60; round++) {
      const offset = random.below(SIZE - 2 * MiB);
      const length = 1 + random.below(random.chance(0.2) ? 2 * MiB : 20_000);
      const bytes = bytesOf(length, round);
      bytes.copy(model, offset);
      const message = Buffer.concat([requestHeader(NBD.WRITE, offset, length, 0, round), bytes]);
      for (let at = 0; at < message.length;) {
        const size = 1 + random.below(random.chance(0.5) ? 5000 : 400_000);
        line.send(message.subarray(at, at + size));
        at += size;
        if (random.chance(0.3)) await new Promise(setImmediate);
      }
      await answered(line, 1);
    }
    expect(device.calls.write).toBeGreaterThan(10);
    expect(device.takenNow.length).toBeGreaterThan(10);
    expect(Buffer.from(device.bytes).equals(model)).toBe(true);
    expect(world.current.memory.used).toBe(0);
  });

  it('is not asked where the answer must wait for the disk', async () => {
    const [device, line] = await start(() => Infinity);
    const bytes = bytesOf(4096, 1);
    line.send(requestHeader(NBD.WRITE, 0, 4096, CommandFlag.fua, 1), bytes);
    await answered(line, 1);
    expect([device.takenNow.length, device.calls.write, device.fuaCalls]).toEqual([0, 1, 1]);
  });

  it('that takes nothing gets large pieces', async () => {
    const [device, line] = await start();
    const bytes = bytesOf(6 * MiB, 2);
    line.send(requestHeader(NBD.WRITE, 0, bytes.length, 0, 1), bytes);
    await answered(line, 1);
    expect(device.calls.write).toBeLessThanOrEqual(8);
    expect(Buffer.from(device.bytes.subarray(0, bytes.length)).equals(bytes)).toBe(true);
  });
});
