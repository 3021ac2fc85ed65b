/**
 * Brings the slab depot of a clean or new volume into memory: the summary combined from the zones of
 * the last run, where each slab's journal goes on, and the reference counts of every slab that has any.
 *
 * Implements docs/FORMAT.md, "Clean load".
 */
import { BLOCK_SIZE, COUNTS_PER_BLOCK, MiB } from '../base/constants.ts';
import { bytesEqual } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import { decodeReferenceBlock } from '../format/reference-block.ts';
import { readSlabJournalHeader, SLAB_JOURNAL_METADATA_TYPE } from '../format/slab-journal-block.ts';
import { fullnessHint } from '../format/slab-summary.ts';
import { NEW, type SuperBlock } from '../format/super-block.ts';
import { SlabDepot, type DepotShape } from '../slab-depot/slab-depot.ts';
import { SlabJournal } from '../slab-depot/slab-journal.ts';
import { Slab } from '../slab-depot/slab.ts';
import { SlabSummary } from '../slab-depot/summary.ts';
import type { Storage } from '../storage/storage.ts';
import { slabsOf } from './labels.ts';

/** Reference blocks read at once. */
const READ_BYTES = 32 * MiB;

export interface LoadedDepot {
  readonly depot: SlabDepot;
  readonly summary: SlabSummary;
}

/** Loads the depot. Fails with `Corrupt` where a clean volume has slabs that want scrubbing, `Io`. */
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
  const slabs: Slab[] = [];
  const batch = Math.max(1, Math.floor(READ_BYTES / (config.referenceBlocks * BLOCK_SIZE)));
  for (let first = 0; first < slabsOf(superBlock); first += batch) {
    const end = Math.min(slabsOf(superBlock), first + batch);
    slabs.push(...(await loadSlabs(storage, shape, summary, nonce, first, end)));
  }
  return { depot: new SlabDepot(shape, slabs, summary), summary };
}

/** Loads slabs `first` … `end` − 1 with one vector of reads. */
async function loadSlabs(
  storage: Storage,
  shape: DepotShape,
  summary: SlabSummary,
  nonce: Uint8Array,
  first: number,
  end: number,
): Promise<Slab[]> {
  const { dataBlocks, referenceBlocks, journalBlocks } = shape;
  const extents = [];
  const parts = [];
  for (let number = first; number < end; number++) {
    const entry = summary.get(number);
    if (entry.dirty) {
      throw new VdoError(
        'Corrupt',
        `slab ${number} wants scrubbing though the volume was closed cleanly: run uvdo audit`,
        { slab: number },
      );
    }
    const start = shape.firstBlock + number * shape.slabBlocks;
    const isFresh = entry.tailOffset === 0 && !entry.loadCounts;
    const tail = new Uint8Array(isFresh ? 0 : BLOCK_SIZE);
    const references = new Uint8Array(entry.loadCounts ? referenceBlocks * BLOCK_SIZE : 0);
    const slot = (entry.tailOffset + journalBlocks - 1) % journalBlocks;
    const offset = (start + dataBlocks) * BLOCK_SIZE;
    extents.push({ offset, bytes: references });
    extents.push({ offset: offset + (referenceBlocks + slot) * BLOCK_SIZE, bytes: tail });
    parts.push({ number, start, loaded: entry.loadCounts, tail, references });
  }
  await storage.read(extents.filter(({ bytes }) => bytes.length > 0));
  return parts.map(({ number, start, loaded, tail, references }) => {
    const journal = new SlabJournal(nonce, journalBlocks, nextSequence(tail, nonce));
    const slab = new Slab({ number, start, dataBlocks, referenceBlocks, journal, loaded });
    if (loaded) slab.adopt(decodeCounts(references, dataBlocks));
    return slab;
  });
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
