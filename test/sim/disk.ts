/**
 * A disk with a volatile cache that can lose power at any operation and fail in every way a disk
 * fails. All storage below the simulator and the model is one of these.
 *
 * Invariants:
 * - `durable` holds what survives every crash. A write enters the list of unflushed writes when it
 *   is issued; a flush moves to `durable` the writes that had completed when the flush was issued.
 * - A crash keeps, sector by sector, any subset of the unflushed writes, in flight or completed,
 *   later ones without earlier ones included.
 * - A failed flush drops some of the writes it covered: they never become durable, although reads go
 *   on seeing them. A later flush that succeeds does not bring them back.
 * - Faults lie over the pristine state; `healed = true` takes them all away.
 * - Deterministic: the completion order comes from the seed, the pump runs on microtasks alone.
 * - The bytes of a write must not change before it completes; the disk checks that.
 */
import { assert } from '../../src/base/assert.ts';
import { VdoError } from '../../src/base/errors.ts';
import { MemoryStorage } from '../../src/storage/memory-storage.ts';
import type { Extent, Storage } from '../../src/storage/storage.ts';
import { Random } from './random.ts';

const BLOCK = 4096;
const SECTOR = 512;

/** The power went: nothing after this reaches the disk. */
export class PowerLoss extends Error {
  override name = 'PowerLoss';
}

/** Decides about one operation: its number among those of its kind, and the extents it concerns. */
export type FaultRule = (nth: number, extents: readonly Extent[]) => boolean;

export interface Faults {
  readError?: FaultRule;
  writeError?: FaultRule;
  flushError?: FaultRule;
  /** A write of which only some sectors land, then reports an error. */
  tornWrite?: FaultRule;
  noSpace?: FaultRule;
  /** A bit that reads inverted. */
  flippedBit?: { readonly offset: number; readonly bit: number };
}

interface Unflushed {
  readonly offset: number;
  readonly bytes: Uint8Array;
  /** The caller's bytes, compared on completion. */
  readonly source: Uint8Array;
  completed: boolean;
  lost: boolean;
}

/** An operation that was issued and has not completed. */
export interface Ticket {
  readonly kind: 'read' | 'write' | 'flush';
  readonly extents: readonly Extent[];
  readonly writes: readonly Unflushed[];
  readonly error: Error | undefined;
}

interface Waiting {
  readonly ticket: Ticket;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export interface FaultyDiskOptions {
  readonly seed?: number;
  /** The power goes once this many writes and flushes were issued. */
  readonly stopAfter?: number;
  readonly faults?: Faults;
  /** Called when a write or flush was issued and before anything of a flush is durable. */
  readonly onOperation?: (disk: FaultyDisk, kind: 'write' | 'flush') => void;
}

export class FaultyDisk implements Storage {
  readonly size: number;
  readonly readOnly = false;
  readonly faults: Faults;
  healed = false;
  onOperation: FaultyDiskOptions['onOperation'];
  stopAfter: number;
  reads = 0;
  writes = 0;
  flushes = 0;
  /** Operations that a fault made fail. */
  faultsStruck = 0;
  readonly #random: Random;
  readonly #durable: MemoryStorage;
  /** What reads see: every completed write. */
  readonly #current: MemoryStorage;
  readonly #writesAt = new Map<number, number>();
  #unflushed: Unflushed[] = [];
  #waiting: Waiting[] = [];
  #pumping = false;
  #dead = false;

  /** Starts from `pristine`, which is left alone; its contents are durable. */
  constructor(pristine: MemoryStorage, options: FaultyDiskOptions = {}) {
    this.size = pristine.size;
    this.#durable = pristine.clone({ readOnly: false });
    this.#current = pristine.clone({ readOnly: false });
    this.#random = new Random(options.seed ?? 1);
    this.stopAfter = options.stopAfter ?? Infinity;
    this.faults = options.faults ?? {};
    this.onOperation = options.onOperation;
  }

  /** Writes and flushes issued so far. */
  get operations(): number {
    return this.writes + this.flushes;
  }

  /** Writes that began at this offset. */
  writesAt(offset: number): number {
    return this.#writesAt.get(offset) ?? 0;
  }

  get unflushedWrites(): number {
    return this.#unflushed.length;
  }

  // The two halves of an operation, for callers that choose the completion order themselves.

  issueRead(extents: readonly Extent[]): Ticket {
    this.#mustBeAlive();
    this.reads++;
    const failed = this.#strikes(this.faults.readError, this.reads, extents);
    const error = failed ? new VdoError('Io', 'injected read error') : undefined;
    return { kind: 'read', extents, writes: [], error };
  }

