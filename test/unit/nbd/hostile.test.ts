/** Clients that stall, flood and vanish: what they may hold, and that nobody else waits for them. */
import { describe, expect, it } from 'vitest';
import type { ServeOptions } from '../../../src/nbd/server.ts';
import { MemoryDevice } from '../../support/memory-device.ts';
import {
  ask,
  greet,
  infoPayload,
  NBD,
  requestHeader,
  type NbdClient,
  type NbdSocket,
} from '../../support/nbd-client.ts';
import { World } from './support.ts';

const MiB = 1 << 20;

describe('an NBD server', () => {
  const world = World.each();
  let device: MemoryDevice;
  const start = async (options: ServeOptions = {}) => {
    world.current = new World();
    device = new MemoryDevice(64 * MiB);
    return world.current.serve([{ name: 'disk', volume: device }], [], options);
  };
  const rawLine = async (): Promise<NbdSocket> => {
    const line = await world.current.line();
    await greet(line);
    await ask(line, NBD.GO, infoPayload('disk'));
    return line;
  };
  const until = async (done: () => boolean): Promise<void> => {
    while (!done()) await new Promise((resolve) => setTimeout(resolve, 5));
  };

  it('stays within its memory with 100 idle and 16 busy clients, deaf ones among them', async () => {
    const server = await start({ memoryBytes: 80 * MiB });
    await Promise.all(Array.from({ length: 100 }, () => rawLine()));
    const deaf = await Promise.all(Array.from({ length: 10 }, () => rawLine()));
    for (const line of deaf) {
      line.socket.pause();
      for (let i = 0; i < 50; i++) line.send(requestHeader(NBD.READ, 0, 4 * MiB, 0, i));
    }
    const busy = await Promise.all(Array.from({ length: 16 }, () => world.current.client('disk')));
    const work = async (client: NbdClient, who: number): Promise<void> => {
      const at = who * 2 * MiB;
      const writes = Array.from({ length: 4 }, (_, i) =>
        client.write(at + (i * MiB) / 4, Buffer.alloc(MiB / 4, who + 1)),
      );
      await Promise.all(writes);
      const half = MiB / 2;
      const back = await Promise.all([client.read(at, half), client.read(at + half, half)]);
      const expected = Buffer.alloc(half, who + 1);
      expect(back.every((bytes) => bytes.equals(expected))).toBe(true);
    };
    await Promise.all(busy.map(work));
    const { most, limit } = server.memory;
    expect(limit).toBe(80 * MiB);
    expect(most).toBeLessThanOrEqual(limit);
    expect(most).toBeGreaterThan(20 * MiB);
    for (const line of deaf) line.destroy();
    await until(() => server.memory.used === 0);
  });

  it('cuts off who takes no replies once others need the memory, and nobody before', async () => {
    const server = await start({ memoryBytes: 80 * MiB, deadlines: { stallMs: 300 } });
    const deaf = await Promise.all(Array.from({ length: 8 }, () => rawLine()));
    for (const line of deaf) {
      line.socket.pause();
      for (let i = 0; i < 20; i++) line.send(requestHeader(NBD.READ, 0, 8 * MiB, 0, i));
    }
    await until(() => server.memory.used > 60 * MiB);
    const client = await world.current.client('disk');
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect(server.clients).toBe(9);
    // Does not fit beside what the deaf ones hold.
    expect((await client.read(0, 32 * MiB)).length).toBe(32 * MiB);
    await until(() => server.clients < 9);
    expect((await client.read(0, 10)).length).toBe(10);
  });

  it('writes what has come of a payload that stops, holds little, and takes the rest later', async () => {
    const server = await start();
    const lines = await Promise.all(Array.from({ length: 20 }, () => rawLine()));
    for (const [i, line] of lines.entries()) {
      line.send(requestHeader(NBD.WRITE, i * MiB, MiB, 0, i), Buffer.alloc(100_000, i + 1));
    }
    await until(() => server.memory.used >= 20 * 65_536);
    expect(server.memory.used).toBeLessThanOrEqual(20 * (MiB + 65_536));
    await until(() => server.memory.used <= 20 * 1024);
    expect(device.bytes[99_999]).toBe(1);
    lines[0]!.send(Buffer.alloc(MiB - 100_000, 77));
    expect((await lines[0]!.receive(16)).readUInt32BE(4)).toBe(0);
    expect([device.bytes[99_999], device.bytes[100_000], device.bytes[MiB - 1]]).toEqual([
      1, 77, 77,
    ]);
    for (const line of lines) line.destroy();
    await until(() => server.clients === 0);
    expect(server.memory.used).toBe(0);
  });

  it('forgets clients that vanish in the middle of a write, and what they sent so far', async () => {
    const server = await start();
    for (let i = 0; i < 60; i++) {
      const line = await rawLine();
      line.send(requestHeader(NBD.WRITE, 0, 3 * MiB, 0, i), Buffer.alloc(i * 5000, 1));
      line.destroy();
    }
    await until(() => server.clients === 0);
    expect(server.memory.used).toBe(0);
  });

  it('cuts off who opens nothing in time, however busy it is with options', async () => {
    const server = await start({ deadlines: { handshakeMs: 200 } });
    const silent = await world.current.line();
    const busy = await world.current.line();
    await greet(busy);
    const asking = (async () => {
      for (;;) {
        await ask(busy, NBD.LIST);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    })();
    await expect(asking).rejects.toThrow();
    await silent.untilClosed();
    await until(() => server.clients === 0);
  });

  it('hears newcomers while hundreds connect and say nothing', async () => {
    const server = await start();
    const client = await world.current.client('disk');
    const silent: NbdSocket[] = [];
    for (let i = 0; i < 400; i++) silent.push(await world.current.line());
    expect((await world.current.client('disk')).size).toBe(64 * MiB);
    await client.write(0, Buffer.from('still here'));
    expect(server.clients).toBeLessThanOrEqual(131);
  });

  it('ends a connection that spends its options', async () => {
    await start();
    const line = await world.current.line();
    await greet(line);
    const asked = (async () => {
      for (let i = 0; i < 300; i++) await ask(line, 99);
    })();
    await expect(asked).rejects.toThrow();
  });

  it('lets a client of one request at a time through beside greedy ones', async () => {
    await start({ memoryBytes: 80 * MiB });
    const greedy = await Promise.all(Array.from({ length: 8 }, () => world.current.client('disk')));
    let stopped = false;
    const running = greedy.map(async (client) => {
      while (!stopped) {
        await Promise.all(Array.from({ length: 16 }, (_, i) => client.read(i * 4096, MiB / 8)));
      }
    });
    const modest = await world.current.client('disk');
    let worstMs = 0;
    for (let i = 0; i < 30; i++) {
      const startMs = performance.now();
      await modest.read(0, 4096);
      worstMs = Math.max(worstMs, performance.now() - startMs);
    }
    stopped = true;
    await Promise.all(running);
    expect(worstMs).toBeLessThan(2000);
  });
});
