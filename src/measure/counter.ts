/**
 * Counts blocks: zero, new, seen before; per source, per file and in all. The one loop over every block
 * that was hashed.
 *
 * Invariants:
 * - blocks = zero + non-zero; non-zero blocks of contents that are sampled = unique + duplicate.
 * - The order of blocks is that of the sources: a content belongs to whoever came first.
 */
import type { Arena } from '../kernels/arena.ts';
import { MAXIMUM_REFERENCE_COUNT } from '../base/constants.ts';
import type { Batch, Part } from './block-feed.ts';
import { MAX_TIMES, type FingerprintTable } from './fingerprint-table.ts';
import type { KeptState } from './kept-state.ts';
import type { SourceSets } from './source-sets.ts';
import type { SpilledContents } from './spilled-contents.ts';
import { ELSEWHERE, type StoredModel } from './stored-model.ts';
import type { WindowModel } from './windows.ts';

/** What was counted of one source, or of one file. */
export interface Tally {
  readonly path: string;
  files: number;
  bytes: number;
  blocks: number;
  zeroBlocks: number;
  /** Non-zero blocks whose content came before, in this source or an earlier one; of the sample. */
  duplicateBlocks: number;
}

export interface CounterParts {
  readonly arena: Arena;
  readonly table: FingerprintTable;
  /** Absent without compression. */
  readonly stored: StoredModel | null;
  /** Absent for one source. */
  readonly sets: SourceSets | null;
  readonly windows: WindowModel | null;
  /** Contents put away to disk; absent without a store. */
  readonly spilled: SpilledContents | null;
  /** Of so many contents one is looked at. */
  readonly sample: number;
}

const MAX_TOP_FILES = 20;

export class BlockCounter {
  readonly sources: readonly Tally[];
  /** The files with most duplicate blocks, most first. */
  topFiles: Tally[] = [];
  blocks = 0;
  zeroBlocks = 0;
  /** Of the sample, if there is one. */
  uniqueBlocks = 0;
  duplicateBlocks = 0;
  /** Blocks stored where nothing is compressed: one for every 254 references. */
  copies = 0;
  readonly #parts: CounterParts;
  readonly #names: Uint32Array;
  #file: Tally | null = null;

  /** `sources`: by index; what earlier runs counted of them is in their tallies. */
  constructor(sources: readonly Tally[], parts: CounterParts) {
    const { arena } = parts;
    this.#parts = parts;
    this.#names = new Uint32Array(arena.names.buffer, arena.names.byteOffset, arena.rows * 4);
    this.sources = sources;
  }

  /** Goes on from what earlier runs have counted; their tallies are there. */
  restore(kept: Pick<KeptState, 'uniqueBlocks' | 'copies' | 'topFiles'>): void {
    this.uniqueBlocks = kept.uniqueBlocks;
    this.copies = kept.copies;
    this.topFiles = kept.topFiles.map((file) => ({ ...file }));
    for (const { blocks, zeroBlocks } of this.sources) {
      this.blocks += blocks;
      this.zeroBlocks += zeroBlocks;
    }
  }

  /** Counts the rows of a batch that is hashed. Those to be compressed are left with the model. */
  add(batch: Batch): void {
    for (const part of batch.parts) this.#addPart(part);
  }

  #addPart(part: Part): void {
    const source = this.sources[part.file.source]!;
    const file = (this.#file ??= newTally(part.file.path));
    const duplicatesBefore = this.duplicateBlocks;
    const zeroBlocks =
      part.holeBlocks + this.#addRows(part.firstRow, part.endRow, part.file.source);
    const blocks = part.holeBlocks + part.endRow - part.firstRow;
    const duplicateBlocks = this.duplicateBlocks - duplicatesBefore;
    this.blocks += blocks;
    this.zeroBlocks += zeroBlocks;
    for (const tally of [source, file]) {
      tally.bytes += part.bytes;
      tally.blocks += blocks;
      tally.zeroBlocks += zeroBlocks;
      tally.duplicateBlocks += duplicateBlocks;
    }
    if (!part.isLast) return;
    source.files++;
    file.files = 1;
    this.#file = null;
    this.#rank(file);
  }

  #rank(file: Tally): void {
    const least = this.topFiles.at(-1);
    if (file.duplicateBlocks === 0) return;
    if (this.topFiles.length === MAX_TOP_FILES) {
      if (file.duplicateBlocks <= least!.duplicateBlocks) return;
      this.topFiles.pop();
    }
    this.topFiles.push(file);
    this.topFiles.sort((a, b) => b.duplicateBlocks - a.duplicateBlocks);
  }

  /** Returns how many rows are zeros. */
  #addRows(first: number, end: number, source: number): number {
    const { table, stored, sets, windows, spilled, sample } = this.#parts;
    const { zero } = this.#parts.arena;
    const names = this.#names;
    let zeroBlocks = 0;
    let unique = 0;
    let duplicate = 0;
    for (let row = first; row < end; row++) {
      if (zero[row] === 1) {
        zeroBlocks++;
        continue;
      }
      const n0 = names[row * 4]!;
      const n1 = names[row * 4 + 1]!;
      const n2 = names[row * 4 + 2]!;
      const n3 = names[row * 4 + 3]!;
      if (sample !== 1 && n2 % sample !== 0) continue;
      if (windows !== null) windows.add(n0, n1, n3);
      let at = table.find(n0, n1, n3);
      let isNew = at < 0;
      if (isNew) {
        at = table.insert(at, n0, n1, n3);
        isNew = spilled === null || !spilled.mayHold(n0, n1);
        if (isNew) unique++;
        else {
          duplicate++;
          if (stored !== null) table.words[at + 2] = ELSEWHERE;
        }
      } else {
        duplicate++;
        const word3 = table.words[at + 3]!;
        if ((word3 & MAX_TIMES) !== MAX_TIMES) table.words[at + 3] = word3 + 1;
      }
      const { words } = table;
      if (sets !== null) words[at + 4] = sets.with(words[at + 4]!, source);
      if (stored === null) this.#copy(words, at);
      else if (isNew) stored.addNew(words, at, row);
      else stored.addDuplicate(words, at, row);
    }
    this.uniqueBlocks += unique;
    this.duplicateBlocks += duplicate;
    return zeroBlocks;
  }

  /** Without compression word 2 counts the references, and every 254 take a copy. */
  #copy(words: Uint32Array, at: number): void {
    const references = words[at + 2]!;
    if (references % MAXIMUM_REFERENCE_COUNT === 0) this.copies++;
    words[at + 2] = references + 1;
  }
}

export function newTally(path: string): Tally {
  return { path, files: 0, bytes: 0, blocks: 0, zeroBlocks: 0, duplicateBlocks: 0 };
}
