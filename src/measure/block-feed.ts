/**
 * Reads sources into the rows of the arena, batch by batch, the next batch while the one before is
 * worked on.
 *
 * - Each file begins on a block of its own; a last partial block is filled up with zeros, as a file
 *   system would and as `uvdo create` does.
 * - Holes that are known take no rows: they are counted with the part before or behind them.
 * - A file that cannot be opened, or read to its end, is reported; the blocks in front of a read that
 *   failed count.
 */
import { asBuffer } from '../base/bytes.ts';
import { BLOCK_SIZE } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import type { Arena } from '../kernels/arena.ts';
import { openFileStorage } from '../storage/file-storage.ts';
import { wrapError } from '../storage/open-file.ts';
import type { Storage } from '../storage/storage.ts';
import { dataRanges, type Range } from './holes.ts';
import { isUri, type ReportProblem, type SourceFile } from './source-files.ts';

/** Rows of one file, one after another. */
export interface Part {
  readonly file: SourceFile;
  readonly firstRow: number;
  endRow: number;
  /** Blocks of holes beside these rows. */
  holeBlocks: number;
  /** Bytes of the file that the part stands for, holes included. */
  bytes: number;
  /** Byte of the file where it ends. */
  endOffset: number;
  /** Whether it is the last part of its file. */
  isLast: boolean;
}

export interface Batch {
  /** Rows `base` … `base` + `count` − 1 of the arena. */
  readonly base: number;
  count: number;
  readonly parts: Part[];
}

/** Opens what a URI names, as a storage to be read. */
export type OpenUri = (uri: string) => Promise<Storage>;

export interface FeedOptions {
  readonly report: ReportProblem;
  readonly openUri?: OpenUri | undefined;
  /** Where standard input comes from. */
  readonly input?: AsyncIterable<Uint8Array>;
  /** Begins the first file at this byte, a multiple of 4096: the rest of an interrupted run. */
  readonly firstOffset?: number;
}

/** A file being read: the ranges still to come. */
interface Cursor {
  readonly file: SourceFile;
  readonly storage: Storage | null;
  readonly stream: StreamReader | null;
  readonly size: number;
  readonly ranges: readonly Range[];
  range: number;
  offset: number;
  failure: VdoError | null;
}

export class BlockFeed {
  readonly #blocks: Buffer;
  readonly #rows: number;
  readonly #files: Iterator<SourceFile>;
  readonly #options: FeedOptions;
  #cursor: Cursor | null = null;
  #firstOffset: number;
  #isDone = false;

  /** `rows`: rows of a batch; two batches take turns at the beginning of the arena. */
  constructor(arena: Arena, rows: number, files: Iterable<SourceFile>, options: FeedOptions) {
    this.#blocks = asBuffer(arena.blocks);
    this.#rows = rows;
    this.#files = files[Symbol.iterator]();
    this.#options = options;
    this.#firstOffset = options.firstOffset ?? 0;
  }

  /** Batch after batch. One is valid until the next but one is asked for; close it in the end. */
  async *batches(): AsyncGenerator<Batch> {
    let half = 0;
    let next: Promise<Batch> | null = this.#fill(0);
    try {
      while (next !== null) {
        const batch: Batch = await next;
        half = 1 - half;
        next = this.#isDone ? null : this.#fill(half * this.#rows);
        next?.catch(() => undefined);
        if (batch.parts.length > 0) yield batch;
      }
    } finally {
      await next?.catch(() => undefined);
      await this.#closeCursor();
    }
  }

  /** Ends a read of standard input that waits. */
  abort(): void {
    this.#cursor?.stream?.abort();
  }

  async #fill(base: number): Promise<Batch> {
    const batch: Batch = { base, count: 0, parts: [] };
    while (batch.count < this.#rows) {
      this.#cursor ??= await this.#open();
      if (this.#cursor === null) {
        this.#isDone = true;
        break;
      }
      const cursor = this.#cursor;
      if (!(await this.#fillFrom(cursor, batch))) break;
      if (cursor.failure !== null) this.#options.report(cursor.file.path, cursor.failure);
      await this.#closeCursor();
    }
    return batch;
  }

  /** The next file that can be opened, or null at the end of all. */
  async #open(): Promise<Cursor | null> {
    for (;;) {
      const { value: file, done } = this.#files.next();
      if (done === true) return null;
      const firstOffset = this.#firstOffset;
      this.#firstOffset = 0;
      try {
        return await this.#openFile(file, firstOffset);
      } catch (error) {
        this.#options.report(file.path, wrapError('read', file.path, error));
      }
    }
  }

  async #openFile(file: SourceFile, firstOffset: number): Promise<Cursor> {
    const { path } = file;
    const base = { file, range: 0, offset: firstOffset, failure: null };
    if (path === '-') {
      const stream = new StreamReader(this.#options.input ?? process.stdin);
      await stream.skip(firstOffset);
      return { ...base, storage: null, stream, size: Infinity, ranges: [] };
    }
    const storage = isUri(path) ? await this.#openUri(path) : await openFile(path);
    const { size } = storage;
    const known = await dataRanges(path, size, file.allocatedBytes);
    const ranges = known ?? (size === 0 ? [] : [{ start: 0, end: size }]);
    return { ...base, storage, stream: null, size, ranges };
  }

