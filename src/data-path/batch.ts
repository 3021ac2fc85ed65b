/**
 * The columns of one batch of block writes: row r of the batch is row `base` + r of the arena, which
 * holds its 4096 bytes. Rows are plain numbers; nothing is allocated per block.
 *
 * Invariants:
 * - No logical block occurs twice in a batch: a later write replaces bytes in place while the batch
 *   has not started, or goes to the next one.
 * - A row that covers part of its block (`from` … `to`) gets the rest from the old content first.
 * - `deferred` batches answer their requests when they are done, since free space was not certain;
 *   the others were acknowledged when their rows were filled, against `reserved` blocks.
 */
import { asBuffer, copyBytes } from '../base/bytes.ts';
import { BLOCK_SIZE } from '../base/constants.ts';
import { NumberMap } from '../base/number-map.ts';
import type { Arena } from '../kernels/arena.ts';

const ZEROS = Buffer.alloc(BLOCK_SIZE);

/** What became of a row. */
export const Fate = {
  /** To be stored: nobody has this content. */
  Unique: 0,
  Zero: 1,
  /** Shares the block in columns `pbn`, `state`. */
  Duplicate: 2,
  /** Has the content of row `owner` of this batch. */
  Follower: 3,
  /** Waits with fragment `owner` of the packer. */
  Waiting: 4,
  /** Stored in `pbn`, uncompressed. */
  Stored: 5,
  /** There was no space. */
  Failed: 6,
  /** Zeros that are not to be written: the row stands for nothing. */
  Skipped: 7,
} as const;

export class WriteBatch {
  /** First row in the arena. */
  readonly base: number;
  readonly capacity: number;
  deferred: boolean;
  readonly arena: Arena;
  readonly lbn: Float64Array;
  readonly from: Uint16Array;
  readonly to: Uint16Array;
  readonly fate: Uint8Array;
  readonly pbn: Float64Array;
  readonly state: Uint8Array;
  /** Row or fragment that the fate refers to. */
  readonly owner: Int32Array;
  /** First of the rows that follow this one, or −1; the next of each in `nextFollower`. */
  readonly firstFollower: Int32Array;
  readonly nextFollower: Int32Array;
  /** Whether the row's name may be told to the index. */
  readonly named: Uint8Array;
  /** Whether the fragment of the row was made before the batch began to run. */
  readonly isCompressed: Uint8Array;
  /** Rows that were written as whole blocks of zeros: their bytes are not in the arena. */
  readonly isZero: Uint8Array;
  readonly #rowOf: NumberMap;
  readonly #blocks: Buffer;
  // Bytes that were added and are not copied yet.
  #runSource: Buffer | null = null;
  #runAt = 0;
  #runTarget = 0;
  #runBytes = 0;
  count = 0;
  /**
   * Blocks of free space that are kept for it: what its rows were acknowledged against, or, in a
   * deferred batch that is running, what it has been promised. 0 when all rows are applied.
   */
  reserved = 0;
  /** Rows that cover only part of their block. */
  partialRows = 0;
  /** The rows that have to be hashed lie from `firstHashed` to `endHashed` − 1. */
  firstHashed: number;
  endHashed = 0;
  /** Whether its rows were hashed before it began to run; then rows of zeros are skipped. */
  isPrepared = false;
  /** Takes no more rows, though it may have room. */
  closed = false;
  /** Resolves or rejects when the batch is done; for deferred requests. */
  readonly done: Promise<void>;
  finish!: (error?: Error) => void;

  constructor(columns: BatchColumns, deferred: boolean) {
    this.base = columns.base;
    this.capacity = columns.capacity;
    this.arena = columns.arena;
    this.lbn = columns.lbn;
    this.from = columns.from;
    this.to = columns.to;
    this.fate = columns.fate;
    this.pbn = columns.pbn;
    this.state = columns.state;
    this.owner = columns.owner;
    this.firstFollower = columns.firstFollower;
    this.nextFollower = columns.nextFollower;
    this.named = columns.named;
    this.isZero = columns.isZero;
    this.isCompressed = columns.isCompressed;
    this.firstHashed = columns.capacity;
    this.#rowOf = columns.rowOf;
    this.#rowOf.clear();
    this.isCompressed.fill(0);
    this.#blocks = asBuffer(columns.arena.blocks);
    this.deferred = deferred;
    this.done = new Promise((resolve, reject) => {
      this.finish = (error) => (error === undefined ? resolve() : reject(error));
    });
    this.done.catch(() => undefined);
  }

  /** The row of `lbn`, or −1. */
  rowOf(lbn: number): number {
    return this.#rowOf.get(lbn);
  }

