/**
 * An index in a directory beside the volume, by the package `level`: it keeps every block ever
 * stored, a window without end, and a restart does not empty it.
 *
 * - Key: the 16-byte name. Value: five bytes, 36 bits of block number and 4 of state, as a block map
 *   entry has them. One further key, `uvdo`, says whose index it is.
 * - Updates wait in memory and are written in batches beside the engine's work; lookups see them.
 * - Nothing is synced: a kill loses the last updates. Missing and stale records cost space, not data.
 * - An index of another volume (another nonce) is discarded, and so is a damaged one: `warning` says
 *   so. Should reading or writing fail later, the index knows nothing from then on, and `warning`
 *   says that. A volume is never held up by its index.
 */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Level } from 'level';
import { assert } from '../base/assert.ts';
import { asBuffer, bytesEqual, getU32, getU64, setU32, setU64 } from '../base/bytes.ts';
import { MiB, RECORD_NAME_SIZE } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import type { Advice, HashIndex, IndexStatistics } from './hash-index.ts';

type Database = Level<Buffer, Buffer>;

const LABEL_KEY = Buffer.from('uvdo');
const LABEL_VERSION = 1;
const NONCE_SIZE = 8;
/** Version, nonce, number of records. */
const LABEL_SIZE = 1 + NONCE_SIZE + 8;
const VALUE_SIZE = 5;
const TWO_32 = 2 ** 32;

/** Updates that make a batch worth writing. */
const BATCH_RECORDS = 4096;
/** Updates that wait at most while a batch is being written. */
const MAX_WAITING_RECORDS = 4 * BATCH_RECORDS;
/** Names of one native call: several run at once on the threads of libuv. */
const LOOKUP_RECORDS = 512;
const CACHE_BYTES = 32 * MiB;
const WRITE_BUFFER_BYTES = 16 * MiB;
const FILE_BYTES = 32 * MiB;
/** A record waiting to be written: key, map entry. */
const WAITING_BYTES = 100;

/** What LevelDB puts in its directory: nothing else is ever removed. */
const LEVELDB_FILE = /^(CURRENT|LOCK|LOG(\.old)?|MANIFEST-\d+|\d+\.(ldb|sst|log|dbtmp))$/;

export interface LevelIndexOptions {
  /** Nonce of the volume, eight bytes. */
  readonly nonce: Uint8Array;
}

export interface LevelIndex extends HashIndex {
  /** Why the index began empty or knows nothing any more; null while all is well. */
  readonly warning: VdoError | null;
}

/**
 * Opens the index in `directory`, or begins one. Fails with `Busy` where another process has it
 * open, with `Io` where there can be none (no permission, a file in the way).
 */
export async function openLevelIndex(
  directory: string,
  { nonce }: LevelIndexOptions,
): Promise<LevelIndex> {
  assert(nonce.length === NONCE_SIZE, 'size of a nonce');
  let warning: VdoError | null = null;
  try {
    const db = await openDatabase(directory);
    const label = await readLabel(db);
    if (label !== null && bytesEqual(label.nonce, nonce)) {
      return new LevelDbIndex(directory, db, nonce, label.records, null);
    }
    const fresh = label === null && (await isEmpty(db));
    await db.close();
    if (!fresh) warning = new VdoError('Corrupt', `${directory} was another volume's index`);
  } catch (error) {
    if (error instanceof VdoError) throw error;
    const message = `the index in ${directory} was damaged: deduplication starts over`;
    warning = new VdoError('Corrupt', message, { directory }, error);
  }
  try {
    await removeDatabase(directory);
    const db = await openDatabase(directory);
    const index = new LevelDbIndex(directory, db, nonce, 0, warning);
    await index.writeLabel();
    return index;
  } catch (error) {
    if (error instanceof VdoError) throw error;
    throw new VdoError('Io', `no index can be kept in ${directory}`, { directory }, error);
  }
}

async function openDatabase(directory: string): Promise<Database> {
  const db: Database = new Level(directory, {
    keyEncoding: 'buffer',
    valueEncoding: 'buffer',
    compression: false,
    cacheSize: CACHE_BYTES,
    writeBufferSize: WRITE_BUFFER_BYTES,
    maxFileSize: FILE_BYTES,
  });
  try {
    await db.open();
  } catch (error) {
    if (codeOf(error) === 'LEVEL_LOCKED') {
      throw new VdoError('Busy', `the index in ${directory} is in use`, { directory }, error);
    }
    throw error;
  }
  return db;
}