  issueWrite(extents: readonly Extent[]): Ticket {
    this.#mustBeAlive();
    this.writes++;
    let error: Error | undefined;
    if (this.#strikes(this.faults.noSpace, this.writes, extents)) {
      error = new VdoError('NoSpace', 'injected no space');
    } else if (this.#strikes(this.faults.writeError, this.writes, extents)) {
      error = new VdoError('Io', 'injected write error');
    }
    const torn = !error && this.#strikes(this.faults.tornWrite, this.writes, extents);
    const writes = error ? [] : extents.flatMap((extent) => this.#record(extent, torn));
    if (torn) error = new VdoError('Io', 'injected torn write');
    this.#unflushed.push(...writes);
    for (const { offset } of extents) {
      this.#writesAt.set(offset, (this.#writesAt.get(offset) ?? 0) + 1);
    }
    this.#issued('write');
    return { kind: 'write', extents, writes, error };
  }

  issueFlush(): Ticket {
    this.#mustBeAlive();
    this.flushes++;
    const writes = this.#unflushed.filter((write) => write.completed);
    const failed = this.#strikes(this.faults.flushError, this.flushes, []);
    const error = failed ? new VdoError('Io', 'injected flush error') : undefined;
    this.#issued('flush');
    return { kind: 'flush', extents: [], writes, error };
  }

  /** Completes an operation: its effect is visible, and for a flush durable. Throws its error. */
  complete(ticket: Ticket): void {
    this.#mustBeAlive();
    if (ticket.kind === 'read' && !ticket.error) this.#readNow(ticket.extents);
    if (ticket.kind === 'write') this.#completeWrites(ticket.writes);
    if (ticket.kind === 'flush') this.#completeFlush(ticket);
    if (ticket.error) throw ticket.error;
  }

  // At once.

  readSync(extents: readonly Extent[]): void {
    this.complete(this.issueRead(extents));
  }

  writeSync(extents: readonly Extent[]): void {
    this.complete(this.issueWrite(extents));
  }

  flushSync(): void {
    this.complete(this.issueFlush());
  }

  // As a `Storage`.

  read(extents: readonly Extent[]): Promise<void> {
    return this.#enqueue(() => this.issueRead(extents));
  }

  write(extents: readonly Extent[]): Promise<void> {
    return this.#enqueue(() => this.issueWrite(extents));
  }

  flush(): Promise<void> {
    return this.#enqueue(() => this.issueFlush());
  }

  async close(): Promise<void> {}

  /** What the disk holds after a power loss now, one of the possible outcomes by `seed`. */
  crash(seed: number): MemoryStorage {
    const survivor = this.#durable.clone();
    if (this.#unflushed.length === 0) return survivor;
    const random = new Random(seed);
    const survives = chooseSurvivors(random, this.#unflushed.length);
    for (let w = 0; w < this.#unflushed.length; w++) {
      const { offset, bytes, lost } = this.#unflushed[w]!;
      if (lost) continue;
      for (let at = 0; at < bytes.length; at += BLOCK) {
        const block = bytes.subarray(at, at + BLOCK);
        keep(survivor, offset + at, block, survives(w), random);
      }
    }
    return survivor;
  }

  /** What reads see now, as a disk that was stopped in good order. */
  snapshot(): MemoryStorage {
    return this.#current.clone();
  }

  #strikes(rule: FaultRule | undefined, nth: number, extents: readonly Extent[]): boolean {
    const strikes = !this.healed && rule !== undefined && rule(nth, extents);
    if (strikes) this.faultsStruck++;
    return strikes;
  }

  #mustBeAlive(): void {
    if (this.#dead) throw new PowerLoss('the power is gone');
  }

  #issued(kind: 'write' | 'flush'): void {
    this.onOperation?.(this, kind);
    if (this.operations < this.stopAfter) return;
    this.#dead = true;
    for (const { reject } of this.#waiting.splice(0)) reject(new PowerLoss('the power is gone'));
    throw new PowerLoss(`the power went at operation ${this.operations}`);
  }

  #record(extent: Extent, torn: boolean): Unflushed[] {
    const { offset } = extent;
    assert(offset % SECTOR === 0 && extent.bytes.length % SECTOR === 0, 'unaligned write');
    if (offset + extent.bytes.length > this.size) throw new VdoError('NoSpace', 'past the end');
    const whole = { completed: false, lost: false };
    if (!torn) {
      return [{ offset, bytes: new Uint8Array(extent.bytes), source: extent.bytes, ...whole }];
    }
    const parts: Unflushed[] = [];
    for (let at = 0; at < extent.bytes.length; at += SECTOR) {
      if (this.#random.chance(0.5)) continue;
      const source = extent.bytes.subarray(at, at + SECTOR);
      parts.push({ offset: offset + at, bytes: new Uint8Array(source), source, ...whole });
    }
    return parts;
  }

  #readNow(extents: readonly Extent[]): void {
    this.#current.readSync(extents);
    const flip = this.healed ? undefined : this.faults.flippedBit;
    if (!flip) return;
    for (const { offset, bytes } of extents) {
      const at = flip.offset - offset;
      if (at >= 0 && at < bytes.length) bytes[at]! ^= 1 << flip.bit;
    }
  }

  #completeWrites(writes: readonly Unflushed[]): void {
    for (const write of writes) {
      const unchanged = Buffer.compare(write.source, write.bytes) === 0;
      assert(unchanged, `bytes at ${write.offset} changed while they were being written`);
      write.completed = true;
      // A crash image must find writes in the order in which they completed.
      this.#unflushed.splice(this.#unflushed.indexOf(write), 1);
      this.#unflushed.push(write);
    }
    this.#current.writeSync(writes);
  }

