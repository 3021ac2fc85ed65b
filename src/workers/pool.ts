/**
 * Hashing, compressing and comparing on several threads over one arena: pure work, nothing else leaves the
 * thread that owns the volume's state. The words worker, thread and Atomics end in this folder;
 * everyone else awaits a function over rows.
 *
 * - The calling thread does its share. A small job runs on it alone, since waking a core costs 50 µs.
 * - What is begun ahead is done while the caller does something else, behind what he waits for.
 * - A worker that dies fails the jobs whose tasks it took along with `Io`, never hangs them; later jobs
 *   go on without it.
 * - Idle workers use no processor and do not keep the process alive.
 */
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { VdoError } from '../base/errors.ts';
import { MAX_THREADS, TASKS, type Arena } from '../kernels/arena.ts';
import { createKernels, type Kernels } from '../kernels/kernels.ts';
import * as protocol from './protocol.ts';
import { FETCH_ROWS, type BlockFile } from './fetch.ts';
import type { FileRead } from './protocol.ts';
import type { Ahead, ComputePool, ReadAhead } from './compute-pool.ts';
import { compressInline, DONE, InlinePool } from './inline-pool.ts';

export type { Ahead, ComputePool, ReadAhead } from './compute-pool.ts';
export type { FileRead } from './protocol.ts';

/** Reads begun ahead at once. */
export const MAX_READS = TASKS / 4;
/** Fewer rows than these run inline: some 60 to 150 µs of work. */
const HASH_INLINE_ROWS = 192;
const COMPRESS_INLINE_ROWS = 24;
const VERIFY_INLINE_ROWS = 96;
const EXPAND_INLINE_ROWS = 24;
/** Rows of a task: enough to be cheap to share out, few enough that the last ones end together. */
const HASH_ROWS = 64;
const VERIFY_ROWS = 32;
/** How long the calling thread sleeps for the last tasks of others before its event loop turns. */
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

/** A job whose tasks are in a ring. */
interface Job {
  readonly number: number;
  readonly ring: Ring;
  /** Its first task; a ring is in use from the first task of its oldest job on. */
  readonly first: number;
}

/** What the calling thread knows of a ring. */
interface Ring {
  readonly place: number;
  /** Open jobs, oldest first. */
  readonly jobs: Job[];
  tail: number;
}

const newRing = (place: number): Ring => ({ place, jobs: [], tail: 0 });

class ThreadPool implements ComputePool {
  readonly kernels: Kernels;
  readonly #arena: Arena;
  readonly #control: Int32Array;
  #crew: Member[];
  readonly #share: protocol.Share;
  readonly #ahead = newRing(protocol.AHEAD);
  readonly #urgent = newRing(protocol.URGENT);
  /** Numbers for jobs. */
  readonly #spareJobs = Array.from({ length: protocol.JOBS }, (_, i) => i);

  constructor(arena: Arena, kernels: Kernels, crew: Member[]) {
    this.#arena = arena;
    this.#control = arena.control;
    this.kernels = kernels;
    this.#share = { arena, kernels, thread: 0, failure: null };
    this.#crew = crew;
  }

  get workers(): number {
    return this.#crew.length;
  }

