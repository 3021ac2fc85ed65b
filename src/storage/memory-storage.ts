/**
 * A storage in memory: sparse, so that the largest legal volume (2^48 bytes) costs what is written
 * to it. The fake that tests, the simulator and the property tests use.
 *
 * Invariants:
 * - Bytes never written read as zeros and take no memory.
 * - A write is durable at once: `flush` has nothing left to do.
 * - `clone` costs one pointer per chunk: chunks are shared until either side writes to them.
 */
import { VdoError } from '../base/errors.ts';
import type { Extent, Storage } from './storage.ts';

/** The largest storage: 2^36 blocks of 4 KiB. */
const MAX_SIZE_BYTES = 2 ** 48;
const DEFAULT_CHUNK_BYTES = 65536;

/** A run of bytes and who may write to it in place. */
interface Chunk {
  readonly bytes: Uint8Array;
  readonly owner: object;
}

export interface MemoryStorageOptions {
  readonly readOnly?: boolean;
  /** Bytes kept or shared together; small ones make `clone` and short writes cheaper. */
  readonly chunkBytes?: number;
}

export class MemoryStorage implements Storage {
  readonly size: number;
  readonly readOnly: boolean;
  readonly #chunkBytes: number;
  #chunks = new Map<number, Chunk>();
  /** Marks the chunks that no clone shares; replaced by each clone. */
  #owner: object = {};
  #closed = false;

  /** `sizeBytes`: 0 … 2^48. Fails with `InvalidArgument`. */
  constructor(sizeBytes: number, options: MemoryStorageOptions = {}) {
    if (!Number.isInteger(sizeBytes) || sizeBytes < 0 || sizeBytes > MAX_SIZE_BYTES) {
      throw new VdoError('InvalidArgument', `a memory storage cannot hold ${sizeBytes} bytes`);
    }
    this.size = sizeBytes;
    this.readOnly = options.readOnly ?? false;
    this.#chunkBytes = options.chunkBytes ?? DEFAULT_CHUNK_BYTES;
  }

  /** Bytes of memory held by chunks, shared ones included. */
  get usedBytes(): number {
    return this.#chunks.size * this.#chunkBytes;
  }

  /** A storage of its own with the same bytes. O(chunks); copies nothing. */
  clone(options: { readonly readOnly?: boolean } = {}): MemoryStorage {
    const copy = new MemoryStorage(this.size, {
      readOnly: options.readOnly ?? this.readOnly,
      chunkBytes: this.#chunkBytes,
    });
    copy.#chunks = new Map(this.#chunks);
    this.#owner = {};
    return copy;
  }

  /** `read`, at once. */
  readSync(extents: readonly Extent[]): void {
    this.#check(extents, 'Truncated');
    for (const { offset, bytes } of extents) {
      for (let done = 0; done < bytes.length;) {
        const number = Math.floor((offset + done) / this.#chunkBytes);
        const start = offset + done - number * this.#chunkBytes;
        const length = Math.min(this.#chunkBytes - start, bytes.length - done);
        const chunk = this.#chunks.get(number);
        if (chunk === undefined) bytes.fill(0, done, done + length);
        else bytes.set(part(chunk.bytes, start, length), done);
        done += length;
      }
    }
  }

  /** `write`, at once. */
  writeSync(extents: readonly Extent[]): void {
    if (this.readOnly) throw new VdoError('ReadOnly', 'the storage is read-only');
    this.#check(extents, 'NoSpace');
    for (const { offset, bytes } of extents) {
      for (let done = 0; done < bytes.length;) {
        const number = Math.floor((offset + done) / this.#chunkBytes);
        const start = offset + done - number * this.#chunkBytes;
        const length = Math.min(this.#chunkBytes - start, bytes.length - done);
        this.#writable(number, length).set(part(bytes, done, length), start);
        done += length;
      }
    }
  }

  async read(extents: readonly Extent[]): Promise<void> {
    this.readSync(extents);
  }

  readNow(offset: number, bytes: Uint8Array): boolean {
    if (offset + bytes.length > this.size) return false;
    this.readSync([{ offset, bytes }]);
    return true;
  }

  async write(extents: readonly Extent[]): Promise<void> {
    this.writeSync(extents);
  }

  async flush(): Promise<void> {
    if (this.#closed) throw new VdoError('Closed', 'the storage is closed');
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  /** The chunk's bytes, ours alone; the old ones are kept unless `length` replaces them all. */
  #writable(number: number, length: number): Uint8Array {
    const old = this.#chunks.get(number);
    if (old !== undefined && old.owner === this.#owner) return old.bytes;
    const bytes =
      old === undefined || length === this.#chunkBytes
        ? new Uint8Array(this.#chunkBytes)
        : old.bytes.slice();
    this.#chunks.set(number, { bytes, owner: this.#owner });
    return bytes;
  }

  #check(extents: readonly Extent[], pastEnd: 'Truncated' | 'NoSpace'): void {
    if (this.#closed) throw new VdoError('Closed', 'the storage is closed');
    for (const { offset, bytes } of extents) {
      if (!Number.isInteger(offset) || offset < 0) {
        throw new VdoError('InvalidArgument', `no such offset: ${offset}`);
      }
      if (offset + bytes.length > this.size) {
        throw new VdoError(pastEnd, 'the storage ends before the bytes asked for', {
          offset,
          length: bytes.length,
          size: this.size,
        });
      }
    }
  }
}

/** A range of `bytes`; no new view when that is all of them, which is the common case. */
function part(bytes: Uint8Array, start: number, length: number): Uint8Array {
  return length === bytes.length ? bytes : bytes.subarray(start, start + length);
}