  #completeFlush(ticket: Ticket): void {
    const covered = new Set(ticket.writes);
    if (ticket.error) {
      for (const write of covered) write.lost ||= this.#random.chance(0.7);
      return;
    }
    // Another flush may have made some of them durable, and newer writes over them, since.
    const durable = this.#unflushed.filter((write) => covered.has(write) && !write.lost);
    this.#durable.writeSync(durable);
    this.#unflushed = this.#unflushed.filter((write) => write.lost || !covered.has(write));
  }

  #enqueue(issue: () => Ticket): Promise<void> {
    return new Promise((resolve, reject) => {
      const ticket = issue();
      this.#waiting.push({ ticket, resolve, reject });
      if (!this.#pumping) void this.#pump();
    });
  }

  /** Completes waiting operations in an order drawn from the seed, giving others time to join. */
  async #pump(): Promise<void> {
    this.#pumping = true;
    while (this.#waiting.length > 0) {
      for (let turns = this.#random.between(1, 12); turns > 0; turns--) await Promise.resolve();
      if (this.#waiting.length === 0) break;
      const next = this.#random.below(this.#waiting.length);
      const [{ ticket, resolve, reject }] = this.#waiting.splice(next, 1) as [Waiting];
      try {
        this.complete(ticket);
        resolve();
      } catch (error) {
        reject(error as Error);
      }
    }
    this.#pumping = false;
  }
}

/**
 * What a crash keeps of a block: all or nothing, each sector by chance, or one half of the cruellest
 * tears there are: everything but the first sector, which says what the block is, or that one alone.
 */
type Fate = 'all' | 'none' | 'half' | 'most' | 'few' | 'beheaded' | 'head';

/** Draws how this crash treats the unflushed writes: evenly, one against all, early against late. */
function chooseSurvivors(random: Random, count: number): (write: number) => Fate {
  const one = random.below(count);
  const whole = (): Fate => (random.chance(0.5) ? 'all' : 'none');
  const patterns: readonly ((write: number) => Fate)[] = [
    () => 'none',
    () => 'all',
    () => 'half',
    () => 'most',
    () => 'few',
    () => 'beheaded',
    () => random.pick<Fate>(['head', 'beheaded', 'none']),
    whole,
    whole,
    (write) => (write === one ? 'none' : 'all'),
    (write) => (write === one ? 'all' : 'none'),
    (write) => (write <= one ? 'all' : 'none'),
    (write) => (write >= one ? 'all' : 'none'),
    () => random.pick<Fate>(['all', 'none', 'half', 'most', 'few']),
  ];
  return random.pick(patterns);
}

const SECTOR_CHANCE: Readonly<Record<Fate, number>> = {
  all: 1,
  none: 0,
  half: 0.5,
  most: 0.85,
  few: 0.15,
  beheaded: 0.6,
  head: 0,
};

function keep(
  survivor: MemoryStorage,
  offset: number,
  bytes: Uint8Array,
  fate: Fate,
  random: Random,
): void {
  if (fate === 'none') return;
  if (fate === 'all') return survivor.writeSync([{ offset, bytes }]);
  for (let at = 0; at < bytes.length; at += SECTOR) {
    if (at === 0 ? !keepsHead(fate, random) : !random.chance(SECTOR_CHANCE[fate])) continue;
    survivor.writeSync([{ offset: offset + at, bytes: bytes.subarray(at, at + SECTOR) }]);
  }
}

function keepsHead(fate: Fate, random: Random): boolean {
  if (fate === 'head' || fate === 'beheaded') return fate === 'head';
  return random.chance(SECTOR_CHANCE[fate]);
}
