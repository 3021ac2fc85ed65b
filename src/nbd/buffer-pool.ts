/**
 * Buffers that go round: a fresh one of 1 MiB costs more in page faults than the copy into it. Kept
 * by size class, up to a fixed number of bytes in all; what is larger than the largest class, or
 * given back beyond the limit, is left to the collector.
 */

/** A header in front of the data must not push a power of two into the next class. */
const SLACK_BYTES = 64;
const SMALLEST_CLASS_BITS = 12;
const LARGEST_CLASS_BITS = 20;

export class BufferPool {
  readonly #classes: Buffer[][] = Array.from(
    { length: LARGEST_CLASS_BITS - SMALLEST_CLASS_BITS + 1 },
    () => [],
  );
  readonly #limitBytes: number;
  #idleBytes = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  /** A buffer of at least `size` bytes, with anything in it. */
  take(size: number): Buffer {
    const bits = classBits(size);
    if (bits > LARGEST_CLASS_BITS) return Buffer.allocUnsafeSlow(size);
    const idle = this.#classes[bits - SMALLEST_CLASS_BITS]!.pop();
    if (idle === undefined) return Buffer.allocUnsafeSlow((1 << bits) + SLACK_BYTES);
    this.#idleBytes -= idle.length;
    return idle;
  }

  /** Gives back what `take` returned. Nobody may use it any more. */
  give(buffer: Buffer): void {
    const bits = classBits(buffer.length);
    const pooled = bits <= LARGEST_CLASS_BITS && buffer.length === (1 << bits) + SLACK_BYTES;
    if (!pooled || this.#idleBytes + buffer.length > this.#limitBytes) return;
    this.#classes[bits - SMALLEST_CLASS_BITS]!.push(buffer);
    this.#idleBytes += buffer.length;
  }
}

function classBits(size: number): number {
  const body = Math.max(size - SLACK_BYTES, 1);
  return Math.max(SMALLEST_CLASS_BITS, 32 - Math.clz32(body - 1));
}
