/**
 * Receives from an accepted socket into one buffer that is used again and again.
 *
 * A 'data' listener gets a fresh 64 KiB for every read of the socket; allocating, faulting in and
 * freeing them costs two to four times the copy itself. Node offers `onread`, which reads into a
 * buffer of the caller's, for sockets that one connects but not for those that one accepts. So the
 * accepted socket's handle moves into a new socket that has it. That handle is not part of Node's
 * documented interface: where it is not as expected, a 'data' listener does the same work.
 */
import net from 'node:net';

interface OnRead {
  readonly buffer: Buffer;
  readonly callback: (length: number, buffer: Buffer) => boolean;
}

interface WithHandle {
  _handle: { readonly useUserBuffer?: unknown } | null;
}

/**
 * The socket to use in place of `accepted`, which must not have begun to read (`pauseOnConnect`) and
 * no longer counts as a connection of its server. `receive` sees every byte once, and must be done
 * with them when it returns: `buffer` may be shared by any number of sockets.
 */
export function receiveInto(
  buffer: Buffer,
  accepted: net.Socket,
  receive: (bytes: Buffer) => void,
): net.Socket {
  const owner = accepted as unknown as WithHandle;
  const handle = owner._handle;
  if (handle === null || typeof handle?.useUserBuffer !== 'function') {
    accepted.on('data', receive);
    return accepted;
  }
  owner._handle = null;
  accepted.destroy();
  const onread: OnRead = {
    buffer,
    callback: (length) => {
      receive(buffer.subarray(0, length));
      return true;
    },
  };
  const options = { handle, onread, allowHalfOpen: true };
  const socket = new net.Socket(options as unknown as net.SocketConstructorOpts);
  socket.resume();
  return socket;
}
