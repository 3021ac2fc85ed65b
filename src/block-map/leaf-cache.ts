/**
 * The block map's page cache: a fixed number of frames that hold leaf pages, found by page number
 * (lbn / 812), replaced by CLOCK.
 *
 * Invariants:
 * - A frame that is dirty, being written, or pinned by the running step is never replaced.
 * - A page is dirty from its first change after a checkpoint's copy until the next copy, and *being
 *   written* from that copy until the checkpoint ended; it may be both.
 *
 * The memory is reserved at open and becomes resident as frames are used.
 */
import { assert, AssertionError } from '../base/assert.ts';
import { BLOCK_SIZE } from '../base/constants.ts';

const DIRTY = 1;
const WRITING = 2;
const RECENT = 4;

const NO_PAGE = -1;

export class LeafCache {
  readonly frames: number;
  readonly #memory: Buffer;
  readonly #page: Float64Array;
  readonly #pbn: Float64Array;
  readonly #flags: Uint8Array;
  readonly #pins: Float64Array;
  readonly #frameOf = new Map<number, number>();
  #step = 1;
  #hand = 0;
  #dirty = 0;
  #busy = 0;
  /** Frames ever used: the ones above are free. */
  #used = 0;

  constructor(frames: number) {
    this.frames = frames;
    this.#memory = Buffer.from(new ArrayBuffer(frames * BLOCK_SIZE));
    this.#page = new Float64Array(frames).fill(NO_PAGE);
    this.#pbn = new Float64Array(frames);
    this.#flags = new Uint8Array(frames);
    this.#pins = new Float64Array(frames);
  }

  /** Pages with changes that no checkpoint has copied. */
  get dirtyPages(): number {
    return this.#dirty;
  }

  /** Frames that neither hold changes nor are being written. */
  get cleanFrames(): number {
    return this.frames - this.#busy;
  }

  get residentPages(): number {
    return this.#frameOf.size;
  }

  /** Ends all pins: the next step begins. */
  unpinAll(): void {
    this.#step++;
  }

  /** The frame of `page`, pinned until `unpinAll`, or −1. */
  find(page: number): number {
    const frame = this.#frameOf.get(page);
    if (frame === undefined) return -1;
    this.#pins[frame] = this.#step;
    this.#flags[frame]! |= RECENT;
    return frame;
  }

  /** A frame for `page`, which has none yet; its bytes are whatever was there. Pinned. */
  take(page: number, pbn: number): number {
    const frame = this.#used < this.frames ? this.#used++ : this.#evict();
    this.#page[frame] = page;
    this.#pbn[frame] = pbn;
    this.#flags[frame] = RECENT;
    this.#pins[frame] = this.#step;
    this.#frameOf.set(page, frame);
    return frame;
  }

  /** Forgets `page`, whose load failed. */
  drop(page: number): void {
    const frame = this.#frameOf.get(page);
    if (frame === undefined) return;
    assert((this.#flags[frame]! & (DIRTY | WRITING)) === 0, 'a changed page is never dropped');
    this.#frameOf.delete(page);
    this.#page[frame] = NO_PAGE;
    this.#flags[frame] = 0;
  }

  /** Whether `page` is resident; pins nothing. */
  has(page: number): boolean {
    return this.#frameOf.has(page);
  }

  /** The page in `frame`. */
  bytes(frame: number): Buffer {
    return this.#memory.subarray(frame * BLOCK_SIZE, (frame + 1) * BLOCK_SIZE);
  }

  /** All frames; frame f starts at byte 4096 · f. For loops over entries. */
  get memory(): Uint8Array {
    return this.#memory;
  }

  pbnOf(frame: number): number {
    return this.#pbn[frame]!;
  }

  markDirty(frame: number): void {
    const flags = this.#flags[frame]!;
    if ((flags & DIRTY) !== 0) return;
    this.#flags[frame] = flags | DIRTY;
    this.#dirty++;
    if ((flags & WRITING) === 0) this.#busy++;
  }

  /** Turns every dirty frame into one being written; calls `copy` for each. None may be already. */
  beginWriting(copy: (frame: number) => void): void {
    for (let frame = 0; frame < this.#used; frame++) {
      const flags = this.#flags[frame]!;
      assert((flags & WRITING) === 0, 'one checkpoint at a time');
      if ((flags & DIRTY) === 0) continue;
      this.#flags[frame] = (flags & ~DIRTY) | WRITING;
      copy(frame);
    }
    this.#dirty = 0;
  }

  /** The copies are durable; calls `written` for each frame they came from. */
  endWriting(written: (frame: number) => void): void {
    for (let frame = 0; frame < this.#used; frame++) {
      const flags = this.#flags[frame]!;
      if ((flags & WRITING) === 0) continue;
      this.#flags[frame] = flags & ~WRITING;
      if ((flags & DIRTY) === 0) this.#busy--;
      written(frame);
    }
  }

  #evict(): number {
    for (let turns = 2 * this.frames; turns > 0; turns--) {
      const frame = this.#hand;
      this.#hand = (this.#hand + 1) % this.frames;
      const flags = this.#flags[frame]!;
      if ((flags & (DIRTY | WRITING)) !== 0 || this.#pins[frame] === this.#step) continue;
      if ((flags & RECENT) !== 0) {
        this.#flags[frame] = flags & ~RECENT;
        continue;
      }
      if (this.#page[frame] !== NO_PAGE) this.#frameOf.delete(this.#page[frame]!);
      return frame;
    }
    throw new AssertionError('frames are reserved before pages are loaded');
  }
}
