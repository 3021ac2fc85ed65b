/** Which requests are refused before the device sees them, and with which error number. */
import type { Session } from './handshake.ts';
import type { Request } from './messages.ts';
import {
  Command,
  CommandFlag,
  Errno,
  MAX_SERVED_BYTES,
  PREFERRED_BLOCK_BYTES,
} from './protocol.ts';

/** An error number, and what it means here. */
export interface Refusal {
  readonly errno: number;
  readonly text: string;
}

const UNKNOWN_COMMAND: Refusal = { errno: Errno.invalid, text: 'there is no such command' };
const WRONG_FLAGS: Refusal = { errno: Errno.invalid, text: 'the flags do not fit the command' };
const FLUSH_RANGE: Refusal = { errno: Errno.invalid, text: 'a flush has no offset and no length' };
const READ_ONLY: Refusal = { errno: Errno.perm, text: 'the export is read-only' };
const TOO_LONG: Refusal = { errno: Errno.invalid, text: 'longer than a request may be' };
const TOO_LONG_WHOLE: Refusal = { errno: Errno.overflow, text: 'too long for one chunk' };
const OUT_OF_RANGE: Refusal = { errno: Errno.invalid, text: 'beyond the end of the export' };
const NO_SPACE: Refusal = { errno: Errno.noSpace, text: 'beyond the end of the export' };
const NOT_FAST: Refusal = { errno: Errno.notSupported, text: 'fast for whole blocks only' };
const NO_CONTEXT: Refusal = { errno: Errno.invalid, text: 'no metadata context was selected' };
const NOTHING_ASKED: Refusal = { errno: Errno.invalid, text: 'the status of nothing' };
export const SHUTDOWN: Refusal = { errno: Errno.shutdown, text: 'the server is stopping' };

/** Flags that belong to each command; `fua` is accepted on every one. */
const ALLOWED_FLAGS: ReadonlyMap<number, number> = new Map([
  [Command.read, CommandFlag.fua],
  [Command.write, CommandFlag.fua],
  [Command.flush, CommandFlag.fua],
  [Command.trim, CommandFlag.fua],
  [Command.cache, CommandFlag.fua],
  [Command.writeZeroes, CommandFlag.fua | CommandFlag.noHole | CommandFlag.fastZero],
  [Command.blockStatus, CommandFlag.fua | CommandFlag.reqOne],
]);

/** The refusal, or `undefined` for a request that may run. */
export function refusalOf(request: Request, session: Session): Refusal | undefined {
  const { command, flags, offset, length } = request;
  const { readOnly, device } = session.export;
  const allowed = ALLOWED_FLAGS.get(command);
  if (allowed === undefined) return UNKNOWN_COMMAND;
  if ((flags & ~(allowed | offeredFlags(command, session))) !== 0) return WRONG_FLAGS;
  const payloadFlag = (flags & CommandFlag.payloadLength) !== 0;
  switch (command) {
    case Command.flush:
      return offset === 0 && length === 0 ? undefined : FLUSH_RANGE;
    case Command.blockStatus:
      if (session.contexts.length === 0) return NO_CONTEXT;
      // What a payload asks for is known once it is here.
      if (payloadFlag) return offset > device.size ? OUT_OF_RANGE : undefined;
      if (length === 0) return NOTHING_ASKED;
      return offset + length > device.size ? OUT_OF_RANGE : undefined;
    case Command.read:
      if (length > MAX_SERVED_BYTES) {
        return (flags & CommandFlag.df) !== 0 ? TOO_LONG_WHOLE : TOO_LONG;
      }
      return offset + length > device.size ? OUT_OF_RANGE : undefined;
    case Command.cache:
      return offset + length > device.size ? OUT_OF_RANGE : undefined;
    default:
  }
  if (readOnly) return READ_ONLY;
  if (command === Command.write && length > MAX_SERVED_BYTES) return TOO_LONG;
  // An offset above 2^53 is Infinity here; below it the sum is exact enough to be seen as larger.
  if (offset + length > device.size) return command === Command.trim ? OUT_OF_RANGE : NO_SPACE;
  if ((flags & CommandFlag.fastZero) !== 0 && !isFast(offset, length)) return NOT_FAST;
  return undefined;
}

/** Flags that only some sessions have. */
function offeredFlags(command: number, { form, contexts }: Session): number {
  if (command === Command.read) return form === 'simple' ? 0 : CommandFlag.df;
  if (form !== 'extended') return 0;
  const takesPayload =
    command === Command.write || (command === Command.blockStatus && contexts.length > 0);
  return takesPayload ? CommandFlag.payloadLength : 0;
}

/** Whole blocks are zeroed in the block map alone; a part of one must be read and written. */
function isFast(offset: number, length: number): boolean {
  return offset % PREFERRED_BLOCK_BYTES === 0 && length % PREFERRED_BLOCK_BYTES === 0;
}
