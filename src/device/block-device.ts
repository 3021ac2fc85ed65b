/**
 * What the NBD server can serve: a volume, or anything else with this shape. Offsets and lengths are
 * bytes of any alignment.
 */

import type { Extent } from '../storage/storage.ts';

/** A run of bytes of one kind. */
export interface DeviceExtent {
  readonly offset: number;
  readonly length: number;
  /** `hole`: nothing is mapped; `zero`: written as zeros; `data`: anything else. */
  readonly kind: 'hole' | 'zero' | 'data';
  /** Where it was asked for: how the device holds the run, flags of `Mapping`. */
  readonly mapping?: number;
}

/** How a volume holds a run of blocks: 0 (nothing is mapped) or flags. */
export const Mapping = {
  /** Mapped to the zero block. */
  zero: 1,
  /** In a physical block as it is. */
  stored: 2,
  /** In a compressed block, or waiting for company to be put into one. */
  compressed: 4,
  /**
   * With `stored`: another mapping refers to the same physical block. With `compressed`: to the same
   * compressed block, which other fragments in it do too.
   */
  shared: 8,
} as const;

export interface ExtentOptions {
  /** Stop at the latest after this many runs; what is found then may be shorter than the range. */
  readonly maxExtents?: number;
  /** Tell `mapping` too: neighbours are merged only where that is equal as well. */
  readonly mapping?: boolean;
}

/** Whole blocks of an open file, to be written at `offset`; `from`, `length` and `offset` are of them. */
export interface FileRange {
  readonly fd: number;
  readonly from: number;
  readonly length: number;
  readonly offset: number;
  /**
   * Called as it goes, in order: the blocks from `offset` on are written, but for those of zeros, where
   * `zeros[i]` is 1: they are left as they are on the device.
   */
  readonly onBlocks: (offset: number, zeros: Uint8Array) => Promise<void> | void;
  readonly signal?: AbortSignal | undefined;
}

export interface WriteOptions {
  /** Resolve only when the data and all that is needed to find it again are durable. */
  readonly fua?: boolean;
}

export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

export interface BlockDevice {
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  /**
   * The bytes at `offset`; with `into`, read into its first `length` bytes. Fails with `OutOfRange`,
   * `BadMapping`, `Io`.
   */
  read(offset: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  /**
   * Optional: fills `into` before it returns, if nothing has to be waited for. False: `read` is the way, and tells
   * what is wrong; `into` may hold anything.
   */
  readNow?(offset: number, into: Uint8Array): boolean;
  /**
   * Optional: reads ranges in their order, work done ahead; the bytes of each are good until the next is asked for.
   * Fails as `read` does. Null where `read` is as good.
   */
  readAhead?(ranges: AsyncIterable<ByteRange>): AsyncGenerator<Extent> | null;
  /**
   * Writes. Once it resolves, reads see it and no-space can no longer lose it; durable after
   * `flush`. `bytes` belongs to the caller again as soon as the promise resolves, not before.
   * Fails with `OutOfRange`, `NoSpace`, `ReadOnly`, `Io`.
   */
  write(offset: number, bytes: Uint8Array, options?: WriteOptions): Promise<void>;
  /**
   * Optional: writes as many of the bytes, from the first on, as a `write` would answer at once, and
   * returns their number. `bytes` is the caller's again when it returns. What is left, and every
   * error, is for `write`.
   */
  writeNow?(offset: number, bytes: Uint8Array): number;
  /**
   * Optional: reads a file by itself and writes it. Returns how many bytes came before the file ended or
   * failed; the rest is the caller's to read and to report. Fails as `write` does.
   */
  ingest?(range: FileRange): Promise<number>;
  /** Gives the range back; it reads as zeros afterwards. */
  discard(offset: number, length: number, options?: WriteOptions): Promise<void>;
  /** Makes the range read as zeros. */
  writeZeroes(offset: number, length: number, options?: WriteOptions): Promise<void>;
  /** When it resolves, everything that was acknowledged before the call is durable. */
  flush(): Promise<void>;
  /**
   * Kinds of the range, in order, neighbours of one kind merged, covering it exactly; or, with
   * `maxExtents`, its beginning, at least one run.
   */
  extents(offset: number, length: number, options?: ExtentOptions): Promise<DeviceExtent[]>;
  close(): Promise<void>;
}
