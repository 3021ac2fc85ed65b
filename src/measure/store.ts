/**
 * What a measurement keeps on disk: a `level` database in a directory, with sorted runs of records and a
 * label that says what they are.
 *
 * A record is seven words:
 *
 *     0, 1  words 0 and 1 of the name
 *     2     bits 31 … 24 segment, 23 … 16 top byte of the name, 15 … 8 size of the fragment in units of
 *           16 bytes, bits 7 … 0 zero
 *     3     times seen
 *     4     set of sources
 *     5     where it is stored (docs/MEASURE.md), 2^32 − 1 = not known
 *     6     zero
 *
 * - A run holds each content once, ordered by segment and name. It lies in pieces of at most 1 MiB under
 *   the keys `run/RUN/SEGMENT/PIECE`, all in decimal of fixed length, so that a run is read and written
 *   in order; two runs never touch the same keys.
 * - A run counts once the label names it: whatever was being written when a process died is removed when
 *   the store is next opened.
 */
import { readdirSync, statSync } from 'node:fs';
import { Level } from 'level';
import { assert } from '../base/assert.ts';
import { asBuffer } from '../base/bytes.ts';
import { MiB } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';

type Database = Level<string, Buffer>;

export const RECORD_WORDS = 7;
export const SEGMENTS = 256;
const LABEL_KEY = 'label';
const FORMAT = 'uvdo-measure-1';
const PIECE_BYTES = Math.floor(MiB / (4 * RECORD_WORDS)) * 4 * RECORD_WORDS;
const CACHE_BYTES = 8 * MiB;
const WRITE_BUFFER_BYTES = 16 * MiB;
const FILE_BYTES = 64 * MiB;

export interface RunLabel {
  readonly run: number;
  readonly records: number;
}

/** The label: `state` is the measurement's own, as JSON has it. */
interface Label {
  readonly format: string;
  readonly runs: readonly RunLabel[];
  readonly state: unknown;
}

const number = (value: number, digits: number): string => String(value).padStart(digits, '0');
const prefix = (run: number): string => `run/${number(run, 8)}/`;
const keyOf = (run: number, segment: number, piece: number): string =>
  `${prefix(run)}${number(segment, 3)}/${number(piece, 6)}`;

export class MeasureStore {
  readonly directory: string;
  readonly #db: Database;
  #runs: RunLabel[];
  #state: unknown;

  private constructor(directory: string, db: Database, label: Label) {
    this.directory = directory;
    this.#db = db;
    this.#runs = [...label.runs];
    this.#state = label.state;
  }

  /**
   * Opens the store in `directory`, or begins one where there is none. Fails with `Busy` where another
   * process has it open, `Io` where there can be none, `InvalidArgument` for anything else in there or,
   * with `mustExist`, for none.
   */
  static async open(directory: string, mustExist = false): Promise<MeasureStore> {
    const isThere = isOccupied(directory);
    if (mustExist && !isThere) {
      const message = `${directory} holds no measurement: --store makes them`;
      throw new VdoError('InvalidArgument', message, { directory });
    }
    if (isThere && !readdirSync(directory).includes('CURRENT')) {
      const message = `${directory} is no store of measurements: give a new or an empty folder`;
      throw new VdoError('InvalidArgument', message, { directory });
    }
    const db = await openDatabase(directory);
    try {
      const text = await db.get(LABEL_KEY);
      const label = text === undefined ? null : (JSON.parse(text.toString()) as Label);
      if (isThere && label?.format !== FORMAT) {
        const message = `${directory} is no store of measurements of this version`;
        throw new VdoError('InvalidArgument', message, { directory });
      }
      const store = new MeasureStore(
        directory,
        db,
        label ?? { format: FORMAT, runs: [], state: null },
      );
      if (label === null) await store.commit(null, []);
      await store.#removeUnnamed();
      return store;
    } catch (error) {
      await db.close();
      throw error;
    }
  }

  get runs(): readonly RunLabel[] {
    return this.#runs;
  }

  get records(): number {
    return this.#runs.reduce((sum, { records }) => sum + records, 0);
  }

  /** What `commit` was last given; null in a new store. */
  get state(): unknown {
    return this.#state;
  }

