/**
 * What the engine asks of a deduplication index: advice, for whole batches. Advice is a hint where a
 * block with that name may lie. It is never trusted: the engine reads and compares before it shares.
 * A wrong, stale or missing answer costs space or time, never data.
 *
 * Names are 16 bytes each (MurmurHash3-x64-128 of the block), name i at bytes 16·i of `names`.
 */

/** Where the block with some name lies: columns, one row a name. */
export interface Advice {
  /** Physical block, or 0 where the index knows none. */
  readonly pbn: Float64Array;
  /** Mapping state: 1 uncompressed, 2 + k slot k of a compressed block. */
  readonly state: Uint8Array;
}

export interface IndexStatistics {
  /** Names the index holds now. */
  entriesIndexed: number;
  queriesFound: number;
  queriesNotFound: number;
  updatesFound: number;
  updatesNotFound: number;
  entriesDiscarded: number;
  /** Names held in full because another one looks the same to the index; where it can tell. */
  collisionEntries?: number;
  /** While it is rebuilt: chapters still to be replayed; where an index has such. */
  chaptersToReplay?: number;
  /** Bytes of memory the index occupies. */
  memoryBytes: number;
}

export interface HashIndex {
  /** `uds`, `level`, `memory` or `off`: what `info` and `stats` call it. */
  readonly kind: string;
  /** What its user should hear: that it began empty or knows nothing any more; null or absent if not. */
  readonly warning?: Error | null;
  /**
   * Looks up `count` names and fills rows 0 … count − 1 of `advice`. May return at once where
   * nothing has to be read.
   */
  lookup(names: Uint8Array, count: number, advice: Advice): Promise<void> | void;
  /**
   * Sets `result[i]` to 1 where name i may be known, else to 0: a guess that is only used to do work
   * ahead. Optional: an index that has to wait for it has none.
   */
  mayHold?(names: Uint8Array, count: number, result: Uint8Array): void;
  /**
   * Says where `count` names lie now, replacing what was known. The arrays belong to the caller
   * again when the call ends.
   */
  update(names: Uint8Array, count: number, locations: Advice): Promise<void> | void;
  statistics(): IndexStatistics;
  /** Resolves when no rebuild is under way; where an index has such. */
  rebuilt?(): Promise<void>;
  /** Saves what is to be kept. Called when the volume is closed, before its super block is. */
  close(): Promise<void>;
}
