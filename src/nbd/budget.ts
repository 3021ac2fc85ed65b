/**
 * The memory that all clients of a server share: bytes of requests in flight and of replies that
 * nobody has taken yet.
 *
 * Invariants:
 * - The sum never exceeds the limit, whatever the clients do.
 * - A client may hold as much as is left free, at most (so n greedy ones leave 1/(n + 1) to the next
 *   to come); the first request of one that holds nothing only needs to fit.
 * - Who finds no room is woken in the order of asking. A client that holds nothing and has waited
 *   `PATIENCE_MS` has a turn in which nobody else gets anything, so that many small requests cannot
 *   keep a large one out; the turn is short, so that a hopeless one cannot keep everybody out.
 */
const PATIENCE_MS = 20;
const TURN_MS = 200;
const ROUND_MS = 1000;

interface Waiting {
  readonly account: Account;
  readonly wake: () => void;
  readonly sinceMs: number;
}

export class Budget {
  readonly limitBytes: number;
  #used = 0;
  #most = 0;
  #waiting: Waiting[] = [];
  #isWaking = false;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  get usedBytes(): number {
    return this.#used;
  }

  /** The most that was ever in use. */
  get mostBytes(): number {
    return this.#most;
  }

  /** Whether somebody waits for room who holds nothing and so cannot help itself. */
  get isShort(): boolean {
    return this.#waiting.some(({ account }) => account.heldBytes === 0);
  }

  /** For `Account`. */
  take(account: Account, bytes: number): boolean {
    const free = this.limitBytes - this.#used;
    if (bytes > free || (account.heldBytes > 0 && account.heldBytes + bytes > free)) return false;
    if (this.#waiting.length > 0 && this.#isTurnOfOther(account)) return false;
    this.#used += bytes;
    if (this.#used > this.#most) this.#most = this.#used;
    return true;
  }

  /** For `Account`. */
  give(bytes: number): void {
    this.#used -= bytes;
    if (this.#waiting.length === 0 || this.#isWaking) return;
    this.#isWaking = true;
    setImmediate(() => {
      this.#isWaking = false;
      for (const waiting of [...this.#waiting]) {
        if (this.#waiting.includes(waiting)) waiting.wake();
      }
    });
  }

  /** Calls `wake` whenever something was given back, until `leave`. A second wait changes nothing. */
  wait(account: Account, wake: () => void): void {
    if (this.#waiting.some((waiting) => waiting.account === account)) return;
    this.#waiting.push({ account, wake, sinceMs: performance.now() });
  }

  leave(account: Account): void {
    if (this.#waiting.length === 0) return;
    this.#waiting = this.#waiting.filter((waiting) => waiting.account !== account);
  }

  #isTurnOfOther(account: Account): boolean {
    const first = this.#waiting.find((waiting) => waiting.account.heldBytes === 0);
    if (first === undefined || first.account === account) return false;
    const phaseMs = (performance.now() - first.sinceMs) % ROUND_MS;
    return phaseMs > PATIENCE_MS && phaseMs < PATIENCE_MS + TURN_MS;
  }
}

/** What one client holds of the budget. */
export class Account {
  readonly #budget: Budget;
  readonly #limitBytes: number;
  #held = 0;
  #lacksBudget = false;
  #closed = false;

  constructor(budget: Budget, limitBytes: number) {
    this.#budget = budget;
    this.#limitBytes = limitBytes;
  }

  get heldBytes(): number {
    return this.#held;
  }

  /** Takes bytes if there is room. One request is always within the client's own limit. */
  take(bytes: number): boolean {
    this.#lacksBudget = false;
    if (this.#held > 0 && this.#held + bytes > this.#limitBytes) return false;
    this.#lacksBudget = !this.#budget.take(this, bytes);
    if (this.#lacksBudget) return false;
    this.#held += bytes;
    return true;
  }

  /** Gives back; after `close` it has been done already. */
  give(bytes: number): void {
    if (this.#closed) return;
    this.#held -= bytes;
    this.#budget.give(bytes);
  }

  /** Where others have what the last `take` lacked: calls `wake` whenever they give something back. */
  waitForOthers(wake: () => void): void {
    if (this.#lacksBudget) this.#budget.wait(this, wake);
  }

  /** Room was found, or is not wanted any more. */
  leave(): void {
    this.#budget.leave(this);
  }

  /** Gives back whatever is held: nothing of this client is in use any more. */
  close(): void {
    this.leave();
    this.give(this.#held);
    this.#closed = true;
  }
}
