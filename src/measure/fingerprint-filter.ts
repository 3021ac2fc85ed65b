/**
 * Tells of a content that it is certainly not among those put away to disk, or probably is: a Bloom
 * filter in blocks of 512 bits, four bits a content, 16 bits of room each. It says "probably" of one new
 * content in some 300; that one is counted right in the end, when all is merged, and only its
 * compression is not tried.
 */
const BITS_PER_CONTENT = 16;
const WORDS_PER_BLOCK = 16;
const TWO_32 = 2 ** 32;

export class FingerprintFilter {
  readonly #words: Uint32Array;
  readonly #blocks: number;

  /** Room for so many contents. */
  constructor(contents: number) {
    this.#blocks = Math.max(1, Math.ceil((contents * BITS_PER_CONTENT) / (32 * WORDS_PER_BLOCK)));
    this.#words = new Uint32Array(this.#blocks * WORDS_PER_BLOCK);
  }

  get bytes(): number {
    return this.#words.byteLength;
  }

  /** Words 0 and 1 of the name: 64 bits are plenty. */
  add(n0: number, n1: number): void {
    const block = Math.floor((n1 / TWO_32) * this.#blocks) * WORDS_PER_BLOCK;
    for (let shift = 0; shift < 32; shift += 8) {
      const bit = (n0 >>> shift) ^ (n1 << 3);
      this.#words[block + ((n0 >>> (28 - shift)) & 15)]! |= 1 << (bit & 31);
    }
  }

  has(n0: number, n1: number): boolean {
    const block = Math.floor((n1 / TWO_32) * this.#blocks) * WORDS_PER_BLOCK;
    for (let shift = 0; shift < 32; shift += 8) {
      const bit = (n0 >>> shift) ^ (n1 << 3);
      if ((this.#words[block + ((n0 >>> (28 - shift)) & 15)]! & (1 << (bit & 31))) === 0) {
        return false;
      }
    }
    return true;
  }
}
