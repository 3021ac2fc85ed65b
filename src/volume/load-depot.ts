/**
 * Brings the slab depot of a clean or new volume into memory: the summary combined from the zones of
 * the last run, where each slab's journal goes on, and the reference counts of every slab that has any.
 * Slabs whose summary entry is dirty all the same are scrubbed.
 *
 * Implements docs/FORMAT.md §7.1.
 */
import { BLOCK_SIZE, COUNTS_PER_BLOCK, MiB } from '../base/constants.ts';
import { bytesEqual } from '../base/bytes.ts';
import { decodeReferenceBlock } from '../format/reference-block.ts';
import { readSlabJournalHeader, SLAB_JOURNAL_METADATA_TYPE } from '../format/slab-journal-block.ts';
import { fullnessHint } from '../format/slab-summary.ts';
import { NEW, type SuperBlock } from '../format/super-block.ts';
import { encodeReferences, scrubSlab } from '../slab-depot/scrub.ts';
import { SlabDepot, type DepotShape } from '../slab-depot/slab-depot.ts';
import { SlabJournal } from '../slab-depot/slab-journal.ts';
import { Slab } from '../slab-depot/slab.ts';
import { SlabSummary } from '../slab-depot/summary.ts';
import type { Extent, Storage } from '../storage/storage.ts';
import { slabsOf } from './labels.ts';

/** Reference blocks read at once. */
const READ_BYTES = 32 * MiB;

export interface LoadedDepot {
  readonly depot: SlabDepot;
  readonly summary: SlabSummary;
  /**
   * Reference blocks of scrubbed slabs. A writable open makes them durable before the summary, whose
   * entries in memory already call these slabs clean.
   */
  readonly scrubbed: readonly Extent[];
}

/** Loads the depot. Fails with `Corrupt` where a slab cannot be scrubbed, and with `Io`. */
export async function loadDepot(storage: Storage, superBlock: SuperBlock): Promise<LoadedDepot> {
  const { slab: config, firstBlock, nonce, partitions } = superBlock;
  const shape: DepotShape = {
    firstBlock,
    slabBlocks: config.blocks,
    dataBlocks: config.dataBlocks,
    referenceBlocks: config.referenceBlocks,
    journalBlocks: config.journalBlocks,
  };
  const summary = new SlabSummary(partitions.slabSummary.offset * BLOCK_SIZE);
  if (superBlock.state === NEW) {
    summary.reset(fullnessHint(config.dataBlocks, Math.log2(config.blocks)));
  } else await summary.load(storage, superBlock.zoneCount);
  const loader = { storage, shape, summary, nonce, scrubbed: [] as Extent[] };
  const slabs: Slab[] = [];
  const batch = Math.max(1, Math.floor(READ_BYTES / (config.referenceBlocks * BLOCK_SIZE)));
  for (let first = 0; first < slabsOf(superBlock); first += batch) {
    const end = Math.min(slabsOf(superBlock), first + batch);
    slabs.push(...(await loadSlabs(loader, first, end)));
  }
  return { depot: new SlabDepot(shape, slabs, summary), summary, scrubbed: loader.scrubbed };
}

interface Loader {
  readonly storage: Storage;
  readonly shape: DepotShape;
  readonly summary: SlabSummary;
  readonly nonce: Uint8Array;
  readonly scrubbed: Extent[];
}

/** What is read of one slab. */
interface SlabBytes {
  readonly number: number;
  /** Its last slab journal block; empty where it was never used. */
  readonly tail: Uint8Array;
  /** Its reference blocks; empty where they hold nothing. */
  readonly references: Uint8Array;
}

