/** Which requests are refused before the device sees them, and with which error number. */
import type { Export } from './export.ts';
import {
  Command,
  CommandFlag,
  Errno,
  MAX_SERVED_BYTES,
  PREFERRED_BLOCK_BYTES,
  type Request,
} from './protocol.ts';

/** Flags that belong to each command; `fua` is accepted on every one. */
const ALLOWED_FLAGS: ReadonlyMap<number, number> = new Map([
  [Command.read, CommandFlag.fua],
  [Command.write, CommandFlag.fua],
  [Command.flush, CommandFlag.fua],
  [Command.trim, CommandFlag.fua],
  [Command.writeZeroes, CommandFlag.fua | CommandFlag.noHole | CommandFlag.fastZero],
]);

/** The error number of the refusal, or 0 for a request that may run. */
export function refusalOf(request: Request, exported: Export): number {
  const { command, flags, offset, length } = request;
  const allowed = ALLOWED_FLAGS.get(command);
  if (allowed === undefined || (flags & ~allowed) !== 0) return Errno.invalid;
  if (command === Command.flush) return offset === 0 && length === 0 ? 0 : Errno.invalid;
  if (command !== Command.read && exported.readOnly) return Errno.perm;
  const moves = command === Command.read || command === Command.write;
  if (moves && length > MAX_SERVED_BYTES) return Errno.invalid;
  // An offset above 2^53 is Infinity here; below it the sum is exact enough to be seen as larger.
  if (offset + length > exported.device.size) {
    return command === Command.write || command === Command.writeZeroes
      ? Errno.noSpace
      : Errno.invalid;
  }
  if ((flags & CommandFlag.fastZero) !== 0 && !isFast(offset, length)) return Errno.notSupported;
  return 0;
}

/** Whole blocks are zeroed in the block map alone; a part of one must be read and written. */
function isFast(offset: number, length: number): boolean {
  return offset % PREFERRED_BLOCK_BYTES === 0 && length % PREFERRED_BLOCK_BYTES === 0;
}
