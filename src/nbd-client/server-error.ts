/** What a server answers instead of doing what was asked, as an error of ours. */
import { VdoError, type VdoCode } from '../base/errors.ts';
import { Command, Errno } from '../nbd/protocol.ts';
import type { Request } from './request.ts';
import type { NbdUri } from './uri.ts';

const VERBS: Readonly<Record<number, string>> = {
  [Command.read]: 'read',
  [Command.write]: 'write',
  [Command.flush]: 'flush',
  [Command.trim]: 'discard',
  [Command.writeZeroes]: 'zero',
  [Command.blockStatus]: 'look up the allocation of',
};

const REASONS: Readonly<Record<number, string>> = {
  [Errno.perm]: 'not permitted',
  [Errno.io]: 'the device of the server failed',
  12: 'the server is out of memory',
  [Errno.invalid]: 'the server finds the request invalid',
  [Errno.noSpace]: 'no space is left on the server',
  [Errno.overflow]: 'the request is too large for the server',
  [Errno.notSupported]: 'the server does not support it',
  [Errno.shutdown]: 'the server is stopping',
};

const CODES: Readonly<Record<number, VdoCode>> = {
  [Errno.perm]: 'ReadOnly',
  [Errno.noSpace]: 'NoSpace',
};

/** The request must have failed. */
export function replyError(
  { text: uri }: NbdUri,
  { command, offset, length, errno, text }: Request,
): VdoError {
  const verb = VERBS[command] ?? `run command ${command} on`;
  const reason = REASONS[errno] ?? `error ${errno}`;
  const said = text === '' ? '' : ` (it says: ${text})`;
  const place = command === Command.flush ? '' : ` at byte ${offset}, ${length} bytes`;
  const where = command === Command.flush ? { uri } : { uri, offset, length };
  const message = `cannot ${verb} ${uri}${place}: ${reason}${said}`;
  return new VdoError(CODES[errno] ?? 'Io', message, where);
}
