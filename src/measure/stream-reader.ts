/** Takes pieces of a stream as they come and gives them out in the lengths that are asked for. */
import { BLOCK_SIZE } from '../base/constants.ts';

export class StreamReader {
  readonly #source: AsyncIterable<Uint8Array>;
  readonly #pieces: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);
  ended = false;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source;
    this.#pieces = source[Symbol.asyncIterator]();
  }

  /** Fills `into` up to its end or that of the stream; returns the bytes. */
  async read(into: Uint8Array): Promise<number> {
    let filled = 0;
    while (filled < into.length && !this.ended) {
      if (this.#rest.length === 0) {
        const { value, done } = await this.#pieces.next();
        if (done === true) this.ended = true;
        else this.#rest = value;
        continue;
      }
      const taken = Math.min(this.#rest.length, into.length - filled);
      into.set(this.#rest.subarray(0, taken), filled);
      this.#rest = this.#rest.subarray(taken);
      filled += taken;
    }
    return filled;
  }

  /** Leaves out what an earlier run has measured: a multiple of 4096 bytes. */
  async skip(bytes: number): Promise<void> {
    const into = new Uint8Array(BLOCK_SIZE);
    for (let left = bytes; left > 0 && !this.ended; left -= BLOCK_SIZE) await this.read(into);
  }

  /** Ends the stream, and a read that waits for it. */
  abort(): void {
    const { destroy } = this.#source as { destroy?: () => void };
    destroy?.call(this.#source);
  }
}
