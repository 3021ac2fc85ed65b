/**
 * What the NBD server can serve: a volume, or anything else with this shape. Offsets and lengths are
 * bytes of any alignment.
 */

/** A run of bytes of one kind. */
export interface DeviceExtent {
  readonly offset: number;
  readonly length: number;
  /** `hole`: nothing is mapped; `zero`: written as zeros; `data`: anything else. */
  readonly kind: 'hole' | 'zero' | 'data';
}

export interface WriteOptions {
  /** Resolve only when the data and all that is needed to find it again are durable. */
  readonly fua?: boolean;
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
   * Writes. Once it resolves, reads see it and no-space can no longer lose it; durable after
   * `flush`. `bytes` belongs to the caller again as soon as the promise resolves, not before.
   * Fails with `OutOfRange`, `NoSpace`, `ReadOnly`, `Io`.
   */
  write(offset: number, bytes: Uint8Array, options?: WriteOptions): Promise<void>;
  /** Gives the range back; it reads as zeros afterwards. */
  discard(offset: number, length: number, options?: WriteOptions): Promise<void>;
  /** Makes the range read as zeros. */
  writeZeroes(offset: number, length: number, options?: WriteOptions): Promise<void>;
  /** When it resolves, everything that was acknowledged before the call is durable. */
  flush(): Promise<void>;
  /** Kinds of the range, in order, neighbours of one kind merged, covering it exactly. */
  extents(offset: number, length: number): Promise<DeviceExtent[]>;
  close(): Promise<void>;
}
