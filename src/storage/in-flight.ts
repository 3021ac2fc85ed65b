/**
 * Operations in progress, so that a storage can be closed behind the last of them.
 */
export class InFlight {
  #count = 0;
  #whenIdle: (() => void) | undefined;

  /** Runs `work`, which counts until it has ended. */
  async run(work: () => Promise<void>): Promise<void> {
    this.#count++;
    try {
      await work();
    } finally {
      if (--this.#count === 0) this.#whenIdle?.();
    }
  }

  /** Waits until nothing runs. To be asked once, when nothing new is begun any more. */
  async idle(): Promise<void> {
    if (this.#count > 0) await new Promise<void>((resolve) => (this.#whenIdle = resolve));
  }
}