  get isFull(): boolean {
    return this.count === this.capacity;
  }

  /** Makes it a batch of `count` blocks from `lbn` on, whose bytes and names are in the arena. */
  prepare(lbn: number, count: number): void {
    this.count = count;
    this.isPrepared = true;
    this.closed = true;
    for (let row = 0; row < count; row++) {
      this.lbn[row] = lbn + row;
      this.from[row] = 0;
      this.to[row] = BLOCK_SIZE;
      this.isZero[row] = this.arena.zero[this.base + row]!;
    }
  }

  /**
   * Adds the `length` bytes at `at` of `source` as bytes `from` … of block `lbn`, which has no row
   * yet. There must be room. The caller ends with `copyRun`: what lies together is copied together.
   */
  add(lbn: number, from: number, source: Buffer, at: number, length: number): void {
    const row = this.count++;
    this.#rowOf.set(lbn, row);
    this.lbn[row] = lbn;
    this.from[row] = from;
    this.to[row] = from + length;
    this.isZero[row] = 0;
    if (length < BLOCK_SIZE) this.partialRows++;
    else if (source[at] === 0 && source.compare(ZEROS, 0, BLOCK_SIZE, at, at + BLOCK_SIZE) === 0) {
      this.isZero[row] = 1;
      return;
    }
    this.firstHashed = Math.min(this.firstHashed, row);
    this.endHashed = row + 1;
    const target = (this.base + row) * BLOCK_SIZE + from;
    const done = this.#runBytes;
    const goesOn =
      source === this.#runSource && at === this.#runAt + done && target === this.#runTarget + done;
    if (!goesOn) {
      this.copyRun();
      this.#runSource = source;
      this.#runAt = at;
      this.#runTarget = target;
    }
    this.#runBytes += length;
  }

  /** Copies what was added; until then the sources must stay as they are. */
  copyRun(): void {
    if (this.#runSource === null) return;
    const at = this.#runAt;
    copyBytes(this.#runSource, at, at + this.#runBytes, this.#blocks, this.#runTarget);
    this.#runSource = null;
    this.#runBytes = 0;
  }

  /**
   * Writes over bytes of a row that is already here. Returns false where the row would then consist
   * of two parts with old content between them.
   */
  overlay(row: number, from: number, source: Buffer, at: number, length: number): boolean {
    this.copyRun();
    const to = from + length;
    if (to < this.from[row]! || from > this.to[row]!) return false;
    const wasPartial = this.to[row]! - this.from[row]! < BLOCK_SIZE;
    this.from[row] = Math.min(this.from[row]!, from);
    this.to[row] = Math.max(this.to[row]!, to);
    if (wasPartial && this.to[row]! - this.from[row]! === BLOCK_SIZE) this.partialRows--;
    if (this.isZero[row] === 1) {
      const block = (this.base + row) * BLOCK_SIZE;
      this.#blocks.fill(0, block, block + BLOCK_SIZE);
      this.isZero[row] = 0;
      this.firstHashed = Math.min(this.firstHashed, row);
      this.endHashed = Math.max(this.endHashed, row + 1);
    }
    copyBytes(source, at, at + length, this.#blocks, (this.base + row) * BLOCK_SIZE + from);
    return true;
  }
}

/** Memory of a batch, used again and again. */
export interface BatchColumns {
  readonly base: number;
  readonly capacity: number;
  readonly arena: Arena;
  readonly lbn: Float64Array;
  readonly from: Uint16Array;
  readonly to: Uint16Array;
  readonly fate: Uint8Array;
  readonly pbn: Float64Array;
  readonly state: Uint8Array;
  readonly owner: Int32Array;
  readonly firstFollower: Int32Array;
  readonly nextFollower: Int32Array;
  readonly named: Uint8Array;
  readonly isZero: Uint8Array;
  readonly isCompressed: Uint8Array;
  readonly rowOf: NumberMap;
}

export function makeColumns(arena: Arena, base: number, capacity: number): BatchColumns {
  return {
    base,
    capacity,
    arena,
    lbn: new Float64Array(capacity),
    from: new Uint16Array(capacity),
    to: new Uint16Array(capacity),
    fate: new Uint8Array(capacity),
    pbn: new Float64Array(capacity),
    state: new Uint8Array(capacity),
    owner: new Int32Array(capacity),
    firstFollower: new Int32Array(capacity),
    nextFollower: new Int32Array(capacity),
    named: new Uint8Array(capacity),
    isZero: new Uint8Array(capacity),
    isCompressed: new Uint8Array(capacity),
    rowOf: new NumberMap(capacity),
  };
}
