/**
 * Hashing and compressing on several threads over one arena: pure work, nothing else leaves the
 * thread that owns the volume's state. The words worker, thread and Atomics end in this folder;
 * everyone else awaits a function over rows.
 *
 * - The calling thread does its share. A small job runs on it alone, since waking a core costs 50 µs.
 * - One job at a time; a second one waits for the first.
 * - A worker that dies fails the job at hand with `Io`, never hangs it; later jobs go on without it.
 * - Idle workers use no processor and do not keep the process alive.
 */
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { VdoError } from '../base/errors.ts';
import { MAX_THREADS, type Arena } from '../kernels/arena.ts';
import { createKernels, type Kernels } from '../kernels/kernels.ts';
import * as protocol from './protocol.ts';

export interface ComputePool {
  /** Threads beside the calling one; 0 where all runs inline. */
  readonly workers: number;
  /** The kernels of the calling thread, for single comparisons. */
  readonly kernels: Kernels;
  /** Fills `names` and `zero` of rows `first` … `end` − 1. Fails with `Io` if a worker dies. */
  hash(first: number, end: number): Promise<void> | void;
  /**
   * Fills `fragments` and `fragmentSizes` of the first `count` of `rows`, each named once. `rows` is
   * the caller's again when the call ends. Fails with `Io` if a worker dies.
   */
  compress(rows: Int32Array, count: number): Promise<void> | void;
  /**
   * Begins to read files into rows and to name those, on the workers alone until the caller joins with
   * `finish`; other jobs run on the calling thread meanwhile. One at a time. With `staging` the bytes of
   * files go to rows from there on, 64 for each thread, again and again, and only names and zero flags to
   * the rows of each read, 64 at most. With `compress` those rows are compressed first.
   */
  load(reads: readonly FileRead[], staging?: number, compress?: RowList): Promise<Load>;
  /** Waits for `work`, and takes part in a load meanwhile, if there is one. */
  during<T>(work: Promise<T>): Promise<T>;
  /** Ends the workers, after the job at hand. Later jobs run inline. */
  close(): Promise<void>;
}

/** Bytes of a file that go to rows of the arena. */
export interface FileRead {
  /** −1: the bytes are there and only to be named. */
  readonly fd: number;
  readonly offset: number;
  /** The rest of a last partial row becomes zeros, unless the bytes are there. */
  readonly length: number;
  readonly row: number;
}

/** The first `count` of `rows`, each named once. */
export interface RowList {
  readonly rows: Int32Array;
  readonly count: number;
}

export interface Load {
  /**
   * Takes part until all is done. Returns the indexes of reads that came short: of a file that ended
   * early or failed. Fails with `Io` if a worker dies.
   */
  finish(): Promise<readonly number[]>;
}

/** Fewer rows than these run inline: some 60 to 150 µs of work. */
const HASH_INLINE_ROWS = 192;
const COMPRESS_INLINE_ROWS = 24;
/** Rows taken at once: enough to be cheap to share out, few enough that the last ones end together. */
const HASH_CHUNK_ROWS = 64;
/** How long the calling thread sleeps for the last chunks of others before its event loop turns. */
const TAIL_MS = 1;
const MAX_DEFAULT_WORKERS = 7;

/** One worker per core, less the calling thread's; at most seven: the state is serial beyond. */
export function defaultWorkers(): number {
  return Math.max(0, Math.min(availableParallelism() - 1, MAX_DEFAULT_WORKERS));
}

/**
 * A pool of `workers` threads, 0 … 15, over `arena`; 0 = all inline. Run from its
 * TypeScript sources it uses the built worker, or runs inline where nothing is built. Fails with
 * `Io` where a thread cannot start. `workerUrl` is for tests.
 */
export async function createPool(
  arena: Arena,
  workers: number,
  workerUrl: URL | null = findWorker(),
): Promise<ComputePool> {
  assert(Number.isInteger(workers) && workers >= 0 && workers < MAX_THREADS, 'number of workers');
  const kernels = createKernels(arena);
  if (workers === 0 || workerUrl === null) return new InlinePool(arena, kernels);
  const members = Array.from({ length: workers }, (_, index) => newMember(workerUrl, arena, index));
  try {
    await Promise.all(members.map(started));
  } catch (error) {
    await Promise.all(members.map(({ worker }) => worker.terminate()));
    throw error;
  }
  return new ThreadPool(arena, kernels, members);
}

/** Beside this file when built; in dist/ when this file runs from its source; null where neither. */
function findWorker(): URL | null {
  const places = ['./worker.js', '../../dist/src/workers/worker.js'];
  const urls = places.map((place) => new URL(place, import.meta.url));
  return urls.find((url) => existsSync(url)) ?? null;
}