/** The package wraps the error of LevelDB into one that says only that the database is not open. */
function codeOf(error: unknown): unknown {
  const { code, cause } = error as { code?: unknown; cause?: unknown };
  return cause instanceof Error ? codeOf(cause) : code;
}

async function removeDatabase(directory: string): Promise<void> {
  const names = await readdir(directory).catch((error: unknown): string[] => {
    if (codeOf(error) === 'ENOENT') return [];
    throw error;
  });
  for (const name of names) if (LEVELDB_FILE.test(name)) await rm(join(directory, name));
}

async function readLabel(db: Database): Promise<{ nonce: Uint8Array; records: number } | null> {
  const label = await db.get(LABEL_KEY);
  if (label === undefined || label.length !== LABEL_SIZE || label[0] !== LABEL_VERSION) return null;
  const records = getU64(label, 1 + NONCE_SIZE);
  return { nonce: label.subarray(1, 1 + NONCE_SIZE), records: Number.isNaN(records) ? 0 : records };
}

async function isEmpty(db: Database): Promise<boolean> {
  return (await db.keys({ limit: 1 }).all()).length === 0;
}

/** Where a block lies as one exact number: 16 · pbn + state; 0 = nowhere. */
type Place = number;

function encodePlace(place: Place): Buffer {
  const value = Buffer.allocUnsafe(VALUE_SIZE);
  setU32(value, 0, (place % TWO_32) | 0);
  value[4] = Math.floor(place / TWO_32);
  return value;
}

const decodePlace = (value: Buffer): Place =>
  value.length === VALUE_SIZE ? value[4]! * TWO_32 + getU32(value, 0) : 0;

class LevelDbIndex implements LevelIndex {
  readonly kind = 'level';
  readonly #directory: string;
  readonly #db: Database;
  readonly #nonce: Uint8Array;
  /** Updates by name (as latin-1 text): those that wait, and those being written. */
  #waiting = new Map<string, Place>();
  #written = new Map<string, Place>();
  #writing: Promise<void> | null = null;
  #warning: VdoError | null;
  #failed = false;
  #records: number;
  #queriesFound = 0;
  #queriesNotFound = 0;
  #updatesFound = 0;
  #updatesNotFound = 0;

  constructor(
    directory: string,
    db: Database,
    nonce: Uint8Array,
    records: number,
    warning: VdoError | null,
  ) {
    this.#directory = directory;
    this.#db = db;
    this.#nonce = nonce.slice();
    this.#records = records;
    this.#warning = warning;
  }

  get warning(): VdoError | null {
    return this.#warning;
  }

  async lookup(names: Uint8Array, count: number, advice: Advice): Promise<void> {
    const text = asBuffer(names).toString('latin1', 0, count * RECORD_NAME_SIZE);
    const asked: number[] = [];
    for (let i = 0; i < count; i++) {
      const name = text.slice(i * RECORD_NAME_SIZE, (i + 1) * RECORD_NAME_SIZE);
      const place = this.#waiting.get(name) ?? this.#written.get(name);
      this.#answer(advice, i, place ?? 0);
      if (place === undefined) asked.push(i);
    }
    if (!this.#failed && asked.length > 0) {
      try {
        await this.#ask(names, asked, advice);
      } catch (error) {
        this.#fail('reading', error);
      }
    }
    let found = 0;
    for (let i = 0; i < count; i++) if (advice.pbn[i] !== 0) found++;
    this.#queriesFound += found;
    this.#queriesNotFound += count - found;
  }

