/**
 * Makes an empty volume (FORMAT §1.3, §2): labels, empty tree roots, empty journal, cleared summary.
 *
 * - Sizes are chosen and checked (`format-plan.ts`) before anything is touched.
 * - Block 0 is cleared first and written last, after a flush: a format that fails leaves no volume
 *   behind, and never half of one.
 * - Nothing of an earlier volume counts: roots, journal and summary are cleared; whatever lies in the
 *   slabs carries another nonce. The index region is left to the index, which starts a new volume
 *   from nothing; only its first blocks are cleared, with all signatures of what was there before.
 */
import { stat, truncate, unlink } from 'node:fs/promises';
import { bytesEqual, isZero } from '../base/bytes.ts';
import { BLOCK_SIZE, MiB } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import {
  decodeGeometryBlock,
  encodeGeometryBlock,
  type GeometryBlock,
} from '../format/geometry-block.ts';
import { encodeSuperBlock } from '../format/super-block.ts';
import { lockStorage, openStorage } from '../nbd-client/open-storage.ts';
import { isNbdUri } from '../nbd-client/uri.ts';
import { openFileStorage, type FileStorageOptions } from '../storage/file-storage.ts';
import { wrapError } from '../storage/open-file.ts';
import { isSparse } from '../storage/sparse-storage.ts';
import type { Storage } from '../storage/storage.ts';
import { planFormat, type FormatOptions, type FormatResult } from './format-plan.ts';
import { readLabels } from './labels.ts';
import { findSignature, SIGNATURE_BLOCKS } from './signatures.ts';

const CLEAR_BYTES = MiB;

/**
 * Makes the whole storage an empty volume and flushes it. Fails with `InvalidArgument` for sizes
 * that make no volume, `Exists` if something lives there and `force` is not set, `ReadOnly`, `Io`.
 */
export async function formatStorage(
  storage: Storage,
  options: FormatOptions = {},
): Promise<FormatResult> {
  const plan = planFormat(storage.size, options);
  if (options.force !== true) {
    const found = await findSignature(storage);
    if (found !== undefined) throw inTheWay(`there is ${found} on it`);
  }
  await refuseUsedNonce(storage, plan.geometry.nonce);
  const { superBlock } = plan;
  const { blockMap, recoveryJournal, slabSummary } = superBlock.partitions;
  const clear = (pbn: number, blocks: number): Promise<void> =>
    clearRange(storage, pbn * BLOCK_SIZE, blocks * BLOCK_SIZE);
  await clear(0, Math.min(SIGNATURE_BLOCKS, superBlock.physicalBlocks));
  await storage.flush();
  await clear(blockMap.offset, blockMap.count);
  await clear(recoveryJournal.offset, recoveryJournal.count);
  await clear(slabSummary.offset, slabSummary.count);
  await clearBackupTable(storage);
  return writeLabels(storage, plan);
}

/** Makes storage whose metadata regions are zeros an empty volume. */
async function writeLabels(storage: Storage, plan: FormatResult): Promise<FormatResult> {
  const { geometry, superBlock } = plan;
  const superBlockAt = geometry.dataStart * BLOCK_SIZE;
  await storage.write([{ offset: superBlockAt, bytes: encodeSuperBlock(superBlock) }]);
  await storage.flush();
  await storage.write([{ offset: 0, bytes: encodeGeometryBlock(geometry) }]);
  await storage.flush();
  await readLabels(storage);
  return plan;
}

/** What stale metadata is told by is its nonce: a second volume must not have the same. */
async function refuseUsedNonce(storage: Storage, nonce: Uint8Array): Promise<void> {
  const bytes = new Uint8Array(BLOCK_SIZE);
  await storage.read([{ offset: 0, bytes }]);
  let old: GeometryBlock;
  try {
    old = decodeGeometryBlock(bytes);
  } catch (error) {
    if (error instanceof VdoError) return;
    throw error;
  }
  if (bytesEqual(old.nonce, nonce)) {
    throw new VdoError(
      'InvalidArgument',
      'the volume that is there has the same nonce: choose another',
    );
  }
}

/** Makes a range zero, writing only where it is not: holes stay holes. A server does it itself. */
async function clearRange(storage: Storage, offset: number, size: number): Promise<void> {
  if (isSparse(storage)) return storage.writeZeroes(offset, size);
  const bytes = new Uint8Array(Math.min(size, CLEAR_BYTES));
  const zeros = new Uint8Array(bytes.length);
  for (let at = 0; at < size; at += bytes.length) {
    const count = Math.min(bytes.length, size - at);
    await storage.read([{ offset: offset + at, bytes: bytes.subarray(0, count) }]);
    if (isZero(bytes.subarray(0, count))) continue;
    await storage.write([{ offset: offset + at, bytes: zeros.subarray(0, count) }]);
  }
}

