/** A volume as its users see it: any byte range can be written and read. */
import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { joined, noise, noiseRun, squashy, tinyVolume } from '../../support/volumes.ts';
import { closeAndAudit, statistic, TINY_SIZE as SIZE, Twin } from '../data-path/support.ts';

const PLAIN = { compression: false } as const;

const bytesOf = (seed: number, length: number): Uint8Array =>
  noise(seed, Math.ceil(length / 4) * 4).subarray(0, length);

describe('writes of any bytes', () => {
  test.for([
    ['the middle of a block', 100, 200],
    ['its first byte', 0, 1],
    ['its last byte', BLOCK_SIZE - 1, 1],
    ['all but its first byte', 1, BLOCK_SIZE - 1],
    ['two halves of neighbours', 2000, BLOCK_SIZE],
    ['a whole block between two parts', 4000, BLOCK_SIZE + 200],
    ['to the end of a block', 10 * BLOCK_SIZE + 7, 3 * BLOCK_SIZE - 7],
    ['the last byte of the volume', SIZE - 1, 1],
    ['across two leaves', 812 * BLOCK_SIZE - 33, 77],
    ['nothing', 5000, 0],
  ] as const)('over old content: %s', async ([, offset, length]) => {
    const twin = new Twin(await tinyVolume(PLAIN));
    await twin.write(0, noiseRun(1, 20));
    await twin.write(offset, bytesOf(2, length));
    await twin.check(
      Math.max(0, offset - 9000),
      Math.min(18_000, SIZE - Math.max(0, offset - 9000)),
    );
    await twin.volume.flush();
    await twin.check(
      Math.max(0, offset - 9000),
      Math.min(18_000, SIZE - Math.max(0, offset - 9000)),
    );
    await twin.end();
  });

  test('into a hole leave zeros around them', async () => {
    const twin = new Twin(await tinyVolume(PLAIN));
    await twin.write(5 * BLOCK_SIZE + 10, bytesOf(1, 20));
    await twin.check(4 * BLOCK_SIZE, 3 * BLOCK_SIZE);
    await twin.end();
  });

  test('into a block that waits in the packer keep the rest of it', async () => {
    const twin = new Twin(await tinyVolume());
    await twin.write(0, squashy(1));
    await twin.check(0, BLOCK_SIZE);
    expect(statistic(twin.volume, 'packer.compressedFragmentsInPacker')).toBe(1);
    await twin.write(3000, bytesOf(2, 30));
    await twin.check(0, BLOCK_SIZE);
    await twin.end();
  });

  test('at once, as far as there is room for them; the rest later', async () => {
    const twin = new Twin(await tinyVolume({ ...PLAIN, batchBlocks: 4 }));
    const bytes = bytesOf(1, 11 * BLOCK_SIZE);
    // Two batches of four blocks, the first and the last one in part.
    expect(twin.writeNow(100, bytes)).toBe(8 * BLOCK_SIZE - 100);
    expect(twin.writeNow(20 * BLOCK_SIZE, noise(2))).toBe(0);
    const rest = twin.write(8 * BLOCK_SIZE, bytes.subarray(8 * BLOCK_SIZE - 100));
    // Nobody overtakes who waits for room.
    expect(twin.writeNow(21 * BLOCK_SIZE, noise(3))).toBe(0);
    await rest;
    await twin.check(0, 22 * BLOCK_SIZE);
    expect(twin.writeNow(21 * BLOCK_SIZE, noise(3))).toBe(BLOCK_SIZE);
    // Over parts of what was written in the same turn, with and without a gap.
    expect(twin.writeNow(21 * BLOCK_SIZE + 5, noise(4).subarray(0, 10))).toBe(10);
    expect(twin.writeNow(23 * BLOCK_SIZE + 5, noise(5).subarray(0, 10))).toBe(10);
    expect(twin.writeNow(23 * BLOCK_SIZE + 500, noise(6).subarray(0, 10))).toBe(10);
    await twin.volume.flush();
    await twin.check(0, 25 * BLOCK_SIZE);
    await twin.end();
  });

  test('at once: none beyond the end, and none after the close', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    expect(volume.writeNow(SIZE - BLOCK_SIZE, noise(1))).toBe(BLOCK_SIZE);
    expect(volume.writeNow(SIZE - BLOCK_SIZE, noiseRun(1, 2))).toBe(0);
    await closeAndAudit(volume, storage);
    expect(volume.writeNow(0, noise(1))).toBe(0);
  });

  test('parts that overlap, touch, or leave a gap, all at once', async () => {
    const twin = new Twin(await tinyVolume(PLAIN));
    await twin.write(0, noiseRun(1, 4));
    await twin.volume.flush();
    // In one turn of the event loop: they meet in one batch, in order.
    await Promise.all([
      twin.write(100, bytesOf(2, 100)), // [100, 200)
      twin.write(150, bytesOf(3, 100)), // overlaps
      twin.write(250, bytesOf(4, 50)), // touches
      twin.write(1000, bytesOf(5, 10)), // a gap: goes to the next batch
      twin.write(120, bytesOf(6, 1500)), // over both
      twin.write(BLOCK_SIZE - 5, bytesOf(7, 10)),
      twin.write(0, noise(8)), // the whole block
      twin.write(50, bytesOf(9, 4000)),
      twin.write(BLOCK_SIZE, new Uint8Array(BLOCK_SIZE)),
      twin.write(BLOCK_SIZE + 9, bytesOf(10, 3)), // into zeros of the same batch
    ]);
    await twin.check(0, 3 * BLOCK_SIZE);
    await twin.volume.flush();
    await twin.check(0, 3 * BLOCK_SIZE);
    await twin.end();
  });

  test('a block of zeros written over in parts is not zero any more', async () => {
    const twin = new Twin(await tinyVolume(PLAIN));
    await Promise.all([
      twin.write(0, new Uint8Array(2 * BLOCK_SIZE)),
      twin.write(10, Uint8Array.of(1)),
      twin.write(BLOCK_SIZE, noise(1)),
      twin.write(BLOCK_SIZE, new Uint8Array(BLOCK_SIZE)),
    ]);
    await twin.volume.flush();
    await twin.check(0, 2 * BLOCK_SIZE);
    expect(statistic(twin.volume, 'dataBlocksUsed')).toBe(1);
    await twin.end();
  });

  test('the later of two writes of one block wins, batch for batch', async () => {
    const twin = new Twin(await tinyVolume({ ...PLAIN, batchBlocks: 1 }));
    const writes: Promise<void>[] = [];
    for (let i = 0; i < 20; i++) {
      writes.push(twin.write((i % 3) * BLOCK_SIZE, noise(i)));
      await Promise.all(writes.splice(0, i % 4));
    }
    await Promise.all(writes);
    await twin.check(0, 3 * BLOCK_SIZE);
    await twin.end();
  });

  test('larger than all batches together', async () => {
    const twin = new Twin(await tinyVolume({ ...PLAIN, batchBlocks: 16 }));
    await twin.write(1234, bytesOf(3, 300 * BLOCK_SIZE));
    await twin.check(0, 302 * BLOCK_SIZE);
    await twin.end();
  });

  test('the bytes belong to the caller again once the promise resolves', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    const bytes = noiseRun(1, 10);
    const before = bytes.slice();
    await volume.write(0, bytes);
    bytes.fill(7);
    await volume.flush();
    expect(Buffer.compare(await volume.read(0, bytes.length), before)).toBe(0);
    await closeAndAudit(volume, storage);
  });
});

