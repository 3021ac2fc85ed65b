import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { bytesEqual } from '../../../src/base/bytes.ts';
import { VdoError } from '../../../src/base/errors.ts';
import { openFileStorage } from '../../../src/storage/file-storage.ts';
import { codeOf, storageContract } from '../../contract/storage.ts';

const scratch = (): string => fs.mkdtempSync(join(tmpdir(), 'uvdo-file-'));

let contractDirectory = '';
storageContract('FileStorage', {
  async create(size) {
    contractDirectory = scratch();
    return openFileStorage(join(contractDirectory, 'volume'), { create: true, size });
  },
  async reopenReadOnly() {
    return openFileStorage(join(contractDirectory, 'volume'), { readOnly: true });
  },
  async dispose() {
    fs.rmSync(contractDirectory, { recursive: true });
  },
});

describe('openFileStorage', () => {
  let directory = '';
  beforeEach(() => {
    directory = scratch();
  });
  afterEach(() => {
    vi.restoreAllMocks();
    fs.rmSync(directory, { recursive: true });
  });

  it('makes a sparse file, keeps its bytes and cuts or extends it when asked', async () => {
    const path = join(directory, 'a');
    const first = await openFileStorage(path, { create: true, size: 1 << 30 });
    await first.write([{ offset: 100, bytes: Uint8Array.of(1, 2, 3) }]);
    await first.close();
    expect(fs.statSync(path).blocks).toBeLessThan(100);
    const longer = await openFileStorage(path, { create: true, size: 2 ** 31 });
    expect(longer.size).toBe(2 ** 31);
    await longer.close();
    const shorter = await openFileStorage(path, { create: true, size: 102 });
    const bytes = new Uint8Array(2);
    await shorter.read([{ offset: 100, bytes }]);
    expect([...bytes]).toEqual([1, 2]);
    await shorter.close();
    const same = await openFileStorage(path);
    expect(same.size).toBe(102);
    await same.close();
  });

  it('explains what it cannot open', async () => {
    const path = join(directory, 'none');
    await expect(openFileStorage(path)).rejects.toMatchObject({
      code: 'Io',
      message: `cannot open ${path}: there is no such file`,
      where: { path },
    });
    await expect(openFileStorage(join(path, 'x'), { create: true })).rejects.toMatchObject({
      message: `cannot open ${join(path, 'x')}: there is no folder ${path}`,
    });
    expect(await codeOf(openFileStorage(directory, { readOnly: true }))).toBe('InvalidArgument');
    expect(await codeOf(openFileStorage('/dev/null'))).toBe('InvalidArgument');
    expect(await codeOf(openFileStorage(path, { create: true, size: -1 }))).toBe('InvalidArgument');
    expect(await codeOf(openFileStorage(path, { create: true, readOnly: true }))).toBe(
      'InvalidArgument',
    );
    expect(fs.existsSync(path)).toBe(false);
  });

  it('says where a file became shorter under it', async () => {
    const path = join(directory, 'cut');
    const storage = await openFileStorage(path, { create: true, size: 1 << 20 });
    fs.truncateSync(path, 6000);
    const bytes = new Uint8Array(200_000);
    const failure = await storage.read([{ offset: 0, bytes }]).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 'Truncated', where: { path, offset: 6000 } });
    await storage.close();
  });

  it('goes on after calls that moved less than they were asked to', async () => {
    const path = join(directory, 'short');
    const storage = await openFileStorage(path, { create: true, size: 1 << 20 });
    const { readvSync, writevSync, readSync, writeSync } = fs;
    const cut = (buffers: readonly NodeJS.ArrayBufferView[]): Uint8Array[] => {
      const [first] = buffers as readonly Uint8Array[];
      return [first!.subarray(0, Math.min(1000, first!.length))];
    };
    vi.spyOn(fs, 'readvSync').mockImplementation((fd, b, at) => readvSync(fd, cut(b), at));
    vi.spyOn(fs, 'writevSync').mockImplementation((fd, b, at) => writevSync(fd, cut(b), at));
    const short = (length: unknown): number => Math.min(Number(length), 700);
    const one = { read: readSync, write: writeSync } as unknown as Record<
      'read' | 'write',
      (...args: unknown[]) => number
    >;
    vi.spyOn(fs, 'readSync').mockImplementation(((...args: unknown[]) =>
      one.read(args[0], args[1], args[2], short(args[3]), args[4])) as typeof fs.readSync);
    vi.spyOn(fs, 'writeSync').mockImplementation(((...args: unknown[]) =>
      one.write(args[0], args[1], args[2], short(args[3]), args[4])) as typeof fs.writeSync);
    const pieces = Array.from({ length: 9 }, (_, i) => ({
      offset: 512 + i * 1234,
      bytes: new Uint8Array(1234).fill(i + 1),
    }));
    await storage.write(pieces);
    const bytes = new Uint8Array(9 * 1234 + 1);
    await storage.read([{ offset: 511, bytes }]);
    const back = pieces.map(({ offset, bytes: { length } }) => ({
      offset,
      bytes: new Uint8Array(length),
    }));
    await storage.read(back);
    vi.restoreAllMocks();
    const expected = new Uint8Array(9 * 1234 + 1);
    for (const { offset, bytes: piece } of pieces) expected.set(piece, offset - 511);
    expect(bytesEqual(bytes, expected)).toBe(true);
    for (const [i, { bytes: piece }] of back.entries()) expect(piece).toEqual(pieces[i]!.bytes);
    await storage.close();
  });

  it('maps errors to codes and names path and offset', async () => {
    const path = join(directory, 'full');
    const storage = await openFileStorage(path, { create: true, size: 1 << 20 });
    for (const [errno, code] of [
      ['ENOSPC', 'NoSpace'],
      ['EDQUOT', 'NoSpace'],
      ['EIO', 'Io'],
    ] as const) {
      vi.spyOn(fs, 'writeSync').mockImplementation(() => {
        throw Object.assign(new Error(errno), { code: errno });
      });
      const failure = storage.write([{ offset: 4096, bytes: new Uint8Array(4096) }]);
      await expect(failure).rejects.toMatchObject({ code, where: { path, offset: 4096 } });
      await expect(failure).rejects.toBeInstanceOf(VdoError);
      vi.restoreAllMocks();
    }
    await storage.write([{ offset: 4096, bytes: new Uint8Array(4096) }]);
    await storage.close();
  });

  it('trusts nothing written after a failed flush', async () => {
    const path = join(directory, 'lost');
    const storage = await openFileStorage(path, { create: true, size: 1 << 20 });
    await storage.write([{ offset: 0, bytes: Uint8Array.of(5) }]);
    vi.spyOn(fs, 'fdatasync').mockImplementation((_fd, done) => {
      setImmediate(done, Object.assign(new Error('EIO'), { code: 'EIO' }));
    });
    const both = [storage.flush(), storage.flush()];
    for (const flush of both) await expect(flush).rejects.toMatchObject({ code: 'Io' });
    vi.restoreAllMocks();
    expect(await codeOf(storage.flush())).toBe('Io');
    expect(await codeOf(storage.write([{ offset: 0, bytes: Uint8Array.of(6) }]))).toBe('Io');
    const bytes = new Uint8Array(1);
    await storage.read([{ offset: 0, bytes }]);
    expect(bytes[0]).toBe(5);
    await storage.close();
  });

  it('starts a new flush for whoever asks while one runs, and one for all of them', async () => {
    const storage = await openFileStorage(join(directory, 'f'), { create: true, size: 4096 });
    const ends: (() => void)[] = [];
    const spy = vi.spyOn(fs, 'fdatasync').mockImplementation((_fd, done) => {
      ends.push(() => done(null));
    });
    const first = storage.flush();
    const rest = [storage.flush(), storage.flush(), storage.flush()];
    expect(spy).toHaveBeenCalledTimes(1);
    ends[0]!();
    await first;
    await new Promise(setImmediate);
    expect(spy).toHaveBeenCalledTimes(2);
    ends[1]!();
    await Promise.all(rest);
    expect(spy).toHaveBeenCalledTimes(2);
    await storage.close();
  });

  it('finishes what is in progress before it closes', async () => {
    const path = join(directory, 'late');
    const storage = await openFileStorage(path, { create: true, size: 8 << 20 });
    const bytes = new Uint8Array(8 << 20).fill(7);
    const writing = storage.write([{ offset: 0, bytes }]);
    await storage.close();
    await writing;
    expect(bytesEqual(fs.readFileSync(path), bytes)).toBe(true);
  });

  it('sends small calls to the thread pool while the file is slow', async () => {
    const storage = await openFileStorage(join(directory, 'slow'), { create: true, size: 1 << 20 });
    const block = new Uint8Array(4096);
    const { readSync } = fs;
    const slow = vi.spyOn(fs, 'readSync').mockImplementation(((
      ...args: Parameters<typeof readSync>
    ) => {
      const endMs = performance.now() + 30;
      while (performance.now() < endMs);
      return readSync(...args);
    }) as typeof fs.readSync);
    // The first may only have lost the processor: no device was read.
    await storage.read([{ offset: 0, bytes: block }]);
    await storage.read([{ offset: 0, bytes: block }]);
    const pooled = vi.spyOn(fs, 'readv');
    await storage.read([{ offset: 4096, bytes: block }]);
    expect(slow).toHaveBeenCalledTimes(2);
    expect(pooled).toHaveBeenCalledTimes(1);
    await storage.close();
  });
});

