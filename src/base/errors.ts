/**
 * All operating errors on one screen: what went wrong, as a closed set of codes, with the exit
 * status of the command line and the errno of NBD for each. A failed assertion is not among them.
 */

export type VdoCode =
  /** The caller asked for something that makes no sense: a size, an offset, an option. */
  | 'InvalidArgument'
  /** A read, write or discard reaches past the end of the device. */
  | 'OutOfRange'
  /** No physical block is free (or the host's file system is full). */
  | 'NoSpace'
  /** The volume, the export or the file may not be written. */
  | 'ReadOnly'
  /** The file has no dm-vdo volume in it. */
  | 'NotVdo'
  /** Something is in the way: a volume, a file system, an existing file. */
  | 'Exists'
  /** A structure has a version that this program does not know. */
  | 'UnsupportedVersion'
  /** A checksum does not match: the block is damaged. */
  | 'ChecksumMismatch'
  /** A structure contradicts itself or another one. */
  | 'Corrupt'
  /** A block map entry names no block that can hold data. */
  | 'BadMapping'
  /** The backing file is shorter than the volume. */
  | 'Truncated'
  /** The volume was not closed cleanly: it wants recovery or a rebuild first. */
  | 'RecoveryNeeded'
  /** Another process has the volume open. */
  | 'Busy'
  /** The device below failed. */
  | 'Io'
  /** The device or server is closed or closing. */
  | 'Closed';

/** Where it happened: physical or logical block, slab, file … whatever is known. */
export type Where = Readonly<Record<string, string | number>>;

export class VdoError extends Error {
  override name = 'VdoError';
  readonly code: VdoCode;
  readonly where: Where;

  constructor(code: VdoCode, message: string, where: Where = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.where = where;
  }
}

interface CodeEntry {
  /** Exit status: 1 failed, 2 wrong usage, 3 the volume needs attention. */
  readonly exit: 1 | 2 | 3;
  /** Error number on the NBD wire. */
  readonly errno: number;
}

const EPERM = 1;
const EIO = 5;
const EINVAL = 22;
const ENOSPC = 28;
const ESHUTDOWN = 108;

const CODES: Readonly<Record<VdoCode, CodeEntry>> = {
  InvalidArgument: { exit: 2, errno: EINVAL },
  OutOfRange: { exit: 1, errno: EINVAL },
  NoSpace: { exit: 1, errno: ENOSPC },
  ReadOnly: { exit: 3, errno: EPERM },
  NotVdo: { exit: 1, errno: EIO },
  Exists: { exit: 1, errno: EIO },
  UnsupportedVersion: { exit: 1, errno: EIO },
  ChecksumMismatch: { exit: 3, errno: EIO },
  Corrupt: { exit: 3, errno: EIO },
  BadMapping: { exit: 3, errno: EIO },
  Truncated: { exit: 3, errno: EIO },
  RecoveryNeeded: { exit: 3, errno: EIO },
  Busy: { exit: 1, errno: EIO },
  Io: { exit: 1, errno: EIO },
  Closed: { exit: 1, errno: ESHUTDOWN },
};

/** Exit status of a command that ended with this error. */
export function exitStatusOf(error: unknown): 1 | 2 | 3 {
  return error instanceof VdoError ? CODES[error.code].exit : 1;
}

/** NBD error number for this error. */
export function errnoOf(error: unknown): number {
  return error instanceof VdoError ? CODES[error.code].errno : EIO;
}
