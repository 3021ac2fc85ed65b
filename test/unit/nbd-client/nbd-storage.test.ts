import { afterEach, describe, expect, it } from 'vitest';
import { bytesEqual } from '../../../src/base/bytes.ts';
import { openNbdStorage, type NbdStorage } from '../../../src/nbd-client/nbd-storage.ts';
import { isSparse } from '../../../src/storage/sparse-storage.ts';
import { codeOf } from '../../contract/storage.ts';
import { Random } from '../../sim/random.ts';
import { FakeServer, FLAGS, type FakeOptions } from '../../support/nbd-fake-server.ts';

const KiB = 1024;
let server: FakeServer;
let storage: NbdStorage | undefined;
afterEach(async () => {
  await storage?.close();
  storage = undefined;
  await server.stop();
});

async function open(options: FakeOptions = {}): Promise<NbdStorage> {
  server = await FakeServer.start({ size: 1 << 20, ...options });
  return (storage = await openNbdStorage(server.uri, { timeoutMs: 5000 }));
}

describe('requests', () => {
  it('join neighbours, and are as large as the server takes', async () => {
    const one = await open({ maximumPayload: 64 * KiB });
    const bytes = new Uint8Array(4 * KiB).fill(9);
    await one.write(Array.from({ length: 64 }, (_, i) => ({ offset: i * bytes.length, bytes })));
    expect(server.counts.writes).toBe(4);
    expect(server.largestPayload).toBe(64 * KiB);
    await one.read([{ offset: 0, bytes: new Uint8Array(256 * KiB) }]);
    expect(server.counts.reads).toBe(4);
  });

  it('are whole blocks, whatever is asked for: neighbours keep their bytes', async () => {
    const one = await open({ minimumBlock: 4096, random: new Random(2) });
    const model = new Uint8Array(1 << 20);
    const random = new Random(5);
    for (let round = 0; round < 30; round++) {
      // Many at once, some of them in the same block, some beside a whole block.
      const extents = Array.from({ length: 12 }, (_, i) => {
        const offset = i * 8000 + random.below(3000);
        return {
          offset,
          bytes: new Uint8Array(1 + random.below(4900)).fill(1 + random.below(255)),
        };
      });
      const whole = { offset: 40 * 4096, bytes: new Uint8Array(4096).fill(round + 1) };
      await Promise.all([...extents, whole].map((extent) => one.write([extent])));
      for (const { offset, bytes } of [...extents, whole]) model.set(bytes, offset);
    }
    expect(bytesEqual(server.cache, model)).toBe(true);
    const odd = new Uint8Array(10_000);
    await one.read([{ offset: 1234, bytes: odd }]);
    expect(bytesEqual(odd, model.subarray(1234, 11_234))).toBe(true);
  });

  it('carry FUA where the server knows no flush', async () => {
    const one = await open({ fixed: false, flags: FLAGS.has | FLAGS.fua });
    await one.write([{ offset: 4096, bytes: new Uint8Array(10).fill(3) }]);
    expect(server.stable[4096]).toBe(3);
    await one.flush();
    expect(server.counts.flushes).toBe(0);
    expect(one.replayBytes).toBe(0);
  });
});

describe('opening for writing', () => {
  it('is refused where the server can promise nothing, or does not want it', async () => {
    server = await FakeServer.start({ flags: FLAGS.has });
    await expect(openNbdStorage(server.uri)).rejects.toThrow(/neither flush nor write through/);
    await server.stop();
    server = await FakeServer.start({ flags: FLAGS.has | FLAGS.readOnly | FLAGS.flush });
    expect(await codeOf(openNbdStorage(server.uri))).toBe('ReadOnly');
    storage = await openNbdStorage(server.uri, { readOnly: true });
    await storage.read([{ offset: 0, bytes: new Uint8Array(512) }]);
  });
});

describe('errors of the server', () => {
  it('say what, where and why, and cost one call', async () => {
    const one = await open({ form: 'structured' });
    server.onRequest = (request) => server.error(request, 'structured', 28, 'quota of\nthe pool');
    const bytes = new Uint8Array(4096);
    await expect(one.write([{ offset: 8192, bytes }])).rejects.toThrow(
      `cannot write ${server.uri} at byte 8192, 4096 bytes: no space is left on the server (it says: quota of the pool)`,
    );
    expect(await codeOf(one.write([{ offset: 0, bytes }]))).toBe('NoSpace');
    server.onRequest = (request) => server.error(request, 'structured', 5, '');
    expect(await codeOf(one.read([{ offset: 0, bytes }]))).toBe('Io');
    server.onRequest = undefined;
    await one.write([{ offset: 0, bytes }]);
    await one.flush();
  });
});

describe('allocation', () => {
  it.each(['structured', 'extended'] as const)('is looked up and merged, %s', async (form) => {
    const one = await open({ form });
    expect(isSparse(one)).toBe(true);
    for (let i = 0; i < 30; i++) server.cache.fill(1, (2 * i + 1) * 4096, (2 * i + 2) * 4096);
    const extents = await one.extents(100, 61 * 4096);
    expect(extents).toHaveLength(61 + 0);
    expect(extents[0]).toEqual({ offset: 100, length: 3996, kind: 'hole' });
    expect(extents[1]).toEqual({ offset: 4096, length: 4096, kind: 'data' });
    expect(extents.at(-1)).toEqual({ offset: 60 * 4096, length: 4196, kind: 'hole' });
    expect(await one.extents(1 << 20, 0)).toEqual([]);
    expect(await codeOf(one.extents(0, (1 << 20) + 1))).toBe('Truncated');
  });

  it('is all data where the server does not tell', async () => {
    const one = await open({ form: 'structured', allocation: false });
    expect(await one.extents(5, 10)).toEqual([{ offset: 5, length: 10, kind: 'data' }]);
  });
});

describe('zeroing and discarding', () => {
  it('sends whole blocks as a command, and the rest as data', async () => {
    const one = await open({ minimumBlock: 512 });
    server.cache.fill(7);
    await one.writeZeroes(1000, 100_000);
    const expected = new Uint8Array(1 << 20).fill(7).fill(0, 1000, 101_000);
    expect(bytesEqual(server.cache, expected)).toBe(true);
    expect(server.counts.zeroes).toBe(1);
    await one.discard(200_000, 5000);
    expect(server.counts.trims).toBe(1);
    expect(server.cache[200_000]).toBe(7);
    expect(server.cache[200_704]).toBe(0);
    await one.flush();
    expect(server.counts.flushes).toBe(1);
  });

  it('sends zeros to a server that knows nothing else', async () => {
    const one = await open({ flags: FLAGS.has | FLAGS.flush });
    server.cache.fill(7);
    await one.writeZeroes(10, 70_000);
    await one.discard(500_000, 5000);
    const expected = new Uint8Array(1 << 20).fill(7).fill(0, 10, 70_010);
    expect(bytesEqual(server.cache, expected)).toBe(true);
    expect(server.counts).toMatchObject({ zeroes: 0, trims: 0 });
  });
});
