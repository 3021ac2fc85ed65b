/**
 * A storage that knows what of it is empty, and can be made so without sending zeros: an NBD export.
 * Whoever copies images asks `isSparse` and saves the way.
 */
import type { DeviceExtent } from '../device/block-device.ts';
import type { Storage } from './storage.ts';

export interface SparseStorage extends Storage {
  /**
   * Kinds of the range, in order, neighbours of one kind merged, covering it exactly. `data` where
   * nothing is known: it may read as zeros, too.
   */
  extents(offset: number, length: number): Promise<DeviceExtent[]>;
  /** Makes the range read as zeros. A write in every other respect. */
  writeZeroes(offset: number, length: number): Promise<void>;
  /** Says that the range is not needed: what it reads as afterwards is anybody's guess. */
  discard(offset: number, length: number): Promise<void>;
}

export function isSparse(storage: Storage): storage is SparseStorage {
  return 'extents' in storage && 'writeZeroes' in storage && 'discard' in storage;
}