describe('reads', () => {
  test('of any alignment give those bytes, into a buffer if there is one', async () => {
    const twin = new Twin(await tinyVolume());
    await twin.write(
      0,
      joined(noise(1), squashy(2), squashy(2), new Uint8Array(BLOCK_SIZE), noise(3)),
    );
    for (const [offset, length] of [
      [0, 1],
      [4095, 2],
      [100, 9000],
      [8191, 4097],
      [0, 20480],
    ] as const) {
      await twin.check(offset, length);
    }
    const into = new Uint8Array(100).fill(9);
    const found = await twin.volume.read(4000, 50, into);
    expect(found.buffer).toBe(into.buffer);
    expect(found.length).toBe(50);
    expect(Buffer.compare(found, twin.bytes.subarray(4000, 4050))).toBe(0);
    expect(into.subarray(50).every((byte) => byte === 9)).toBe(true);
    await expect(twin.volume.read(0, 101, into)).rejects.toMatchObject({ code: 'InvalidArgument' });
    await twin.end();
  });

  test('see every write that was acknowledged before, in order', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    const reads: Promise<Uint8Array>[] = [];
    for (let n = 0; n < 30; n++) {
      await volume.write(0, noise(n));
      reads.push(volume.read(0, BLOCK_SIZE));
    }
    for (const [n, found] of (await Promise.all(reads)).entries()) {
      expect(Buffer.compare(found, noise(n))).toBe(0);
    }
    await closeAndAudit(volume, storage);
  });

  test('of a whole volume larger than a step and larger than the cache', async () => {
    const twin = new Twin(await tinyVolume({ ...PLAIN, cachePages: 8, batchBlocks: 32 }));
    for (const page of [0, 1, 2, 3, 4])
      await twin.write(page * 812 * BLOCK_SIZE, noiseRun(page, 3));
    await twin.check(0, SIZE);
    await twin.end();
  });

  test.for([
    ['a read', (volume: Volume) => volume.read(SIZE - 1, 2)],
    ['a write', (volume: Volume) => volume.write(SIZE, Uint8Array.of(1))],
    ['a discard', (volume: Volume) => volume.discard(SIZE - 4096, 4097)],
    ['writeZeroes', (volume: Volume) => volume.writeZeroes(SIZE + 5, 1)],
    ['extents', (volume: Volume) => volume.extents(0, SIZE + 1)],
    ['a negative offset', (volume: Volume) => volume.read(-1, 1)],
    ['a negative length', (volume: Volume) => volume.discard(5, -1)],
    ['half a byte', (volume: Volume) => volume.read(0.5, 1)],
    ['no number', (volume: Volume) => volume.read(NaN, 1)],
  ] as const)('beyond the end: %s is refused', async ([, step]) => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await expect(step(volume)).rejects.toMatchObject({ code: 'OutOfRange' });
    await closeAndAudit(volume, storage);
  });
});
