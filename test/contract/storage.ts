/**
 * What every `Storage` must do: the suite that each implementation passes, whatever it stores on.
 * Bytes are compared with a plain array; contents differ in every byte's neighbourhood, so that a
 * shifted or swapped block cannot pass.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bytesEqual } from '../../src/base/bytes.ts';
import { VdoError, type VdoCode } from '../../src/base/errors.ts';
import type { Extent, Storage } from '../../src/storage/storage.ts';
import { Random } from '../sim/random.ts';

/** How the suite makes the storages it tries. */
export interface StorageFixture {
  /** A new storage of `size` zero bytes. */
  create(size: number): Promise<Storage>;
  /** The same bytes, for reading only; the storage of the last `create` was closed before. */
  reopenReadOnly?(): Promise<Storage>;
  /** Gives back what `create` took. */
  dispose?(): Promise<void>;
}

const SIZE = 4 << 20;

/** The code that the work fails with. */
export async function codeOf(work: Promise<unknown>): Promise<VdoCode | undefined> {
  return work.then(
    () => undefined,
    (error: unknown) => {
      if (error instanceof VdoError) return error.code;
      throw error;
    },
  );
}

const noise = (length: number, seed: number): Uint8Array => {
  const random = new Random(seed);
  const words = Uint32Array.from({ length: Math.ceil(length / 4) }, () => random.next());
  return new Uint8Array(words.buffer, 0, length);
};

async function readRange(storage: Storage, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length).fill(0xee);
  await storage.read([{ offset, bytes }]);
  return bytes;
}

/** A random vector of extents that do not overlap, in random order, many of them neighbours. */
function scatter(random: Random, size: number): Extent[] {
  const extents: Extent[] = [];
  let offset = random.below(10_000);
  while (extents.length < 200) {
    const length = random.chance(0.7) ? 4096 : random.below(3 * 4096);
    if (offset + length > size) break;
    extents.push({ offset, bytes: new Uint8Array(length) });
    offset += length + (random.chance(0.6) ? 0 : random.below(20_000));
  }
  if (random.chance(0.5)) {
    for (let i = extents.length - 1; i > 0; i--) {
      const j = random.below(i + 1);
      [extents[i], extents[j]] = [extents[j]!, extents[i]!];
    }
  }
  return extents;
}

