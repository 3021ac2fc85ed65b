/**
 * A storage seen through a layer of memory: whole blocks written to it stay in memory and shadow what
 * lies below, which is only ever read. Recovery works on it where a volume must not be touched.
 *
 * Invariants:
 * - Nothing below is written; `flush` has nothing to do.
 * - Writes cover whole blocks; reads may be of any range.
 */
import { assert } from '../base/assert.ts';
import { BLOCK_SIZE } from '../base/constants.ts';
import type { Extent, Storage } from './storage.ts';

export class OverlayStorage implements Storage {
  readonly #below: Storage;
  readonly #blocks = new Map<number, Uint8Array>();

  constructor(below: Storage) {
    this.#below = below;
  }

  get size(): number {
    return this.#below.size;
  }

  get readOnly(): boolean {
    return false;
  }

  /** Blocks held in memory. */
  get blocks(): number {
    return this.#blocks.size;
  }

  async read(extents: readonly Extent[]): Promise<void> {
    await this.#below.read(extents);
    if (this.#blocks.size === 0) return;
    for (const { offset, bytes } of extents) {
      const end = offset + bytes.length;
      for (let block = Math.floor(offset / BLOCK_SIZE); block * BLOCK_SIZE < end; block++) {
        const over = this.#blocks.get(block);
        if (over === undefined) continue;
        const at = block * BLOCK_SIZE;
        const from = Math.max(at, offset);
        const to = Math.min(at + BLOCK_SIZE, end);
        bytes.set(over.subarray(from - at, to - at), from - offset);
      }
    }
  }

  /** Of what nothing was written over yet. */
  readNow(offset: number, bytes: Uint8Array): boolean {
    const end = offset + bytes.length;
    for (let block = Math.floor(offset / BLOCK_SIZE); block * BLOCK_SIZE < end; block++) {
      if (this.#blocks.has(block)) return false;
    }
    return this.#below.readNow?.(offset, bytes) ?? false;
  }

  write(extents: readonly Extent[]): Promise<void> {
    for (const { offset, bytes } of extents) {
      assert(offset % BLOCK_SIZE === 0 && bytes.length % BLOCK_SIZE === 0, 'whole blocks');
      for (let at = 0; at < bytes.length; at += BLOCK_SIZE) {
        this.#blocks.set(
          (offset + at) / BLOCK_SIZE,
          Uint8Array.from(bytes.subarray(at, at + BLOCK_SIZE)),
        );
      }
    }
    return Promise.resolve();
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return this.#below.close();
  }
}