/** Loads slabs `first` … `end` − 1 with one vector of reads, and one more for each that is dirty. */
async function loadSlabs(loader: Loader, first: number, end: number): Promise<Slab[]> {
  const { shape, summary, storage } = loader;
  const { referenceBlocks, journalBlocks } = shape;
  const extents: Extent[] = [];
  const parts: SlabBytes[] = [];
  for (let number = first; number < end; number++) {
    const entry = summary.get(number);
    const isFresh = entry.tailOffset === 0 && !entry.loadCounts;
    const tail = new Uint8Array(isFresh ? 0 : BLOCK_SIZE);
    const references = new Uint8Array(entry.loadCounts ? referenceBlocks * BLOCK_SIZE : 0);
    const slot = (entry.tailOffset + journalBlocks - 1) % journalBlocks;
    extents.push({ offset: referencesOffset(shape, number), bytes: references });
    extents.push({ offset: journalOffset(shape, number) + slot * BLOCK_SIZE, bytes: tail });
    parts.push({ number, tail, references });
  }
  await storage.read(extents.filter(({ bytes }) => bytes.length > 0));
  const slabs: Slab[] = [];
  for (const part of parts) slabs.push(await makeSlab(loader, part));
  return slabs;
}

async function makeSlab(loader: Loader, part: SlabBytes): Promise<Slab> {
  const { shape, summary, nonce } = loader;
  const { number, tail, references } = part;
  const { dataBlocks, referenceBlocks, journalBlocks } = shape;
  const next = nextSequence(tail, nonce);
  const wantsScrubbing = summary.get(number).dirty && next > 1;
  const slab = new Slab({
    number,
    start: shape.firstBlock + number * shape.slabBlocks,
    dataBlocks,
    referenceBlocks,
    journal: new SlabJournal(nonce, journalBlocks, next),
    loaded: references.length > 0 || wantsScrubbing,
  });
  if (wantsScrubbing) slab.adopt(await scrub(loader, part, next - 1));
  else if (references.length > 0) slab.adopt(decodeCounts(references, dataBlocks));
  return slab;
}

/** Applies the slab's journal; its summary entry becomes clean in memory. */
async function scrub(loader: Loader, part: SlabBytes, last: number): Promise<Uint8Array> {
  const { storage, shape, summary, nonce } = loader;
  const { number, references } = part;
  const journal = new Uint8Array(shape.journalBlocks * BLOCK_SIZE);
  await storage.read([{ offset: journalOffset(shape, number), bytes: journal }]);
  const scrubbed = scrubSlab({
    slab: number,
    dataBlocks: shape.dataBlocks,
    nonce,
    references: references.length > 0 ? references : null,
    journal,
    last,
  });
  const bytes = encodeReferences(scrubbed);
  loader.scrubbed.push({ offset: referencesOffset(shape, number), bytes });
  summary.set(number, { ...summary.get(number), loadCounts: true, dirty: false });
  return scrubbed.counts;
}

function referencesOffset(
  { firstBlock, slabBlocks, dataBlocks }: DepotShape,
  slab: number,
): number {
  return (firstBlock + slab * slabBlocks + dataBlocks) * BLOCK_SIZE;
}

function journalOffset(shape: DepotShape, slab: number): number {
  return referencesOffset(shape, slab) + shape.referenceBlocks * BLOCK_SIZE;
}

/** Where a slab journal goes on, by its tail block; 1 where there is none. */
function nextSequence(tail: Uint8Array, nonce: Uint8Array): number {
  if (tail.length === 0) return 1;
  const header = readSlabJournalHeader(tail);
  const isOurs =
    header.metadataType === SLAB_JOURNAL_METADATA_TYPE && bytesEqual(header.nonce, nonce);
  return isOurs ? header.sequence + 1 : 1;
}

function decodeCounts(references: Uint8Array, dataBlocks: number): Uint8Array {
  const counts = new Uint8Array(dataBlocks);
  for (let from = 0; from < dataBlocks; from += COUNTS_PER_BLOCK) {
    const at = (from / COUNTS_PER_BLOCK) * BLOCK_SIZE;
    decodeReferenceBlock(references.subarray(at, at + BLOCK_SIZE), counts, from);
  }
  return counts;
}
