/**
 * What the phases of the data path share: the parts of the engine, the columns they fill for each
 * other, and the counters of `stats`.
 */
import type { BlockMap } from '../block-map/block-map.ts';
import { RECORD_NAME_SIZE } from '../base/constants.ts';
import type { Advice, HashIndex } from '../index/hash-index.ts';
import type { Arena } from '../kernels/arena.ts';
import type { RecoveryJournal } from '../recovery-journal/recovery-journal.ts';
import type { Scrubber } from '../slab-depot/scrubber.ts';
import type { SlabDepot } from '../slab-depot/slab-depot.ts';
import type { Storage } from '../storage/storage.ts';
import type { BlockFile } from '../workers/fetch.ts';
import type { ComputePool } from '../workers/pool.ts';
import type { Committer } from './commit.ts';
import type { Health } from './health.ts';
import type { Packer } from './packer.ts';

export interface DataPath {
  readonly storage: Storage;
  /** Of a volume that is only read: the plain file its blocks lie in, if they do. */
  readonly blockFile: BlockFile | null;
  readonly blockMap: BlockMap;
  readonly depot: SlabDepot;
  readonly scrubber: Scrubber;
  readonly journal: RecoveryJournal;
  readonly committer: Committer;
  readonly packer: Packer;
  readonly index: HashIndex;
  readonly health: Health;
  readonly arena: Arena;
  readonly pool: ComputePool;
  readonly counters: Counters;
  readonly compression: boolean;
  readonly deduplication: boolean;
  /** Rows of a batch. */
  readonly batchBlocks: number;
  /** Leaf pages that one step may pin. */
  readonly stepPages: number;
  /** Mappings that one step may change. */
  readonly stepEntries: number;
}

/** Counts since open, named after what dm-vdo counts (docs/FORMAT.md §8). */
export class Counters {
  readBlocks = 0;
  writtenBlocks = 0;
  partialBlocks = 0;
  discardedBlocks = 0;
  flushes = 0;
  fuaWrites = 0;
  zeroBlocks = 0;
  /** Advice that proved right, and wrong. */
  adviceValid = 0;
  adviceStale = 0;
  invalidAdvice = 0;
  /** Writes of equal content at the same time, and of equal name with other content. */
  concurrentMatches = 0;
  concurrentCollisions = 0;
  /** Blocks that shared a stored block or a waiting fragment. */
  duplicateBlocks = 0;
  storedBlocks = 0;
  compressedFragments = 0;
  compressedBlocks = 0;
  noSpaceErrors = 0;
  readOnlyErrors = 0;
  /** Mappings that named no block that can hold data. */
  badMappings = 0;
}

/** Mappings to be changed: columns that grow as needed and are used again. */
export class Mappings {
  count = 0;
  lbn: Float64Array;
  pbn: Float64Array;
  state: Uint8Array;

  constructor(capacity: number) {
    this.lbn = new Float64Array(capacity);
    this.pbn = new Float64Array(capacity);
    this.state = new Uint8Array(capacity);
  }

  add(lbn: number, pbn: number, state: number): void {
    if (this.count === this.lbn.length) this.#grow();
    this.lbn[this.count] = lbn;
    this.pbn[this.count] = pbn;
    this.state[this.count++] = state;
  }

  #grow(): void {
    const capacity = 2 * this.lbn.length;
    const { lbn, pbn, state } = this;
    this.lbn = new Float64Array(capacity);
    this.pbn = new Float64Array(capacity);
    this.state = new Uint8Array(capacity);
    this.lbn.set(lbn);
    this.pbn.set(pbn);
    this.state.set(state);
  }
}

/** Names and where they lie, for the index: columns that are used again. */
export class NamedLocations implements Advice {
  readonly names: Buffer;
  /** The same, four words each. */
  readonly nameWords: Uint32Array;
  readonly pbn: Float64Array;
  readonly state: Uint8Array;
  count = 0;

  constructor(capacity: number) {
    this.nameWords = new Uint32Array((capacity * RECORD_NAME_SIZE) / 4);
    this.names = Buffer.from(this.nameWords.buffer);
    this.pbn = new Float64Array(capacity);
    this.state = new Uint8Array(capacity);
  }

  /** Adds a location; the caller puts the name at word 4 · (returned row) of `nameWords`. */
  add(pbn: number, state: number): number {
    this.pbn[this.count] = pbn;
    this.state[this.count] = state;
    return this.count++;
  }
}
