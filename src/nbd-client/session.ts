/**
 * One connection with an open export: sends requests, matches replies by cookie, and notices when the
 * server has stopped answering.
 *
 * - At most `MAX_REQUESTS` requests and `MAX_BYTES` of their data are in flight.
 * - It ends once: the events' `broken` is called, and every request that was in flight is handed back
 *   by `abandon`, none of them answered.
 */
import { Command } from '../nbd/protocol.ts';
import { ConnectionError, named } from './connection-error.ts';
import { Line, type Receiver } from './line.ts';
import { negotiate, type Terms } from './negotiate.ts';
import { ReplyReader } from './replies.ts';
import { encodeRequest, Request, type Owner } from './request.ts';
import type { NbdUri } from './uri.ts';

const MAX_REQUESTS = 128;
const MAX_BYTES = 16 * 1024 * 1024;
/** A flush may take this many times as long as anything else. */
const FLUSH_PATIENCE = 4;

export interface SessionEvents {
  /** A reply is complete. */
  replied(request: Request): void;
  /** All replies that one read of the socket brought have been passed on. */
  settled(): void;
  /** The connection has ended; `abandon` tells what was in flight. */
  broken(error: ConnectionError): void;
}

export interface SessionOptions {
  /** A server that says nothing for so long while requests are in flight is given up. */
  readonly timeoutMs: number;
  /** For the connection, TLS and the negotiation together. */
  readonly openMs: number;
}

export class Session implements Receiver {
  readonly terms: Terms;
  readonly #line: Line;
  readonly #events: SessionEvents;
  readonly #name: string;
  readonly #timeoutMs: number;
  readonly #replies: ReplyReader;
  readonly #inFlight = new Map<number, Request>();
  #bytes = 0;
  #flushes = 0;
  #cookie = 0;
  #timer: NodeJS.Timeout | undefined;
  #heardMs = 0;
  #ended = false;

  private constructor(
    name: string,
    line: Line,
    terms: Terms,
    events: SessionEvents,
    timeoutMs: number,
  ) {
    this.#name = name;
    this.#line = line;
    this.terms = terms;
    this.#events = events;
    this.#timeoutMs = timeoutMs;
    this.#replies = new ReplyReader(terms, {
      find: (cookie) => this.#inFlight.get(cookie),
      replied: (cookie, request) => this.#replied(cookie, request),
    });
    line.transmit(this);
  }

  /** Connects and opens the export. Fails with a `ConnectionError`, or `InvalidArgument` for TLS files. */
  static async open(
    uri: NbdUri,
    events: SessionEvents,
    { timeoutMs, openMs }: SessionOptions,
    signal?: AbortSignal,
  ): Promise<Session> {
    const abort = new AbortController();
    const stop = (): void => abort.abort(signal?.reason);
    signal?.addEventListener('abort', stop, { once: true });
    const late = `${uri.text}: the server did not open the export within ${openMs / 1000} s`;
    const timer = setTimeout(() => abort.abort(new ConnectionError('broken', late)), openMs);
    let line: Line | undefined;
    try {
      const secure = uri.tls !== undefined;
      line = await Line.connect(uri.address, uri.text, { secure, signal: abort.signal });
      const terms = await negotiate(line, uri);
      return new Session(uri.text, line, terms, events, timeoutMs);
    } catch (error) {
      const fault = error instanceof ConnectionError ? error : undefined;
      line?.fail(fault ?? new ConnectionError('broken', 'the export could not be opened', error));
      throw fault === undefined ? error : named(fault, uri.text);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
    }
  }

  /** Whether the request may be sent now. A single one always may. */
  hasRoom({ payload }: Request): boolean {
    const count = this.#inFlight.size;
    return count === 0 || (count < MAX_REQUESTS && this.#bytes + payload <= MAX_BYTES);
  }

  get isIdle(): boolean {
    return this.#inFlight.size === 0;
  }

  /** Sends. Between `cork` and `uncork`, many requests are one call. */
  send(request: Request): void {
    request.begin();
    const cookie = this.#cookie++;
    if (this.#inFlight.size === 0) this.#watch();
    this.#inFlight.set(cookie, request);
    this.#bytes += request.payload;
    if (request.command === Command.flush) this.#flushes++;
    this.#line.write(encodeRequest(this.terms.form, request, cookie));
    if (request.command !== Command.write) return;
    for (const buffer of request.buffers) this.#line.write(buffer);
  }

  cork(): void {
    this.#line.cork();
  }

  uncork(): void {
    this.#line.uncork();
  }

  /** Ends the connection, and returns what was in flight, in the order in which it was sent. */
  abandon(error: ConnectionError): Request[] {
    this.#end();
    this.#line.fail(error);
    const requests = [...this.#inFlight.values()];
    this.#inFlight.clear();
    return requests;
  }

  /** Says goodbye. Nothing may be in flight. */
  async close(): Promise<void> {
    this.#end();
    const goodbye = new Request(Command.disconnect, 0, 0, [], NOBODY);
    await this.#line.end(encodeRequest(this.terms.form, goodbye, this.#cookie));
  }

  receive(bytes: Uint8Array): void {
    this.#heardMs = performance.now();
    this.#replies.receive(bytes);
  }

  target(): Uint8Array | undefined {
    return this.#ended ? undefined : this.#replies.target();
  }

  received(length: number): void {
    this.#heardMs = performance.now();
    this.#replies.received(length);
  }

  settled(): void {
    if (!this.#ended) this.#events.settled();
  }

  broken(error: ConnectionError): void {
    if (this.#ended) return;
    this.#end();
    this.#events.broken(named(error, this.#name));
  }

  #end(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #replied(cookie: number, request: Request): void {
    this.#inFlight.delete(cookie);
    this.#bytes -= request.payload;
    if (request.command === Command.flush) this.#flushes--;
    this.#events.replied(request);
  }

  /** Looks now and then, as long as something is in flight, whether the server has gone silent. */
  #watch(): void {
    this.#heardMs = performance.now();
    if (this.#timer !== undefined || this.#ended) return;
    const look = (): void => {
      this.#timer = undefined;
      if (this.#inFlight.size === 0) return;
      const limitMs = this.#timeoutMs * (this.#flushes > 0 ? FLUSH_PATIENCE : 1);
      if (performance.now() - this.#heardMs < limitMs) {
        this.#timer = setTimeout(look, this.#timeoutMs / 4);
        return;
      }
      const what = `the server has not answered for ${limitMs / 1000} s`;
      this.#line.fail(new ConnectionError('broken', what));
    };
    this.#timer = setTimeout(look, this.#timeoutMs / 4);
  }
}

const NOBODY: Owner = { ended: () => undefined };