  hash(first: number, end: number): Promise<void> | void {
    assert(first >= 0 && first <= end && end <= this.#arena.rows, 'rows to hash');
    if (end - first < HASH_INLINE_ROWS || this.#isInline(Math.ceil((end - first) / HASH_ROWS))) {
      return this.kernels.hash(first, end);
    }
    return this.#finish(this.#putRange(protocol.HASH, first, end, HASH_ROWS), nothing);
  }

  verify(count: number): Promise<void> | void {
    assert(count >= 0 && count <= this.#arena.rows, 'checks to make');
    if (count < VERIFY_INLINE_ROWS || this.#isInline(Math.ceil(count / VERIFY_ROWS))) {
      return protocol.verifyRows(this.#share, 0, count);
    }
    return this.#finish(this.#putRange(protocol.VERIFY, 0, count, VERIFY_ROWS), nothing);
  }

  compress(rows: Int32Array, count: number): Promise<void> | void {
    assert(count >= 0 && count <= rows.length, 'rows to compress');
    if (count < COMPRESS_INLINE_ROWS || this.#isInline(compressTasks(count))) {
      return compressInline(this.#share, rows, count);
    }
    return this.#finish(this.#putCompress(this.#urgent, rows, count), nothing);
  }

  expandAhead(first: number, end: number): Ahead {
    assert(first >= 0 && first <= end && end <= this.#arena.rows, 'checks to do');
    const tasks = Math.ceil((end - first) / VERIFY_ROWS);
    if (end - first < EXPAND_INLINE_ROWS || this.#isInline(tasks)) {
      protocol.expandRows(this.#share, first, end);
      return DONE;
    }
    const job = this.#putRange(protocol.EXPAND, first, end, VERIFY_ROWS);
    return { finish: () => this.#finish(job, nothing) };
  }

  compressAhead(rows: Int32Array, count: number): Ahead {
    assert(count >= 0 && count <= rows.length, 'rows to compress');
    if (count === 0 || !this.#hasRoom(this.#ahead, compressTasks(count))) {
      compressInline(this.#share, rows, count);
      return DONE;
    }
    const job = this.#putCompress(this.#ahead, rows, count);
    return { finish: () => this.#finish(job, nothing) };
  }

  readAhead(reads: readonly FileRead[], staging = -1): ReadAhead {
    assert(reads.length <= MAX_READS && this.#hasRoom(this.#ahead, reads.length), 'reads at once');
    const job = this.#open(this.#ahead);
    for (const read of reads) {
      protocol.putRead(this.#arena, this.#place(job), job.number, read, staging);
    }
    this.#publish(job);
    const arena = this.#arena;
    const { place } = job.ring;
    const short = (): number[] =>
      reads.flatMap(({ length }, i) =>
        protocol.bytesRead(arena, protocol.taskAt(place, job.first + i)) === length ? [] : [i],
      );
    return { finish: () => this.#finish(job, short) };
  }

  fetchAhead(first: number, end: number, file: BlockFile): Ahead {
    assert(first >= 0 && first <= end && end <= this.#arena.rows, 'rows to get');
    assert(
      this.#hasRoom(this.#ahead, Math.ceil((end - first) / FETCH_ROWS)),
      'rows to get at once',
    );
    const job = this.#open(this.#ahead);
    for (let at = first; at < end; at += FETCH_ROWS) {
      const rows = { first: at, end: Math.min(end, at + FETCH_ROWS) };
      protocol.putFetch(this.#arena, this.#place(job), job.number, rows, file);
    }
    this.#publish(job);
    return { finish: () => this.#finish(job, nothing) };
  }

  async during<T>(work: Promise<T>): Promise<T> {
    if (!protocol.hasTask(this.#control)) return work;
    let isWaiting = true;
    const stop = (): void => void (isWaiting = false);
    work.then(stop, stop);
    await protocol.eventLoopTurn();
    while (isWaiting && protocol.doTask(this.#share)) await protocol.eventLoopTurn();
    return work;
  }

  async close(): Promise<void> {
    await protocol.doTasks(this.#share);
    for (const member of this.#crew) {
      while (member.death === null && this.#isBusy(member)) await protocol.eventLoopTurn();
    }
    const crew = this.#crew;
    this.#crew = [];
    await Promise.all(crew.map(({ worker }) => worker.terminate()));
  }

  /** Whether a job of so many tasks that is waited for has to run here alone. */
  #isInline(tasks: number): boolean {
    return this.#crew.length === 0 || !this.#hasRoom(this.#urgent, tasks);
  }

  /** Whether a ring has room for a job of so many tasks. */
  #hasRoom({ jobs, tail }: Ring, tasks: number): boolean {
    return this.#spareJobs.length > 0 && tail - (jobs[0]?.first ?? tail) + tasks <= TASKS;
  }

  #open(ring: Ring): Job {
    const job = { number: this.#spareJobs.pop()!, ring, first: ring.tail };
    ring.jobs.push(job);
    return job;
  }

  /** The first word of the next task of `job`. */
  #place({ ring }: Job): number {
    return protocol.taskAt(ring.place, ring.tail++);
  }

  #putRange(kind: protocol.RangeKind, first: number, end: number, rows: number): Job {
    const job = this.#open(this.#urgent);
    for (let at = first; at < end; at += rows) {
      const last = Math.min(at + rows, end);
      protocol.putRange(this.#arena, this.#place(job), job.number, kind, at, last);
    }
    this.#publish(job);
    return job;
  }

  #putCompress(ring: Ring, rows: Int32Array, count: number): Job {
    const job = this.#open(ring);
    for (let at = 0; at < count; at += protocol.COMPRESS_ROWS) {
      const some = rows.subarray(at, Math.min(at + protocol.COMPRESS_ROWS, count));
      protocol.putCompress(this.#arena, this.#place(job), job.number, some);
    }
    this.#publish(job);
    return job;
  }

  /** Lets everyone see the tasks of `job`, which are those behind its first. */
  #publish({ number, ring, first }: Job): void {
    const control = this.#control;
    const tasks = ring.tail - first;
    Atomics.store(control, protocol.failedOf(number), 0);
    Atomics.store(control, protocol.leftOf(number), tasks);
    Atomics.store(control, protocol.tailOf(ring.place), ring.tail | 0);
    Atomics.add(control, protocol.BELL, 1);
    Atomics.notify(control, protocol.BELL, Math.min(this.#crew.length, tasks));
  }

  /** Takes part until `job` is done and closes it; then `result` is called. */
  async #finish<T>(job: Job, result: () => T): Promise<T> {
    const isDone = (): boolean => Atomics.load(this.#control, protocol.leftOf(job.number)) === 0;
    try {
      while (!isDone()) {
        await protocol.doTasks(this.#share, isDone);
        if (!(await this.#awaitLast(job.number))) break;
      }
      this.#check(job.number, isDone());
      return result();
    } finally {
      job.ring.jobs.splice(job.ring.jobs.indexOf(job), 1);
      this.#spareJobs.push(job.number);
    }
  }

  /** Sleeps while others do the last tasks of a job. False where nobody is left who could. */
  async #awaitLast(job: number): Promise<boolean> {
    // In this order: who has taken the last task was busy before, and stays so until it is done.
    const isTaken = !protocol.hasTask(this.#control);
    const isIdle = this.#crew.every((member) => member.death !== null || !this.#isBusy(member));
    const left = Atomics.load(this.#control, protocol.leftOf(job));
    if (left === 0) return true;
    if (isTaken && isIdle) return false;
    if (Atomics.wait(this.#control, protocol.leftOf(job), left, TAIL_MS) === 'timed-out') {
      await protocol.eventLoopTurn();
    }
    return true;
  }

  /** Fails for a job that was not done, or not well. Forgets who has died. */
  #check(job: number, isDone: boolean): void {
    const { failure } = this.#share;
    this.#share.failure = null;
    const dead = this.#crew.find(({ death }) => death !== null);
    this.#crew = this.#crew.filter(({ death }) => death === null);
    if (isDone && Atomics.load(this.#control, protocol.failedOf(job)) === 0) return;
    throw failure ?? new VdoError('Io', 'a worker thread failed', {}, dead?.death);
  }

  #isBusy(member: Member): boolean {
    return Atomics.load(this.#control, protocol.busyOf(member.index)) !== 0;
  }
}

const nothing = (): void => undefined;
const compressTasks = (count: number): number => Math.ceil(count / protocol.COMPRESS_ROWS);