  #openUri(path: string): Promise<Storage> {
    if (this.#options.openUri !== undefined) return this.#options.openUri(path);
    throw new VdoError('InvalidArgument', `${path}: NBD sources are not available in this version`);
  }

  /** Takes rows of one file into the batch; returns whether nothing more comes from the file. */
  async #fillFrom(cursor: Cursor, batch: Batch): Promise<boolean> {
    const row = batch.base + batch.count;
    const part: Part = {
      file: cursor.file,
      firstRow: row,
      endRow: row,
      holeBlocks: 0,
      bytes: 0,
      endOffset: 0,
      isLast: false,
    };
    batch.parts.push(part);
    const start = cursor.offset;
    if (cursor.stream !== null) await this.#readStream(cursor, cursor.stream, batch, part);
    else await this.#readRanges(cursor, batch, part);
    part.isLast ||= cursor.failure !== null;
    part.endOffset = cursor.offset;
    part.bytes = cursor.offset - start;
    return part.isLast;
  }

  /** Reads range after range while there is room; ends in front of the first read that fails. */
  async #readRanges(cursor: Cursor, batch: Batch, part: Part): Promise<void> {
    const reads: Promise<void>[] = [];
    let failed: { readonly row: number; readonly offset: number } | null = null;
    while (batch.count < this.#rows && cursor.range < cursor.ranges.length) {
      const { start, end } = cursor.ranges[cursor.range]!;
      if (end <= cursor.offset) {
        cursor.range++;
        continue;
      }
      this.#skip(cursor, part, start);
      const { offset } = cursor;
      const row = batch.base + batch.count;
      const bytes = this.#take(cursor, batch, end);
      const read = cursor.storage!.read([{ offset, bytes }]).catch((error: unknown) => {
        if (failed !== null && failed.row < row) return;
        failed = { row, offset };
        cursor.failure = wrapError('read', cursor.file.path, error, offset);
      });
      reads.push(read);
    }
    if (cursor.range >= cursor.ranges.length) {
      this.#skip(cursor, part, cursor.size);
      part.isLast = true;
    }
    part.endRow = batch.base + batch.count;
    await Promise.all(reads);
    const end = failed as { readonly row: number; readonly offset: number } | null;
    if (end === null) return;
    part.endRow = end.row;
    cursor.offset = end.offset;
  }

  /** The rows for the next bytes of a range that ends at `end`; the cursor moves over them. */
  #take(cursor: Cursor, batch: Batch, end: number): Uint8Array {
    const length = Math.min(end - cursor.offset, (this.#rows - batch.count) * BLOCK_SIZE);
    const blocks = Math.ceil(length / BLOCK_SIZE);
    const row = batch.base + batch.count;
    const at = row * BLOCK_SIZE;
    this.#blocks.fill(0, at + length, (row + blocks) * BLOCK_SIZE);
    batch.count += blocks;
    cursor.offset += length;
    if (cursor.offset >= end) cursor.range++;
    return this.#blocks.subarray(at, at + length);
  }

  /** Counts the hole from where the cursor stands to byte `end`. */
  #skip(cursor: Cursor, part: Part, end: number): void {
    if (end <= cursor.offset) return;
    part.holeBlocks += Math.ceil((end - cursor.offset) / BLOCK_SIZE);
    cursor.offset = end;
  }

  async #readStream(cursor: Cursor, stream: StreamReader, batch: Batch, part: Part): Promise<void> {
    const at = (batch.base + batch.count) * BLOCK_SIZE;
    const room = this.#blocks.subarray(at, at + (this.#rows - batch.count) * BLOCK_SIZE);
    let length = 0;
    try {
      length = await stream.read(room);
    } catch (error) {
      cursor.failure = wrapError('read', 'standard input', error);
      return;
    }
    const blocks = Math.ceil(length / BLOCK_SIZE);
    room.fill(0, length, blocks * BLOCK_SIZE);
    batch.count += blocks;
    part.endRow += blocks;
    cursor.offset += length;
    part.isLast = stream.ended;
  }

  async #closeCursor(): Promise<void> {
    const cursor = this.#cursor;
    this.#cursor = null;
    cursor?.stream?.abort();
    await cursor?.storage?.close();
  }
}

function openFile(path: string): Promise<Storage> {
  return openFileStorage(path, { readOnly: true });
}

/** Takes pieces of a stream as they come and gives them out in the lengths that are asked for. */
class StreamReader {
  readonly #pieces: AsyncIterator<Uint8Array>;
  readonly #source: AsyncIterable<Uint8Array>;
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

  /** Leaves out what an earlier run has measured. */
  async skip(bytes: number): Promise<void> {
    const into = new Uint8Array(BLOCK_SIZE);
    for (let left = bytes; left > 0 && !this.ended; left -= BLOCK_SIZE) await this.read(into);
  }

  abort(): void {
    const { destroy } = this.#source as { destroy?: () => void };
    destroy?.call(this.#source);
  }
}
