/**
 * How the calling thread and its workers share work: two rings of tasks in the arena and a few words in
 * its control region, no messages. Everyone takes the next task when he has done his last, from the urgent
 * ring first: there lies what the calling thread waits for. A slow core takes fewer, never holds up a fast
 * one.
 *
 * - Of each ring `tailOf` counts the tasks published, `headOf` those taken; both go round 2^32. A task is
 *   written before the tail counts it, and its place is used again once the job it belongs to is finished.
 * - `BELL` changes whenever tasks are published: idle workers sleep on it.
 * - Every task belongs to a job; the word `leftOf(job)` counts those of its tasks that are not done.
 * - A worker sets its `busy` word before it takes a task and clears it when it finds none: what is left
 *   of a job while there is no task to take and nobody busy has been lost with a worker.
 */
import { BLOCK_SIZE, COMPRESSED_BASE, RECORD_NAME_SIZE, UNCOMPRESSED } from '../base/constants.ts';
import { CHECK_WORDS, TASK_WORDS, TASKS, type Arena } from '../kernels/arena.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { fetchRows, readBytes, type BlockFile } from './fetch.ts';

/** Places in the control words, 16 apart: each in a cache line of its own. */
export const BELL = 0;
const FIRST_TAIL = 16;
const FIRST_HEAD = 48;
const FIRST_BUSY = 80;
const FIRST_JOB = 336;
/** Jobs that can be open at once. */
export const JOBS = 32;

/** The rings: what is done in its turn, and what somebody waits for. */
export const AHEAD = 0;
export const URGENT = 1;
/** Places of the words that count the tasks of a ring. */
export const tailOf = (ring: number): number => FIRST_TAIL + 16 * ring;
export const headOf = (ring: number): number => FIRST_HEAD + 16 * ring;
/** Place of the word that is 1 while worker `n` = 0, 1 … works. */
export const busyOf = (n: number): number => FIRST_BUSY + 16 * n;
/** Place of the word that counts the tasks of a job that are not done. */
export const leftOf = (job: number): number => FIRST_JOB + 16 * job;
/** Place of the word that is 1 once a task of the job ran into an exception. */
export const failedOf = (job: number): number => leftOf(job) + 1;

/** Words of a task: what it is, whose it is, and then, by kind: */
const KIND = 0;
const JOB = 1;
/** Fills names and zero flags of rows `A` … `B` − 1. */
export const HASH = 1;
/** Compresses the `A` rows listed from word `ROWS` on. */
export const COMPRESS = 2;
/** Reads bytes of a file into the rows from `A` on and names them. */
export const READ = 3;
/** Compares what checks `A` … `B` − 1 say. */
export const VERIFY = 4;
/** Expands what checks `A` … `B` − 1 say. */
export const EXPAND = 5;
/** Gets from a file what the checks of rows `A` … `B` − 1 say. */
export const FETCH = 6;
/** Kinds of tasks over a range. */
export type RangeKind = typeof HASH | typeof VERIFY | typeof EXPAND;
const A = 2;
const B = 3;
const ROWS = 4;
/** Of a read: bytes; when it is done, those that came. */
const LENGTH = 3;
/** −1: the bytes are there. */
const FD = 4;
/** Byte of the file, in 2^32 bytes (rounded down), and the low word. */
const OFFSET_HIGH = 5;
const OFFSET_LOW = 6;
/** First staging row of all threads, or −1. */
const STAGING = 7;

/** Rows compressed at once: few enough that the last tasks end together. */
export const COMPRESS_ROWS = TASK_WORDS - ROWS;
/** Rows of a read at most, where it is staged: what a core's cache holds. */
export const STAGING_ROWS = 64;

/** What a thread needs to take part. */
export interface Share {
  readonly arena: Arena;
  readonly kernels: Kernels;
  /** 0 for the calling thread, then the workers. */
  readonly thread: number;
  /** The first exception that a task ran into on this thread. */
  failure: unknown;
}

/** The calling thread and a worker let their event loops turn after working this long. */
const SLICE_MS = 1;

