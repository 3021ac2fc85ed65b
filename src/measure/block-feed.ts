/**
 * Plans batches: which bytes of which sources go to which rows of the arena. Files are read by the
 * threads that name the blocks (`FileRead`), while their bytes are in the cache; what has no file
 * descriptor (streams, URIs) and small files are read here.
 *
 * - Each file begins on a block of its own; a last partial block is filled up with zeros, as a file
 *   system would and as `uvdo create` does.
 * - Holes that are known take no rows: they are counted with the part before or behind them.
 * - A file that cannot be opened, or read to its end, is reported; the blocks in front of a read that
 *   failed count.
 */
import fs from 'node:fs';
import { asBuffer } from '../base/bytes.ts';
import { BLOCK_SIZE, MiB } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import { openStorage } from '../nbd-client/open-storage.ts';
import { isNbdUri } from '../nbd-client/uri.ts';
import type { Arena } from '../kernels/arena.ts';
import { openFile, wrapError } from '../storage/open-file.ts';
import type { Extent, Storage } from '../storage/storage.ts';
import { MAX_READS, type FileRead } from '../workers/pool.ts';
import { STAGING_ROWS } from '../workers/protocol.ts';
import { dataRanges, storageRanges, type Range } from './holes.ts';
import type { ReportProblem, SourceFile } from './source-files.ts';
import { StreamReader } from './stream-reader.ts';

/** Rows of one read: small enough to be in a core's cache when its blocks are named. */
const READ_ROWS = STAGING_ROWS;
/** Smaller files are read at once: handing them over costs more. */
const SMALL_FILE_BYTES = 64 * 1024;
/** Reads of a batch, before one that may become several. */
const BATCH_READS = MAX_READS / 2;
/** Bytes of one request to a server. */
const REQUEST_BYTES = MiB;

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
  /** What is to be read and named before the rows are good. */
  readonly reads: FileRead[];
  /** Whose reads those are. */
  readonly readers: { readonly cursor: Cursor; readonly part: Part }[];
}

/** Opens what a URI names, as a storage to be read: for tests. */
export type OpenUri = (uri: string) => Promise<Storage>;

export interface FeedOptions {
  readonly report: ReportProblem;
  readonly openUri?: OpenUri | undefined;
  /** Where standard input comes from. */
  readonly input?: AsyncIterable<Uint8Array> | undefined;
  /** Begins this file at a byte, a multiple of 4096: the rest of an interrupted run. */
  readonly first?: { readonly path: string; readonly offset: number };
}

/** A file being read: the ranges still to come. */
interface Cursor {
  readonly file: SourceFile;
  readonly from:
    | { readonly kind: 'file'; readonly fd: number }
    | { readonly kind: 'storage'; readonly storage: Storage }
    | { readonly kind: 'stream'; readonly stream: StreamReader };
  readonly size: number;
  readonly ranges: readonly Range[];
  range: number;
  offset: number;
  hasFailed: boolean;
  /** Nothing more is to be read from it, once the reads of its last batch are done. */
  isOver: boolean;
}

export class BlockFeed {
  readonly #blocks: Buffer;
  readonly #rows: number;
  readonly #files: Iterator<SourceFile>;
  readonly #options: FeedOptions;
  readonly #open = new Set<Cursor>();
  #cursor: Cursor | null = null;
  #hasBegun = false;
  #isAborted = false;

  /** `rows`: rows of a batch. */
  constructor(arena: Arena, rows: number, files: Iterable<SourceFile>, options: FeedOptions) {
    this.#blocks = asBuffer(arena.blocks);
    this.#rows = rows;
    this.#files = files[Symbol.iterator]();
    this.#options = options;
  }

  /** The next batch, for the rows from `base` on; null at the end. The one before must be settled. */
  async plan(base: number): Promise<Batch | null> {
    const batch: Batch = { base, count: 0, parts: [], reads: [], readers: [] };
    while (batch.count < this.#rows && batch.reads.length < BATCH_READS) {
      this.#cursor ??= await this.#next();
      const cursor = this.#cursor;
      if (cursor === null) break;
      await this.#takeFrom(cursor, batch);
      if (!cursor.isOver) break;
      this.#cursor = null;
      if (!batch.readers.some((reader) => reader.cursor === cursor)) await this.#close(cursor);
    }
    return batch.parts.length === 0 ? null : batch;
  }

