/**
 * The engine's queue: requests become jobs, jobs run one after another, in the order in which their
 * requests came. Requests that come while a job runs gather in the next one (the busier, the larger).
 *
 * Invariants:
 * - One job runs at a time; everything it changes, it changes alone (commits work on copies).
 * - A write is acknowledged as soon as its bytes are in a batch and free space for them is reserved.
 *   Where space is not certain it waits in a *deferred* batch and is answered when that is done.
 * - Reads that came after a write see it: they run after its batch. Likewise flushes. A discard is a job
 *   for every step of it: what comes while it runs is in no order with it.
 * - Memory is bounded by the two batches: a write that finds both taken waits.
 * - An error of a job whose writes were acknowledged makes the volume read-only.
 */
import { asBuffer } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import { InFlight } from '../storage/in-flight.ts';
import { makeColumns, WriteBatch, Fate, type BatchColumns } from './batch.ts';
import type { DataPath } from './data-path.ts';
import { discardStep } from './discard.ts';
import { fillBatch } from './fill.ts';
import { Ingest, type IngestSource } from './ingest.ts';
import { Reader, type ReadRequest } from './read.ts';
import { noSpace, Writer } from './write.ts';

/** Blocks of a read job: its replies leave when it ends, and should be in the caches still. */
const READ_JOB_BLOCKS = 256;
/** Ticks of the commit timer after which a fragment has waited long enough. */
const FRAGMENT_TICKS = 10;

interface Waiting<T = void> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}

interface ReadJob {
  readonly kind: 'read';
  readonly requests: (ReadRequest & Waiting)[];
  blocks: number;
}

type Job =
  | { readonly kind: 'write'; readonly batch: WriteBatch; readonly columns: BatchColumns }
  | ReadJob
  | ({ readonly kind: 'discard'; readonly first: number; readonly end: number } & Waiting<number>)
  | { readonly kind: 'flush'; readonly waiting: Waiting[] }
  | { readonly kind: 'inspect'; readonly run: () => Promise<void> }
  | { readonly kind: 'tick' };

export class Engine {
  readonly #path: DataPath;
  readonly #reader: Reader;
  readonly #writer: Writer;
  readonly #jobs: Job[] = [];
  readonly #spareColumns: BatchColumns[];
  /** Writes that wait for a batch, in order. */
  readonly #waitingForRoom: (() => void)[] = [];
  readonly #discards = new InFlight();
  /** Reserved by batches that were acknowledged and have not allocated yet. */
  #running: WriteBatch | null = null;
  #lastIngest: Promise<unknown> = Promise.resolve();
  #isRunning = false;
  #isScheduled = false;
  #isClosing = false;
  readonly #tickMs: number;
  #timer: NodeJS.Timeout | null = null;
  #jobsSinceTick = 0;

  /** `tickMs`: time after which what was written is committed unasked; 0 for never. */
  constructor(path: DataPath, tickMs: number) {
    this.#path = path;
    this.#tickMs = tickMs;
    this.#reader = new Reader(path);
    this.#writer = new Writer(path, this.#reader, () => this.#spokenFor());
    const rows = path.batchBlocks;
    this.#spareColumns = [0, 1].map((half) => makeColumns(path.arena, half * rows, rows));
  }

  /** Requests that wait or run. */
  get jobs(): number {
    return this.#jobs.length + (this.#isRunning ? 1 : 0);
  }

