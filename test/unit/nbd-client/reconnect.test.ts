import { afterEach, describe, expect, it } from 'vitest';
import { bytesEqual } from '../../../src/base/bytes.ts';
import { openNbdStorage, type NbdStorage, type NbdStorageOptions } from '../../../src/nbd-client/nbd-storage.ts'; // prettier-ignore
import { codeOf } from '../../contract/storage.ts';
import { Random } from '../../sim/random.ts';
import {
  FakeServer,
  numbers,
  simpleReply,
  type FakeOptions,
} from '../../support/nbd-fake-server.ts';

const SIZE = 1 << 20;
const BLOCK = 4096;
const QUICK: NbdStorageOptions = { timeoutMs: 2000, openMs: 2000, giveUpMs: 20_000 };
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

let server: FakeServer;
let storage: NbdStorage;
afterEach(async () => {
  await storage.close();
  await server.stop();
});

async function start(options: FakeOptions = {}, how: NbdStorageOptions = QUICK): Promise<void> {
  server = await FakeServer.start({ size: SIZE, ...options });
  storage = await openNbdStorage(server.uri, how);
}

const block = (fill: number, length = BLOCK): Uint8Array => new Uint8Array(length).fill(fill);
const write = (offset: number, fill: number): Promise<void> =>
  storage.write([{ offset, bytes: block(fill) }]);
const read = async (offset: number, length = BLOCK): Promise<Uint8Array> => {
  const bytes = block(0xee, length);
  await storage.read([{ offset, bytes }]);
  return bytes;
};

/** Breaks connections, crashes and restarts the server after random numbers of requests. */
function disturb(victim: FakeServer, random: Random): { end(): Promise<void> } {
  let over = false;
  let left = 1;
  let restarting = Promise.resolve();
  victim.onRequest = () => {
    if (over || --left > 0) return undefined;
    left = 1 + random.below(500);
    const kind = random.below(4);
    if (kind === 0) victim.disconnect();
    else if (kind === 1) {
      restarting = restarting.then(async () => {
        await victim.unlisten();
        victim.crash(random);
        await victim.listen();
      });
    } else victim.crash(random);
    return undefined;
  };
  return {
    async end() {
      over = true;
      await restarting;
    },
  };
}

describe('a server that restarts', () => {
  it.each([
    ['simple', 1, 1],
    ['structured', 512, 2],
    ['extended', 4096, 3],
  ] as const)(
    '%s replies: loses nothing, whatever it forgets',
    async (form, minimumBlock, seed) => {
      const random = new Random(seed);
      await start({ form, minimumBlock, random: new Random(seed + 10) });
      const model = new Uint8Array(SIZE);
      const trouble = disturb(server, random);
      try {
        for (let round = 0; round < 80; round++) {
          const places = Array.from({ length: 20 }, () => random.below(SIZE / BLOCK));
          const writes = [...new Set(places)].map((place) => {
            const short = random.chance(0.2);
            const offset = place * BLOCK + (short ? random.below(1000) : 0);
            const bytes = block(1 + random.below(255), short ? 1 + random.below(3000) : BLOCK);
            return { offset, bytes };
          });
          await Promise.all(writes.map((one) => storage.write([one])));
          for (const { offset, bytes } of writes) model.set(bytes, offset);
          if (random.chance(0.3)) {
            const start = random.below(SIZE / 2);
            const length = random.below(SIZE / 8);
            await storage.writeZeroes(start, length);
            model.fill(0, start, start + length);
          }
          const from = random.below(SIZE / 2);
          const seen = await read(from, SIZE / 4);
          expect(bytesEqual(seen, model.subarray(from, from + SIZE / 4)), `round ${round}`).toBe(
            true,
          );
          if (random.chance(0.3)) {
            await storage.flush();
            expect(bytesEqual(server.stable, model), `flush of round ${round}`).toBe(true);
            expect(storage.replayBytes).toBe(0);
          }
        }
      } finally {
        await trouble.end();
      }
      expect(server.counts.connections).toBeGreaterThan(3);
    },
  );

  it('is not asked for more than needed: an idle connection may end', async () => {
    await start();
    await write(0, 1);
    server.disconnect();
    await pause(20);
    expect(server.counts.connections).toBe(1);
    expect((await read(0))[0]).toBe(1);
    expect(server.counts.connections).toBe(2);
  });

  it('says that it stops: the request goes to its successor', async () => {
    await start();
    let refused = 0;
    server.onRequest = ({ cookie, command }) =>
      command === 1 && refused++ === 0 ? simpleReply(cookie, 108) : undefined;
    await write(0, 7);
    expect(server.cache[0]).toBe(7);
    expect(server.counts.connections).toBe(2);
  });

  it('is away too long: what waits fails, and nothing is lost when it comes back', async () => {
    await start({}, { ...QUICK, giveUpMs: 150 });
    await write(0, 5);
    await server.unlisten();
    server.crash(new Random(3));
    await expect(read(BLOCK)).rejects.toThrow(/there is no such socket|refused/);
    await server.listen();
    expect((await read(0))[0]).toBe(5);
    await storage.flush();
    expect(server.stable[0]).toBe(5);
  });

  it('is away too long for a flush: that is final', async () => {
    await start({}, { ...QUICK, giveUpMs: 100 });
    await write(0, 5);
    await server.unlisten();
    expect(await codeOf(storage.flush())).toBe('Io');
    await server.listen();
    expect(await codeOf(write(0, 6))).toBe('Io');
    expect(await codeOf(storage.flush())).toBe('Io');
    expect((await read(0))[0]).toBe(5);
  });

  it('comes back as something else: that is final', async () => {
    await start();
    await write(0, 5);
    server.onOption = (option) => {
      if (option !== 7) return undefined;
      const facts = numbers([16, 0], [64, SIZE + 4096], [16, 0x6d]);
      return Buffer.concat([
        numbers([64, 0x0003e889045565a9n], [32, 7], [32, 3], [32, facts.length]),
        facts,
        numbers([64, 0x0003e889045565a9n], [32, 7], [32, 1], [32, 0]),
      ]);
    };
    server.disconnect();
    await expect(storage.flush()).rejects.toThrow(/size has changed from 1048576 to 1052672/);
    await expect(write(0, 6)).rejects.toThrow(/may be lost/);
  });

  it('refuses a write made again: that is final', async () => {
    await start();
    await write(0, 5);
    server.disconnect();
    server.onRequest = ({ command, cookie }) =>
      command === 1 ? simpleReply(cookie, 5) : undefined;
    await expect(storage.flush()).rejects.toThrow(/may be lost.*the device of the server failed/);
    server.onRequest = undefined;
    expect(await codeOf(write(0, 6))).toBe('Io');
    expect(await codeOf(storage.flush())).toBe('Io');
  });

  it('dies of one request again and again: that one fails', async () => {
    await start();
    server.onRequest = ({ offset, command }) => {
      if (command === 0 && offset === 8 * BLOCK) server.disconnect();
      return undefined;
    };
    const others = Promise.all([write(0, 1), read(BLOCK)]);
    await expect(read(8 * BLOCK)).rejects.toThrow(/8 connections broke under one request/);
    await others;
    await storage.flush();
    expect(server.stable[0]).toBe(1);
  });
});

