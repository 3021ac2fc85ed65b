/**
 * Why a connection to a server is of no use, by what can be done about it. To callers it is a
 * `VdoError` with code `Io`.
 */
import { VdoError } from '../base/errors.ts';

/**
 * `broken`: it could not be made, or has ended or stalled: another may go better.
 * `refused`: the server will not open the export. It may once it has restarted.
 * `final`: the server breaks the protocol, or serves something else than before. Nothing that it says
 * can be believed.
 */
export type ConnectionFault = 'broken' | 'refused' | 'final';

export class ConnectionError extends VdoError {
  readonly fault: ConnectionFault;

  constructor(fault: ConnectionFault, message: string, cause?: unknown) {
    super('Io', message, {}, cause);
    this.fault = fault;
  }
}

/** The same, with the name of the server in front of what it says. */
export function named(error: ConnectionError, name: string): ConnectionError {
  if (error.message.startsWith(name)) return error;
  return new ConnectionError(error.fault, `${name}: ${error.message}`, error.cause ?? error);
}

/** The server has said something that makes no sense. */
export function violation(what: string): ConnectionError {
  return new ConnectionError('final', `the server breaks the NBD protocol: ${what}`);
}

/** Text of a server, fit for one line of a message. */
export function printable(text: Buffer): string {
  const short = text.subarray(0, 256).toString('utf8');
  return short.replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}]+/gu, ' ').trim();
}
