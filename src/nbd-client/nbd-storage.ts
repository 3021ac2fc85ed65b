/**
 * A storage on an NBD export: any server, any minimum block, over connections that may break.
 *
 * Invariants:
 * - The promises of `Storage` hold across restarts of the server: `link.ts` says how.
 * - A server that can neither flush nor write through (FUA) is refused for writing: nothing on it could
 *   be promised. Where there is FUA only, every write carries it.
 * - Extents that touch travel in one request of at most `MAX_RUN_BYTES`, less where the server says so.
 * - What is not aligned to the server's minimum block is read and written with the rest of its blocks,
 *   one such write at a time (`write-gate.ts`).
 */
import { VdoError } from '../base/errors.ts';
import type { DeviceExtent } from '../device/block-device.ts';
import { Allocation, Command, CommandFlag } from '../nbd/protocol.ts';
import { runsOf } from '../storage/runs.ts';
import type { SparseStorage } from '../storage/sparse-storage.ts';
import type { Extent } from '../storage/storage.ts';
import { Link } from './link.ts';
import type { Terms } from './negotiate.ts';
import { Request, type Owner } from './request.ts';
import { parseNbdUri, type NbdUri } from './uri.ts';
import { InFlight } from '../storage/in-flight.ts';
import { WriteGate } from './write-gate.ts';

const MAX_RUN_BYTES = 1 << 20;
const MAX_RUN_BUFFERS = 1024;
/** The longest range of a command that carries no data, in compact requests: 32 bits of whole blocks. */
const MAX_COMPACT_RANGE = 2 ** 32 - 65_536;
const MAX_EXTENDED_RANGE = 2 ** 50;
/** Bytes of zeros sent at once to a server that knows no other way. */
const ZERO_BYTES = 1 << 20;

export interface NbdStorageOptions {
  readonly readOnly?: boolean;
  /** A server that is silent for so long while it owes answers is reconnected to. Default 30000. */
  readonly timeoutMs?: number;
  /** For a connection to be made and the export to be opened. Default 10000. */
  readonly openMs?: number;
  /** How long a server may be away before what waits for it fails. Default 60000. */
  readonly giveUpMs?: number;
  /** Bytes of unflushed writes kept in memory to be made again. Default 64 MiB. */
  readonly replayBytes?: number;
}

/**
 * Opens an export. Fails at once with `Io` if the server cannot be reached or does not have it, with
 * `ReadOnly` if it is to be written and cannot be, `InvalidArgument` for a malformed URI.
 */
export async function openNbdStorage(
  uri: string | NbdUri,
  options: NbdStorageOptions = {},
): Promise<NbdStorage> {
  const parsed = typeof uri === 'string' ? parseNbdUri(uri) : uri;
  const link = await Link.open(parsed, {
    timeoutMs: options.timeoutMs ?? 30_000,
    openMs: options.openMs ?? 10_000,
    giveUpMs: options.giveUpMs ?? 60_000,
    replayBytes: options.replayBytes ?? 64 << 20,
  });
  const { terms } = link;
  const readOnly = options.readOnly ?? false;
  const why = readOnly ? undefined : unwritable(terms);
  if (why !== undefined) {
    await link.close();
    throw new VdoError('ReadOnly', `${parsed.text} cannot be written: ${why}`, {
      uri: parsed.text,
    });
  }
  return new NbdStorage(parsed, link, readOnly);
}

function unwritable({ readOnly, canFlush, canFua }: Terms): string | undefined {
  if (readOnly) return 'the server exports it read-only';
  if (!canFlush && !canFua) return 'the server can neither flush nor write through, so that nothing on it would be safe'; // prettier-ignore
  return undefined;
}

/** The requests of one call: it ends when all of them have, with the first error. */
class Vector implements Owner {
  readonly whenEnded: Promise<void>;
  #left: number;
  #failure: VdoError | undefined;
  #resolve: () => void = () => undefined;
  #reject: (error: VdoError) => void = () => undefined;

