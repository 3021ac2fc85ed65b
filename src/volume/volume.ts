/**
 * An open volume: any byte range of it can be read, written, discarded; everything below works in
 * whole blocks.
 *
 * Invariants:
 * - Between open and close the super block on disk says DIRTY; only a complete close makes it CLEAN.
 * - After a fatal error the volume serves reads, refuses writes, and is READ_ONLY on disk (DIRTY where
 *   not even that can be written).
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import type { DataPath } from '../data-path/data-path.ts';
import type { Engine } from '../data-path/engine.ts';
import { Extract } from '../data-path/extract.ts';
import type {
  BlockDevice,
  ByteRange,
  DeviceExtent,
  ExtentOptions,
  FileRange,
  WriteOptions,
} from '../device/block-device.ts';
import { CLEAN, encodeSuperBlock, type SuperBlock } from '../format/super-block.ts';
import type { RecoveryReport } from '../repair/recover.ts';
import type { Extent, Storage } from '../storage/storage.ts';
import { findExtents } from './extents.ts';
import type { Labels } from './labels.ts';
import { statisticsOf, type Statistics } from './statistics.ts';

/** Bytes of one step of a long read. */
const READ_STEP = 4 * 1024 * 1024;
const ZEROS = new Uint8Array(BLOCK_SIZE);

export interface VolumeParts {
  readonly storage: Storage;
  readonly labels: Labels;
  readonly path: DataPath;
  readonly engine: Engine;
  readonly readOnly: boolean;
  /** What recovery did at open, or null where none was due. */
  readonly recovery: RecoveryReport | null;
  /** What the user should hear about the state that the volume was in, or null. */
  readonly notice: string | null;
  /** The volume is read as it stands: it wants a rebuild, or its journal cannot be replayed. */
  readonly asItStands: boolean;
  /** Gives back what the opener holds: locks, files. */
  readonly release: () => Promise<void>;
}

export class Volume implements BlockDevice {
  readonly size: number;
  readonly readOnly: boolean;
  readonly labels: Labels;
  readonly #parts: VolumeParts;
  #closed: Promise<void> | null = null;
  #extract: Extract | null = null;

  /** For `openVolume`, which prepares the parts. */
  constructor(parts: VolumeParts) {
    this.#parts = parts;
    this.labels = parts.labels;
    this.size = parts.labels.superBlock.logicalBlocks * BLOCK_SIZE;
    this.readOnly = parts.readOnly;
  }

  /** Why the volume went read-only by itself, or null. */
  get failure(): VdoError | null {
    return this.#parts.path.health.failure;
  }

  /** Resolves with why the volume went read-only by itself, if it ever does. */
  failed(): Promise<VdoError> {
    return this.#parts.path.health.failed();
  }

  /** What the user should hear about the state that the volume was found in, or null. */
  get notice(): string | null {
    return this.#parts.notice;
  }

  /** Slabs whose counts were to be rebuilt at open, how many are, and the same in bytes of metadata. */
  scrubProgress(): { slabs: number; scrubbed: number; totalBytes: number; bytes: number } {
    const { slabs, scrubbedSlabs: scrubbed, bytesEach } = this.#parts.path.scrubber;
    return { slabs, scrubbed, totalBytes: slabs * bytesEach, bytes: scrubbed * bytesEach };
  }

  /** What recovery did at open, or null where none was due. */
  get recovery(): RecoveryReport | null {
    return this.#parts.recovery;
  }

  /** Whether the volume is read as it stands: it wants a rebuild, or its journal cannot be replayed. */
  get asItStands(): boolean {
    return this.#parts.asItStands;
  }

  /** Resolves when the counts of every slab are rebuilt; at once unless there was a crash. */
  scrubbed(): Promise<void> {
    return this.#parts.path.scrubber.all();
  }

  /** What the user should hear about the index (it began empty, it failed), or null. */
  get indexWarning(): string | null {
    return this.#parts.path.index.warning?.message ?? null;
  }

  /** Chapters that the index has still to read again after a crash, and when none is left. */
  indexRebuild(): { chapters: number; done: Promise<void> } {
    const { index } = this.#parts.path;
    const chapters = index.statistics().chaptersToReplay ?? 0;
    return { chapters, done: index.rebuilt?.() ?? Promise.resolve() };
  }

