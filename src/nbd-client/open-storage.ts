/**
 * Opens and locks what a volume lives on, wherever that is: a plain file or block device by its path,
 * an export of a server by its NBD URI.
 *
 * The lock of an export keeps other processes of this machine away; NBD itself has no locks. Who shares
 * an export between machines must see to it that one at a time writes (docs/NBD.md).
 */
import { lockFile, lockName, type FileLock } from '../storage/file-lock.ts';
import { openFileStorage, type FileStorageOptions } from '../storage/file-storage.ts';
import type { Storage } from '../storage/storage.ts';
import { openNbdStorage } from './nbd-storage.ts';
import { canonicalUri, isNbdUri, parseNbdUri } from './uri.ts';

/**
 * As `openFileStorage`, which see, and as `openNbdStorage` for a URI; `create` and `size` are for files:
 * an export is there or not, and as large as it is.
 */
export function openStorage(location: string, options: FileStorageOptions = {}): Promise<Storage> {
  if (!isNbdUri(location)) return openFileStorage(location, options);
  return openNbdStorage(location, { readOnly: options.readOnly ?? false });
}

/** Takes the lock of the file or export, or fails with `Busy` at once. */
export async function lockStorage(location: string): Promise<FileLock> {
  if (!isNbdUri(location)) return lockFile(location);
  return lockName(canonicalUri(parseNbdUri(location)), location);
}