  /** Begins a run of a number that no other has; it counts once it is committed. */
  writeRun(run: number): RunWriter {
    return new RunWriter(this.#db, run);
  }

  /** From now on the store consists of these runs, and `state` says what they are; the rest goes. */
  async commit(state: unknown, runs: readonly RunLabel[]): Promise<void> {
    const label: Label = { format: FORMAT, runs, state };
    await this.#db.put(LABEL_KEY, Buffer.from(JSON.stringify(label)), { sync: true });
    this.#runs = [...runs];
    this.#state = state;
    await this.#removeUnnamed();
  }

  /** The records of one segment of a run, in order. */
  async readSegment(run: number, segment: number): Promise<Uint32Array> {
    const from = { gte: keyOf(run, segment, 0), lte: keyOf(run, segment, 999_999) };
    const pieces = await this.#db.values(from).all();
    const bytes = Buffer.concat(pieces);
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    // Buffers of a pool may begin anywhere; those of four words do not.
    assert(words.length % RECORD_WORDS === 0, 'whole records');
    return words;
  }

  close(): Promise<void> {
    return this.#db.close();
  }

  async #removeUnnamed(): Promise<void> {
    const named = new Set(this.#runs.map(({ run }) => prefix(run)));
    const first = prefix(0).length;
    for (let from = 'run/'; ;) {
      const [key] = await this.#db.keys({ gte: from, lt: 'run0', limit: 1 }).all();
      if (key === undefined) return;
      const start = key.slice(0, first);
      const end = `${start.slice(0, -1)}0`;
      if (!named.has(start)) await this.#db.clear({ gte: start, lt: end });
      from = end;
    }
  }
}

/** Writes the records of a run, ordered by segment and name. */
export class RunWriter {
  readonly run: number;
  readonly #db: Database;
  readonly #piece = new Uint32Array(PIECE_BYTES / 4);
  #words = 0;
  #segment = 0;
  #pieces = 0;
  #records = 0;
  #writing: Promise<void> = Promise.resolve();

  constructor(db: Database, run: number) {
    this.#db = db;
    this.run = run;
  }

  /** Room for the next record, of `segment`: seven words from the returned place on of `words`. */
  next(segment: number): number {
    if (segment !== this.#segment || this.#words === this.#piece.length) this.#endPiece(segment);
    const at = this.#words;
    this.#words += RECORD_WORDS;
    this.#records++;
    return at;
  }

  get words(): Uint32Array {
    return this.#piece;
  }

  /** Resolves when what was given so far is with the database: call now and then, and memory is bounded. */
  drain(): Promise<void> {
    return this.#writing;
  }

  /** Ends the run. */
  async finish(): Promise<RunLabel> {
    this.#endPiece(this.#segment);
    await this.#writing;
    return { run: this.run, records: this.#records };
  }

  #endPiece(segment: number): void {
    if (this.#words > 0) {
      const key = keyOf(this.run, this.#segment, this.#pieces++);
      const value = Buffer.from(asBuffer(new Uint8Array(this.#piece.buffer, 0, this.#words * 4)));
      this.#writing = this.#writing.then(() => this.#db.put(key, value));
      this.#writing.catch(() => undefined);
    }
    if (segment !== this.#segment) this.#pieces = 0;
    this.#segment = segment;
    this.#words = 0;
  }
}

/** Whether there is a folder with something in it. Fails with `InvalidArgument` for another thing. */
function isOccupied(directory: string): boolean {
  const stats = statSync(directory, { throwIfNoEntry: false });
  if (stats === undefined) return false;
  if (stats.isDirectory()) return readdirSync(directory).length > 0;
  throw new VdoError('InvalidArgument', `${directory} is not a folder`, { directory });
}

async function openDatabase(directory: string): Promise<Database> {
  const db: Database = new Level(directory, {
    keyEncoding: 'utf8',
    valueEncoding: 'buffer',
    compression: false,
    cacheSize: CACHE_BYTES,
    writeBufferSize: WRITE_BUFFER_BYTES,
    maxFileSize: FILE_BYTES,
  });
  try {
    await db.open();
  } catch (error) {
    const cause = (error as Error).cause as { code?: string; message?: string } | undefined;
    if (cause?.code === 'LEVEL_LOCKED') {
      throw new VdoError('Busy', `the store in ${directory} is in use`, { directory }, error);
    }
    const message = `no store can be kept in ${directory}: ${cause?.message ?? String(error)}`;
    throw new VdoError('Io', message, { directory }, error);
  }
  return db;
}
