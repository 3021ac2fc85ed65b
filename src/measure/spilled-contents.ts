/**
 * Contents that are on disk: sorted runs in a store, and in memory a filter for each that says which
 * contents are certainly new.
 *
 * - When the table has grown to its bound all of it becomes a run, and it begins anew. No look-up ever
 *   goes to disk: whether a content was new is certain when all runs are merged, in the end.
 * - A store of more than eight runs is merged into one.
 */
import { SharedMatrix, SourceSets } from './source-sets.ts';
import { FingerprintFilter } from './fingerprint-filter.ts';
import { MAX_TIMES, type FingerprintTable } from './fingerprint-table.ts';
import { mergeRuns, type MergedRecord, type MergeInput } from './merge.ts';
import { MAXIMUM_REFERENCE_COUNT } from '../base/constants.ts';
import { RECORD_WORDS, SEGMENTS, type MeasureStore, type RunLabel } from './store.ts';
import { ELSEWHERE, isPlace, type StoredModel } from './stored-model.ts';

const MAX_RUNS = 8;
/** Bytes that a record takes in the table, free places included. */
const TABLE_RECORD_BYTES = 26;

/** What only all records together tell. */
export interface Walked {
  readonly uniqueBlocks: number;
  /** Blocks that hold them uncompressed, 254 references each. */
  readonly copies: number;
  readonly references: number[];
  readonly shared: number[][] | null;
}

export class SpilledContents {
  readonly #store: MeasureStore;
  readonly #table: FingerprintTable;
  readonly #sets: SourceSets | null;
  readonly #compression: boolean;
  readonly #memoryBytes: number;
  #runs: RunLabel[];
  #filters: FingerprintFilter[] = [];

  constructor(
    store: MeasureStore,
    table: FingerprintTable,
    sets: SourceSets | null,
    options: { readonly compression: boolean; readonly memoryBytes: number },
  ) {
    this.#store = store;
    this.#table = table;
    this.#sets = sets;
    this.#compression = options.compression;
    this.#memoryBytes = options.memoryBytes;
    this.#runs = [...store.runs];
  }

  /** Whether some contents are on disk alone. */
  get isSpilled(): boolean {
    return this.#filters.length > 0;
  }

