import { describe, expect, it } from 'vitest';
import { bytesEqual } from '../../../src/base/bytes.ts';
import { VdoError, type VdoCode } from '../../../src/base/errors.ts';
import { MemoryStorage } from '../../../src/storage/memory-storage.ts';

const pattern = (length: number, seed: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 7 + seed) & 0xff);

const readBytes = (storage: MemoryStorage, offset: number, length: number): Uint8Array => {
  const bytes = new Uint8Array(length).fill(0xee);
  storage.readSync([{ offset, bytes }]);
  return bytes;
};

const codeOf = async (work: Promise<unknown>): Promise<VdoCode | undefined> =>
  work.then(
    () => undefined,
    (error: unknown) => (error instanceof VdoError ? error.code : undefined),
  );

describe('MemoryStorage', () => {
  it('reads what was written, across chunks, and zeros elsewhere', async () => {
    const storage = new MemoryStorage(1 << 20);
    const bytes = pattern(200_000, 3);
    await storage.write([{ offset: 65_000, bytes }]);
    expect(bytesEqual(readBytes(storage, 65_000, bytes.length), bytes)).toBe(true);
    expect(readBytes(storage, 64_998, 3)).toEqual(Uint8Array.of(0, 0, bytes[0]!));
    expect(readBytes(storage, 265_000, 2)).toEqual(Uint8Array.of(0, 0));
  });

  it('holds the largest volume and takes memory only for what is written', async () => {
    const storage = new MemoryStorage(2 ** 48);
    const bytes = pattern(4096, 9);
    await storage.write([{ offset: 2 ** 48 - 4096, bytes }]);
    expect(readBytes(storage, 2 ** 48 - 4096, 4096)).toEqual(bytes);
    expect(storage.usedBytes).toBe(65_536);
  });

  it('keeps clones apart, whichever side writes', () => {
    for (const chunkBytes of [512, 4096, 65_536]) {
      const first = new MemoryStorage(1 << 18, { chunkBytes });
      first.writeSync([{ offset: 100, bytes: pattern(9000, 1) }]);
      const second = first.clone();
      first.writeSync([{ offset: 4096, bytes: pattern(4096, 2) }]);
      second.writeSync([{ offset: 5000, bytes: pattern(10, 3) }]);
      const third = second.clone();
      second.writeSync([{ offset: 100, bytes: pattern(4, 4) }]);
      const expected = new Uint8Array(1 << 18);
      expected.set(pattern(9000, 1), 100);
      const inFirst = expected.slice();
      inFirst.set(pattern(4096, 2), 4096);
      expected.set(pattern(10, 3), 5000);
      expect(bytesEqual(readBytes(first, 0, 1 << 18), inFirst)).toBe(true);
      expect(bytesEqual(readBytes(third, 0, 1 << 18), expected)).toBe(true);
      expected.set(pattern(4, 4), 100);
      expect(bytesEqual(readBytes(second, 0, 1 << 18), expected)).toBe(true);
    }
  });

  it('refuses what it cannot do, with a code', async () => {
    const storage = new MemoryStorage(8192);
    const block = new Uint8Array(4096);
    expect(await codeOf(storage.read([{ offset: 4097, bytes: block }]))).toBe('Truncated');
    expect(await codeOf(storage.write([{ offset: 8192, bytes: block }]))).toBe('NoSpace');
    expect(await codeOf(storage.read([{ offset: -1, bytes: block }]))).toBe('InvalidArgument');
    const frozen = storage.clone({ readOnly: true });
    expect(await codeOf(frozen.write([{ offset: 0, bytes: block }]))).toBe('ReadOnly');
    await storage.close();
    expect(await codeOf(storage.flush())).toBe('Closed');
    expect(() => new MemoryStorage(2 ** 48 + 1)).toThrow(VdoError);
    expect(() => new MemoryStorage(1.5)).toThrow(VdoError);
  });
});
