/**
 * What a volume lives on: a file, a block device, memory, later an NBD export. Bytes at offsets,
 * whole extents at a time.
 *
 * Invariants every implementation keeps (test/contract/storage.ts proves them):
 * - `read` sees every `write` that completed before it was called.
 * - When `flush` resolves, every write that had completed when `flush` was called is durable.
 *   Nothing else is: a crash keeps any part, sector by sector, of what was written since, in any
 *   order.
 * - A failed `flush` says that writes since the last good one may be lost for ever. It is never
 *   worth retrying: the caller must stop trusting the device.
 * - Extents of one call do not overlap. The caller leaves their bytes alone until the call ends.
 */
export interface Extent {
  /** Where on the storage, in bytes. */
  readonly offset: number;
  /** What is written from, or read into. */
  readonly bytes: Uint8Array;
}

export interface Storage {
  /** Bytes that can be read and written. */
  readonly size: number;
  /** Whether writes are refused with code `ReadOnly`. */
  readonly readOnly: boolean;
  /** Optional: the open file whose bytes from `offset` on are the storage's, for other threads to read. */
  readonly file?: { readonly fd: number; readonly offset: number } | undefined;
  /** Fills every extent. Fails with `Io`, or `Truncated` past the end. */
  read(extents: readonly Extent[]): Promise<void>;
  /**
   * Optional: fills `bytes` before it returns, if that is not likely to take long. False: `read` is the way, and
   * tells what is wrong.
   */
  readNow?(offset: number, bytes: Uint8Array): boolean;
  /** Writes every extent, in no particular order. Fails with `Io`, `NoSpace` or `ReadOnly`. */
  write(extents: readonly Extent[]): Promise<void>;
  /** Makes completed writes durable. Fails with `Io`. */
  flush(): Promise<void>;
  close(): Promise<void>;
}
