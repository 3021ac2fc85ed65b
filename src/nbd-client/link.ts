/**
 * A link to an export that outlives its connections: requests wait, are sent, and are sent again on a
 * new connection where one breaks.
 *
 * - Reads are repeated. Writes that were not answered are repeated: their bytes still belong to the
 *   call that waits for them.
 * - Writes that were answered but not flushed are in the replay log, and are made again on a new
 *   connection before anything else is sent: the server may have restarted and lost them. So a flush
 *   that succeeds covers them, whichever server process takes it.
 * - The log is bounded: a flush of our own empties it before it exceeds its limit.
 * - What cannot be made good is final (`#lost`): a flush that the server failed, a replay that it
 *   refused, an export that is not the same any more. Changes and flushes fail from then on; reads go on.
 * - Trouble is bounded in time: a server that has not answered anything for `giveUpMs` costs all waiting
 *   requests. The log is kept, so that nothing is lost by that alone; the next request tries again.
 */
import { VdoError } from '../base/errors.ts';
import { Command, Errno } from '../nbd/protocol.ts';
import { ConnectionError } from './connection-error.ts';
import type { Terms } from './negotiate.ts';
import { Replay } from './replay.ts';
import { ReplayLog } from './replay-log.ts';
import { Request, type Owner } from './request.ts';
import { replyError } from './server-error.ts';
import { Session, type SessionEvents, type SessionOptions } from './session.ts';
import type { NbdUri } from './uri.ts';

/** Connections that may break under one request. */
const MAX_ATTEMPTS = 8;
const FIRST_DELAY_MS = 50;
const LAST_DELAY_MS = 5_000;

export interface LinkOptions extends SessionOptions {
  readonly giveUpMs: number;
  /** Bytes of unflushed changes kept. */
  readonly replayBytes: number;
}

export class Link {
  readonly terms: Terms;
  readonly #uri: NbdUri;
  readonly #options: LinkOptions;
  readonly #log: ReplayLog;
  #session: Session | undefined;
  /** Requests that wait, from `#head` on; flushes overtake them. */
  #queue: Request[] = [];
  #head = 0;
  #flushes: Request[] = [];
  /** Of changes in flight. */
  #changing = 0;
  #replay: Replay | undefined;
  #flushing: Promise<void> | undefined;
  #nextFlush: Promise<void> | undefined;
  #lost: VdoError | undefined;
  #connecting: AbortController | undefined;
  /** Since when nothing has been answered. */
  #troubleSinceMs: number | undefined;
  #closed = false;

  private constructor(uri: NbdUri, options: LinkOptions, session: Session) {
    this.#uri = uri;
    this.#options = options;
    this.#session = session;
    this.terms = session.terms;
    this.#log = new ReplayLog(options.replayBytes);
  }

  /** Connects. The first attempt is the only one. Fails with `Io`, `InvalidArgument`. */
  static async open(uri: NbdUri, options: LinkOptions): Promise<Link> {
    let link: Link | undefined;
    const events: SessionEvents = {
      replied: (request) => link!.#replied(request),
      settled: () => link!.#pump(),
      broken: (error) => link!.#broken(error),
    };
    const session = await Session.open(uri, events, options);
    link = new Link(uri, options, session);
    return link;
  }

  /** Bytes of unflushed changes in memory. */
  get replayBytes(): number {
    return this.#log.bytes;
  }

  /** Why changes and flushes fail, if they do. */
  get lost(): VdoError | undefined {
    return this.#lost;
  }

  /** Takes requests; each ends once, by its owner's `ended`. */
  submit(requests: readonly Request[]): void {
    for (const request of requests) this.#queue.push(request);
    this.#pump();
  }

  /**
   * Makes every change that has ended durable. Calls made while one runs share the next: it begins
   * after all of them were made.
   */
  flush(): Promise<void> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    if (this.#flushing === undefined) return this.#startFlush();
    const next = (): Promise<void> => this.#startFlush();
    this.#nextFlush ??= this.#flushing.then(next, next);
    return this.#nextFlush;
  }