  /** Reads `count` blocks from `lbn` into `into`. */
  read(lbn: number, count: number, into: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      const request = { lbn, count, into, resolve, reject };
      const last = this.#jobs.at(-1);
      if (last?.kind === 'read' && last.blocks + count <= READ_JOB_BLOCKS) {
        last.requests.push(request);
        last.blocks += count;
      } else this.#enqueue({ kind: 'read', requests: [request], blocks: count });
    });
  }

  /** Reads a block at once, where no job would come before and nothing has to be waited for; false: it did not. */
  readNow(lbn: number, into: Uint8Array): boolean {
    return !this.#isRunning && this.#jobs.length === 0 && this.#reader.readNow(lbn, into);
  }

  /** Writes bytes at byte offset `offset`. Resolves when they are acknowledged. */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    const source = asBuffer(bytes);
    for (let at = 0; at < source.length;) {
      this.#checkWritable();
      const batch = this.#openBatch();
      if (batch === null) {
        await this.#room();
        continue;
      }
      at = this.#fill(batch, offset, source, at);
      if (at < source.length && !batch.isFull && !batch.closed) {
        at = await this.#writeDeferred(offset, source, at);
      }
    }
  }

  /** Writes as many of the bytes as can be acknowledged at once; returns how many. */
  writeNow(offset: number, bytes: Uint8Array): number {
    const { health } = this.#path;
    const isCrowded = this.#waitingForRoom.length > 0;
    if (this.#isClosing || health.failure !== null || isCrowded) return 0;
    const source = asBuffer(bytes);
    for (let at = 0; ;) {
      const batch = at === source.length ? null : this.#openBatch();
      if (batch === null) return at;
      const before = at;
      at = this.#fill(batch, offset, source, at);
      if (at === before && !batch.isFull && !batch.closed) return at;
    }
  }

  /**
   * Unmaps blocks `first` … `end` − 1, step by step: other requests have their turns between. Resolves
   * when reads see it.
   */
  async discard(first: number, end: number): Promise<void> {
    this.#checkWritable();
    await this.#discards.run(async () => {
      for (let at = first; at < end;) at = await this.#discardStep(at, end);
    });
  }

  #discardStep(first: number, end: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#enqueue({ kind: 'discard', first, end, resolve, reject });
    });
  }

  /** Resolves when everything acknowledged before is durable. */
  flush(): Promise<void> {
    return new Promise((resolve, reject) => {
      const last = this.#jobs.at(-1);
      if (last?.kind === 'flush') last.waiting.push({ resolve, reject });
      else this.#enqueue({ kind: 'flush', waiting: [{ resolve, reject }] });
    });
  }

  /** Runs `step`, alone, between the jobs that came before and after. */
  inspect<T>(step: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const run = (): Promise<void> => step().then(resolve, reject);
      this.#enqueue({ kind: 'inspect', run });
    });
  }

  /**
   * Writes whole blocks of a file, pure work done ahead; returns how many, as `Ingest.run` does. One file at a
   * time, since all use the same rows of the arena; others wait.
   */
  ingest(source: IngestSource): Promise<number> {
    const lane = {
      step: (step: () => Promise<void>) => this.inspect(step),
      free: () => this.#path.depot.allocatable - this.#spokenFor(),
      write: async (batch: WriteBatch): Promise<void> => {
        this.#checkWritable();
        const failure = await this.#runBatch(batch);
        if (failure !== undefined) throw failure;
        this.#checkSpace(batch);
      },
    };
    const run = this.#lastIngest.then(() => new Ingest(this.#path, lane).run(source));
    this.#lastIngest = run.catch(() => undefined);
    return run;
  }

  /** Takes no more changes, and resolves when everything acknowledged is durable. */
  async close(): Promise<void> {
    this.#isClosing = true;
    try {
      await this.#discards.idle();
      await this.flush();
    } finally {
      if (this.#timer !== null) clearTimeout(this.#timer);
      this.#timer = null;
    }
  }

  #checkWritable(): void {
    const { health, counters } = this.#path;
    if (this.#isClosing) throw new VdoError('Closed', 'the volume is being closed');
    if (health.failure !== null) counters.readOnlyErrors++;
    health.check();
  }

  /** The batch that takes the next row, or null where both are taken. */
  #openBatch(): WriteBatch | null {
    const last = this.#jobs.at(-1);
    if (last?.kind === 'write' && !last.batch.isFull && !last.batch.closed) return last.batch;
    return this.#newBatch(false);
  }

  #newBatch(deferred: boolean): WriteBatch | null {
    const columns = this.#spareColumns.pop();
    if (columns === undefined) return null;
    const batch = new WriteBatch(columns, deferred);
    this.#enqueue({ kind: 'write', batch, columns });
    return batch;
  }

  /** Resolves when a batch may be free. */
  #room(): Promise<void> {
    return new Promise((resolve) => this.#waitingForRoom.push(resolve));
  }

  /** Copies blocks into `batch`, as far as it takes them; returns how far that is. */
  #fill(batch: WriteBatch, offset: number, source: Buffer, start: number): number {
    const free = this.#path.depot.allocatable - this.#spokenFor();
    return fillBatch(this.#path.blockMap, batch, { offset, source, start, free });
  }

  /** Writes what fits into a batch of its own, answered when done. Returns how far it came. */
  async #writeDeferred(offset: number, source: Buffer, start: number): Promise<number> {
    let batch: WriteBatch | null;
    while ((batch = this.#newBatch(true)) === null) {
      await this.#room();
      this.#checkWritable();
    }
    const at = this.#fill(batch, offset, source, start);
    batch.closed = true;
    await batch.done;
    this.#checkSpace(batch);
    return at;
  }

  #checkSpace(batch: WriteBatch): void {
    if (batch.fate.subarray(0, batch.count).includes(Fate.Failed)) throw noSpace(this.#path);
  }

  /** Free blocks that acknowledged writes will still take. */
  #spokenFor(): number {
    let blocks = this.#path.packer.fragmentCount;
    if (this.#running !== null) blocks += this.#running.reserved;
    for (const job of this.#jobs) {
      if (job.kind === 'write' && !job.batch.deferred) blocks += job.batch.reserved;
    }
    return blocks;
  }

  #enqueue(job: Job): void {
    this.#jobs.push(job);
    if (!this.#isRunning) this.#schedule();
    this.#armTimer();
  }

  /** Starts running once the requests of this turn of the event loop are in. */
  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      if (!this.#isRunning) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    for (let job = this.#jobs.shift(); job !== undefined; job = this.#jobs.shift()) {
      await this.#runJob(job);
    }
    this.#isRunning = false;
  }

  /** Runs one job and answers its requests. Never fails. */
  async #runJob(job: Job): Promise<void> {
    switch (job.kind) {
      case 'write':
        await this.#runWrite(job.batch, job.columns);
        break;
      case 'read':
        await this.#runRead(job);
        break;
      case 'discard':
        await this.#runDiscard(job.first, job.end, job);
        break;
      case 'flush':
        await this.#runFlush(job.waiting);
        break;
      case 'inspect':
        await job.run();
        break;
      case 'tick':
        await this.#runTick();
        break;
    }
    if (job.kind !== 'tick') this.#jobsSinceTick++;
  }

  async #runWrite(batch: WriteBatch, columns: BatchColumns): Promise<void> {
    batch.finish(await this.#runBatch(batch));
    this.#spareColumns.push(columns);
    for (const resolve of this.#waitingForRoom.splice(0)) resolve();
  }

  /** Runs a batch; what fails makes the volume read-only and is returned. */
  async #runBatch(batch: WriteBatch): Promise<VdoError | undefined> {
    this.#running = batch;
    try {
      this.#path.health.check();
      if (batch.count > 0) await this.#writer.run(batch);
      return undefined;
    } catch (error) {
      return this.#path.health.fail(error);
    } finally {
      this.#running = null;
    }
  }

  async #runRead({ requests }: ReadJob): Promise<void> {
    try {
      await this.#reader.read(requests);
      for (const { resolve } of requests) resolve();
    } catch {
      // One bad block must not fail its neighbours: each on its own tells whose it was.
      for (const request of requests) {
        await this.#reader.read([request]).then(request.resolve, request.reject);
      }
    }
  }

  async #runDiscard(first: number, end: number, waiting: Waiting<number>): Promise<void> {
    try {
      this.#path.health.check();
      waiting.resolve(await discardStep(this.#path, first, end));
    } catch (error) {
      waiting.reject(this.#path.health.fail(error));
    }
  }

  /** Brings everything acknowledged into the open epoch; the commit runs beside the next jobs. */
  async #runFlush(waiting: readonly Waiting[]): Promise<void> {
    this.#path.counters.flushes += waiting.length;
    const fail = (error: unknown): void => {
      const failure = this.#path.health.fail(error);
      for (const { reject } of waiting) reject(failure);
    };
    try {
      this.#path.health.check();
      await this.#writer.drainPacker();
    } catch (error) {
      fail(error);
      return;
    }
    this.#path.committer.commit().then(() => {
      for (const { resolve } of waiting) resolve();
    }, fail);
  }

  /** After a while: commits what was written; empties the packer if nobody writes any more. */
  async #runTick(): Promise<void> {
    const { packer, committer, health } = this.#path;
    const isIdle = this.#jobsSinceTick === 0;
    this.#jobsSinceTick = 0;
    packer.tick();
    try {
      if (health.failure === null) await this.#writer.drainPacker(isIdle ? 0 : FRAGMENT_TICKS);
    } catch (error) {
      health.fail(error);
    }
    if (committer.isDirty) committer.commit().catch(() => undefined);
    this.#armTimer();
  }

  #armTimer(): void {
    const { packer, committer, health } = this.#path;
    const isDirty = this.#jobs.length > 0 || packer.fragmentCount > 0 || committer.isDirty;
    if (
      this.#tickMs === 0 ||
      this.#isClosing ||
      this.#timer !== null ||
      !isDirty ||
      health.failure !== null
    )
      return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (this.#jobs.at(-1)?.kind !== 'tick') this.#enqueue({ kind: 'tick' });
    }, this.#tickMs);
    this.#timer.unref();
  }
}
