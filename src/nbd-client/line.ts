/**
 * The line to a server: a socket, in the clear or with TLS, in two phases. While the export is
 * negotiated, bytes are taken in the numbers asked for; from `transmit` on, they go to a receiver.
 *
 * - In the clear, the system puts large data straight where the receiver wants it (`target`): Node's
 *   `onread` asks for the next buffer after every read of the socket. Everything else passes through
 *   one buffer, whose bytes are valid during the call only.
 * - It ends once, with a `ConnectionError` that says why: `take` throws it, the receiver is told.
 */
import net from 'node:net';
import tls from 'node:tls';
import { ConnectionError, violation } from './connection-error.ts';
import type { NbdAddress } from './uri.ts';

const RECEIVE_BYTES = 256 * 1024;
/** Bytes that a server may send unasked during the negotiation. */
const MAX_AHEAD_BYTES = 1 << 20;
const KEEP_ALIVE_MS = 30_000;
/** How long a server has to close after it was told goodbye. */
const LINGER_MS = 1_000;

/** Who gets the bytes once an export is open. */
export interface Receiver {
  /** Takes bytes, which are valid during the call only. Throws a `ConnectionError` to end the line. */
  receive(bytes: Uint8Array): void;
  /** Where the next bytes go, if they are many and all of one place. */
  target(): Uint8Array | undefined;
  /** So many bytes have arrived in the last `target`. */
  received(length: number): void;
  /** All that a read of the socket brought has been passed on. */
  settled(): void;
  /** The line has ended. */
  broken(error: ConnectionError): void;
}

export class Line {
  #socket: net.Socket;
  readonly #where: string;
  readonly #buffer = Buffer.allocUnsafeSlow(RECEIVE_BYTES);
  #receiver: Receiver | undefined;
  /** Bytes of the negotiation that nobody has taken. */
  #ahead: Buffer = Buffer.alloc(0);
  #wake: (() => void) | undefined;
  #failure: ConnectionError | undefined;