/** Declares the suite. */
export function storageContract(name: string, fixture: StorageFixture): void {
  describe(`${name} as a Storage`, () => {
    let storage: Storage;
    beforeEach(async () => {
      storage = await fixture.create(SIZE);
    });
    afterEach(async () => {
      await storage.close();
      await fixture.dispose?.();
    });

    it('is as large as asked for, writable, and zero', async () => {
      expect(storage.size).toBe(SIZE);
      expect(storage.readOnly).toBe(false);
      expect(bytesEqual(await readRange(storage, 0, SIZE), new Uint8Array(SIZE))).toBe(true);
    });

    it('reads back any vector of extents, in any order', async () => {
      const expected = new Uint8Array(SIZE);
      const random = new Random(7);
      for (let round = 0; round < 12; round++) {
        const extents = scatter(random, SIZE);
        for (const [i, { offset, bytes }] of extents.entries()) {
          bytes.set(noise(bytes.length, round * 1000 + i));
          expected.set(bytes, offset);
        }
        await storage.write(extents);
        const back = scatter(random, SIZE);
        await storage.read(back);
        for (const { offset, bytes } of back) {
          expect(bytesEqual(bytes, expected.subarray(offset, offset + bytes.length))).toBe(true);
        }
      }
      await storage.flush();
      expect(bytesEqual(await readRange(storage, 0, SIZE), expected)).toBe(true);
    });

    it('moves thousands of neighbours, and one extent of everything', async () => {
      const bytes = noise(SIZE, 3);
      const pieces = Array.from({ length: SIZE / 512 }, (_, i) => ({
        offset: i * 512,
        bytes: bytes.subarray(i * 512, (i + 1) * 512),
      }));
      await storage.write(pieces);
      expect(bytesEqual(await readRange(storage, 0, SIZE), bytes)).toBe(true);
      const again = noise(SIZE, 4);
      await storage.write([{ offset: 0, bytes: again }]);
      const back = pieces.map(({ offset }) => ({ offset, bytes: new Uint8Array(512) }));
      await storage.read(back);
      for (const { offset, bytes: piece } of back) {
        expect(bytesEqual(piece, again.subarray(offset, offset + 512))).toBe(true);
      }
    });

    it('takes empty vectors, empty extents and single bytes at both ends', async () => {
      await storage.write([]);
      await storage.read([]);
      await storage.write([{ offset: SIZE, bytes: new Uint8Array(0) }]);
      await storage.write([
        { offset: SIZE - 1, bytes: Uint8Array.of(9) },
        { offset: 0, bytes: Uint8Array.of(8) },
      ]);
      expect(await readRange(storage, 0, 2)).toEqual(Uint8Array.of(8, 0));
      expect(await readRange(storage, SIZE - 2, 2)).toEqual(Uint8Array.of(0, 9));
    });

    it('reads into and writes from shared memory', async () => {
      const shared = new Uint8Array(new SharedArrayBuffer(3 * 4096));
      shared.set(noise(4096, 5), 4096);
      await storage.write([{ offset: 8192, bytes: shared.subarray(4096, 8192) }]);
      const extents = [
        { offset: 8192, bytes: shared.subarray(0, 4096) },
        { offset: 12288, bytes: shared.subarray(8192, 12288) },
      ];
      await storage.read(extents);
      expect(bytesEqual(shared.subarray(0, 4096), noise(4096, 5))).toBe(true);
      expect(bytesEqual(shared.subarray(8192), new Uint8Array(4096))).toBe(true);
    });

    it('sees completed writes from many operations at once', async () => {
      const blocks = SIZE / 65_536;
      await Promise.all(
        Array.from({ length: blocks }, async (_, i) => {
          const offset = i * 65_536;
          const bytes = noise(65_536, i + 100);
          await storage.write([{ offset, bytes }]);
          if (i % 3 === 0) await storage.flush();
          expect(bytesEqual(await readRange(storage, offset, 65_536), bytes)).toBe(true);
        }),
      );
      await Promise.all(Array.from({ length: 5 }, () => storage.flush()));
    });

    it('refuses what lies outside, and changes nothing by it', async () => {
      const block = noise(4096, 6);
      expect(await codeOf(storage.read([{ offset: SIZE - 4095, bytes: block.slice() }]))).toBe(
        'Truncated',
      );
      const writes = [
        { offset: 0, bytes: block },
        { offset: SIZE - 4095, bytes: block },
      ];
      expect(await codeOf(storage.write(writes))).toBe('NoSpace');
      for (const offset of [-1, 0.5, NaN]) {
        expect(await codeOf(storage.read([{ offset, bytes: block.slice() }]))).toBe(
          'InvalidArgument',
        );
        expect(await codeOf(storage.write([{ offset, bytes: block }]))).toBe('InvalidArgument');
      }
      expect(bytesEqual(await readRange(storage, 0, SIZE), new Uint8Array(SIZE))).toBe(true);
    });

    it('is closed once and for all', async () => {
      await storage.close();
      const block = new Uint8Array(4096);
      expect(await codeOf(storage.read([{ offset: 0, bytes: block }]))).toBe('Closed');
      expect(await codeOf(storage.write([{ offset: 0, bytes: block }]))).toBe('Closed');
      expect(await codeOf(storage.flush())).toBe('Closed');
      await storage.close();
    });

    it.runIf(fixture.reopenReadOnly !== undefined)('can be opened for reading only', async () => {
      const bytes = noise(10_000, 8);
      await storage.write([{ offset: 5000, bytes }]);
      await storage.flush();
      await storage.close();
      const frozen = await fixture.reopenReadOnly!();
      expect(frozen.readOnly).toBe(true);
      expect(frozen.size).toBe(SIZE);
      expect(await codeOf(frozen.write([{ offset: 5000, bytes: noise(10_000, 9) }]))).toBe(
        'ReadOnly',
      );
      expect(await readRange(frozen, 5000, 10_000)).toEqual(bytes);
      await frozen.flush();
      await frozen.close();
    });
  });
}