/** Reads that one job can have beside `places` rows to be compressed. */
export function maxReads(arena: Arena, places = 0): number {
  return Math.floor((arena.rowList.length - places) / protocol.LOAD_WORDS);
}

/** Puts rows to be compressed and reads into the arena's row list; returns the number of chunks. */
function listLoad(
  arena: Arena,
  reads: readonly FileRead[],
  staging: number,
  { rows, count }: RowList,
): number {
  const { rowList, control } = arena;
  assert(count + reads.length * protocol.LOAD_WORDS <= rowList.length, 'reads of one job');
  Atomics.store(control, protocol.STAGING, staging);
  Atomics.store(control, protocol.PLACES, count);
  rowList.set(rows.subarray(0, count));
  reads.forEach(({ fd, offset, length, row }, i) => {
    const words = [fd, length, Math.floor(offset / 2 ** 32), offset | 0, row];
    rowList.set(words, count + i * protocol.LOAD_WORDS);
  });
  return protocol.compressChunks(count) + reads.length;
}

/** The reads that brought fewer bytes than they were asked for. */
function shortReads({ rowList, control }: Arena, reads: readonly FileRead[]): number[] {
  const places = Atomics.load(control, protocol.PLACES);
  return reads.flatMap(({ length }, i) =>
    rowList[places + i * protocol.LOAD_WORDS + 1] === length ? [] : [i],
  );
}

const NO_ROWS: RowList = { rows: new Int32Array(0), count: 0 };

class InlinePool implements ComputePool {
  readonly workers = 0;
  readonly kernels: Kernels;
  readonly #arena: Arena;

  constructor(arena: Arena, kernels: Kernels) {
    this.#arena = arena;
    this.kernels = kernels;
  }

  hash(first: number, end: number): void {
    this.kernels.hash(first, end);
  }