  constructor(count: number) {
    this.#left = count;
    this.whenEnded = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  ended(_request: Request, error: VdoError | undefined): void {
    this.#failure ??= error;
    if (--this.#left > 0) return;
    if (this.#failure === undefined) this.#resolve();
    else this.#reject(this.#failure);
  }
}

export class NbdStorage implements SparseStorage {
  readonly size: number;
  readonly readOnly: boolean;
  readonly #uri: NbdUri;
  readonly #link: Link;
  readonly #terms: Terms;
  readonly #block: number;
  readonly #maxRunBytes: number;
  readonly #maxRange: number;
  /** Flags of everything that changes the export. */
  readonly #changeFlags: number;
  readonly #gate = new WriteGate();
  readonly #operations = new InFlight();
  #closed = false;

  constructor(uri: NbdUri, link: Link, readOnly: boolean) {
    const { terms } = link;
    this.#uri = uri;
    this.#link = link;
    this.#terms = terms;
    this.size = terms.size;
    this.readOnly = readOnly;
    this.#block = terms.minimumBlock;
    this.#maxRunBytes = Math.min(MAX_RUN_BYTES, terms.maximumPayload);
    this.#maxRange = terms.form === 'extended' ? MAX_EXTENDED_RANGE : MAX_COMPACT_RANGE;
    this.#changeFlags = terms.canFlush ? 0 : CommandFlag.fua;
  }

  /** Bytes of unflushed writes held in memory. */
  get replayBytes(): number {
    return this.#link.replayBytes;
  }

  async read(extents: readonly Extent[]): Promise<void> {
    this.#check(extents, 'Truncated');
    await this.#operations.run(() => this.#read(extents));
  }

  async write(extents: readonly Extent[]): Promise<void> {
    this.#checkWritable();
    this.#check(extents, 'NoSpace');
    await this.#operations.run(() =>
      this.#areAligned(extents)
        ? this.#gate.shared(() => this.#transfer(Command.write, extents))
        : this.#gate.alone(() => this.#writeUnaligned(extents)),
    );
  }

  async flush(): Promise<void> {
    if (this.#closed) throw this.#closedError();
    if (this.readOnly) return;
    await this.#operations.run(() => this.#link.flush());
  }

  async extents(offset: number, length: number): Promise<DeviceExtent[]> {
    this.#check([{ offset, bytes: { length } }], 'Truncated');
    if (length === 0) return [];
    if (this.#terms.allocationContext === undefined) return [{ offset, length, kind: 'data' }];
    const found: DeviceExtent[] = [];
    await this.#operations.run(async () => {
      const end = offset + length;
      for (let at = this.#floor(offset); at < end;) {
        const vector = new Vector(1);
        const range = Math.min(this.#maxRange, this.#ceil(end) - at);
        const request = new Request(Command.blockStatus, at, range, [], vector);
        this.#link.submit([request]);
        await vector.whenEnded;
        const { lengths, flags } = request.status!;
        for (let i = 0; i < lengths.length && at < end; i++) {
          addExtent(found, Math.max(at, offset), Math.min(at + lengths[i]!, end), flags[i]!);
          at += lengths[i]!;
        }
      }
    });
    return found;
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#checkWritable();
    this.#check([{ offset, bytes: { length } }], 'NoSpace');
    const start = this.#ceil(offset);
    const end = this.#floor(offset + length);
    if (!this.#terms.canZero || start >= end) return this.#sendZeros(offset, offset + length);
    if (offset < start) await this.#sendZeros(offset, start);
    await this.#operations.run(() => this.#gate.shared(() => this.#ranges(Command.writeZeroes, start, end))); // prettier-ignore
    if (end < offset + length) await this.#sendZeros(end, offset + length);
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#checkWritable();
    this.#check([{ offset, bytes: { length } }], 'NoSpace');
    const [start, end] = [this.#ceil(offset), this.#floor(offset + length)];
    if (!this.#terms.canTrim || start >= end) return;
    await this.#operations.run(() =>
      this.#gate.shared(() => this.#ranges(Command.trim, start, end)),
    );
  }

  /** Waits for the operations in progress. Does not flush. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#operations.idle();
    await this.#link.close();
  }

  async #transfer(command: number, extents: readonly Extent[]): Promise<void> {
    const runs = runsOf(extents, this.#maxRunBytes, MAX_RUN_BUFFERS);
    if (runs.length === 0) return;
    const flags = command === Command.write ? this.#changeFlags : 0;
    const vector = new Vector(runs.length);
    const requests = runs.map(
      ({ offset, length, buffers }) => new Request(command, offset, length, buffers, vector, flags),
    );
    this.#link.submit(requests);
    await vector.whenEnded;
  }

  /** A command that carries no data, over a range of any length. */
  async #ranges(command: number, start: number, end: number): Promise<void> {
    for (let at = start; at < end; at += this.#maxRange) {
      const vector = new Vector(1);
      const length = Math.min(this.#maxRange, end - at);
      this.#link.submit([new Request(command, at, length, [], vector, this.#changeFlags)]);
      await vector.whenEnded;
    }
  }

  async #sendZeros(start: number, end: number): Promise<void> {
    const zeros = new Uint8Array(Math.min(ZERO_BYTES, end - start));
    for (let at = start; at < end; at += zeros.length) {
      await this.write([{ offset: at, bytes: zeros.subarray(0, end - at) }]);
    }
  }

  async #read(extents: readonly Extent[]): Promise<void> {
    if (this.#areAligned(extents)) return this.#transfer(Command.read, extents);
    const covers = extents.map(({ offset, bytes }) => {
      const start = this.#floor(offset);
      const end = Math.min(this.size, this.#ceil(offset + bytes.length));
      const aligned = start === offset && end === offset + bytes.length;
      return { offset: start, bytes: aligned ? bytes : new Uint8Array(end - start) };
    });
    await this.#transfer(Command.read, covers);
    for (const [i, { offset, bytes }] of extents.entries()) {
      const cover = covers[i]!;
      if (cover.bytes === bytes) continue;
      const skip = offset - cover.offset;
      bytes.set(cover.bytes.subarray(skip, skip + bytes.length));
    }
  }

  /** One after another: two extents may share a block. */
  async #writeUnaligned(extents: readonly Extent[]): Promise<void> {
    for (const { offset, bytes } of extents) {
      for (let done = 0; done < bytes.length;) {
        // Whole blocks travel as they are; the first and the last one are completed.
        const at = offset + done;
        const start = this.#floor(at);
        const left = bytes.length - done;
        const whole = start === at ? this.#floor(left) : 0;
        if (whole > 0) {
          await this.#transfer(Command.write, [{ offset: at, bytes: bytes.subarray(done, done + whole) }]); // prettier-ignore
          done += whole;
          continue;
        }
        const part = Math.min(left, start + this.#block - at);
        const block = { offset: start, bytes: new Uint8Array(this.#block) };
        await this.#transfer(Command.read, [block]);
        block.bytes.set(bytes.subarray(done, done + part), at - start);
        await this.#transfer(Command.write, [block]);
        done += part;
      }
    }
  }

  #floor(offset: number): number {
    return offset - (offset % this.#block);
  }

  #ceil(offset: number): number {
    return this.#floor(offset + this.#block - 1);
  }

  #areAligned(extents: readonly Extent[]): boolean {
    const block = this.#block;
    if (block === 1) return true;
    for (const { offset, bytes } of extents) {
      if (offset % block !== 0 || bytes.length % block !== 0) return false;
    }
    return true;
  }

  #check(
    extents: readonly { offset: number; bytes: { length: number } }[],
    pastEnd: 'Truncated' | 'NoSpace',
  ): void {
    if (this.#closed) throw this.#closedError();
    const uri = this.#uri.text;
    for (const { offset, bytes } of extents) {
      if (!Number.isInteger(offset) || offset < 0) {
        throw new VdoError('InvalidArgument', `${uri} has no byte ${offset}`, { uri });
      }
      if (offset + bytes.length > this.size) {
        throw new VdoError(
          pastEnd,
          `${uri} has ${this.size} bytes: there are none from ${offset} to ${offset + bytes.length}`,
          { uri, offset, length: bytes.length, size: this.size },
        );
      }
    }
  }

  #checkWritable(): void {
    if (this.#closed) throw this.#closedError();
    const uri = this.#uri.text;
    if (this.readOnly) throw new VdoError('ReadOnly', `${uri} is open for reading only`, { uri });
    if (this.#link.lost !== undefined) throw this.#link.lost;
  }

  #closedError(): VdoError {
    return new VdoError('Closed', `${this.#uri.text} is closed`, { uri: this.#uri.text });
  }
}

/** Adds [start, end), joined to the one before where it is of the same kind. */
function addExtent(found: DeviceExtent[], start: number, end: number, flags: number): void {
  if (start >= end) return;
  const zero = (flags & Allocation.zero) !== 0;
  const kind = !zero ? 'data' : (flags & Allocation.hole) !== 0 ? 'hole' : 'zero';
  const last = found.at(-1);
  if (last?.kind === kind) found[found.length - 1] = { ...last, length: end - last.offset };
  else found.push({ offset: start, length: end - start, kind });
}
