/**
 * The phases of a read: blocks that wait in the packer answer from there, the rest are located in the
 * block map, read in one vector, and expanded where they are compressed.
 */
import { asBuffer } from '../base/bytes.ts';
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_SIZE,
  COMPRESSED_BASE,
  UNCOMPRESSED,
} from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import type { Extent } from '../storage/storage.ts';
import { stepFrom } from './apply.ts';
import type { DataPath } from './data-path.ts';

/** `count` blocks from `lbn`, read into `into` (count × 4096 bytes). */
export interface ReadRequest {
  readonly lbn: number;
  readonly count: number;
  readonly into: Uint8Array;
}

export class Reader {
  readonly #path: DataPath;
  // One step's blocks: logical block, and where it goes.
  readonly #lbn: Float64Array;
  readonly #target: (Buffer | null)[];
  readonly #at: Float64Array;
  // Those of them that are compressed.
  readonly #packedRow: Int32Array;
  readonly #packedSlot: Uint8Array;
  readonly #packedBlock: Int32Array;
  /** Compressed blocks of one step: writes and reads take turns, so the verify region is free. */
  readonly #verify: Buffer;
  readonly #expanded: Uint8Array;

  constructor(path: DataPath) {
    const rows = path.batchBlocks;
    this.#path = path;
    this.#lbn = new Float64Array(rows);
    this.#target = new Array<Buffer | null>(rows).fill(null);
    this.#at = new Float64Array(rows);
    this.#packedRow = new Int32Array(rows);
    this.#packedSlot = new Uint8Array(rows);
    this.#packedBlock = new Int32Array(rows);
    this.#verify = asBuffer(path.arena.verify);
    this.#expanded = path.arena.expanded;
  }

  /** Fills every request. Fails with `BadMapping`, `Corrupt`, `Io`. */
  async read(requests: readonly ReadRequest[]): Promise<void> {
    let rows = 0;
    for (const { lbn, count, into } of requests) {
      const target = asBuffer(into);
      for (let i = 0; i < count; i++) {
        if (rows === this.#lbn.length) {
          await this.#readRows(rows);
          rows = 0;
        }
        this.#lbn[rows] = lbn + i;
        this.#target[rows] = target;
        this.#at[rows++] = i * BLOCK_SIZE;
      }
    }
    await this.#readRows(rows);
    this.#target.fill(null);
  }

  async #readRows(count: number): Promise<void> {
    for (let at = 0; at < count;) {
      const { end, pages } = stepFrom(this.#path, { lbn: this.#lbn, count }, at);
      await this.#path.blockMap.load(pages);
      await this.#readStep(at, end);
      at = end;
    }
    this.#path.counters.readBlocks += count;
  }

  async #readStep(from: number, end: number): Promise<void> {
    const { blockMap, packer, storage } = this.#path;
    const extents: Extent[] = [];
    const run = new Run(extents);
    const packed = new Map<number, number>();
    let packedRows = 0;
    for (let row = from; row < end; row++) {
      const lbn = this.#lbn[row]!;
      const target = this.#target[row]!;
      const at = this.#at[row]!;
      const fragment = packer.findLbn(lbn);
      if (fragment >= 0) {
        packer.read(fragment, target, at);
        continue;
      }
      const page = Math.floor(lbn / BLOCK_MAP_ENTRIES_PER_PAGE);
      const slot = lbn - page * BLOCK_MAP_ENTRIES_PER_PAGE;
      const frame = blockMap.find(page);
      const pbn = frame < 0 ? 0 : blockMap.pbnAt(frame, slot);
      const state = frame < 0 ? 0 : blockMap.stateAt(frame, slot);
      if (!blockMap.isValid(pbn, state)) throw badMapping(lbn, pbn, state);
      if (pbn === 0) target.fill(0, at, at + BLOCK_SIZE);
      else if (state === UNCOMPRESSED) run.add(pbn, target, at);
      else {
        let block = packed.get(pbn);
        if (block === undefined) packed.set(pbn, (block = packed.size));
        this.#packedRow[packedRows] = row;
        this.#packedSlot[packedRows] = state - COMPRESSED_BASE;
        this.#packedBlock[packedRows++] = block;
      }
    }
    run.end();
    if (packed.size > 0) {
      for (const [pbn, block] of packed) run.add(pbn, this.#verify, block * BLOCK_SIZE);
      run.end();
    }
    if (extents.length > 0) await storage.read(extents);
    this.#expand(packedRows);
  }

  #expand(rows: number): void {
    const { kernels } = this.#path.pool;
    const from = this.#verify.byteOffset;
    const into = this.#expanded.byteOffset;
    for (let i = 0; i < rows; i++) {
      const row = this.#packedRow[i]!;
      if (!kernels.expand(from + this.#packedBlock[i]! * BLOCK_SIZE, this.#packedSlot[i]!, into)) {
        throw new VdoError(
          'Corrupt',
          `logical block ${this.#lbn[row]} cannot be expanded from slot ${this.#packedSlot[i]} of its compressed block`,
          { lbn: this.#lbn[row]! },
        );
      }
      this.#target[row]!.set(this.#expanded, this.#at[row]!);
    }
  }
}

/** Joins blocks that are neighbours on the device and in memory into one extent each. */
class Run {
  readonly #extents: Extent[];
  #pbn = 0;
  #target: Buffer | null = null;
  #at = 0;
  #blocks = 0;

  constructor(extents: Extent[]) {
    this.#extents = extents;
  }

  add(pbn: number, target: Buffer, at: number): void {
    const isNext =
      target === this.#target &&
      pbn === this.#pbn + this.#blocks &&
      at === this.#at + this.#blocks * BLOCK_SIZE;
    if (isNext) {
      this.#blocks++;
      return;
    }
    this.end();
    this.#pbn = pbn;
    this.#target = target;
    this.#at = at;
    this.#blocks = 1;
  }

  end(): void {
    if (this.#target !== null) {
      const bytes = this.#target.subarray(this.#at, this.#at + this.#blocks * BLOCK_SIZE);
      this.#extents.push({ offset: this.#pbn * BLOCK_SIZE, bytes });
    }
    this.#target = null;
    this.#blocks = 0;
  }
}

function badMapping(lbn: number, pbn: number, state: number): VdoError {
  return new VdoError(
    'BadMapping',
    `logical block ${lbn} is mapped to block ${pbn} in state ${state}, which cannot hold data: run uvdo audit`,
    { lbn, pbn, state },
  );
}
