/**
 * What has been changed on the server since its last flush, in memory: when the server restarts, or
 * another takes its place, the changes are made once more before anything else.
 *
 * - In the order in which they completed. A later change of the same bytes is replayed later.
 * - Bounded: `isFull` says when the caller must flush before it changes more.
 * - `mark` and `forget` bracket a flush: what completed before the flush was sent is durable once it
 *   is answered, and only that is forgotten.
 * - Bytes lie in chunks that go round: nothing is allocated per change in the long run.
 */

const CHUNK_BYTES = 1 << 20;
/** What an entry costs beside its bytes, so that many small or zero ones are bounded, too. */
const ENTRY_COST = 64;
/** Chunks kept for the next changes. */
const MAX_SPARE_CHUNKS = 16;

/** A change that may have to be made again. */
export interface Change {
  readonly offset: number;
  readonly length: number;
  /** Absent: zeros. */
  readonly bytes: Uint8Array | undefined;
}

interface Entry extends Change {
  readonly mark: number;
  readonly chunk: Uint8Array | undefined;
}

export class ReplayLog {
  readonly #limitBytes: number;
  #entries: Entry[] = [];
  #spare: Uint8Array[] = [];
  #chunk: Uint8Array = new Uint8Array(0);
  #chunkUsed = 0;
  #bytes = 0;
  #mark = 0;
  #forgotten = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  /** Whether a flush would make anything durable. */
  get isClean(): boolean {
    return this.#mark === this.#forgotten;
  }

  /** Names the last change. */
  get mark(): number {
    return this.#mark;
  }

  /** Bytes held. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Whether a change of `more` bytes would exceed the limit, beside `changing` bytes that are on their
   * way. Never while there is nothing else.
   */
  isFull(changing: number, more: number): boolean {
    const held = this.#bytes + changing;
    return held > 0 && held + more > this.#limitBytes;
  }

  /** Copies a completed write. */
  addWrite(offset: number, buffers: readonly Uint8Array[]): void {
    this.#mark++;
    let at = offset;
    for (const buffer of buffers) {
      for (let done = 0; done < buffer.length;) {
        if (this.#chunkUsed === this.#chunk.length) this.#nextChunk();
        const part = Math.min(buffer.length - done, this.#chunk.length - this.#chunkUsed);
        const copy = this.#chunk.subarray(this.#chunkUsed, this.#chunkUsed + part);
        copy.set(part === buffer.length ? buffer : buffer.subarray(done, done + part));
        this.#chunkUsed += part;
        this.#add(at, part, copy);
        at += part;
        done += part;
      }
    }
  }

  /** Notes a range that has been zeroed. */
  addZeros(offset: number, length: number): void {
    this.#mark++;
    this.#add(offset, length, undefined);
  }

  /** Notes a change that need not be made again, but wants a flush: a discard. */
  touch(): void {
    this.#mark++;
  }

  /** The changes in order. */
  get changes(): readonly Change[] {
    return this.#entries;
  }

  /** A flush has made everything up to `mark` durable. */
  forget(mark: number): void {
    this.#forgotten = Math.max(this.#forgotten, mark);
    let count = 0;
    while (count < this.#entries.length && this.#entries[count]!.mark <= mark) count++;
    const gone = this.#entries.splice(0, count);
    const kept = this.#entries[0]?.chunk;
    let last: Uint8Array | undefined;
    for (const { length, bytes, chunk } of gone) {
      this.#bytes -= ENTRY_COST + (bytes === undefined ? 0 : length);
      if (chunk === undefined || chunk === last || chunk === kept || chunk === this.#chunk)
        continue;
      last = chunk;
      if (this.#spare.length < MAX_SPARE_CHUNKS) this.#spare.push(chunk);
    }
    if (this.#entries.length === 0) this.#chunkUsed = 0;
  }

  /** Drops everything: it is lost, and the caller has said so. */
  clear(): void {
    this.forget(this.#mark);
  }

  #nextChunk(): void {
    this.#chunk = this.#spare.pop() ?? new Uint8Array(CHUNK_BYTES);
    this.#chunkUsed = 0;
  }

  #add(offset: number, length: number, bytes: Uint8Array | undefined): void {
    const chunk = bytes === undefined ? undefined : this.#chunk;
    this.#entries.push({ offset, length, bytes, mark: this.#mark, chunk });
    this.#bytes += ENTRY_COST + (bytes === undefined ? 0 : length);
  }
}
