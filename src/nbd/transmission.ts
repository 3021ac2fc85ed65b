/**
 * The transmission phase of one client: takes requests off the stream as far as there is room for
 * them, and ends in order.
 *
 * Invariants:
 * - Every request that was read gets one reply, its payload having been consumed first, so that the
 *   stream stays in step whatever the request says.
 * - Memory is bounded: a request is begun only when its cost fits into the client's account and the
 *   budget of the server (`Budget`), and while fewer than `MAX_REQUESTS` are at work. Until then the
 *   socket is not read.
 * - Nothing is answered twice, and nothing is begun once the client has said goodbye.
 */
import { Arrival, arrivalParts, type ArrivalParts } from './arrival.ts';
import type { Account } from './budget.ts';
import type { BufferPool } from './buffer-pool.ts';
import type { ByteQueue } from './byte-queue.ts';
import { Commands, costOf, REFUSAL_COST } from './commands.ts';
import type { Session } from './handshake.ts';
import { parseRequest, requestSize, type Request } from './messages.ts';
import type { Output } from './output.ts';
import { Command, MAX_SERVED_BYTES } from './protocol.ts';
import { refusalOf, SHUTDOWN } from './request-rules.ts';

const MAX_REQUESTS = 1024;

/** What the transmission asks of its connection. */
export interface TransmissionHooks {
  /** Stop, or go on, reading the socket. */
  pause(): void;
  resume(): void;
  /** Nothing is in flight and nothing will be read any more. Called once. */
  ended(): void;
  /** Takes a line about a device that failed. */
  report(message: string): void;
}

export interface TransmissionParts {
  readonly session: Session;
  readonly input: ByteQueue;
  readonly output: Output;
  readonly pool: BufferPool;
  readonly account: Account;
}

export class Transmission {
  readonly #session: Session;
  readonly #input: ByteQueue;
  readonly #output: Output;
  readonly #account: Account;
  readonly #hooks: TransmissionHooks;
  readonly #commands: Commands;
  readonly #arrivals: ArrivalParts;
  readonly #requestSize: number;
  readonly #parse: (bytes: Buffer, at: number) => Request | undefined;
  /** A request that was read and waits for room. */
  #next: Request | undefined;
  #arrival: Arrival | undefined;
  #paused = false;
  #state: 'open' | 'stopping' | 'finishing' | 'ended' = 'open';

  constructor(parts: TransmissionParts, hooks: TransmissionHooks) {
    const { session, input, output, pool, account } = parts;
    this.#session = session;
    this.#input = input;
    this.#output = output;
    this.#account = account;
    this.#hooks = hooks;
    this.#requestSize = requestSize(session.form);
    this.#parse = (bytes, at) => parseRequest(session.form, bytes, at);
    const called = (): void => this.#called();
    const report = (message: string): void => hooks.report(message);
    this.#commands = new Commands(session, output, pool, { called, report });
    this.#arrivals = arrivalParts({ account, input, pool, commands: this.#commands });
  }

  /** Takes what has arrived, as far as there is room for it. */
  receive(): void {
    while (this.#state === 'open' || this.#state === 'stopping') {
      if (this.#arrival !== undefined) {
        const outcome = this.#arrival.advance();
        if (outcome !== 'done') {
          this.#setPaused(outcome === 'room');
          break;
        }
        this.#arrival = undefined;
      }
      if (this.#next === undefined) {
        if (this.#input.length < this.#requestSize) {
          this.#setPaused(false);
          break;
        }
        const request = this.#input.parse(this.#requestSize, this.#parse);
        if (request === undefined) return this.finish();
        this.#next = request;
      }
      if (!this.#begin(this.#next)) break;
      this.#next = undefined;
    }
    this.#endWhenIdle();
  }

  /** The socket has taken replies: there may be room again. */
  progress(): void {
    if (this.#paused) this.receive();
  }

  /** Nothing more will arrive, or should: what is in flight still ends. */
  finish(): void {
    if (this.#state === 'ended') return;
    this.#state = 'finishing';
    this.#arrival?.drop();
    this.#endWhenIdle();
  }

  /** The server stops: requests from now on are refused. Ends when nothing is in flight. */
  stop(): void {
    if (this.#state !== 'open') return;
    this.#state = 'stopping';
    this.receive();
  }

  /** Called now and then: nobody may hold memory for bytes that do not come. */
  sweep(nowMs: number): void {
    this.#arrival?.spill(nowMs);
  }

  /** Begins a request. False if it must wait for room. */
  #begin(request: Request): boolean {
    if (request.command === Command.disconnect) {
      this.finish();
      return true;
    }
    // No client means this: the connection ends rather than swallow it.
    if (request.payload > MAX_SERVED_BYTES) {
      this.finish();
      return true;
    }
    const refusal = this.#state === 'stopping' ? SHUTDOWN : refusalOf(request, this.#session);
    const cost = refusal === undefined ? costOf(request) : REFUSAL_COST;
    const hasRoom = this.#commands.calls < MAX_REQUESTS && this.#account.take(cost);
    this.#setPaused(!hasRoom);
    if (!hasRoom) return false;
    if (refusal === undefined && this.#writeNow(request)) {
      this.#commands.answer(request, 0, cost);
    } else if (request.payload > 0) {
      this.#arrival = new Arrival(this.#arrivals, request, refusal, cost);
    } else if (refusal !== undefined) this.#commands.refuse(request, refusal, cost);
    else this.#commands.run(request, cost);
    return true;
  }

  /** Whether it is a small write that is here as a whole, and done. */
  #writeNow(request: Request): boolean {
    const { command, offset, payload } = request;
    if (command !== Command.write || payload === 0 || payload > this.#input.lying) return false;
    if (!this.#commands.writesNow(request)) return false;
    const taken = this.#commands.writeNow(offset, this.#input.peek(payload));
    if (taken < payload) return false; // What was taken is written twice.
    this.#input.skip(payload);
    return true;
  }

  /** A device call has ended. */
  #called(): void {
    if (this.#paused) this.receive();
    else this.#endWhenIdle();
  }

  #setPaused(paused: boolean): void {
    if (paused) this.#account.waitForOthers(() => this.progress());
    if (paused === this.#paused) return;
    this.#paused = paused;
    if (paused) return this.#hooks.pause();
    this.#account.leave();
    this.#hooks.resume();
  }

  #endWhenIdle(): void {
    if (this.#commands.calls > 0) return;
    if (this.#state !== 'stopping' && this.#state !== 'finishing') return;
    this.#state = 'ended';
    this.#arrival?.drop();
    this.#account.leave();
    this.#output.flush();
    this.#hooks.ended();
  }
}
