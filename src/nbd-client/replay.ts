/**
 * Makes unflushed changes once more on a new connection, in order: a change of bytes that an earlier
 * one has in flight waits for it; others overtake freely.
 */
import type { VdoError } from '../base/errors.ts';
import { Command } from '../nbd/protocol.ts';
import type { Change } from './replay-log.ts';
import { Request, type Owner } from './request.ts';
import type { Session } from './session.ts';

export class Replay implements Owner {
  readonly #changes: readonly Change[];
  readonly #done: (error: VdoError | undefined) => void;
  readonly #inFlight = new Set<Request>();
  #next = 0;
  #failure: VdoError | undefined;

  /** `done` is called once, when all of them are made, or one has failed and none is in flight. */
  constructor(changes: readonly Change[], done: (error: VdoError | undefined) => void) {
    this.#changes = changes;
    this.#done = done;
  }

  /** Sends as many as may be sent now. */
  pump(session: Session): void {
    while (this.#next < this.#changes.length && this.#failure === undefined) {
      const { offset, length, bytes } = this.#changes[this.#next]!;
      const request =
        bytes === undefined
          ? new Request(Command.writeZeroes, offset, length, [], this)
          : new Request(Command.write, offset, length, [bytes], this);
      if (!session.hasRoom(request) || this.#overlaps(offset, offset + length)) return;
      this.#next++;
      this.#inFlight.add(request);
      session.send(request);
    }
  }

  ended(request: Request, error: VdoError | undefined): void {
    this.#inFlight.delete(request);
    this.#failure ??= error;
    if (this.#inFlight.size > 0) return;
    if (this.#failure !== undefined || this.#next === this.#changes.length)
      this.#done(this.#failure);
  }

  #overlaps(start: number, end: number): boolean {
    for (const { offset, length } of this.#inFlight) {
      if (offset < end && start < offset + length) return true;
    }
    return false;
  }
}
