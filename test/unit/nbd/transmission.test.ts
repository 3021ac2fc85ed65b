import { beforeEach, describe, expect, it } from 'vitest';
import { VdoError } from '../../../src/base/errors.ts';
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
import { Random } from '../../sim/random.ts';
import { World } from './support.ts';

const MiB = 1 << 20;
const SIZE = 40 * MiB;
const [EPERM, EIO, EINVAL, ENOSPC, ENOTSUP] = [1, 5, 22, 28, 95];

const noise = (length: number, seed: number): Buffer => {
  const random = new Random(seed);
  const words = Uint32Array.from({ length: Math.ceil(Math.min(length, 65_539) / 4) }, () =>
    random.next(),
  );
  return Buffer.alloc(length, new Uint8Array(words.buffer));
};

const errnoOf = async (work: Promise<unknown>): Promise<number> =>
  work.then(
    () => 0,
    (error: { errno?: number }) => error.errno ?? -1,
  );

/** Waits until the number stands still. */
const settled = async (count: () => number): Promise<void> => {
  for (let last = NaN, still = 0; still < 10; still = count() === last ? still + 1 : 0) {
    last = count();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};

describe('NBD transmission', () => {
  const world = World.each();
  const reports: string[] = [];
  let device: MemoryDevice;
  let client: NbdClient;

  beforeEach(async () => {
    reports.length = 0;
    world.current = new World();
    device = new MemoryDevice(SIZE, { random: new Random(11) });
    const frozen = new MemoryDevice(MiB, { readOnly: true });
    frozen.bytes.set(noise(MiB, 1));
    await world.current.serve(
      [
        { name: 'disk', volume: device },
        { name: 'frozen', volume: frozen },
      ],
      reports,
    );
    client = await world.current.client();
  });

  /** A connection in the transmission phase, for bytes of our own choosing. */
  const rawLine = async (): Promise<NbdSocket> => {
    const line = await world.current.line();
    await greet(line);
    await ask(line, NBD.GO, infoPayload('disk'));
    return line;
  };

  it('reads and writes every size and alignment, leaving the neighbours alone', async () => {
    const expected = Buffer.alloc(SIZE);
    const random = new Random(3);
    const sizes = [
      1,
      2,
      511,
      512,
      4096,
      8192,
      16_383,
      16_384,
      16_385,
      65_536,
      100_001,
      3 * MiB + 1,
    ];
    for (const [i, size] of sizes.entries()) {
      const offset = random.below(SIZE - size);
      const bytes = noise(size, i + 50);
      await client.write(offset, bytes, { fua: i % 2 === 0 });
      bytes.copy(expected, offset);
      const start = Math.max(0, offset - 1);
      const back = await client.read(start, Math.min(size + 2, SIZE - start));
      expect(back.equals(expected.subarray(start, start + back.length))).toBe(true);
    }
    expect(Buffer.from(device.bytes).equals(expected)).toBe(true);
    expect(device.fuaCalls).toBeGreaterThanOrEqual(6);
  });

  it('moves 32 MiB in one request, and a little more', async () => {
    const bytes = noise(33 * MiB, 5);
    await client.write(12_345, bytes.subarray(0, 32 * MiB));
    expect((await client.read(12_345, 32 * MiB)).equals(bytes.subarray(0, 32 * MiB))).toBe(true);
    await client.write(1, bytes);
    expect((await client.read(1, 33 * MiB)).equals(bytes)).toBe(true);
  });

  it('runs requests at the same time and matches their replies', async () => {
    const blocks = Array.from({ length: 400 }, (_, i) => noise(4096 + (i % 5) * 5000, i));
    const offset = (i: number): number => i * 32_768;
    await Promise.all(blocks.map((bytes, i) => client.write(offset(i), bytes)));
    expect(device.mostInFlight).toBeGreaterThan(16);
    const order: number[] = [];
    await Promise.all(
      blocks.map(async (bytes, i) => {
        const back = await client.read(offset(i), bytes.length);
        order.push(i);
        expect(back.equals(bytes)).toBe(true);
      }),
    );
    expect(order).not.toEqual([...order].sort((a, b) => a - b));
  });

  it('flushes, trims and zeroes', async () => {
    await client.write(0, Buffer.alloc(64 * 1024, 9));
    await client.flush();
    expect(device.calls.flush).toBe(1);
    await client.trim(4096, 8192);
    await client.zero(20_001, 3);
    await client.zero(32_768, 4096, NBD.NO_HOLE | NBD.FUA);
    await client.zero(40_960, 4096, NBD.FAST_ZERO);
    expect(await errnoOf(client.zero(40_961, 4096, NBD.FAST_ZERO))).toBe(ENOTSUP);
    const back = await client.read(0, 64 * 1024);
    const nines = (from: number, to: number): boolean =>
      back.subarray(from, to).every((byte) => byte === 9);
    const zeros = (from: number, to: number): boolean =>
      back.subarray(from, to).every((byte) => byte === 0);
    expect(nines(0, 4096) && zeros(4096, 12_288) && nines(12_288, 20_001)).toBe(true);
    expect(zeros(20_001, 20_004) && nines(20_004, 32_768) && zeros(32_768, 36_864)).toBe(true);
    expect(nines(36_864, 40_960) && zeros(40_960, 45_056) && nines(45_056, 65_536)).toBe(true);
    expect(device.fuaCalls).toBe(1);
  });

  it('refuses what lies outside with the right number, up to the last offset there is', async () => {
    const last = 2n ** 64n - 1n;
    for (const offset of [
      SIZE,
      SIZE - 4095,
      2 ** 53 - 1,
      2n ** 53n,
      2n ** 63n,
      last - 4095n,
      last,
    ]) {
      expect(await errnoOf(client.read(offset, 4096))).toBe(EINVAL);
      expect(await errnoOf(client.write(offset, Buffer.alloc(4096)))).toBe(ENOSPC);
      expect(await errnoOf(client.trim(offset, 4096))).toBe(EINVAL);
      expect(await errnoOf(client.zero(offset, 4096))).toBe(ENOSPC);
      expect(await errnoOf(client.zero(offset, 0xffffffff))).toBe(ENOSPC);
    }
    expect(await errnoOf(client.trim(0, 0xffffffff))).toBe(EINVAL);
    expect(device.calls).toMatchObject({ read: 0, write: 0, discard: 0, writeZeroes: 0 });
  });

  it('trims 2^32 - 1 bytes at once where the device has them, and never reads as much', async () => {
    const calls: number[] = [];
    const big = new MemoryDevice(0);
    Object.defineProperty(big, 'size', { value: 2 ** 45 });
    big.discard = async (_offset, length) => void calls.push(length);
    const other = new World();
    try {
      await other.serve([{ name: 'big', volume: big }]);
      const wide = await other.client();
      expect(wide.size).toBe(2 ** 45);
      await wide.trim(2 ** 44, 0xffffffff);
      expect(calls).toEqual([0xffffffff]);
      expect(await errnoOf(wide.read(0, 64 * MiB + 1))).toBe(EINVAL);
      expect(big.calls.read).toBe(0);
    } finally {
      await other.end();
    }
  });

  it('answers zero lengths, unknown commands and unknown flags, and stays in step', async () => {
    for (const command of [NBD.READ, NBD.WRITE, NBD.TRIM, NBD.WRITE_ZEROES, NBD.FLUSH]) {
      expect(await errnoOf(client.request(command, 0, 0))).toBe(0);
    }
    expect(await errnoOf(client.request(NBD.CACHE, 0, 4096))).toBe(0);
    for (const command of [NBD.BLOCK_STATUS, 8, 9, 0xffff]) {
      expect(await errnoOf(client.request(command, 0, 4096))).toBe(EINVAL);
    }
    expect(await errnoOf(client.request(NBD.FLUSH, 1, 0))).toBe(EINVAL);
    for (const flag of [2, 4, 8, 16, 32, 0x8000]) {
      expect(await errnoOf(client.read(0, 4096, flag))).toBe(EINVAL);
      const bytes = Buffer.alloc(100_000, 0x25);
      expect(await errnoOf(client.request(NBD.WRITE, 0, 100_000, flag, bytes))).toBe(EINVAL);
      expect(await errnoOf(client.request(NBD.WRITE, 0, 100, flag, bytes.subarray(0, 100)))).toBe(
        EINVAL,
      );
    }
    expect(await errnoOf(client.read(0, 4096, NBD.FUA))).toBe(0);
    expect(device.calls.write).toBe(0);
  });

  it('changes nothing on a read-only export, and consumes what it refuses', async () => {
    const frozen = await world.current.client('frozen');
    expect(await errnoOf(frozen.write(0, Buffer.alloc(200_000)))).toBe(EPERM);
    expect(await errnoOf(frozen.write(0, Buffer.alloc(5)))).toBe(EPERM);
    expect(await errnoOf(frozen.trim(0, 4096))).toBe(EPERM);
    expect(await errnoOf(frozen.zero(0, 4096))).toBe(EPERM);
    await frozen.flush();
    expect((await frozen.read(0, MiB)).equals(noise(MiB, 1))).toBe(true);
  });

  it('passes on what the device says, and reports what is the device\u2019s fault', async () => {
    device.beforeCall = (call, offset) => {
      if (offset < 4096) return;
      if (call === 'read') throw new VdoError('ChecksumMismatch', 'block 7 is damaged');
      if (call === 'write') throw new VdoError('NoSpace', 'full');
      if (call === 'discard') throw new TypeError('a bug');
    };
    expect(await errnoOf(client.read(4096, 10))).toBe(EIO);
    expect(await errnoOf(client.write(4096, Buffer.alloc(10)))).toBe(ENOSPC);
    expect(await errnoOf(client.write(MiB, Buffer.alloc(5 * MiB)))).toBe(ENOSPC);
    expect(await errnoOf(client.trim(4096, 10))).toBe(EIO);
    expect(await errnoOf(client.read(0, 10))).toBe(0);
    expect(reports).toEqual([
      'export "disk": command 0 at 4096, length 10: block 7 is damaged',
      'export "disk": command 4 at 4096, length 10: a bug',
    ]);
  });

  it('stops reading from a client that does not read, and serves the others', async () => {
    const line = await rawLine();
    line.socket.pause();
    // 24 × 8 MiB wanted, and none of it taken.
    for (let i = 0; i < 24; i++) line.send(requestHeader(NBD.READ, 0, 8 * MiB));
    for (let i = 0; i < 5; i++) {
      await client.write(i * 4096, noise(4096, i));
      expect((await client.read(i * 4096, 4096)).equals(noise(4096, i))).toBe(true);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
    const begun = device.calls.read - 5;
    expect(begun).toBeLessThanOrEqual(8);
    line.socket.resume();
    for (let i = 0; i < 24; i++) await line.receive(16 + 8 * MiB);
    expect(device.calls.read).toBe(24 + 5);
  });

  it('holds no more than it may while the device is slow', async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    device.beforeCall = () => gate;
    const bytes = noise(MiB, 1);
    const writes = Array.from({ length: 50 }, (_, i) => client.write(i * 65_536, bytes));
    await settled(() => device.bytesInFlight);
    expect(device.bytesInFlight).toBeGreaterThan(6 * MiB);
    expect(device.bytesInFlight).toBeLessThanOrEqual(8 * MiB);
    const started = device.inFlight;
    const other = await world.current.client();
    const small = Array.from({ length: 3000 }, () => other.read(0, 1));
    await settled(() => device.inFlight);
    expect(device.inFlight - started).toBe(1024);
    release();
    await Promise.all(writes);
    await Promise.all(small);
    expect(device.calls.read).toBe(3000);
  });

  it('ends with DISC only after everything in flight was answered', async () => {
    const line = await rawLine();
    const parts: Buffer[] = [];
    for (let i = 0; i < 20; i++)
      parts.push(requestHeader(NBD.WRITE, i * 4096, 4096, 0, i), noise(4096, i));
    line.send(...parts, requestHeader(NBD.DISC, 5, 5));
    const replies = await line.untilClosed();
    expect(replies.length).toBe(20 * 16);
    for (let at = 0; at < replies.length; at += 16) expect(replies.readUInt32BE(at + 4)).toBe(0);
  });

  it('answers a client that closed only its own side', async () => {
    const line = await rawLine();
    line.send(requestHeader(NBD.WRITE, 0, 4), Buffer.from('half'), requestHeader(NBD.READ, 0, 4));
    line.socket.end();
    expect((await line.untilClosed()).length).toBe(16 + 20);
    expect(Buffer.from(device.bytes.subarray(0, 4)).toString()).toBe('half');
  });

  it('ends on a wrong magic or an absurd payload, and disturbs nobody', async () => {
    for (const bad of [Buffer.alloc(28, 1), requestHeader(NBD.WRITE, 0, 64 * MiB + 1)]) {
      const line = await rawLine();
      line.send(bad);
      expect((await line.untilClosed()).length).toBe(0);
    }
    expect((await client.read(0, 4096)).length).toBe(4096);
  });

  it('drops a write whose client vanishes in the middle of it', async () => {
    for (const size of [4096, 300_000, 5 * MiB]) {
      const line = await rawLine();
      line.send(requestHeader(NBD.WRITE, 8 * MiB, size), Buffer.alloc(size - 1, 0xbb));
      await new Promise((resolve) => setTimeout(resolve, 20));
      line.destroy();
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
    // Whole pieces of 1 MiB may have been written: nothing was promised. The last one must not be.
    expect(device.bytes.subarray(12 * MiB, 13 * MiB).every((byte) => byte === 0)).toBe(true);
    expect(device.inFlight).toBe(0);
    await client.write(0, Buffer.from('still here'));
  });
});
