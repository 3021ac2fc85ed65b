/**
 * Where an image comes from: a plain file, a block device, an export of an NBD server, or standard
 * input, read in order, a few chunks ahead of whoever consumes it.
 *
 * Node tells no holes: those of a sparse file are read as zeros, at memory speed, and skipped behind.
 * An NBD server does: what it says is empty is not asked for.
 */
import * as fs from 'node:fs';
import type { Readable } from 'node:stream';
import { GiB, MiB } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import type { DeviceExtent } from '../device/block-device.ts';
import { openStorage } from '../nbd-client/open-storage.ts';
import { canonicalUri, isNbdUri, parseNbdUri } from '../nbd-client/uri.ts';
import { isSparse, type SparseStorage } from '../storage/sparse-storage.ts';
import { wrapError } from '../storage/open-file.ts';
import type { Storage } from '../storage/storage.ts';

/** Bytes of a chunk: large enough that a call costs nothing per block. */
const CHUNK_BYTES = MiB;
/** Chunks read ahead. */
const AHEAD = 3;
/** Range whose empty parts are looked up at once. */
const WINDOW_BYTES = GiB;
/** What every chunk is a view of that is known to be empty. */
const ZEROS = new Uint8Array(CHUNK_BYTES);

export interface ImageSource {
  readonly path: string;
  /** Bytes, or null where only the end tells. */
  readonly size: number | null;
  /**
   * The bytes in order, chunk by chunk, each 1 MiB but for the last. A chunk is valid until the next
   * one is asked for, and not to be written to (`isKnownZero`). Fails with `Io`, `Truncated`. Where there is a
   * file, from byte `from` on.
   */
  chunks(from?: number): AsyncGenerator<Uint8Array>;
  /** The file, to be read by others; null where there is none. */
  readonly fd: number | null;
  close(): Promise<void>;
}

/** Whether a chunk is known to be zeros without a look at it. */
export function isKnownZero(chunk: Uint8Array): boolean {
  return chunk.buffer === ZEROS.buffer;
}

/** Opens a source: a path, an NBD URI, or `-` for standard input. Fails with `Io`, `InvalidArgument`. */
export async function openImageSource(path: string): Promise<ImageSource> {
  if (path === '-') return new StreamSource('-', process.stdin);
  const storage = await openStorage(path, { readOnly: true });
  try {
    return new StorageSource(path, storage, isNbdUri(path) ? null : fs.openSync(path, 'r'));
  } catch (error) {
    await storage.close();
    throw wrapError('open', path, error);
  }
}

class StorageSource implements ImageSource {
  readonly path: string;
  readonly size: number;
  readonly fd: number | null;
  readonly #storage: Storage;

  constructor(path: string, storage: Storage, fd: number | null) {
    this.path = path;
    this.fd = fd;
    this.size = storage.size;
    this.#storage = storage;
  }

  async *chunks(from = 0): AsyncGenerator<Uint8Array> {
    const buffers = Array.from({ length: AHEAD + 1 }, () => new Uint8Array(CHUNK_BYTES));
    const reading: Promise<Uint8Array>[] = [];
    const empty = isSparse(this.#storage) ? new EmptyRanges(this.#storage) : undefined;
    let offset = from;
    let turn = 0;
    const start = (): void => {
      const bytes = buffers[turn++ % buffers.length]!.subarray(0, this.size - offset);
      const read = this.#storage.read([{ offset, bytes }]).then(() => bytes);
      read.catch(() => undefined);
      reading.push(read);
      offset += bytes.length;
    };
    while (offset < this.size || reading.length > 0) {
      while (reading.length < AHEAD && offset < this.size) {
        const length = Math.min(CHUNK_BYTES, this.size - offset);
        if (empty !== undefined && (await empty.covers(offset, length))) {
          reading.push(Promise.resolve(ZEROS.subarray(0, length)));
          offset += length;
        } else start();
      }
      yield await reading.shift()!;
    }
  }

  close(): Promise<void> {
    if (this.fd !== null) fs.closeSync(this.fd);
    return this.#storage.close();
  }
}

/** What a storage says is empty, looked up a window at a time, in order. */
class EmptyRanges {
  readonly #storage: SparseStorage;
  #end = 0;
  #ranges: DeviceExtent[] = [];

  constructor(storage: SparseStorage) {
    this.#storage = storage;
  }

  /** Whether the range is empty. Ranges are asked for in rising order. */
  async covers(offset: number, length: number): Promise<boolean> {
    if (offset + length > this.#end) {
      const size = Math.min(WINDOW_BYTES, this.#storage.size - offset);
      this.#ranges = await this.#storage.extents(offset, size);
      this.#end = offset + size;
    }
    while (this.#ranges.length > 0 && endOf(this.#ranges[0]!) <= offset) this.#ranges.shift();
    for (const range of this.#ranges) {
      if (range.kind === 'data') return false;
      if (endOf(range) >= offset + length) return true;
    }
    return false;
  }
}

const endOf = ({ offset, length }: DeviceExtent): number => offset + length;

class StreamSource implements ImageSource {
  readonly path: string;
  readonly size = null;
  readonly fd = null;
  readonly #stream: Readable;

  constructor(path: string, stream: Readable) {
    this.path = path;
    this.#stream = stream;
  }

  async *chunks(): AsyncGenerator<Uint8Array> {
    let chunk = Buffer.alloc(CHUNK_BYTES);
    let filled = 0;
    for await (const piece of this.#stream) {
      const bytes = piece as Buffer;
      for (let at = 0; at < bytes.length;) {
        const copied = bytes.copy(chunk, filled, at);
        at += copied;
        filled += copied;
        if (filled < CHUNK_BYTES) continue;
        yield chunk;
        chunk = Buffer.alloc(CHUNK_BYTES);
        filled = 0;
      }
    }
    if (filled > 0) yield chunk.subarray(0, filled);
  }

  /** Also ends a read that waits; otherwise it would keep the process alive. */
  close(): Promise<void> {
    this.#stream.destroy();
    return Promise.resolve();
  }
}

/** Fails with `InvalidArgument` where both name the same file or export. */
export function checkDifferent(volume: string, other: string): void {
  if (isNbdUri(volume) && isNbdUri(other)) {
    if (canonicalUri(parseNbdUri(volume)) !== canonicalUri(parseNbdUri(other))) return;
    throw new VdoError('InvalidArgument', `${other} is the volume itself`);
  }
  if (other === '-' || !fs.existsSync(other) || !fs.existsSync(volume)) return;
  const [a, b] = [fs.statSync(volume), fs.statSync(other)];
  if (a.dev !== b.dev || a.ino !== b.ino) return;
  throw new VdoError('InvalidArgument', `${other} is the volume itself`);
}