  async read(offset: number, length: number, into?: Uint8Array): Promise<Uint8Array> {
    this.#check(offset, length);
    const target =
      into === undefined
        ? new Uint8Array(length)
        : into.length === length
          ? into
          : into.subarray(0, length);
    if (target.length < length) {
      throw new VdoError('InvalidArgument', `a buffer of ${target.length} bytes for ${length}`);
    }
    if (length <= READ_STEP) {
      if (length > 0) await this.#readStep(offset, target);
      return target;
    }
    const steps: Promise<void>[] = [];
    for (let at = 0; at < length; at += READ_STEP) {
      const size = Math.min(READ_STEP, length - at);
      steps.push(this.#readStep(offset + at, target.subarray(at, at + size)));
    }
    await Promise.all(steps);
    return target;
  }

  /** A whole block, no more: what is longer gains nothing. */
  readNow(offset: number, into: Uint8Array): boolean {
    if (into.length !== BLOCK_SIZE || offset % BLOCK_SIZE !== 0) return false;
    if (this.#closed !== null || offset < 0 || offset >= this.size) return false;
    return this.#parts.engine.readNow(offset / BLOCK_SIZE, into);
  }

  readAhead(ranges: AsyncIterable<ByteRange>): AsyncGenerator<Extent> | null {
    this.#checkOpen();
    const { engine, path } = this.#parts;
    if (path.blockFile === null || path.pool.workers === 0) return null;
    this.#extract ??= new Extract(path, path.blockFile, {
      step: (step) => engine.inspect(step),
      read: (offset, length, into) => this.read(offset, length, into),
    });
    return this.#extract.run(this.#checked(ranges));
  }