export const eventLoopTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** First word of the task with number `n` in a ring. */
export const taskAt = (ring: number, n: number): number =>
  (ring * TASKS + (n & (TASKS - 1))) * TASK_WORDS;

/** Writes the task at `at`: rows `first` … `end` − 1 are to be named, or so many checks are to be done. */
export function putRange(
  { tasks }: Arena,
  at: number,
  job: number,
  kind: RangeKind,
  first: number,
  end: number,
): void {
  tasks[at + KIND] = kind;
  tasks[at + JOB] = job;
  tasks[at + A] = first;
  tasks[at + B] = end;
}

/** Writes the task at `at`: `rows`, `COMPRESS_ROWS` at most, are to be compressed. */
export function putCompress({ tasks }: Arena, at: number, job: number, rows: Int32Array): void {
  tasks[at + KIND] = COMPRESS;
  tasks[at + JOB] = job;
  tasks[at + A] = rows.length;
  tasks.set(rows, at + ROWS);
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

/** Writes the task at `at`: a read, with the first staging row or −1. */
export function putRead(
  { tasks }: Arena,
  at: number,
  job: number,
  { fd, offset, length, row }: FileRead,
  staging: number,
): void {
  tasks[at + KIND] = READ;
  tasks[at + JOB] = job;
  tasks[at + A] = row;
  tasks[at + LENGTH] = length;
  tasks[at + FD] = fd;
  tasks[at + OFFSET_HIGH] = Math.floor(offset / 2 ** 32);
  tasks[at + OFFSET_LOW] = offset | 0;
  tasks[at + STAGING] = staging;
}

/** Writes the task at `at`: rows `first` … `end` − 1 are to be got from a file. */
export function putFetch(
  { tasks }: Arena,
  at: number,
  job: number,
  rows: { readonly first: number; readonly end: number },
  { fd, offset }: BlockFile,
): void {
  tasks[at + KIND] = FETCH;
  tasks[at + JOB] = job;
  tasks[at + A] = rows.first;
  tasks[at + B] = rows.end;
  tasks[at + FD] = fd;
  tasks[at + OFFSET_HIGH] = Math.floor(offset / 2 ** 32);
  tasks[at + OFFSET_LOW] = offset | 0;
}

const offsetAt = (tasks: Int32Array, at: number): number =>
  tasks[at + OFFSET_HIGH]! * 2 ** 32 + (tasks[at + OFFSET_LOW]! >>> 0);

/** The bytes that came in the read whose task was at `at`. */
export const bytesRead = ({ tasks }: Arena, at: number): number => tasks[at + LENGTH]!;

/**
 * Fills the rows of a read from its file, zeros behind the end, and names them. Bytes that an error kept
 * away are missing in the count: the caller reads again and gets the error.
 *
 * With staging rows the bytes go to this thread's own, which stay in its cache, and only names and zero
 * flags go to the rows of the read.
 */
function readRows({ arena, kernels, thread }: Share, at: number): void {
  const { tasks, blocks } = arena;
  const row = tasks[at + A]!;
  const length = tasks[at + LENGTH]!;
  const fd = tasks[at + FD]!;
  const offset = offsetAt(tasks, at);
  const staging = tasks[at + STAGING]!;
  const rows = Math.ceil(length / BLOCK_SIZE);
  if (fd < 0) return kernels.hash(row, row + rows);
  const first = staging < 0 ? row : staging + thread * STAGING_ROWS;
  const done = readBytes(fd, blocks, first * BLOCK_SIZE, length, offset);
  tasks[at + LENGTH] = done;
  blocks.fill(0, first * BLOCK_SIZE + done, (first + rows) * BLOCK_SIZE);
  kernels.hash(first, first + rows);
  if (first === row) return;
  const { names, zero } = arena;
  names.copyWithin(
    row * RECORD_NAME_SIZE,
    first * RECORD_NAME_SIZE,
    (first + rows) * RECORD_NAME_SIZE,
  );
  zero.copyWithin(row, first, first + rows);
}

/** Makes checks `first` … `end` − 1: the last word of each becomes 1 where the blocks are equal, else 0. */
export function verifyRows({ arena, kernels, thread }: Share, first: number, end: number): void {
  const { checks, blocks, verify } = arena;
  const expanded = arena.expandedOf(thread);
  for (let at = first * CHECK_WORDS; at < end * CHECK_WORDS; at += CHECK_WORDS) {
    const block = blocks.byteOffset + checks[at]! * BLOCK_SIZE;
    const stored = verify.byteOffset + checks[at + 1]! * BLOCK_SIZE;
    const state = checks[at + 2]!;
    const isThere =
      state === UNCOMPRESSED || kernels.expand(stored, state - COMPRESSED_BASE, expanded);
    const isEqual = isThere && kernels.equal(block, state === UNCOMPRESSED ? stored : expanded);
    checks[at + 2] = isEqual ? 1 : 0;
  }
}

/** Does checks `first` … `end` − 1: the last word of each becomes 1 where there was a block to expand, else 0. */
export function expandRows({ arena, kernels }: Share, first: number, end: number): void {
  const { checks, staging, verify } = arena;
  for (let at = first * CHECK_WORDS; at < end * CHECK_WORDS; at += CHECK_WORDS) {
    const into = staging.byteOffset + checks[at]! * BLOCK_SIZE;
    const stored = verify.byteOffset + checks[at + 1]! * BLOCK_SIZE;
    checks[at + 2] = kernels.expand(stored, checks[at + 2]! - COMPRESSED_BASE, into) ? 1 : 0;
  }
}

/** Does the task whose first word is `at`. */
export function runTask(share: Share, at: number): void {
  const { tasks, tasksPlace } = share.arena;
  const kind = tasks[at + KIND];
  if (kind === READ) readRows(share, at);
  else if (kind === HASH) share.kernels.hash(tasks[at + A]!, tasks[at + B]!);
  else if (kind === VERIFY) verifyRows(share, tasks[at + A]!, tasks[at + B]!);
  else if (kind === FETCH) {
    const file = { fd: tasks[at + FD]!, offset: offsetAt(tasks, at) };
    fetchRows(share, tasks[at + A]!, tasks[at + B]!, file);
  } else if (kind === EXPAND) expandRows(share, tasks[at + A]!, tasks[at + B]!);
  else {
    const first = tasksPlace + at + ROWS;
    share.kernels.compress(first, first + tasks[at + A]!);
  }
}

/** Whether a ring has a task to be taken. */
const hasTaskIn = (control: Int32Array, ring: number): boolean =>
  ((Atomics.load(control, tailOf(ring)) - Atomics.load(control, headOf(ring))) | 0) > 0;

/** Whether there is a task to be taken. */
export const hasTask = (control: Int32Array): boolean =>
  hasTaskIn(control, AHEAD) || hasTaskIn(control, URGENT);

/** Takes the next task of a ring; returns its first word, or −1 where there is none. */
function takeFrom(control: Int32Array, ring: number): number {
  const head = headOf(ring);
  for (;;) {
    const task = Atomics.load(control, head);
    if (((Atomics.load(control, tailOf(ring)) - task) | 0) <= 0) return -1;
    if (Atomics.compareExchange(control, head, task, (task + 1) | 0) === task) {
      return taskAt(ring, task);
    }
  }
}

/** Takes the next task and does it. False where there is none. */
export function doTask(share: Share): boolean {
  const { control, tasks } = share.arena;
  let at = takeFrom(control, URGENT);
  if (at < 0) at = takeFrom(control, AHEAD);
  if (at < 0) return false;
  const job = tasks[at + JOB]!;
  try {
    runTask(share, at);
  } catch (error) {
    share.failure ??= error;
    Atomics.store(control, failedOf(job), 1);
  }
  if (Atomics.sub(control, leftOf(job), 1) === 1) Atomics.notify(control, leftOf(job));
  return true;
}

/** Does tasks until none is left or `isEnough`, letting the event loop turn now and then. */
export async function doTasks(share: Share, isEnough: () => boolean = () => false): Promise<void> {
  let until = performance.now() + SLICE_MS;
  while (!isEnough() && doTask(share)) {
    if (performance.now() < until) continue;
    await eventLoopTurn();
    until = performance.now() + SLICE_MS;
  }
}
