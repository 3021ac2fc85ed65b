/**
 * Rebuilds the volume in a file: the labels tell whether it may be, the lock keeps others away.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import { needsRebuild, stateName } from '../format/super-block.ts';
import { rebuild, type RebuildOptions, type RebuildReport } from '../repair/rebuild.ts';
import { lockStorage, openStorage } from '../nbd-client/open-storage.ts';
import { ShiftedStorage } from '../storage/shifted-storage.ts';
import type { Storage } from '../storage/storage.ts';
import { readLabels } from './labels.ts';

export interface RebuildVolumeOptions extends RebuildOptions {
  /** Rebuild a volume that is not read-only, too. */
  readonly force?: boolean;
}

/**
 * Rebuilds a read-only volume from its block map and leaves it clean. Fails with `InvalidArgument`
 * where it is not read-only and nothing forces it, or is new; with `Busy`; as `readLabels` does; and
 * then nothing was written. Fails with `Io`, or with the signal's reason: then it is left to be rebuilt.
 */
export async function rebuildVolume(
  path: string,
  options: RebuildVolumeOptions = {},
): Promise<RebuildReport> {
  const storage = await openStorage(path);
  try {
    const lock = await lockStorage(path);
    try {
      return await rebuildVolumeOn(storage, options);
    } finally {
      await lock.release();
    }
  } finally {
    await storage.close();
  }
}

/** The same on any storage, which stays open. */
export async function rebuildVolumeOn(
  storage: Storage,
  options: RebuildVolumeOptions = {},
): Promise<RebuildReport> {
  const { geometry, superBlock } = await readLabels(storage);
  if (storage.readOnly) throw new VdoError('ReadOnly', 'a rebuild writes: the file is read-only');
  if (!needsRebuild(superBlock.state) && options.force !== true) {
    throw new VdoError(
      'InvalidArgument',
      `the volume is ${stateName(superBlock.state)}, not read-only: it wants no rebuild (--force makes one)`,
      { state: stateName(superBlock.state) },
    );
  }
  const shifted =
    geometry.bioOffset === 0
      ? storage
      : new ShiftedStorage(storage, -geometry.bioOffset * BLOCK_SIZE);
  const superBlockAt = geometry.dataStart * BLOCK_SIZE;
  const { report } = await rebuild(shifted, superBlock, superBlockAt, options);
  return report;
}