  async *#checked(ranges: AsyncIterable<ByteRange>): AsyncGenerator<ByteRange> {
    for await (const range of ranges) {
      this.#check(range.offset, range.length);
      yield range;
    }
  }

  async write(offset: number, bytes: Uint8Array, options: WriteOptions = {}): Promise<void> {
    this.#checkWrite(offset, bytes.length);
    await this.#parts.engine.write(offset, bytes);
    await this.#fua(options);
  }

  writeNow(offset: number, bytes: Uint8Array): number {
    if (this.#closed !== null || this.readOnly || offset + bytes.length > this.size) return 0;
    return this.#parts.engine.writeNow(offset, bytes);
  }

  async ingest({ fd, from, length, offset, onBlocks, signal }: FileRange): Promise<number> {
    this.#checkWrite(offset, length);
    const blocks = await this.#parts.engine.ingest({
      fd,
      offset: from,
      blocks: length / BLOCK_SIZE,
      lbn: offset / BLOCK_SIZE,
      onBatch: (lbn, zeros) => onBlocks(lbn * BLOCK_SIZE, zeros),
      signal,
    });
    return blocks * BLOCK_SIZE;
  }

  async discard(offset: number, length: number, options: WriteOptions = {}): Promise<void> {
    this.#checkWrite(offset, length);
    await this.#clear(offset, length);
    await this.#fua(options);
  }

  /** Unmaps the range, as `discard` does: a hole reads as zeros and takes no space. */
  async writeZeroes(offset: number, length: number, options: WriteOptions = {}): Promise<void> {
    await this.discard(offset, length, options);
  }

  async flush(): Promise<void> {
    this.#checkOpen();
    if (this.readOnly) return;
    await this.#parts.engine.flush();
  }

  async extents(
    offset: number,
    length: number,
    options: ExtentOptions = {},
  ): Promise<DeviceExtent[]> {
    this.#check(offset, length);
    return findExtents(this.#parts.path, this.#parts.engine, { offset, length }, options);
  }

  /** Every dm-vdo statistic and more; see docs/FORMAT.md §8. */
  statistics(): Statistics {
    return statisticsOf(this.#parts.path, this.labels.superBlock);
  }

  /**
   * Makes everything durable and the volume CLEAN. Fails where the volume went read-only:
   * it is left so, and what was flushed is safe. A second call returns the first's end.
   */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const { engine, path } = this.#parts;
    let indexClosed: Promise<void> | null = null;
    const closeIndex = (): Promise<void> => (indexClosed ??= path.index.close());
    try {
      // A read-only volume only lets the reads end that have begun.
      if (this.readOnly) await engine.inspect(() => Promise.resolve());
      else await this.#save(closeIndex);
    } finally {
      await path.scrubber.stop();
      await path.committer.settle();
      await path.health.settle();
      await closeIndex().catch(() => undefined);
      await path.pool.close();
      await this.#parts.release();
    }
  }

  async #save(closeIndex: () => Promise<void>): Promise<void> {
    const { engine, path, storage } = this.#parts;
    await engine.close();
    // CLEAN is never written over slabs that wait for scrubbing (docs/COMMIT.md, rule 13).
    await path.scrubber.all();
    await path.committer.checkpoint();
    await closeIndex();
    // A flush of the index that failed may have lost what the checkpoint wrote.
    path.health.check();
    await storage.write([this.#superBlockImage()]);
    await storage.flush();
  }

  #superBlockImage(): { offset: number; bytes: Uint8Array } {
    const { geometry, superBlock } = this.labels;
    const { journal } = this.#parts.path;
    const clean: SuperBlock = {
      ...superBlock,
      state: CLEAN,
      journalStart: journal.tail,
      logicalBlocksUsed: journal.logicalBlocksUsed,
      blockMapDataBlocks: journal.blockMapDataBlocks,
      zoneCount: 1,
    };
    return { offset: geometry.dataStart * BLOCK_SIZE, bytes: encodeSuperBlock(clean) };
  }

  #readStep(offset: number, target: Uint8Array): Promise<void> {
    const { engine } = this.#parts;
    const lbn = Math.floor(offset / BLOCK_SIZE);
    const skip = offset - lbn * BLOCK_SIZE;
    const count = Math.ceil((skip + target.length) / BLOCK_SIZE);
    if (target.length === count * BLOCK_SIZE) return engine.read(lbn, count, target);
    return this.#readPart(lbn, count, skip, target);
  }

  /** Reads blocks of which `target` gets the bytes from `skip` on. */
  async #readPart(lbn: number, count: number, skip: number, target: Uint8Array): Promise<void> {
    const { engine } = this.#parts;
    const whole = new Uint8Array(count * BLOCK_SIZE);
    await engine.read(lbn, count, whole);
    target.set(whole.subarray(skip, skip + target.length));
  }

  /** Unmaps the whole blocks of a range and zeroes the rest of it. */
  async #clear(offset: number, length: number): Promise<void> {
    const { engine } = this.#parts;
    const end = offset + length;
    const first = Math.ceil(offset / BLOCK_SIZE);
    const last = Math.floor(end / BLOCK_SIZE);
    if (first > last) return engine.write(offset, ZEROS.subarray(0, length));
    const head = first * BLOCK_SIZE - offset;
    const tail = end - last * BLOCK_SIZE;
    if (head > 0) await engine.write(offset, ZEROS.subarray(0, head));
    if (last > first) await engine.discard(first, last);
    if (tail > 0) await engine.write(end - tail, ZEROS.subarray(0, tail));
  }

  async #fua({ fua }: WriteOptions): Promise<void> {
    if (fua !== true) return;
    this.#parts.path.counters.fuaWrites++;
    await this.#parts.engine.flush();
  }

  #checkOpen(): void {
    if (this.#closed !== null) throw new VdoError('Closed', 'the volume is closed');
  }

  #check(offset: number, length: number): void {
    this.#checkOpen();
    const isRange = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
    if (!isRange || offset < 0 || length < 0 || offset + length > this.size) {
      throw new VdoError(
        'OutOfRange',
        `bytes ${offset} to ${offset + length} of a volume of ${this.size} bytes`,
        { offset, length },
      );
    }
  }

  #checkWrite(offset: number, length: number): void {
    this.#check(offset, length);
    if (!this.readOnly) return;
    this.#parts.path.health.check();
    throw new VdoError('ReadOnly', 'the volume was opened read-only');
  }
}
