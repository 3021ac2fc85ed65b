/**
 * A storage seen with its offsets shifted: byte 0 of the view is byte `start` of the storage below.
 * Volumes converted from other devices count their blocks from an offset (`bio_offset`).
 */
import type { Extent, Storage } from './storage.ts';

export class ShiftedStorage implements Storage {
  readonly #below: Storage;
  readonly #start: number;

  /** `start` may be negative: then the first bytes of the view do not exist. */
  constructor(below: Storage, start: number) {
    this.#below = below;
    this.#start = start;
  }

  get size(): number {
    return this.#below.size - this.#start;
  }

  get readOnly(): boolean {
    return this.#below.readOnly;
  }

  get file(): Storage['file'] {
    const { file } = this.#below;
    return file && { fd: file.fd, offset: file.offset + this.#start };
  }

  read(extents: readonly Extent[]): Promise<void> {
    return this.#below.read(this.#shift(extents));
  }

  readNow(offset: number, bytes: Uint8Array): boolean {
    return this.#below.readNow?.(offset + this.#start, bytes) ?? false;
  }

  write(extents: readonly Extent[]): Promise<void> {
    return this.#below.write(this.#shift(extents));
  }

  flush(): Promise<void> {
    return this.#below.flush();
  }

  close(): Promise<void> {
    return this.#below.close();
  }

  #shift(extents: readonly Extent[]): Extent[] {
    return extents.map(({ offset, bytes }) => ({ offset: offset + this.#start, bytes }));
  }
}