  /** Takes note of which reads came short (indexes, ascending), and closes the files that are done. */
  async settle(batch: Batch, short: readonly number[]): Promise<void> {
    for (const index of short) {
      const { cursor, part } = batch.readers[index]!;
      if (!cursor.hasFailed) this.#fail(cursor, part, batch.reads[index]!, readAgain);
    }
    const done = batch.readers.filter(({ cursor }) => cursor.isOver);
    for (const { cursor } of done) await this.#close(cursor);
  }

  /** Ends a read of standard input that waits, and opens nothing more. */
  abort(): void {
    this.#isAborted = true;
    for (const { from } of this.#open) if (from.kind === 'stream') from.stream.abort();
  }

  /** Closes what is open. No read may be under way. */
  async close(): Promise<void> {
    for (const cursor of this.#open) await this.#close(cursor);
  }

  /** The next file that can be opened, or null at the end of all. */
  async #next(): Promise<Cursor | null> {
    for (;;) {
      const { value: file, done } = this.#files.next();
      if (done === true || this.#isAborted) return null;
      const { first } = this.#options;
      const isFirst = !this.#hasBegun && file.path === first?.path;
      this.#hasBegun = true;
      try {
        const cursor = await this.#openFile(file, isFirst ? first.offset : 0);
        this.#open.add(cursor);
        return cursor;
      } catch (error) {
        this.#options.report(file.path, wrapError('read', file.path, error));
      }
    }
  }

  async #openFile(file: SourceFile, offset: number): Promise<Cursor> {
    const { path } = file;
    const base = { file, range: 0, offset, hasFailed: false, isOver: false };
    if (path === '-') {
      const stream = new StreamReader(this.#options.input ?? process.stdin);
      await stream.skip(offset);
      return { ...base, from: { kind: 'stream', stream }, size: Infinity, ranges: [] };
    }
    if (isNbdUri(path)) {
      const open = this.#options.openUri ?? openToReadOnly;
      const storage = await open(path);
      const ranges = await storageRanges(storage);
      return { ...base, from: { kind: 'storage', storage }, size: storage.size, ranges };
    }
    const { fd, size } = await openToRead(file);
    const known = await dataRanges(path, size, file.allocatedBytes);
    return {
      ...base,
      from: { kind: 'file', fd },
      size,
      ranges: known ?? [{ start: 0, end: size }],
    };
  }

  /** Takes rows of one file into the batch, in one part. */
  async #takeFrom(cursor: Cursor, batch: Batch): Promise<void> {
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
    if (cursor.from.kind === 'stream') await this.#takeStream(cursor, cursor.from.stream, batch);
    else await this.#takeRanges(cursor, batch, part);
    if (cursor.hasFailed) return;
    part.isLast = cursor.isOver;
    part.endRow = batch.base + batch.count;
    part.endOffset = cursor.offset;
    part.bytes = cursor.offset - start;
  }

  /** Takes range after range while there is room. */
  async #takeRanges(cursor: Cursor, batch: Batch, part: Part): Promise<void> {
    while (cursor.range < cursor.ranges.length) {
      const { start, end } = cursor.ranges[cursor.range]!;
      if (end <= cursor.offset) {
        cursor.range++;
        continue;
      }
      if (batch.count === this.#rows || batch.reads.length >= BATCH_READS) return;
      this.#skip(cursor, part, start);
      await this.#take(cursor, batch, part, end);
      if (cursor.hasFailed) return;
    }
    this.#skip(cursor, part, cursor.size);
    cursor.isOver = true;
  }

  /** Takes the next rows of a range that ends at `end`; the cursor moves over them. */
  async #take(cursor: Cursor, batch: Batch, part: Part, end: number): Promise<void> {
    const { from, offset } = cursor;
    const rows = this.#rows - batch.count;
    const most = from.kind === 'file' ? Math.min(rows, READ_ROWS) : rows;
    const length = Math.min(end - offset, most * BLOCK_SIZE);
    const row = batch.base + batch.count;
    const blocks = Math.ceil(length / BLOCK_SIZE);
    batch.count += blocks;
    cursor.offset += length;
    if (from.kind === 'file' && cursor.size > SMALL_FILE_BYTES) {
      batch.reads.push({ fd: from.fd, offset, length, row });
      batch.readers.push({ cursor, part });
      return;
    }
    const at = row * BLOCK_SIZE;
    this.#blocks.fill(0, at + length, (row + blocks) * BLOCK_SIZE);
    const bytes = this.#blocks.subarray(at, at + length);
    const read = { fd: -1, offset, length: blocks * BLOCK_SIZE, row };
    try {
      if (from.kind === 'storage') await from.storage.read(requests(offset, bytes));
      else if (from.kind === 'file') readFully(from.fd, bytes, offset);
    } catch (error) {
      this.#fail(cursor, part, read, () => {
        throw error;
      });
    }
    addNaming(batch, { cursor, part }, read);
  }

  async #takeStream(cursor: Cursor, stream: StreamReader, batch: Batch): Promise<void> {
    const row = batch.base + batch.count;
    const room = this.#blocks.subarray(
      row * BLOCK_SIZE,
      (row + this.#rows - batch.count) * BLOCK_SIZE,
    );
    const part = batch.parts.at(-1)!;
    const { offset } = cursor;
    let length;
    try {
      length = await stream.read(room);
    } catch (error) {
      this.#fail(cursor, part, { fd: -1, offset, length: 0, row }, () => {
        throw error;
      });
      return;
    }
    const blocks = Math.ceil(length / BLOCK_SIZE);
    room.fill(0, length, blocks * BLOCK_SIZE);
    batch.count += blocks;
    cursor.offset += length;
    cursor.isOver = stream.ended;
    if (blocks === 0) return;
    addNaming(batch, { cursor, part }, { fd: -1, offset, length: blocks * BLOCK_SIZE, row });
  }

  /** The file ends in front of a read that failed: `cause` throws why. */
  #fail(cursor: Cursor, part: Part, read: FileRead, cause: (read: FileRead) => void): void {
    const start = part.endOffset - part.bytes;
    cursor.hasFailed = true;
    cursor.isOver = true;
    part.isLast = true;
    part.endRow = read.row;
    part.endOffset = read.offset;
    part.bytes = Math.max(0, read.offset - start);
    if (this.#cursor === cursor) this.#cursor = null;
    const { path } = cursor.file;
    try {
      cause(read);
      throw new VdoError('Truncated', `${path} ends early: it changed while it was read`, { path });
    } catch (error) {
      this.#options.report(path, wrapError('read', path, error, read.offset));
    }
  }

  /** Counts the hole from where the cursor stands to byte `end`. */
  #skip(cursor: Cursor, part: Part, end: number): void {
    if (end <= cursor.offset) return;
    part.holeBlocks += Math.ceil((end - cursor.offset) / BLOCK_SIZE);
    cursor.offset = end;
  }

  async #close(cursor: Cursor): Promise<void> {
    if (!this.#open.delete(cursor)) return;
    if (cursor.from.kind === 'stream') cursor.from.stream.abort();
    else if (cursor.from.kind === 'storage') await cursor.from.storage.close();
    else fs.closeSync(cursor.from.fd);
  }
}

