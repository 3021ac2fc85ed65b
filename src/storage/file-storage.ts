/**
 * A storage on a plain file or a block device.
 *
 * Invariants:
 * - Extents that touch on the file travel in one call; whole vectors are sorted first where they
 *   are not in order, which is cheap beside the calls it saves.
 * - A failed `flush` poisons the storage: the system may already have dropped the dirty pages, so
 *   every later write and flush fails too. Reads go on.
 * - A flush says that bytes are safe, so it first looks whether the file still is what was opened: one
 *   that was cut short (what is written beyond its end makes it longer again, with zeros between), or
 *   has no name any more (removed, or another file moved over it), poisons the storage as well.
 * - A block device is opened exclusively for writing: one that is mounted or mapped is refused.
 *
 * Small calls are synchronous, as long as that pays. On cached pages a synchronous 4 KiB read costs
 * 3–5 µs, `fs.read` with a callback 10–30 µs, a FileHandle more: waking a thread of the pool costs
 * more than the copy. But on bytes that a disk must fetch, or while the system throttles writers, a
 * synchronous call stops the one thread that owns all state. Nothing tells the two apart in advance,
 * so each call is timed: one that was slow sends the small calls of the next `COOL_DOWN` times its
 * duration to the thread pool. So at most a tenth of the time is lost on waiting. One slow read
 * during which the process read nothing from any device has only lost the processor to somebody else:
 * it changes nothing, unless the next is slow too (not every file system counts what it reads). Large
 * calls go to the pool always, where their copying uses another core.
 */
import fs from 'node:fs';
import { VdoError } from '../base/errors.ts';
import { openFile, wrapError } from './open-file.ts';
import { runsOf, type Run } from './runs.ts';
import { InFlight } from './in-flight.ts';
import type { Extent, Storage } from './storage.ts';

/** Buffers of one call: the system's own limit (IOV_MAX). */
const MAX_RUN_BUFFERS = 1024;
/** Bytes of one call, so that a large transfer spreads over the thread pool. */
const MAX_RUN_BYTES = 1 << 20;
/** Calls up to this size may be synchronous. */
const MAX_SYNC_BYTES = 64 * 1024;
/** A synchronous call that took longer has waited for a device. */
const SLOW_CALL_MS = 0.08;
const COOL_DOWN = 10;
/** A vector of small calls lets others run after this long. */
const SLICE_MS = 2;
/** Calls in the thread pool (of four threads by default) at once, of one storage. */
const MAX_IN_FLIGHT = 8;

export interface FileStorageOptions {
  readonly readOnly?: boolean;
  /** Makes the file if there is none. */
  readonly create?: boolean;
  /** With `create`: the length that a plain file gets, in bytes. */
  readonly size?: number;
}

/**
 * Opens a plain file or block device. Fails with `Io`, `InvalidArgument`, `NoSpace`, `ReadOnly`,
 * or `Busy` for a block device that the system uses.
 */
export async function openFileStorage(
  path: string,
  options: FileStorageOptions = {},
): Promise<Storage> {
  const { fd, size } = await openFile(path, options);
  return new FileStorage(path, fd, size, options.readOnly ?? false);
}

type Direction = 'read' | 'write';

class FileStorage implements Storage {
  readonly size: number;
  readonly readOnly: boolean;
  readonly #path: string;
  readonly #fd: number;
  /** Whether the system counts the names of the file (some file systems do not). */
  readonly #hasName: boolean;
  /** Until when small calls go to the thread pool. */
  readonly #asyncUntilMs = { read: 0, write: 0 };
  /** Whether the synchronous call before was slow. */
  #wasSlow = false;
  /** Of the process, as the system counts: blocks read from devices. */
  #fsRead = process.resourceUsage().fsRead;
  /** Reads, writes and flushes that have begun and not ended. */
  readonly #operations = new InFlight();
  #inFlight = 0;
  readonly #waiting: (() => void)[] = [];
  #flushing: Promise<void> | undefined;
  #nextFlush: Promise<void> | undefined;
  /** Why nothing may be written any more. */
  #poison: VdoError | undefined;
  #closed = false;

