/**
 * Brings the slab depot into memory: the summary combined from the zones of the last run, where each
 * slab's journal goes on, and the reference counts of every slab that has any. Slabs whose summary
 * entry is dirty wait for scrubbing (`slab-depot/scrubber.ts`): a crash leaves them, a stop amid
 * scrubbing, and now and then even a clean stop of dm-vdo.
 *
 * Implements docs/FORMAT.md §7.1.
 */
import { BLOCK_SIZE, COUNTS_PER_BLOCK, MiB } from '../base/constants.ts';
import { decodeReferenceBlock } from '../format/reference-block.ts';
import { fullnessHint } from '../format/slab-summary.ts';
import { NEW, type SuperBlock } from '../format/super-block.ts';
import {
  depotShapeOf,
  referencesOffset,
  slabJournalBlockOffset,
  type DepotShape,
} from '../slab-depot/shape.ts';
import { SlabDepot } from '../slab-depot/slab-depot.ts';
import { SlabJournal } from '../slab-depot/slab-journal.ts';
import { Slab } from '../slab-depot/slab.ts';
import { SlabSummary } from '../slab-depot/summary.ts';
import { adoptTail, freshTails } from '../slab-depot/tails.ts';
import type { Extent, Storage } from '../storage/storage.ts';
import { slabsOf } from './labels.ts';

/** Reference blocks read at once. */
const READ_BYTES = 32 * MiB;

export interface LoadedDepot {
  readonly depot: SlabDepot;
  readonly summary: SlabSummary;
}

/** Loads the depot. Fails with `Io`. */
export async function loadDepot(storage: Storage, superBlock: SuperBlock): Promise<LoadedDepot> {
  const { slab: config, nonce, partitions } = superBlock;
  const shape = depotShapeOf(superBlock);
  const summary = new SlabSummary(partitions.slabSummary.offset * BLOCK_SIZE);
  if (superBlock.state === NEW) {
    summary.reset(fullnessHint(config.dataBlocks, Math.log2(config.blocks)));
  } else await summary.load(storage, superBlock.zoneCount);
  const slabs: Slab[] = [];
  const batch = Math.max(1, Math.floor(READ_BYTES / (config.referenceBlocks * BLOCK_SIZE)));
  for (let first = 0; first < slabsOf(superBlock); first += batch) {
    const end = Math.min(slabsOf(superBlock), first + batch);
    slabs.push(...(await loadSlabs({ storage, shape, summary, nonce }, first, end)));
  }
  return { depot: new SlabDepot(shape, slabs, summary), summary };
}

interface Loader {
  readonly storage: Storage;
  readonly shape: DepotShape;
  readonly summary: SlabSummary;
  readonly nonce: Uint8Array;
}

/** What is read of one slab. */
interface SlabBytes {
  readonly number: number;
  /** Its last slab journal block; empty where it was never used. */
  readonly tail: Uint8Array;
  /** Its reference blocks; empty where they hold nothing or are not read yet. */
  readonly references: Uint8Array;
}

/** Loads slabs `first` … `end` − 1 with one vector of reads. */
async function loadSlabs(loader: Loader, first: number, end: number): Promise<Slab[]> {
  const { shape, summary, storage } = loader;
  const extents: Extent[] = [];
  const parts: SlabBytes[] = [];
  for (let number = first; number < end; number++) {
    const { tailOffset, loadCounts, dirty } = summary.get(number);
    const isFresh = tailOffset === 0 && !loadCounts;
    const tail = new Uint8Array(isFresh ? 0 : BLOCK_SIZE);
    const references = new Uint8Array(
      loadCounts && !dirty ? shape.referenceBlocks * BLOCK_SIZE : 0,
    );
    const last = tailOffset + shape.journalBlocks - 1;
    extents.push({ offset: referencesOffset(shape, number), bytes: references });
    extents.push({ offset: slabJournalBlockOffset(shape, number, last), bytes: tail });
    parts.push({ number, tail, references });
  }
  await storage.read(extents.filter(({ bytes }) => bytes.length > 0));
  return parts.map((part) => makeSlab(loader, part));
}

function makeSlab({ shape, summary, nonce }: Loader, part: SlabBytes): Slab {
  const { number, tail, references } = part;
  const { dataBlocks, referenceBlocks, journalBlocks } = shape;
  const { loadCounts, dirty } = summary.get(number);
  const tails = freshTails(1);
  if (tail.length > 0) adoptTail(tails, 0, tail, { nonce, dirty });
  const slab = new Slab({
    number,
    start: shape.firstBlock + number * shape.slabBlocks,
    dataBlocks,
    referenceBlocks,
    journal: new SlabJournal(nonce, journalBlocks, tails.tail[0]!),
    loaded: loadCounts,
    scrubbed: !dirty,
  });
  if (references.length > 0) slab.adopt(decodeCounts(references, dataBlocks));
  return slab;
}

function decodeCounts(references: Uint8Array, dataBlocks: number): Uint8Array {
  const counts = new Uint8Array(dataBlocks);
  for (let from = 0; from < dataBlocks; from += COUNTS_PER_BLOCK) {
    const at = (from / COUNTS_PER_BLOCK) * BLOCK_SIZE;
    decodeReferenceBlock(references.subarray(at, at + BLOCK_SIZE), counts, from);
  }
  return counts;
}