/** A long read as several, which are under way together. */
function requests(offset: number, bytes: Uint8Array): Extent[] {
  const extents: Extent[] = [];
  for (let at = 0; at < bytes.length; at += REQUEST_BYTES) {
    extents.push({ offset: offset + at, bytes: bytes.subarray(at, at + REQUEST_BYTES) });
  }
  return extents;
}

/** Rows whose bytes are there are named along with those before, if they are neighbours. */
function addNaming(batch: Batch, reader: Batch['readers'][number], read: FileRead): void {
  const last = batch.reads.at(-1);
  const end = last === undefined ? -1 : last.row + last.length / BLOCK_SIZE;
  if (last?.fd === -1 && end === read.row && read.row - last.row < READ_ROWS) {
    batch.reads[batch.reads.length - 1] = { ...last, length: last.length + read.length };
    return;
  }
  for (let done = 0; done < read.length; done += READ_ROWS * BLOCK_SIZE) {
    const length = Math.min(read.length - done, READ_ROWS * BLOCK_SIZE);
    batch.reads.push({ ...read, length, row: read.row + done / BLOCK_SIZE });
    batch.readers.push(reader);
  }
}

function openToReadOnly(uri: string): Promise<Storage> {
  return openStorage(uri, { readOnly: true });
}

/** Opens a plain file or block device. */
function openToRead(file: SourceFile): Promise<{ fd: number; size: number }> {
  if (!file.isInFolder) return openFile(file.path, { readOnly: true });
  const fd = fs.openSync(file.path, 'r');
  return Promise.resolve({ fd, size: fs.fstatSync(fd).size });
}

function readFully(fd: number, bytes: Uint8Array, offset: number): void {
  for (let done = 0; done < bytes.length;) {
    const moved = fs.readSync(fd, bytes, done, bytes.length - done, offset + done);
    if (moved === 0) throw new VdoError('Truncated', 'it ends early: it changed while it was read');
    done += moved;
  }
}

/** Gets the error that a thread has met. */
function readAgain({ fd, offset, length }: FileRead): void {
  readFully(fd, Buffer.alloc(length), offset);
}