  constructor(path: string, fd: number, size: number, readOnly: boolean) {
    this.#path = path;
    this.#fd = fd;
    this.#hasName = fs.fstatSync(fd).nlink > 0;
    this.size = size;
    this.readOnly = readOnly;
  }

  get file(): Storage['file'] {
    return { fd: this.#fd, offset: 0 };
  }

  async read(extents: readonly Extent[]): Promise<void> {
    this.#check(extents, 'Truncated');
    await this.#operations.run(() => this.#transfer('read', extents));
  }

  /** While small calls are quick. */
  readNow(offset: number, bytes: Uint8Array): boolean {
    if (this.#closed || offset + bytes.length > this.size || bytes.length > MAX_SYNC_BYTES) {
      return false;
    }
    if (performance.now() < this.#asyncUntilMs.read) return false;
    try {
      this.#transferSync('read', { offset, length: bytes.length, buffers: [bytes] });
      return true;
    } catch {
      return false;
    }
  }

  async write(extents: readonly Extent[]): Promise<void> {
    this.#checkWritable();
    this.#check(extents, 'NoSpace');
    await this.#operations.run(() => this.#transfer('write', extents));
  }

  /** Calls made while one runs share the next: it begins after all of them were made. */
  async flush(): Promise<void> {
    if (this.#closed) throw this.#closedError();
    if (this.#poison !== undefined) throw this.#poison;
    if (this.readOnly) return;
    await this.#operations.run(() => {
      if (this.#flushing === undefined) return this.#startFlush();
      const next = (): Promise<void> => this.#startFlush();
      this.#nextFlush ??= this.#flushing.then(next, next);
      return this.#nextFlush;
    });
  }

  /** Waits for the operations in progress. Does not flush. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#operations.idle();
    await new Promise<void>((resolve, reject) => {
      fs.close(this.#fd, (error) =>
        error === null || error === undefined ? resolve() : reject(this.#failure('close', error)),
      );
    });
  }

  #startFlush(): Promise<void> {
    this.#nextFlush = undefined;
    if (this.#poison !== undefined) return Promise.reject(this.#poison);
    this.#poison = this.#whatBecameOfFile();
    if (this.#poison !== undefined) return Promise.reject(this.#poison);
    const flushing = new Promise<void>((resolve, reject) => {
      fs.fdatasync(this.#fd, (error) => {
        this.#flushing = undefined;
        if (error === null) return resolve();
        this.#poison ??= this.#failure('flush', error);
        reject(this.#poison);
      });
    });
    this.#flushing = flushing;
    return flushing;
  }

  /** Why nothing that is written to the file can be kept, if so. */
  #whatBecameOfFile(): VdoError | undefined {
    let stats: fs.Stats;
    try {
      stats = fs.fstatSync(this.#fd);
    } catch (error) {
      return this.#failure('flush', error);
    }
    if (!stats.isFile()) return undefined;
    const where = { path: this.#path };
    if (stats.size < this.size) {
      const message = `${this.#path} was cut short while it was open: it has ${stats.size} bytes, it had ${this.size}`;
      return new VdoError('Truncated', message, where);
    }
    if (stats.nlink > 0 || !this.#hasName) return undefined;
    const message = `${this.#path} was removed or replaced while it was open: what is written would be lost`;
    return new VdoError('Io', message, where);
  }

  /** Makes every call. All of them have ended when it returns or throws. */
  async #transfer(direction: Direction, extents: readonly Extent[]): Promise<void> {
    const pending: Promise<void>[] = [];
    let sliceEndMs = 0;
    let failure: unknown;
    for (const run of runsOf(extents, MAX_RUN_BYTES, MAX_RUN_BUFFERS)) {
      const startMs = performance.now();
      if (run.length > MAX_SYNC_BYTES || startMs < this.#asyncUntilMs[direction]) {
        if (this.#inFlight >= MAX_IN_FLIGHT) await this.#vacancy();
        pending.push(
          this.#transferAsync(direction, run).catch((error: unknown) => void (failure ??= error)),
        );
      } else {
        if (sliceEndMs === 0) sliceEndMs = startMs + SLICE_MS;
        else if (startMs > sliceEndMs) {
          await new Promise(setImmediate);
          sliceEndMs = performance.now() + SLICE_MS;
        }
        try {
          this.#transferSync(direction, run);
        } catch (error) {
          failure ??= error;
        }
      }
      if (failure !== undefined) break;
    }
    if (pending.length > 0) await Promise.all(pending);
    if (failure !== undefined) throw failure;
  }

  #transferSync(direction: Direction, run: Run): void {
    const startMs = performance.now();
    while (run.length > 0) {
      let moved: number;
      try {
        if (run.buffers.length === 1) {
          const buffer = run.buffers[0]!;
          moved =
            direction === 'read'
              ? fs.readSync(this.#fd, buffer, 0, buffer.length, run.offset)
              : fs.writeSync(this.#fd, buffer, 0, buffer.length, run.offset);
        } else if (direction === 'read') moved = fs.readvSync(this.#fd, run.buffers, run.offset);
        else moved = fs.writevSync(this.#fd, run.buffers, run.offset);
      } catch (error) {
        throw this.#failure(direction, error, run.offset);
      }
      this.#advance(direction, run, moved);
    }
    const elapsedMs = performance.now() - startMs;
    const isSlow = elapsedMs > SLOW_CALL_MS;
    if (isSlow && (direction === 'write' || this.#wasSlow || this.#hasReadDevice())) {
      this.#asyncUntilMs[direction] = startMs + (1 + COOL_DOWN) * elapsedMs;
    }
    this.#wasSlow = isSlow;
  }

  /** Whether the process has read from a device since this was last asked. */
  #hasReadDevice(): boolean {
    const { fsRead } = process.resourceUsage();
    const hasRead = fsRead !== this.#fsRead;
    this.#fsRead = fsRead;
    return hasRead;
  }

  async #transferAsync(direction: Direction, run: Run): Promise<void> {
    this.#inFlight++;
    try {
      while (run.length > 0) {
        const moved = await new Promise<number>((resolve, reject) => {
          const done = (error: NodeJS.ErrnoException | null, bytes: number): void =>
            error === null ? resolve(bytes) : reject(this.#failure(direction, error, run.offset));
          if (direction === 'read') fs.readv(this.#fd, run.buffers, run.offset, done);
          else fs.writev(this.#fd, run.buffers, run.offset, done);
        });
        this.#advance(direction, run, moved);
      }
    } finally {
      this.#inFlight--;
      this.#waiting.shift()?.();
    }
  }

  async #vacancy(): Promise<void> {
    while (this.#inFlight >= MAX_IN_FLIGHT) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** Drops what a call has moved; a call may move less than it was asked to. */
  #advance(direction: Direction, run: Run, moved: number): void {
    if (moved === 0) {
      const code = direction === 'read' ? 'Truncated' : 'NoSpace';
      throw new VdoError(code, `${this.#path} ends early, at byte ${run.offset}`, {
        path: this.#path,
        offset: run.offset,
      });
    }
    run.offset += moved;
    run.length -= moved;
    if (run.length === 0) return;
    let whole = 0;
    while (moved >= run.buffers[whole]!.length) moved -= run.buffers[whole++]!.length;
    run.buffers = run.buffers.slice(whole);
    run.buffers[0] = run.buffers[0]!.subarray(moved);
  }

  #check(extents: readonly Extent[], pastEnd: 'Truncated' | 'NoSpace'): void {
    if (this.#closed) throw this.#closedError();
    for (const { offset, bytes } of extents) {
      if (!Number.isSafeInteger(offset) || offset < 0) {
        throw new VdoError('InvalidArgument', `no such offset: ${offset}`, { path: this.#path });
      }
      if (offset + bytes.length > this.size) {
        const message = `${this.#path} ends at byte ${this.size}, before the bytes asked for`;
        throw new VdoError(pastEnd, message, { path: this.#path, offset, length: bytes.length });
      }
    }
  }

  #checkWritable(): void {
    if (this.readOnly) {
      throw new VdoError('ReadOnly', `${this.#path} is open for reading only`, {
        path: this.#path,
      });
    }
    if (this.#poison !== undefined) throw this.#poison;
  }

  #closedError(): VdoError {
    return new VdoError('Closed', `${this.#path} is closed`, { path: this.#path });
  }

  #failure(verb: string, error: unknown, offset?: number): VdoError {
    return wrapError(verb, this.#path, error, offset);
  }
}