/** Bytes after the last whole block could still hold the backup of an old partition table. */
async function clearBackupTable(storage: Storage): Promise<void> {
  const rest = storage.size % BLOCK_SIZE;
  if (rest > 0) await clearRange(storage, storage.size - rest, rest);
}

function inTheWay(what: string): VdoError {
  return new VdoError('Exists', `${what}; use --force to overwrite it`);
}

export interface FormatVolumeOptions extends FormatOptions {
  /** Physical size in bytes. Needed for a new file; default: the size of the file, device or export. */
  readonly size?: number;
}

/**
 * Makes a plain file (created if need be, always sparse), a block device or, by its NBD URI, an export
 * an empty volume. Fails as `formatStorage` does; a plain file with anything but zeros in it is in the
 * way, too, and one that is in use is `Busy`.
 */
export async function formatVolume(
  path: string,
  options: FormatVolumeOptions = {},
): Promise<FormatResult> {
  const there = await kindOf(path);
  if (there.kind === 'device') return locked(path, () => formatDevice(path, options));
  const size = options.size ?? there.size;
  if (size === 0) {
    const what = there.kind === 'none' ? 'does not exist' : 'is empty';
    throw new VdoError('InvalidArgument', `${path} ${what}: give the size of the volume (--size)`);
  }
  planFormat(size, options);
  if (there.kind === 'file') return locked(path, () => formatFile(path, size, options));
  await (await openFileStorage(path, { create: true })).close();
  try {
    return await locked(path, () => formatFile(path, size, options));
  } catch (error) {
    await unlink(path).catch(() => undefined);
    throw error;
  }
}

async function locked<T>(path: string, work: () => Promise<T>): Promise<T> {
  const lock = await lockStorage(path);
  try {
    return await work();
  } finally {
    await lock.release();
  }
}

async function kindOf(path: string): Promise<{ kind: 'none' | 'file' | 'device'; size: number }> {
  if (isNbdUri(path)) return { kind: 'device', size: 0 };
  try {
    const found = await stat(path);
    if (found.isFile()) return { kind: 'file', size: found.size };
    if (found.isBlockDevice()) return { kind: 'device', size: 0 };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { kind: 'none', size: 0 };
    throw wrapError('format', path, error);
  }
  throw new VdoError('InvalidArgument', `${path} is neither a plain file nor a block device`);
}

async function formatFile(
  path: string,
  size: number,
  options: FormatOptions,
): Promise<FormatResult> {
  if (options.force !== true) await refuseContents(path);
  try {
    // Punches everything out, so that nothing of what was there can be mistaken for the volume's.
    await truncate(path, 0);
  } catch (error) {
    throw wrapError('clear', path, error);
  }
  return withStorage(path, { create: true, size }, (storage) =>
    writeLabels(storage, planFormat(storage.size, options)),
  );
}

function formatDevice(path: string, options: FormatVolumeOptions): Promise<FormatResult> {
  return withStorage(path, {}, (storage) => {
    if (options.size !== undefined && options.size !== storage.size) {
      throw new VdoError(
        'InvalidArgument',
        `${path} has ${storage.size} bytes: its size cannot be chosen, leave --size out`,
      );
    }
    return formatStorage(storage, options);
  });
}

async function withStorage<T>(
  path: string,
  how: FileStorageOptions,
  work: (storage: Storage) => Promise<T>,
): Promise<T> {
  const storage = await openStorage(path, how);
  try {
    return await work(storage);
  } finally {
    await storage.close();
  }
}

function refuseContents(path: string): Promise<void> {
  return withStorage(path, { readOnly: true }, async (storage) => {
    const found = await findSignature(storage);
    if (found !== undefined) throw inTheWay(`there is ${found} in ${path}`);
    if (!(await isEmpty(storage))) throw inTheWay(`${path} is not empty`);
  });
}

/** Whether the storage holds zeros only; stops at the first other byte. */
async function isEmpty(storage: Storage): Promise<boolean> {
  const bytes = new Uint8Array(4 * MiB);
  for (let offset = 0; offset < storage.size; offset += bytes.length) {
    const part = bytes.subarray(0, Math.min(bytes.length, storage.size - offset));
    await storage.read([{ offset, bytes: part }]);
    if (!isZero(part)) return false;
  }
  return true;
}
