/**
 * Where an image comes from: a plain file, a block device, or standard input, read in order, a chunk
 * ahead of whoever consumes it.
 *
 * Node tells no holes: those of a sparse file are read as zeros, at memory speed, and skipped behind.
 */
import * as fs from 'node:fs';
import type { Readable } from 'node:stream';
import { MiB } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import { openFileStorage } from '../storage/file-storage.ts';
import type { Storage } from '../storage/storage.ts';

/** Bytes of a chunk: large enough that a call costs nothing per block. */
const CHUNK_BYTES = MiB;
/** Chunks read ahead. */
const AHEAD = 3;

export interface ImageSource {
  readonly path: string;
  /** Bytes, or null where only the end tells. */
  readonly size: number | null;
  /**
   * The bytes in order, chunk by chunk, each 1 MiB but for the last. A chunk is valid until the next
   * one is asked for. Fails with `Io`, `Truncated`.
   */
  chunks(): AsyncGenerator<Uint8Array>;
  close(): Promise<void>;
}

/** Opens a source: a path, or `-` for standard input. Fails with `Io`, `InvalidArgument`. */
export async function openImageSource(path: string): Promise<ImageSource> {
  if (path === '-') return new StreamSource('-', process.stdin);
  const storage = await openFileStorage(path, { readOnly: true });
  return new StorageSource(path, storage);
}

class StorageSource implements ImageSource {
  readonly path: string;
  readonly size: number;
  readonly #storage: Storage;

  constructor(path: string, storage: Storage) {
    this.path = path;
    this.size = storage.size;
    this.#storage = storage;
  }

  async *chunks(): AsyncGenerator<Uint8Array> {
    const buffers = Array.from({ length: AHEAD + 1 }, () => new Uint8Array(CHUNK_BYTES));
    const reading: Promise<Uint8Array>[] = [];
    let offset = 0;
    let turn = 0;
    const start = (): void => {
      const bytes = buffers[turn++ % buffers.length]!.subarray(0, this.size - offset);
      const read = this.#storage.read([{ offset, bytes }]).then(() => bytes);
      read.catch(() => undefined);
      reading.push(read);
      offset += bytes.length;
    };
    while (offset < this.size || reading.length > 0) {
      while (reading.length < AHEAD && offset < this.size) start();
      yield await reading.shift()!;
    }
  }

  close(): Promise<void> {
    return this.#storage.close();
  }
}

class StreamSource implements ImageSource {
  readonly path: string;
  readonly size = null;
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

/** Fails with `InvalidArgument` where both paths name the same file. */
export function checkDifferent(volume: string, other: string): void {
  if (other === '-' || !fs.existsSync(other) || !fs.existsSync(volume)) return;
  const [a, b] = [fs.statSync(volume), fs.statSync(other)];
  if (a.dev !== b.dev || a.ino !== b.ino) return;
  throw new VdoError('InvalidArgument', `${other} is the volume itself`);
}