describe('a server that does not answer', () => {
  const silence = Buffer.alloc(0);

  it('is left for a new connection', async () => {
    await start({}, { ...QUICK, timeoutMs: 60 });
    let first = true;
    server.onRequest = () => {
      if (!first) return undefined;
      first = false;
      return silence;
    };
    expect((await read(0))[0]).toBe(0);
    expect(server.counts.connections).toBe(2);
  });

  it('is given up in the end', async () => {
    await start({}, { ...QUICK, timeoutMs: 60, giveUpMs: 150 });
    server.onRequest = () => silence;
    await expect(read(0)).rejects.toThrow(/has not answered for 0.06 s/);
  });

  it('has longer for a flush', async () => {
    await start({}, { ...QUICK, timeoutMs: 200 });
    await write(0, 1);
    server.onRequest = ({ command, cookie }) => {
      if (command !== 3) return undefined;
      setTimeout(() => (held = simpleReply(cookie)), 0);
      return silence;
    };
    let held: Buffer | undefined;
    const flushing = storage.flush();
    await pause(400);
    expect(server.counts.connections).toBe(1);
    server.onRequest = undefined;
    server.disconnect();
    await flushing;
    expect(held).toBeDefined();
    expect(server.counts.flushes).toBe(1);
  });
});

describe('a flush that the server fails', () => {
  it('is final for everything but reads', async () => {
    await start();
    await write(0, 5);
    server.onRequest = ({ command, cookie }) =>
      command === 3 ? simpleReply(cookie, 5) : undefined;
    await expect(storage.flush()).rejects.toThrow(/cannot flush .*device of the server failed/);
    server.onRequest = undefined;
    expect(await codeOf(storage.flush())).toBe('Io');
    expect(await codeOf(write(0, 6))).toBe('Io');
    expect((await read(0))[0]).toBe(5);
    expect(server.counts.flushes).toBe(0);
  });
});

describe('memory', () => {
  it('of unflushed writes is bounded by flushes of its own', async () => {
    const replayBytes = 256 << 10;
    await start({ size: 8 << 20 }, { ...QUICK, replayBytes });
    const bytes = block(3, 8 << 20);
    let most = 0;
    const watch = setInterval(() => (most = Math.max(most, storage.replayBytes)), 1);
    for (let i = 0; i < 128; i++) {
      await storage.write([{ offset: i << 16, bytes: bytes.subarray(0, 65_536) }]);
      most = Math.max(most, storage.replayBytes);
    }
    clearInterval(watch);
    expect(most).toBeLessThanOrEqual(replayBytes);
    expect(most).toBeGreaterThan(0);
    expect(server.counts.flushes).toBeGreaterThan(10);
    await Promise.all(
      Array.from({ length: 64 }, (_, i) => storage.write([{ offset: i << 17, bytes: bytes.subarray(0, 1 << 17) }])), // prettier-ignore
    );
    // What an entry costs beside its bytes is counted once it is there.
    expect(storage.replayBytes).toBeLessThanOrEqual(replayBytes + 16 * 64);
    expect(server.cache.every((byte) => byte === 3)).toBe(true);
  });

  it('holds what is written during a flush until the next', async () => {
    await start();
    await write(0, 1);
    server.onRequest = ({ command }) => {
      if (command !== 3) return undefined;
      server.onRequest = undefined;
      return undefined;
    };
    await Promise.all([storage.flush(), write(BLOCK, 2), storage.flush()]);
    await storage.flush();
    expect(server.stable[0]).toBe(1);
    expect(server.stable[BLOCK]).toBe(2);
    const { flushes } = server.counts;
    await storage.flush();
    expect(server.counts.flushes).toBe(flushes);
  });
});

describe('closing', () => {
  it('waits for what is in progress, and is prompt with a server that hangs', async () => {
    await start({}, { ...QUICK, timeoutMs: 100, giveUpMs: 200 });
    server.onRequest = () => Buffer.alloc(0);
    const reading = codeOf(read(0));
    const startMs = performance.now();
    await storage.close();
    expect(await reading).toBe('Io');
    expect(performance.now() - startMs).toBeLessThan(5000);
  });
});