  async update(names: Uint8Array, count: number, locations: Advice): Promise<void> {
    if (this.#failed) return;
    const text = asBuffer(names).toString('latin1', 0, count * RECORD_NAME_SIZE);
    for (let i = 0; i < count; i++) {
      const name = text.slice(i * RECORD_NAME_SIZE, (i + 1) * RECORD_NAME_SIZE);
      const pbn = locations.pbn[i]!;
      if (this.#waiting.has(name) || this.#written.has(name)) this.#updatesFound++;
      else {
        this.#updatesNotFound++;
        this.#records++;
      }
      this.#waiting.set(name, pbn === 0 ? 0 : pbn * 16 + locations.state[i]!);
    }
    if (this.#waiting.size < BATCH_RECORDS) return;
    if (this.#writing !== null && this.#waiting.size < MAX_WAITING_RECORDS) return;
    // Updates that come faster than the disk takes them wait for it here.
    while (this.#writing !== null) await this.#writing;
    this.#write();
  }

  /**
   * Records are counted when they are posted: a name that is posted again long after counts twice,
   * since finding out would cost a lookup.
   */
  statistics(): IndexStatistics {
    const waiting = this.#waiting.size + this.#written.size;
    return {
      entriesIndexed: this.#records,
      queriesFound: this.#queriesFound,
      queriesNotFound: this.#queriesNotFound,
      updatesFound: this.#updatesFound,
      updatesNotFound: this.#updatesNotFound,
      entriesDiscarded: 0,
      memoryBytes: CACHE_BYTES + 2 * WRITE_BUFFER_BYTES + waiting * WAITING_BYTES,
    };
  }

  async close(): Promise<void> {
    while (this.#writing !== null) await this.#writing;
    if (!this.#failed) this.#write();
    while (this.#writing !== null) await this.#writing;
    try {
      await this.#db.close();
      // What could not be read would fail again.
      if (this.#failed) await removeDatabase(this.#directory);
    } catch (error) {
      this.#fail('closing', error);
    }
  }

  /** Says whose index this is. */
  async writeLabel(): Promise<void> {
    await this.#db.put(LABEL_KEY, this.#label());
  }

  #label(): Buffer {
    const label = Buffer.alloc(LABEL_SIZE);
    label[0] = LABEL_VERSION;
    label.set(this.#nonce, 1);
    setU64(label, 1 + NONCE_SIZE, this.#records);
    return label;
  }

  /** Looks up the names `asked` for, a few native calls at once. */
  async #ask(names: Uint8Array, asked: readonly number[], advice: Advice): Promise<void> {
    // One copy: the keys must outlive the call, the caller's array may not.
    const copy = Buffer.from(names);
    const calls: Promise<void>[] = [];
    for (let first = 0; first < asked.length; first += LOOKUP_RECORDS) {
      const rows = asked.slice(first, first + LOOKUP_RECORDS);
      const keys = rows.map((i) => copy.subarray(i * RECORD_NAME_SIZE, (i + 1) * RECORD_NAME_SIZE));
      const call = async (): Promise<void> => {
        const values = await this.#db.getMany(keys);
        values.forEach((value, k) => {
          if (value !== undefined) this.#answer(advice, rows[k]!, decodePlace(value));
        });
      };
      calls.push(call());
    }
    const results = await Promise.allSettled(calls);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  #answer(advice: Advice, i: number, place: Place): void {
    advice.pbn[i] = Math.floor(place / 16);
    advice.state[i] = place < 16 ? 0 : place % 16;
  }

  /** Begins to write what waits. No other write may be on its way. */
  #write(): void {
    if (this.#waiting.size === 0) return;
    this.#written = this.#waiting;
    this.#waiting = new Map();
    this.#writing = this.#writeBatch(this.#written)
      .then(
        () => this.#written.clear(),
        (error: unknown) => this.#fail('writing', error),
      )
      .then(() => {
        this.#writing = null;
      });
  }

  async #writeBatch(updates: ReadonlyMap<string, Place>): Promise<void> {
    const batch = this.#db.batch();
    for (const [name, place] of updates) {
      const key = Buffer.from(name, 'latin1');
      if (place === 0) batch.del(key);
      else batch.put(key, encodePlace(place));
    }
    batch.put(LABEL_KEY, this.#label());
    await batch.write();
  }

  #fail(doing: string, error: unknown): void {
    this.#failed = true;
    this.#waiting.clear();
    this.#written.clear();
    this.#warning ??= new VdoError(
      'Io',
      `${doing} the index in ${this.#directory} failed: it is not used any more`,
      { directory: this.#directory },
      error,
    );
  }
}
