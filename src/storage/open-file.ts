/**
 * Opens the file or block device below a storage, and turns the system's errors into ours. Nothing
 * here runs per block.
 */
import fs from 'node:fs';
import { open, readFile, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { SECTOR_SIZE } from '../base/constants.ts';
import { VdoError, type VdoCode, type Where } from '../base/errors.ts';

const CODE_OF_ERRNO: Readonly<Record<string, VdoCode>> = {
  ENOSPC: 'NoSpace',
  EDQUOT: 'NoSpace',
  EFBIG: 'NoSpace',
  EROFS: 'ReadOnly',
  EBUSY: 'Busy',
  EISDIR: 'InvalidArgument',
};

const REASON_OF_ERRNO: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  EACCES: 'permission denied',
  EPERM: 'not permitted',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of the path is no directory',
  EROFS: 'the file system is read-only',
  ENOSPC: 'no space is left on its file system',
  EDQUOT: 'the quota is used up',
  EFBIG: 'its file system holds no file as large',
  EBUSY: 'the system uses it (mounted, or mapped by another device)',
  EIO: 'the device failed',
};

/** A `VdoError` that says what failed, on which file, where and why. */
export function wrapError(verb: string, path: string, error: unknown, offset?: number): VdoError {
  if (error instanceof VdoError) return error;
  const errno =
    error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';
  const isFolderMissing = errno === 'ENOENT' && !fs.existsSync(dirname(path));
  const reason = isFolderMissing
    ? `there is no folder ${dirname(path)}`
    : (REASON_OF_ERRNO[errno] ?? (error instanceof Error ? error.message : String(error)));
  const at = offset === undefined ? '' : ` at byte ${offset}`;
  const where: Where = offset === undefined ? { path } : { path, offset };
  const message = `cannot ${verb} ${path}${at}: ${reason}`;
  return new VdoError(CODE_OF_ERRNO[errno] ?? 'Io', message, where, error);
}

interface OpenOptions {
  readonly readOnly?: boolean;
  readonly create?: boolean;
  readonly size?: number;
}

/** Opens (or makes) the file. The descriptor is the caller's to close. */
export async function openFile(
  path: string,
  options: OpenOptions,
): Promise<{ readonly fd: number; readonly size: number }> {
  const { readOnly = false, create = false, size } = options;
  if (size !== undefined && (!Number.isSafeInteger(size) || size < 0)) {
    throw new VdoError('InvalidArgument', `a file cannot have ${size} bytes`, { path });
  }
  if (readOnly && create) {
    throw new VdoError('InvalidArgument', 'a new file cannot be read-only', { path });
  }
  try {
    const { mode, fresh } = kindOf(path);
    const device = (mode & fs.constants.S_IFMT) === fs.constants.S_IFBLK;
    let flags = readOnly ? fs.constants.O_RDONLY : fs.constants.O_RDWR;
    if (create && fresh) flags |= fs.constants.O_CREAT;
    if (device && !readOnly) flags |= fs.constants.O_EXCL;
    const fd = fs.openSync(path, flags, 0o644);
    try {
      const bytes = device ? await deviceSize(path, fd) : sizePlainFile(fd, create, size);
      if (device && create && size !== undefined && size > bytes) {
        const message = `${path} has ${bytes} bytes, fewer than the ${size} asked for`;
        throw new VdoError('NoSpace', message, { path });
      }
      if (create && fresh) await flushDirectory(dirname(path));
      return { fd, size: bytes };
    } catch (error) {
      fs.closeSync(fd);
      throw error;
    }
  } catch (error) {
    throw wrapError('open', path, error);
  }
}

function kindOf(path: string): { readonly mode: number; readonly fresh: boolean } {
  const stats = fs.statSync(path, { throwIfNoEntry: false });
  if (stats === undefined) return { mode: fs.constants.S_IFREG, fresh: true };
  if (stats.isFile() || stats.isBlockDevice()) return { mode: stats.mode, fresh: false };
  const kind = stats.isDirectory() ? 'a directory' : 'neither a plain file nor a block device';
  throw new VdoError('InvalidArgument', `${path} is ${kind}`, { path });
}

function sizePlainFile(fd: number, create: boolean, size: number | undefined): number {
  if (create && size !== undefined) fs.ftruncateSync(fd, size);
  return fs.fstatSync(fd).size;
}

/** Makes the name of a new file as durable as its bytes will be. */
async function flushDirectory(path: string): Promise<void> {
  let directory: FileHandle | undefined;
  try {
    directory = await open(path, 'r');
    await directory.sync();
  } catch (error) {
    // Some file systems (and Windows) cannot sync a directory: then there is nothing to be done.
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'EIO' || code === 'ENOSPC') throw error;
  } finally {
    await directory?.close();
  }
}

/** Bytes of a block device, which `stat` does not tell. */
async function deviceSize(path: string, fd: number): Promise<number> {
  const { rdev } = fs.fstatSync(fd);
  // The split of a device number that Linux's C library makes; the parts above 32 bits are unused.
  const major = (rdev >>> 8) & 0xfff;
  const minor = (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
  try {
    const sectors = await readFile(`/sys/dev/block/${major}:${minor}/size`, 'ascii');
    return Number(sectors.trim()) * SECTOR_SIZE;
  } catch {
    return deviceSizeByReading(path, fd);
  }
}

/** Without /sys: the first byte that cannot be read is found by doubling and halving. */
function deviceSizeByReading(path: string, fd: number): number {
  const byte = new Uint8Array(1);
  const readable = (offset: number): boolean => {
    try {
      return fs.readSync(fd, byte, 0, 1, offset) === 1;
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined;
      if (code === 'EINVAL' || code === 'ENXIO') return false;
      throw error;
    }
  };
  if (!readable(0)) return 0;
  let known = 0;
  let beyond = 1;
  while (readable(beyond)) {
    known = beyond;
    beyond *= 2;
    if (beyond > 2 ** 52) throw new VdoError('Io', `the size of ${path} cannot be told`, { path });
  }
  while (beyond - known > 1) {
    const middle = known + Math.floor((beyond - known) / 2);
    if (readable(middle)) known = middle;
    else beyond = middle;
  }
  return beyond;
}
