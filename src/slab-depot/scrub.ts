/**
 * Scrubbing one slab: its slab journal applied to its reference blocks, sector by sector, each from
 * its own commit point on.
 *
 * A slab whose summary entry is dirty wants this. A crash leaves such slabs, and now and then (seen on
 * volumes stopped just after growing) dm-vdo even in a volume it closed cleanly: then all counts are
 * written already, and nothing remains to be applied.
 *
 * Implements docs/FORMAT.md §7.2.
 */
import {
  BLOCK_SIZE,
  COUNTS_PER_BLOCK,
  COUNTS_PER_SECTOR,
  MAXIMUM_REFERENCE_COUNT,
  PROVISIONAL_REFERENCE_COUNT,
  SECTORS_PER_BLOCK,
} from '../base/constants.ts';
import { bytesEqual } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import {
  decodeReferenceBlock,
  encodeReferenceBlock,
  readCommitPoint,
} from '../format/reference-block.ts';
import {
  readSlabJournalEntry,
  readSlabJournalHeader,
  slabJournalCapacity,
  SLAB_JOURNAL_METADATA_TYPE,
  type SlabJournalEntry,
} from '../format/slab-journal-block.ts';
import type { Extent } from '../storage/storage.ts';

export interface ScrubInput {
  readonly slab: number;
  readonly dataBlocks: number;
  readonly nonce: Uint8Array;
  /** The slab's reference blocks as read, or null where they hold nothing yet (load flag 0). */
  readonly references: Uint8Array | null;
  /** The whole slab journal as read; empty where it was never used. */
  readonly journal: Uint8Array;
  /** Sequence of the last block of the journal, 0 where it was never used. */
  readonly last: number;
}

export interface Scrubbed {
  readonly counts: Uint8Array;
  /** Position of the last entry: the commit point of all counts. */
  readonly pointSequence: number;
  readonly pointIndex: number;
  /** Per reference block: 1 where it differs from what is on disk. */
  readonly changed: Uint8Array;
}

/** The counts with the journal applied. Fails with `Corrupt` where the journal contradicts itself. */
export function scrubSlab(input: ScrubInput): Scrubbed {
  const { dataBlocks, journal, references, last } = input;
  const blocks = journal.length / BLOCK_SIZE;
  const counts = new Uint8Array(dataBlocks);
  const sectors = Math.ceil(dataBlocks / COUNTS_PER_SECTOR);
  const pointSequence = new Float64Array(sectors);
  const pointIndex = new Int32Array(sectors).fill(-1);
  const changed = new Uint8Array(Math.ceil(dataBlocks / COUNTS_PER_BLOCK));
  if (references === null) changed.fill(1);
  else loadCounts(references, counts, pointSequence, pointIndex);
  if (last === 0) return { counts, pointSequence: 0, pointIndex: 0, changed };
  const { head } = headerOf(input, last);
  if (!(head >= 1) || head > last || last - head >= blocks) {
    throw corrupt(input, `its journal has head ${head} and last block ${last}`);
  }
  let entries = 0;
  for (let sequence = head; sequence <= last; sequence++) {
    const block = blockOf(journal, sequence);
    entries = headerOf(input, sequence).entryCount;
    for (let index = 0; index < entries; index++) {
      const entry = readSlabJournalEntry(block, index);
      if (entry.sbn >= dataBlocks) throw corrupt(input, `entry of block ${entry.sbn}`);
      const sector = Math.floor(entry.sbn / COUNTS_PER_SECTOR);
      const point = pointSequence[sector]!;
      if (sequence < point || (sequence === point && index <= pointIndex[sector]!)) continue;
      applyEntry(input, counts, entry);
      changed[Math.floor(entry.sbn / COUNTS_PER_BLOCK)] = 1;
    }
  }
  return { counts, pointSequence: last, pointIndex: Math.max(0, entries - 1), changed };
}

/** The reference blocks that changed, for a slab whose reference blocks begin at byte `origin`. */
export function encodeReferences(scrubbed: Scrubbed, origin: number): Extent[] {
  const { counts, pointSequence, pointIndex, changed } = scrubbed;
  const extents: Extent[] = [];
  for (let block = 0; block < changed.length; block++) {
    if (changed[block] === 0) continue;
    const bytes = new Uint8Array(BLOCK_SIZE);
    encodeReferenceBlock(bytes, counts, block * COUNTS_PER_BLOCK, pointSequence, pointIndex);
    extents.push({ offset: origin + block * BLOCK_SIZE, bytes });
  }
  return extents;
}

function loadCounts(
  references: Uint8Array,
  counts: Uint8Array,
  pointSequence: Float64Array,
  pointIndex: Int32Array,
): void {
  for (let from = 0; from < counts.length; from += COUNTS_PER_BLOCK) {
    const at = (from / COUNTS_PER_BLOCK) * BLOCK_SIZE;
    const block = references.subarray(at, at + BLOCK_SIZE);
    decodeReferenceBlock(block, counts, from);
    for (let i = 0; i < SECTORS_PER_BLOCK; i++) {
      const sector = from / COUNTS_PER_SECTOR + i;
      if (sector >= pointIndex.length) break;
      const { sequence, index } = readCommitPoint(block, i);
      pointSequence[sector] = sequence;
      // A point of zero means that no entry is in the counts: journals begin with sequence 1.
      pointIndex[sector] = sequence === 0 ? -1 : index;
    }
  }
  for (let at = counts.indexOf(PROVISIONAL_REFERENCE_COUNT); at >= 0;) {
    counts[at] = 0;
    at = counts.indexOf(PROVISIONAL_REFERENCE_COUNT, at);
  }
}

function applyEntry(input: ScrubInput, counts: Uint8Array, entry: SlabJournalEntry): void {
  const { sbn, increment, blockMap } = entry;
  const count = counts[sbn]!;
  const isLegal = blockMap
    ? increment && count === 0
    : increment
      ? count < MAXIMUM_REFERENCE_COUNT
      : count > 0;
  if (!isLegal) {
    const what = blockMap ? 'block map page' : increment ? 'increment' : 'decrement';
    throw corrupt(input, `${what} of block ${sbn}, which has ${count} references`);
  }
  counts[sbn] = blockMap ? MAXIMUM_REFERENCE_COUNT : increment ? count + 1 : count - 1;
}

function blockOf(journal: Uint8Array, sequence: number): Uint8Array {
  const at = (sequence % (journal.length / BLOCK_SIZE)) * BLOCK_SIZE;
  return journal.subarray(at, at + BLOCK_SIZE);
}

function headerOf(input: ScrubInput, sequence: number): { head: number; entryCount: number } {
  const header = readSlabJournalHeader(blockOf(input.journal, sequence));
  const isOurs =
    header.metadataType === SLAB_JOURNAL_METADATA_TYPE &&
    bytesEqual(header.nonce, input.nonce) &&
    header.sequence === sequence &&
    header.entryCount <= slabJournalCapacity(header.hasBlockMapIncrements);
  if (!isOurs) throw corrupt(input, `its journal has no valid block ${sequence}`);
  return header;
}

function corrupt({ slab }: ScrubInput, what: string): VdoError {
  return new VdoError('Corrupt', `slab ${slab} cannot be scrubbed: ${what}`, { slab });
}
