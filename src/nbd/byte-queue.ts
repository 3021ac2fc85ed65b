/**
 * Bytes received from a socket and not yet understood: the chunks as they came, taken off the front
 * without a copy where a message lies in one chunk.
 *
 * A chunk pushed is borrowed: its bytes may change once the event that brought it is over. Before
 * that, `keep` copies what nobody has taken.
 */
export class ByteQueue {
  #chunks: Buffer[] = [];
  /** The first chunk still in use, and how much of it is taken. */
  #head = 0;
  #offset = 0;
  #length = 0;
  /** Whether the last chunk is. */
  #borrowed = false;

  get length(): number {
    return this.#length;
  }

  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#borrowed = true;
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  /** Makes the rest of the last chunk our own. */
  keep(): void {
    if (!this.#borrowed) return;
    this.#borrowed = false;
    const last = this.#chunks.length - 1;
    if (last < this.#head) return;
    const start = last === this.#head ? this.#offset : 0;
    this.#chunks[last] = Buffer.from(this.#chunks[last]!.subarray(start));
    if (last === this.#head) this.#offset = 0;
  }

  /** The next `length` bytes, of which there must be as many. A view, or a copy where they are split. */
  take(length: number): Buffer {
    const first = this.#chunks[this.#head];
    if (first !== undefined && first.length - this.#offset >= length) {
      const bytes = first.subarray(this.#offset, this.#offset + length);
      this.#drop(length);
      return bytes;
    }
    const bytes = Buffer.allocUnsafe(length);
    this.moveTo(bytes, 0);
    return bytes;
  }

  /** Bytes that lie together at the front. */
  get lying(): number {
    const first = this.#chunks[this.#head];
    return first === undefined ? 0 : first.length - this.#offset;
  }

  /** A view of the first `length` bytes, of which at least as many lie together. They stay. */
  peek(length: number): Buffer {
    return this.#chunks[this.#head]!.subarray(this.#offset, this.#offset + length);
  }

  /** Takes `length` bytes, of which there must be as many, as what `parse` makes of them. */
  parse<T>(length: number, parse: (bytes: Buffer, at: number) => T): T {
    if (this.lying < length) return parse(this.take(length), 0);
    const parsed = parse(this.#chunks[this.#head]!, this.#offset);
    this.#drop(length);
    return parsed;
  }

  /** Moves as many bytes as there are, or as `target` takes from `at` on. Returns how many. */
  moveTo(target: Buffer, at: number): number {
    const wanted = Math.min(target.length - at, this.#length);
    for (let done = 0; done < wanted;) {
      const chunk = this.#chunks[this.#head]!;
      const part = Math.min(chunk.length - this.#offset, wanted - done);
      chunk.copy(target, at + done, this.#offset, this.#offset + part);
      done += part;
      this.#drop(part);
    }
    return wanted;
  }

  /** Drops as many bytes as there are, up to `limit`. Returns how many. */
  skip(limit: number): number {
    const wanted = Math.min(limit, this.#length);
    for (let done = 0; done < wanted;) {
      const part = Math.min(this.#chunks[this.#head]!.length - this.#offset, wanted - done);
      done += part;
      this.#drop(part);
    }
    return wanted;
  }

  /** Drops bytes of the first chunk, and the chunk with its last one. */
  #drop(length: number): void {
    this.#length -= length;
    this.#offset += length;
    if (length === 0 || this.#offset < this.#chunks[this.#head]!.length) return;
    this.#offset = 0;
    if (++this.#head === this.#chunks.length) {
      this.#chunks.length = this.#head = 0;
    } else if (this.#head >= 64) {
      this.#chunks = this.#chunks.slice(this.#head);
      this.#head = 0;
    }
  }
}