  private constructor(address: NbdAddress, where: string, secure: boolean) {
    this.#where = where;
    // TLS takes the socket over; it must not have been given a buffer of ours.
    const onread = { buffer: () => this.#nextBuffer(), callback: this.#readInto };
    const options = { ...address, ...(secure ? {} : { onread }) };
    this.#socket = net.connect(options as net.NetConnectOpts);
    this.#socket.setNoDelay(true);
    this.#socket.setKeepAlive(true, KEEP_ALIVE_MS);
    this.#listen(this.#socket);
    if (secure) this.#socket.on('data', this.#readChunk);
    else this.#socket.resume();
  }

  /** Connects. `where` names the server in messages. Fails with a `ConnectionError`. */
  static async connect(
    address: NbdAddress,
    where: string,
    options: { readonly secure: boolean; readonly signal: AbortSignal },
  ): Promise<Line> {
    const line = new Line(address, where, options.secure);
    const abort = (): void => line.fail(abortedBy(options.signal));
    options.signal.addEventListener('abort', abort, { once: true });
    if (options.signal.aborted) abort();
    line.#socket.once('connect', () => line.#wake?.());
    while (line.#socket.connecting && line.#failure === undefined) await line.#change();
    if (line.#failure !== undefined) throw line.#failure;
    return line;
  }

  /** Goes on in TLS. Fails with a `ConnectionError`. */
  async startTls(options: tls.ConnectionOptions): Promise<void> {
    // Whatever came before the handshake was not protected by it.
    if (this.#ahead.length > 0) throw violation('bytes in the clear after the start of TLS');
    const plain = this.#socket;
    plain.off('data', this.#readChunk);
    let secured = false;
    this.#socket = tls.connect({ ...options, socket: plain }, () => {
      secured = true;
      this.#wake?.();
    });
    this.#listen(this.#socket);
    while (!secured && this.#failure === undefined) await this.#change();
    if (this.#failure !== undefined) throw this.#failure;
    this.#socket.on('data', this.#readChunk);
  }

  /** The next bytes of the negotiation; one `take` at a time. Fails with a `ConnectionError`. */
  async take(length: number): Promise<Buffer> {
    while (this.#ahead.length < length) {
      if (this.#failure !== undefined) throw this.#failure;
      await this.#change();
    }
    const bytes = this.#ahead.subarray(0, length);
    this.#ahead = this.#ahead.subarray(length);
    return bytes;
  }

  /** Ends the negotiation. What came ahead is passed on after the current turn. */
  transmit(receiver: Receiver): void {
    this.#receiver = receiver;
    const ahead = this.#ahead;
    this.#ahead = Buffer.alloc(0);
    if (ahead.length > 0) queueMicrotask(() => this.#pass(ahead));
    if (this.#failure !== undefined) {
      const failure = this.#failure;
      queueMicrotask(() => receiver.broken(failure));
    }
  }

  write(bytes: Uint8Array): void {
    if (this.#failure === undefined) this.#socket.write(bytes);
  }

  /** Holds back what is written until `uncork`, which sends it in one call. */
  cork(): void {
    this.#socket.cork();
  }

  uncork(): void {
    this.#socket.uncork();
  }

  /** Ends the line at once. The receiver is told unless the line has ended before. */
  fail(error: ConnectionError): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#socket.destroy();
    this.#wake?.();
    this.#receiver?.broken(error);
  }

  /** Sends the last bytes and waits until the server closes, a second at most. Tells nobody. */
  async end(bytes: Uint8Array): Promise<void> {
    this.#receiver = undefined;
    if (this.#failure !== undefined) return;
    this.#failure = new ConnectionError('broken', `the connection to ${this.#where} is closed`);
    const socket = this.#socket;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => socket.destroy(), LINGER_MS);
      socket.once('close', () => {
        clearTimeout(timer);
        resolve();
      });
      socket.once('end', () => socket.destroySoon());
      socket.end(bytes);
      socket.resume();
    });
  }

  #listen(socket: net.Socket): void {
    const broken = (what: string, cause?: unknown): void =>
      this.fail(new ConnectionError('broken', `${this.#where}: ${what}`, cause));
    socket.on('error', (error: NodeJS.ErrnoException) => broken(reasonOf(error), error));
    socket.on('end', () => broken('the server closed the connection'));
    socket.on('close', () => broken('the connection is closed'));
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined;
        resolve();
      };
    });
  }

  #nextBuffer(): Uint8Array {
    return this.#receiver?.target() ?? this.#buffer;
  }

  readonly #readInto = (length: number, buffer: Uint8Array): boolean => {
    if (buffer === this.#buffer) this.#pass(buffer.subarray(0, length));
    else this.#tell((receiver) => receiver.received(length));
    return this.#failure === undefined;
  };

  readonly #readChunk = (chunk: Buffer): void => this.#pass(chunk);

  #pass(bytes: Uint8Array): void {
    if (this.#failure !== undefined) return;
    if (this.#receiver === undefined) {
      if (this.#ahead.length + bytes.length > MAX_AHEAD_BYTES) {
        this.fail(violation('more bytes than anybody asked for'));
        return;
      }
      this.#ahead = Buffer.concat([this.#ahead, bytes]);
      this.#wake?.();
      return;
    }
    this.#tell((receiver) => receiver.receive(bytes));
  }

  #tell(what: (receiver: Receiver) => void): void {
    const receiver = this.#receiver;
    if (this.#failure !== undefined || receiver === undefined) return;
    try {
      what(receiver);
    } catch (error) {
      if (!(error instanceof ConnectionError)) throw error;
      this.fail(error);
      return;
    }
    receiver.settled();
  }
}

function abortedBy(signal: AbortSignal): ConnectionError {
  const { reason } = signal as { reason: unknown };
  return reason instanceof ConnectionError
    ? reason
    : new ConnectionError('broken', 'the attempt was called off', reason);
}

const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused: no server listens there',
  ENOENT: 'there is no such socket',
  EACCES: 'permission denied',
  ECONNRESET: 'the server reset the connection',
  EPIPE: 'the server closed the connection',
  ETIMEDOUT: 'the connection timed out',
  EHOSTUNREACH: 'the host cannot be reached',
  ENETUNREACH: 'the network cannot be reached',
  ENOTFOUND: 'there is no such host',
  EAI_AGAIN: 'the name of the host cannot be looked up',
  ENOTSOCK: 'it is not a socket',
};

function reasonOf(error: NodeJS.ErrnoException): string {
  // Several addresses of one host, each with its own error.
  const first =
    error instanceof AggregateError ? (error.errors[0] as NodeJS.ErrnoException) : error;
  return REASONS[first.code ?? ''] ?? first.message;
}