  /** Says goodbye. No request may wait or be in flight. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#connecting?.abort(new ConnectionError('broken', 'the storage is closed'));
    const session = this.#session;
    this.#session = undefined;
    if (session === undefined) return;
    if (session.isIdle) await session.close();
    else session.abandon(new ConnectionError('broken', 'the storage is closed'));
  }

  #startFlush(): Promise<void> {
    this.#nextFlush = undefined;
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    if (this.#log.isClean) return Promise.resolve();
    const flushing = new Promise<void>((resolve, reject) => {
      const owner: Owner = {
        ended: (request, error) => {
          this.#flushing = undefined;
          if (error === undefined) {
            this.#log.forget(request.mark);
            resolve();
          } else {
            this.#lose(error);
            reject(error);
          }
        },
      };
      this.#flushes.push(new Request(Command.flush, 0, 0, [], owner));
    });
    this.#flushing = flushing;
    this.#pump();
    return flushing;
  }

  /** Sends what may be sent. */
  #pump(): void {
    const session = this.#session;
    const waiting = this.#flushes.length > 0 || this.#head < this.#queue.length;
    if (session === undefined) {
      if (waiting && this.#connecting === undefined && !this.#closed) void this.#connect();
      return;
    }
    if (!waiting && this.#replay === undefined) return;
    session.cork();
    if (this.#replay === undefined) this.#sendWaiting(session);
    else this.#replay.pump(session);
    session.uncork();
  }

  #sendWaiting(session: Session): void {
    const flushes = this.#flushes;
    this.#flushes = [];
    for (const flush of flushes) {
      // It waited for a replay that failed: the server would be right to call nothing a success.
      if (this.#lost !== undefined) flush.owner.ended(flush, this.#lost);
      else {
        flush.mark = this.#log.mark;
        session.send(flush);
      }
    }
    while (this.#head < this.#queue.length) {
      const request = this.#queue[this.#head]!;
      if (!session.hasRoom(request)) break;
      if (request.isChange) {
        if (this.#lost !== undefined) {
          this.#head++;
          request.owner.ended(request, this.#lost);
          continue;
        }
        if (this.#log.isFull(this.#changing, request.payload)) {
          if (this.#flushing === undefined) this.#startFlush().catch(() => undefined);
          break;
        }
        this.#changing += request.payload;
      }
      this.#head++;
      session.send(request);
    }
    if (this.#head === this.#queue.length) this.#queue.length = this.#head = 0;
    else if (this.#head >= 1024) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
  }

  #replied(request: Request): void {
    if (request.errno === Errno.shutdown) {
      // It is about to restart: as good as a connection that breaks now.
      if (this.#replay === undefined) this.#retry(request);
      this.#broken(new ConnectionError('broken', `${this.#uri.text}: the server is stopping`));
      return;
    }
    // A replay is no progress yet: a server may die of it every time.
    if (this.#replay === undefined) this.#troubleSinceMs = undefined;
    const error = request.errno === 0 ? undefined : replyError(this.#uri, request);
    if (request.isChange && this.#replay === undefined) {
      this.#changing -= request.payload;
      if (error === undefined) this.#record(request);
    }
    request.owner.ended(request, error);
  }

  /** A change is made: it is not durable yet, unless it was asked to be. */
  #record(request: Request): void {
    if (!this.terms.canFlush) return;
    const { command, offset, length } = request;
    if (command === Command.write) this.#log.addWrite(offset, request.buffers);
    else if (command === Command.writeZeroes) this.#log.addZeros(offset, length);
    else this.#log.touch();
  }

  #broken(error: ConnectionError): void {
    const session = this.#session;
    if (session === undefined) return;
    this.#session = undefined;
    const requests = session.abandon(error);
    // An idle connection may end: that is no trouble until somebody wants something.
    const waiting = requests.length + this.#flushes.length + this.#queue.length > 0;
    this.#troubleSinceMs = waiting ? (this.#troubleSinceMs ?? performance.now()) : undefined;
    if (this.#replay !== undefined) this.#replay = undefined;
    else {
      this.#changing = 0;
      // In front of the others, in the order in which they were sent.
      const rest = this.#queue.slice(this.#head);
      this.#queue = [];
      this.#head = 0;
      for (const request of requests) this.#retry(request);
      for (const request of rest) this.#queue.push(request);
    }
    if (error.fault === 'final') {
      this.#lose(error);
      this.#giveUp(error);
    } else if (this.#isOutOfPatience()) this.#giveUp(error);
    else this.#pump();
  }

  #isOutOfPatience(): boolean {
    const sinceMs = this.#troubleSinceMs;
    return sinceMs !== undefined && performance.now() - sinceMs >= this.#options.giveUpMs;
  }

  /** Queues a request once more whose connection broke, unless that has happened too often. */
  #retry(request: Request): void {
    if (++request.attempts < MAX_ATTEMPTS) {
      if (request.command === Command.flush) this.#flushes.push(request);
      else this.#queue.push(request);
      return;
    }
    const { offset, length, command } = request;
    const what = `command ${command} at byte ${offset}, ${length} bytes`;
    const message = `${this.#uri.text}: ${MAX_ATTEMPTS} connections broke under one request (${what})`;
    queueMicrotask(() => request.owner.ended(request, new VdoError('Io', message)));
  }

  /** Tries, with growing pauses, until there is a session or it is time to give up. */
  async #connect(): Promise<void> {
    const abort = new AbortController();
    this.#connecting = abort;
    this.#troubleSinceMs ??= performance.now();
    for (let delayMs = FIRST_DELAY_MS; ; delayMs = Math.min(2 * delayMs, LAST_DELAY_MS)) {
      try {
        const session = await Session.open(this.#uri, this.#events(), this.#options, abort.signal);
        if (this.#closed) {
          await session.close();
          return;
        }
        this.#connecting = undefined;
        this.#resume(session);
        return;
      } catch (error) {
        if (this.#closed) return;
        const final = !(error instanceof ConnectionError) || error.fault === 'final';
        const known = error instanceof VdoError ? error : new VdoError('Io', String(error), {}, error); // prettier-ignore
        if (final || this.#isOutOfPatience()) {
          this.#connecting = undefined;
          this.#giveUp(known);
          return;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, delayMs));
    }
  }

  #events(): SessionEvents {
    return {
      replied: (request) => this.#replied(request),
      settled: () => this.#pump(),
      broken: (error) => this.#broken(error),
    };
  }

  /** Goes on with a new session: first the changes that may be lost, then what waits. */
  #resume(session: Session): void {
    this.#session = session;
    const changed = differenceOf(this.terms, session.terms);
    if (changed !== undefined) {
      this.#broken(
        new ConnectionError('final', `${this.#uri.text}: ${changed} since it was opened`),
      );
      return;
    }
    const changes = this.#lost === undefined ? this.#log.changes : [];
    if (changes.length > 0) {
      this.#replay = new Replay(changes, (error) => {
        this.#replay = undefined;
        if (error !== undefined) this.#lose(error);
      });
    }
    this.#pump();
  }

  /** Nothing that is not flushed can be promised any more. */
  #lose(cause: VdoError): void {
    if (this.#lost !== undefined) return;
    const message = `${this.#uri.text}: writes since the last flush may be lost: ${cause.message}`;
    this.#lost = new VdoError(cause.code, message, cause.where, cause);
    this.#log.clear();
  }

  /** Fails everything that waits. */
  #giveUp(error: VdoError): void {
    this.#troubleSinceMs = undefined;
    const waiting = [...this.#flushes, ...this.#queue.slice(this.#head)];
    this.#flushes = [];
    this.#queue = [];
    this.#head = 0;
    for (const request of waiting) request.owner.ended(request, error);
  }
}

/** What makes the export another than the one that was opened. */
function differenceOf(old: Terms, now: Terms): string | undefined {
  if (now.size !== old.size) return `its size has changed from ${old.size} to ${now.size} bytes`;
  if (now.readOnly && !old.readOnly) return 'it has become read-only';
  if (now.minimumBlock > old.minimumBlock) return 'its blocks have become larger';
  if (now.maximumPayload < old.maximumPayload) return 'its largest request has become smaller';
  const less =
    (old.form === 'extended' && now.form !== 'extended') ||
    (old.canFlush && !now.canFlush) ||
    (old.canFua && !now.canFua) ||
    (old.canZero && !now.canZero) ||
    (old.canTrim && !now.canTrim) ||
    (old.allocationContext !== undefined && now.allocationContext === undefined);
  return less ? 'the server can do less' : undefined;
}