const loopDevice = (path: string): string | undefined => {
  try {
    return execFileSync('losetup', ['--find', '--show', path], { stdio: 'pipe' }).toString().trim();
  } catch {
    return undefined;
  }
};

describe('openFileStorage on a block device', () => {
  it('knows its size, reads and writes it, and never resizes it', async (context) => {
    const directory = scratch();
    const path = join(directory, 'disk');
    fs.writeFileSync(path, new Uint8Array(3 << 20));
    const device = loopDevice(path);
    try {
      if (device === undefined) return context.skip('this system makes no loop devices');
      const storage = await openFileStorage(device);
      expect(storage.size).toBe(3 << 20);
      const bytes = new Uint8Array(8192).fill(3);
      await storage.write([{ offset: 4096, bytes }]);
      await storage.flush();
      // Exclusive: whoever else wants to write is refused.
      expect(await codeOf(openFileStorage(device))).toBe('Busy');
      await storage.close();
      expect(bytesEqual(fs.readFileSync(path).subarray(4096, 12_288), bytes)).toBe(true);
      const tooSmall = openFileStorage(device, { create: true, size: 4 << 20 });
      expect(await codeOf(tooSmall)).toBe('NoSpace');
    } finally {
      if (device !== undefined) execFileSync('losetup', ['--detach', device]);
      fs.rmSync(directory, { recursive: true });
    }
  });
});