  /** Bytes of the filters. */
  get bytes(): number {
    return this.#filters.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** False: the content is not on disk. */
  mayHold(n0: number, n1: number): boolean {
    for (const filter of this.#filters) if (filter.has(n0, n1)) return true;
    return false;
  }

  /** Takes over what earlier runs have left: into the table where it fits, else into filters. */
  async load(stored: StoredModel | null): Promise<void> {
    const isSmall = this.#store.records * TABLE_RECORD_BYTES <= this.#memoryBytes;
    for (const { run, records } of this.#runs) {
      const filter = isSmall ? null : new FingerprintFilter(records);
      for (let segment = 0; segment < SEGMENTS; segment++) {
        const words = await this.#store.readSegment(run, segment);
        if (filter === null) this.#loadRecords(words, stored);
        else {
          for (let at = 0; at < words.length; at += RECORD_WORDS) {
            filter.add(words[at]!, words[at + 1]!);
          }
        }
      }
      if (filter !== null) this.#filters.push(filter);
    }
    // The table holds them now; they stay on disk until a later state is committed.
    if (isSmall) this.#runs = [];
  }

  /** Whether the table has grown beyond its bound. */
  get needsRoom(): boolean {
    return this.#table.bytes > this.#memoryBytes;
  }

  /** Puts the table away. No row may be pending. */
  async makeRoom(): Promise<void> {
    await this.#spill();
    if (this.#runs.length > MAX_RUNS) await this.#compact();
  }

  /** Puts everything away and commits it with `state`. */
  async save(state: unknown): Promise<void> {
    await this.#spill();
    if (this.#runs.length > 1) await this.#compact();
    await this.#store.commit(state, this.#runs);
  }

  /** Looks at every content once. Only after everything was put away with `save`. */
  walk(sources: number): Promise<Walked> {
    const walker = new Walker(this.#sets, sources);
    return walker.walk(this.#inputs());
  }

  #loadRecords(words: Uint32Array, stored: StoredModel | null): void {
    const table = this.#table;
    for (let at = 0; at < words.length; at += RECORD_WORDS) {
      const n0 = words[at]!;
      const n1 = words[at + 1]!;
      const word2 = words[at + 2]!;
      const n3 = ((word2 >>> 24) | ((word2 & 0xff0000) << 8)) >>> 0;
      let place = table.find(n0, n1, n3);
      if (place < 0) place = table.insert(place, n0, n1, n3);
      const times = words[at + 3]!;
      const record = table.words;
      const size = (word2 & 0xff00) << 8;
      record[place + 3] = ((n3 & 0xff000000) | size | Math.min(times, MAX_TIMES)) >>> 0;
      record[place + 2] = this.#compression ? words[at + 5]! : times;
      if (this.#sets !== null) record[place + 4] = words[at + 4]!;
      stored?.addKept(words[at + 5]!, times);
    }
  }

  async #spill(): Promise<void> {
    const table = this.#table;
    if (table.size === 0) return;
    const writer = this.#store.writeRun(this.#nextRun());
    const filter = new FingerprintFilter(table.size);
    for (let segment = 0; segment < SEGMENTS; segment++) {
      table.eachOf(segment, (words, at) => {
        const to = writer.next(segment);
        const record = writer.words;
        const word3 = words[at + 3]!;
        const word2 = words[at + 2]!;
        record[to] = words[at]!;
        record[to + 1] = words[at + 1]!;
        record[to + 2] = ((segment << 24) | ((word3 >>> 8) & 0xffff00)) >>> 0;
        record[to + 3] = this.#compression ? word3 & MAX_TIMES : word2;
        record[to + 4] = this.#sets === null ? 0 : words[at + 4]!;
        record[to + 5] = this.#compression && isPlace(word2) ? word2 : ELSEWHERE;
        record[to + 6] = 0;
        filter.add(words[at]!, words[at + 1]!);
      });
      await writer.drain();
    }
    this.#runs.push(await writer.finish());
    this.#filters.push(filter);
    table.clear();
  }

  /** Makes one run of all. */
  async #compact(): Promise<void> {
    const writer = this.#store.writeRun(this.#nextRun());
    const filter = new FingerprintFilter(this.#runs.reduce((sum, { records }) => sum + records, 0));
    await mergeRuns(
      this.#inputs(),
      (merged, words) => {
        const to = writer.next(merged.word2 >>> 24);
        const record = writer.words;
        record[to] = merged.n0;
        record[to + 1] = merged.n1;
        record[to + 2] = merged.word2;
        record[to + 3] = merged.times;
        record[to + 4] = setOf(merged, words, this.#sets);
        record[to + 5] = merged.inputs.length === 1 ? placeOf(merged, words) : ELSEWHERE;
        record[to + 6] = 0;
        filter.add(merged.n0, merged.n1);
      },
      () => writer.drain(),
    );
    this.#runs = [await writer.finish()];
    this.#filters = [filter];
  }

  #nextRun(): number {
    const kept = this.#store.runs.map(({ run }) => run);
    return Math.max(0, ...kept, ...this.#runs.map(({ run }) => run)) + 1;
  }

  #inputs(): MergeInput[] {
    return this.#runs.map(({ run }) => ({
      readSegment: (segment: number) => this.#store.readSegment(run, segment),
    }));
  }
}

function setOf(
  { inputs, places }: MergedRecord,
  words: readonly Uint32Array[],
  sets: SourceSets | null,
): number {
  let set = 0;
  if (sets === null) return set;
  for (let i = 0; i < inputs.length; i++) {
    set = sets.union(set, words[inputs[i]!]![places[i]! + 4]!);
  }
  return set;
}

const placeOf = ({ inputs, places }: MergedRecord, words: readonly Uint32Array[]): number =>
  words[inputs[0]!]![places[0]! + 5]!;

/** Counts contents as they come by. */
export class Walker {
  readonly #sets: SourceSets | null;
  readonly #matrix: SharedMatrix | null;
  readonly #references: number[] = [];
  readonly #sources: number;
  #uniqueBlocks = 0;
  #copies = 0;

  constructor(sets: SourceSets | null, sources: number) {
    this.#sets = sets;
    this.#matrix = sets === null ? null : new SharedMatrix(sets, sources);
    this.#sources = sources;
  }

  /** One content. */
  add(times: number, set: number): void {
    this.#uniqueBlocks++;
    this.#copies += Math.ceil(times / MAXIMUM_REFERENCE_COUNT);
    const place = Math.ceil(Math.log2(times));
    this.#references[place] = (this.#references[place] ?? 0) + 1;
    this.#matrix?.add(set);
  }

  async walk(inputs: readonly MergeInput[]): Promise<Walked> {
    await mergeRuns(inputs, (merged, words) => {
      this.add(merged.times, setOf(merged, words, this.#sets));
    });
    return this.finish();
  }

  finish(): Walked {
    const references = Array.from(this.#references, (contents) => contents ?? 0);
    const alone = this.#sources === 1 ? [[this.#uniqueBlocks]] : null;
    const shared = this.#matrix === null ? alone : this.#matrix.finish();
    return { uniqueBlocks: this.#uniqueBlocks, copies: this.#copies, references, shared };
  }
}
