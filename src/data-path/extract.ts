/**
 * Reads long ranges of a volume that nobody writes to, with the work done ahead on all threads: `Ingest` the other
 * way round.
 *
 *     piece n                    handed out                                          this thread
 *     pieces n + 1 … n + 5       read from the file and expanded into the arena      workers, and this thread
 *                                                                                    while it waits
 *
 * - A piece that has more blocks than a batch of `Ingest` has rows is read as any other request.
 * - The volume is open for reading only: what a mapping says stays true while its block is read.
 * - What cannot be got this way is read again as any other request, which tells what is wrong.
 * - What is not in the page cache is better read by the storage, which has more reads under way than there are
 *   threads: a piece that came from a device sends the next ones there.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { CHECK_WORDS } from '../kernels/arena.ts';
import type { Place } from '../block-map/block-map.ts';
import type { ByteRange } from '../device/block-device.ts';
import type { Extent } from '../storage/storage.ts';
import type { BlockFile } from '../workers/fetch.ts';
import type { Ahead } from '../workers/pool.ts';
import { stepFrom } from './apply.ts';
import type { DataPath } from './data-path.ts';
import { AHEAD_BATCHES, aheadRow, aheadRows } from './ingest.ts';

/** Pieces that the storage reads after one that was not in the page cache. */
const COLD_PIECES = 16;
/** One of which more than this share came from a device. */
const COLD_SHARE = 1 / 8;
/** What the system counts them in. */
const SECTOR_SIZE = 512;

/** What the engine does for it. */
export interface ExtractLane {
  /** Runs `step` as a job. */
  step<T>(step: () => Promise<T>): Promise<T>;
  read(offset: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
}

/** A piece whose rows, from `base` on, are being filled. */
interface Fetched extends ByteRange {
  readonly base: number;
  readonly fetch: Ahead;
}

/** A piece in work: that, or one that is read as any other. */
type Begun = Fetched | (ByteRange & { readonly bytes: Promise<Uint8Array> });

export class Extract {
  readonly #path: DataPath;
  readonly #file: BlockFile;
  readonly #lane: ExtractLane;
  readonly #rowsEach: number;
  readonly #lbn: Float64Array;
  #isBusy = false;
  #pieces = 0;
  /** Pieces that the storage is to read before the next try, and what came from devices so far. */
  #cold = 0;
  #fsRead = process.resourceUsage().fsRead;

  constructor(path: DataPath, file: BlockFile, lane: ExtractLane) {
    this.#path = path;
    this.#file = file;
    this.#lane = lane;
    this.#rowsEach = aheadRows(path.batchBlocks);
    this.#lbn = new Float64Array(this.#rowsEach);
  }

  /** The bytes of the pieces, in order; each is good until the next is asked for. Null while somebody does it already. */
  run(pieces: AsyncIterable<ByteRange>): AsyncGenerator<Extent> | null {
    if (this.#isBusy) return null;
    this.#isBusy = true;
    return this.#run(pieces);
  }

  async *#run(pieces: AsyncIterable<ByteRange>): AsyncGenerator<Extent> {
    const begun: Begun[] = [];
    try {
      for await (const piece of pieces) {
        begun.push(await this.#begin(piece));
        if (begun.length === AHEAD_BATCHES) yield await this.#finish(begun.shift()!);
      }
      while (begun.length > 0) yield await this.#finish(begun.shift()!);
    } finally {
      for (const piece of begun) {
        await ('fetch' in piece ? piece.fetch.finish() : piece.bytes).catch(() => undefined);
      }
      this.#isBusy = false;
    }
  }

  async #begin(piece: ByteRange): Promise<Begun> {
    const first = Math.floor(piece.offset / BLOCK_SIZE);
    const count = Math.ceil((piece.offset + piece.length) / BLOCK_SIZE) - first;
    const base = aheadRow(this.#path.batchBlocks, this.#pieces++);
    const isFit = count <= this.#rowsEach;
    if (
      isFit &&
      this.#cold === 0 &&
      (await this.#lane.step(() => this.#locate(first, count, base)))
    ) {
      const fetch = this.#path.pool.fetchAhead(base, base + count, this.#file);
      return { ...piece, fetch, base };
    }
    const rows = this.#path.arena.blocks.subarray(base * BLOCK_SIZE);
    const bytes = this.#lane.read(piece.offset, piece.length, isFit ? rows : undefined);
    bytes.catch(() => undefined);
    return { ...piece, bytes };
  }

  async #finish(piece: Begun): Promise<Extent> {
    const { offset, length } = piece;
    const bytes = 'fetch' in piece ? await this.#fetched(piece) : await piece.bytes;
    if (this.#isCold(length)) this.#cold = COLD_PIECES;
    else if (this.#cold > 0) this.#cold--;
    return { offset, bytes: bytes ?? (await this.#lane.read(offset, length)) };
  }

  /** What lies in the rows of a piece when all of them could be filled, or null. */
  async #fetched(piece: Fetched): Promise<Uint8Array | null> {
    const { arena, counters } = this.#path;
    const skip = piece.offset % BLOCK_SIZE;
    const count = Math.ceil((skip + piece.length) / BLOCK_SIZE);
    await piece.fetch.finish();
    for (let row = piece.base; row < piece.base + count; row++) {
      if (arena.checks[row * CHECK_WORDS + 2] !== 1) return null;
    }
    counters.readBlocks += count;
    const start = piece.base * BLOCK_SIZE + skip;
    return arena.blocks.subarray(start, start + piece.length);
  }

  /** Whether much of what the process has read since the last piece came from devices. */
  #isCold(length: number): boolean {
    const { fsRead } = process.resourceUsage();
    const bytes = (fsRead - this.#fsRead) * SECTOR_SIZE;
    this.#fsRead = fsRead;
    return bytes > COLD_SHARE * length;
  }

  /** Fills the checks of the rows from `base` on, for blocks from `first` on. False where a mapping makes no sense. */
  async #locate(first: number, count: number, base: number): Promise<boolean> {
    const { arena, blockMap } = this.#path;
    const { checks } = arena;
    const lbn = this.#lbn;
    const place: Place = { pbn: 0, state: 0 };
    for (let i = 0; i < count; i++) lbn[i] = first + i;
    for (let at = 0; at < count;) {
      const { end, pages } = stepFrom(this.#path, { lbn, count }, at);
      await blockMap.load(pages);
      for (; at < end; at++) {
        if (!blockMap.locate(lbn[at]!, place)) return false;
        const { pbn, state } = place;
        const check = (base + at) * CHECK_WORDS;
        checks[check] = pbn | 0;
        checks[check + 1] = Math.floor(pbn / 2 ** 32);
        checks[check + 2] = state;
      }
    }
    return true;
  }
}
