/**
 * Who may write at the same time: aligned writes, any number of them; or one that must first read the
 * rest of its blocks, alone, since it writes back bytes that another could change meanwhile.
 */
export class WriteGate {
  #sharers = 0;
  #alone = false;
  #waiting: (() => void)[] = [];

  async shared<T>(work: () => Promise<T>): Promise<T> {
    while (this.#alone) await this.#change();
    this.#sharers++;
    try {
      return await work();
    } finally {
      if (--this.#sharers === 0) this.#wake();
    }
  }

  async alone<T>(work: () => Promise<T>): Promise<T> {
    while (this.#alone) await this.#change();
    this.#alone = true;
    while (this.#sharers > 0) await this.#change();
    try {
      return await work();
    } finally {
      this.#alone = false;
      this.#wake();
    }
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resume of waiting) resume();
  }
}