  compress(rows: Int32Array, count: number): void {
    compressInline(this.#arena, this.kernels, rows, count);
  }

  load(reads: readonly FileRead[], staging = -1, compress = NO_ROWS): Promise<Load> {
    const chunks = listLoad(this.#arena, reads, staging, compress);
    const share = { arena: this.#arena, kernels: this.kernels, thread: 0 };
    for (let i = 0; i < chunks; i++) protocol.loadChunk(share, i);
    const short = shortReads(this.#arena, reads);
    return Promise.resolve({ finish: () => Promise.resolve(short) });
  }

  during<T>(work: Promise<T>): Promise<T> {
    return work;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** Compresses on the calling thread. Uses the last places of the row list: a load may use the first. */
function compressInline(arena: Arena, kernels: Kernels, rows: Int32Array, count: number): void {
  assert(count >= 0 && count <= rows.length && count <= arena.rows, 'rows to compress');
  const first = arena.rows - count;
  arena.rowList.set(rows.subarray(0, count), first);
  kernels.compress(first, arena.rows);
}

/** One worker as the calling thread sees it. */
interface Member {
  readonly worker: Worker;
  readonly index: number;
  /** Why it died, once it has. */
  death: unknown;
}

function newMember(url: URL, arena: Arena, index: number): Member {
  const worker = new Worker(url, {
    name: `uvdo-${index}`,
    workerData: { rows: arena.rows, bins: arena.binCount, memory: arena.memory, index },
  });
  const member: Member = { worker, index, death: null };
  worker.on('error', (cause) => (member.death ??= cause));
  worker.on(
    'exit',
    (code) => (member.death ??= new Error(`worker thread ended with code ${code}`)),
  );
  return member;
}

/** Waits for the first sign of life; from then on the worker does not keep the process alive. */
function started(member: Member): Promise<void> {
  const { worker, index } = member;
  return new Promise((resolve, reject) => {
    worker.once('exit', () => {
      reject(new VdoError('Io', 'a worker thread did not start', { worker: index }, member.death));
    });
    worker.once('message', () => {
      worker.unref();
      resolve();
    });
  });
}

class ThreadPool implements ComputePool {
  readonly kernels: Kernels;
  readonly #arena: Arena;
  readonly #control: Int32Array;
  #crew: Member[];
  readonly #share: protocol.Share;
  /** The job before the next one. */
  #last: Promise<void> = Promise.resolve();
  #isLoading = false;
  #helpFailure: unknown = null;

  constructor(arena: Arena, kernels: Kernels, crew: Member[]) {
    this.#arena = arena;
    this.#control = arena.control;
    this.kernels = kernels;
    this.#share = { arena, kernels, thread: 0 };
    this.#crew = crew;
  }

  get workers(): number {
    return this.#crew.length;
  }

  hash(first: number, end: number): Promise<void> | void {
    assert(first >= 0 && first <= end && end <= this.#arena.rows, 'rows to hash');
    if (end - first < HASH_INLINE_ROWS || this.#crew.length === 0 || this.#isLoading) {
      return this.kernels.hash(first, end);
    }
    return this.#queue(() => this.#run(protocol.HASH, first, end, HASH_CHUNK_ROWS));
  }

  compress(rows: Int32Array, count: number): Promise<void> | void {
    const { rowList } = this.#arena;
    assert(count >= 0 && count <= rows.length && count <= rowList.length, 'rows to compress');
    if (this.#crew.length === 0 || this.#isLoading) {
      return compressInline(this.#arena, this.kernels, rows, count);
    }
    return this.#queue(() => {
      if (count < COMPRESS_INLINE_ROWS) {
        return compressInline(this.#arena, this.kernels, rows, count);
      }
      rowList.set(rows.subarray(0, count));
      return this.#run(protocol.COMPRESS, 0, count, protocol.COMPRESS_CHUNK_ROWS);
    });
  }

  async load(reads: readonly FileRead[], staging = -1, compress: RowList = NO_ROWS): Promise<Load> {
    let release = (): void => undefined;
    const before = this.#last;
    this.#last = new Promise((resolve) => (release = resolve));
    await before;
    const chunks = listLoad(this.#arena, reads, staging, compress);
    this.#isLoading = true;
    this.#open(protocol.LOAD, 0, chunks, 1, Math.min(this.#crew.length, chunks));
    const finish = async (): Promise<readonly number[]> => {
      try {
        await this.#join(chunks);
        return shortReads(this.#arena, reads);
      } finally {
        this.#isLoading = false;
        release();
      }
    };
    return { finish };
  }

  async during<T>(work: Promise<T>): Promise<T> {
    if (!this.#isLoading) return work;
    let isWaiting = true;
    const stop = (): void => void (isWaiting = false);
    work.then(stop, stop);
    await protocol.eventLoopTurn();
    while (isWaiting && this.#isLoading && this.#help()) await protocol.eventLoopTurn();
    return work;
  }

  /** Does a chunk of the load at hand; false where none is left. What fails, fails its `finish`. */
  #help(): boolean {
    try {
      return protocol.doChunk(this.#share);
    } catch (error) {
      this.#helpFailure ??= error;
      return false;
    }
  }

  async close(): Promise<void> {
    await this.#queue(async () => {
      const crew = this.#crew;
      this.#crew = [];
      await Promise.all(crew.map(({ worker }) => worker.terminate()));
    });
  }

  #queue(job: () => Promise<void> | void): Promise<void> {
    const result = this.#last.then(job);
    this.#last = result.catch(() => {});
    return result;
  }

  #open(job: number, first: number, end: number, chunk: number, helpers: number): void {
    const control = this.#control;
    Atomics.store(control, protocol.JOB, job);
    Atomics.store(control, protocol.NEXT, first);
    Atomics.store(control, protocol.END, end);
    Atomics.store(control, protocol.CHUNK, chunk);
    Atomics.store(control, protocol.FAILED, 0);
    Atomics.add(control, protocol.STATE, 1);
    Atomics.notify(control, protocol.STATE, helpers);
  }

  async #run(job: number, first: number, end: number, chunk: number): Promise<void> {
    const chunks = Math.ceil((end - first) / chunk);
    this.#open(job, first, end, chunk, Math.min(this.#crew.length, chunks - 1));
    await this.#join(end);
  }

  /** Takes part in the open job, which ends at `end`, until it is done. */
  async #join(end: number): Promise<void> {
    let failure = this.#helpFailure;
    this.#helpFailure = null;
    try {
      if (failure === null) await protocol.doShare(this.#share);
    } catch (error) {
      failure = error;
    }
    if (failure !== null) {
      // Nobody takes another chunk; those taken are waited for, since the rows are the caller's.
      Atomics.store(this.#control, protocol.NEXT, end);
    }
    Atomics.add(this.#control, protocol.STATE, 1);
    for (const member of this.#crew) await this.#awaitIdle(member);
    // One that died asleep has lost nothing: the others took its chunks.
    const dead = this.#crew.find((member) => member.death !== null && this.#isBusy(member));
    this.#crew = this.#crew.filter(({ death }) => death === null);
    if (failure !== null) throw failure;
    if (dead !== undefined || Atomics.load(this.#control, protocol.FAILED) !== 0) {
      throw new VdoError('Io', 'a worker thread failed', {}, dead?.death);
    }
  }

  #isBusy(member: Member): boolean {
    return Atomics.load(this.#control, protocol.busyOf(member.index)) !== 0;
  }

  /** Waits until `member` has finished its last chunk, or is dead. */
  async #awaitIdle(member: Member): Promise<void> {
    const busy = protocol.busyOf(member.index);
    while (member.death === null && this.#isBusy(member)) {
      if (Atomics.wait(this.#control, busy, 1, TAIL_MS) === 'timed-out')
        await protocol.eventLoopTurn();
    }
  }
}
