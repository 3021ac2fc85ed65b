/**
 * One slab as it lies on disk: its summary entry, reference counts and journal (FORMAT §6).
 */
import {
  BLOCK_SIZE,
  COUNTS_PER_BLOCK,
  MAXIMUM_REFERENCE_COUNT,
  PROVISIONAL_REFERENCE_COUNT,
  SECTORS_PER_BLOCK,
} from '../base/constants.ts';
import { bytesEqual } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import { decodeReferenceBlock, readCommitPoint } from '../format/reference-block.ts';
import {
  readSlabJournalEntry,
  readSlabJournalHeader,
  SLAB_JOURNAL_METADATA_TYPE,
  slabJournalCapacity,
  type SlabJournalEntry,
} from '../format/slab-journal-block.ts';
import { readSummaryEntry, SUMMARY_ZONE_SIZE, type SummaryEntry } from '../format/slab-summary.ts';
import type { JournalPoint } from '../format/struct.ts';
import { slabRanges } from './dump-layout.ts';
import type { Inspection } from './inspection.ts';

export interface ReferenceBlockDump {
  readonly pbn: number;
  readonly commitPoint: JournalPoint;
  /** Whether the sectors carry different commit points. */
  readonly torn: boolean;
}

export interface SlabDump {
  readonly slab: number;
  readonly ranges: ReturnType<typeof slabRanges>;
  readonly summary: SummaryEntry | undefined;
  readonly referenceBlocks: readonly ReferenceBlockDump[];
  /** Blocks by what their stored count says; absent where counts mean nothing yet. */
  readonly counts?: {
    readonly free: number;
    readonly single: number;
    readonly shared: number;
    readonly maximum: number;
    readonly provisional: number;
    /** `[first block in the slab, blocks, count]`, free blocks left out. */
    readonly runs: readonly (readonly [number, number, number])[];
  };
}

function checkSlabNumber(inspection: Inspection, slab: number): void {
  const { slabs } = slabRanges(inspection, 0);
  if (slab < 0 || slab >= slabs) throw new VdoError('OutOfRange', `slabs are 0 … ${slabs - 1}`);
}

/** The summary entry that counts: from the copy of the physical zone that last had the slab. */
async function readSummary(
  inspection: Inspection,
  slab: number,
): Promise<SummaryEntry | undefined> {
  const { partitions, zoneCount } = inspection.needSuperBlock();
  const zone = zoneCount > 1 ? slab % zoneCount : 0;
  const at = zone * SUMMARY_ZONE_SIZE + slab * 2;
  const bytes = await inspection.block(partitions.slabSummary.offset + Math.floor(at / BLOCK_SIZE));
  return bytes && readSummaryEntry(bytes, (at % BLOCK_SIZE) / 2);
}

/** Slab `slab`. Fails with `OutOfRange`. */
export async function dumpSlab(inspection: Inspection, slab: number): Promise<SlabDump> {
  checkSlabNumber(inspection, slab);
  const ranges = slabRanges(inspection, slab);
  const summary = await readSummary(inspection, slab);
  const counts = new Uint8Array(ranges.data.count);
  const referenceBlocks: ReferenceBlockDump[] = [];
  for (let i = 0; i < ranges.referenceCounts.count; i++) {
    const pbn = ranges.referenceCounts.start + i;
    const bytes = await inspection.block(pbn);
    if (bytes === undefined) continue;
    const points = Array.from({ length: SECTORS_PER_BLOCK }, (_, s) => readCommitPoint(bytes, s));
    const [commitPoint] = points as [JournalPoint, ...JournalPoint[]];
    const torn = points.some(
      ({ sequence, index }) => sequence !== commitPoint.sequence || index !== commitPoint.index,
    );
    referenceBlocks.push({ pbn, commitPoint, torn });
    decodeReferenceBlock(bytes, counts, i * COUNTS_PER_BLOCK);
  }
  if (summary?.loadCounts !== true) return { slab, ranges, summary, referenceBlocks: [] };
  for (const { pbn, torn } of referenceBlocks) {
    if (torn) inspection.note(`reference block ${pbn} was torn: its sectors differ in age`);
  }
  return { slab, ranges, summary, referenceBlocks, counts: tally(counts) };
}

function tally(counts: Uint8Array) {
  const result = { free: 0, single: 0, shared: 0, maximum: 0, provisional: 0 };
  const runs: [number, number, number][] = [];
  counts.forEach((count, sbn) => {
    if (count === 0) result.free++;
    else if (count === 1) result.single++;
    else if (count === MAXIMUM_REFERENCE_COUNT) result.maximum++;
    else if (count === PROVISIONAL_REFERENCE_COUNT) result.provisional++;
    else result.shared++;
    if (count === 0) return;
    const run = runs.at(-1);
    if (run !== undefined && run[0] + run[1] === sbn && run[2] === count) run[1]++;
    else runs.push([sbn, 1, count]);
  });
  return { ...result, runs };
}

export interface SlabJournalBlockDump {
  readonly pbn: number;
  readonly sequence: number;
  readonly head: number;
  readonly recoverySequence: number;
  readonly recoveryIndex: number;
  readonly full: boolean;
  readonly entryCount: number;
  readonly entries?: readonly SlabJournalEntry[];
}

export interface SlabJournalDump {
  readonly slab: number;
  readonly summary: SummaryEntry | undefined;
  /** Blocks that were ever written in this volume, oldest first. */
  readonly blocks: readonly SlabJournalBlockDump[];
}

/** The journal of slab `slab`, on request with all entries. Fails with `OutOfRange`. */
export async function dumpSlabJournal(
  inspection: Inspection,
  slab: number,
  withEntries: boolean,
): Promise<SlabJournalDump> {
  checkSlabNumber(inspection, slab);
  const { nonce } = inspection.needSuperBlock();
  const { journal } = slabRanges(inspection, slab);
  const summary = await readSummary(inspection, slab);
  const blocks: SlabJournalBlockDump[] = [];
  for (let i = 0; i < journal.count; i++) {
    const pbn = journal.start + i;
    const bytes = await inspection.block(pbn);
    if (bytes === undefined) continue;
    const { hasBlockMapIncrements: full, ...header } = readSlabJournalHeader(bytes);
    if (header.metadataType !== SLAB_JOURNAL_METADATA_TYPE) continue;
    if (!bytesEqual(header.nonce, nonce) || header.sequence % journal.count !== i) continue;
    const { sequence, head, recoverySequence, recoveryIndex, entryCount } = header;
    const capacity = slabJournalCapacity(full);
    if (entryCount > capacity) inspection.note(`block ${pbn}: claims ${entryCount} entries`);
    const dump = { pbn, sequence, head, recoverySequence, recoveryIndex, full, entryCount };
    if (!withEntries) blocks.push(dump);
    else {
      const length = Math.min(entryCount, capacity);
      const entries = Array.from({ length }, (_, k) => readSlabJournalEntry(bytes, k));
      blocks.push({ ...dump, entries });
    }
  }
  blocks.sort((a, b) => a.sequence - b.sequence);
  return { slab, summary, blocks };
}
