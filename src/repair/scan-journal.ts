/**
 * What of the recovery journal counts: where it ends, from which block on it is needed, and which of
 * its entries can be replayed.
 *
 * Invariants:
 * - Only blocks of this volume and of the run since the last recovery count (nonce, recovery count);
 *   a block lies where its sequence says, or it is no block.
 * - Up to the tail every block is full; the tail itself ends at the first sector that a torn write
 *   left behind. What lies beyond the tail is never looked at again, but the next run starts behind
 *   the highest block seen, usable or not.
 * - Nothing is written, and memory does not grow with the journal: it is read a few MiB at a time.
 *
 * Implements docs/FORMAT.md §7.3, steps A, B and D.
 */
import { bytesEqual } from '../base/bytes.ts';
import { BLOCK_SIZE, RECOVERY_ENTRIES_PER_BLOCK, UNMAPPED } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import {
  BLOCK_MAP_REMAPPING,
  OLD_RECOVERY_METADATA_TYPE,
  readRecoveryHeader,
  RECOVERY_METADATA_TYPE,
  usableEntryCount,
  type RecoveryHeader,
} from '../format/recovery-block.ts';
import type { SuperBlock } from '../format/super-block.ts';
import type { Extent, Storage } from '../storage/storage.ts';
import { JournalEntries } from './journal-entries.ts';

/** Journal blocks read at once. */
const CHUNK_BLOCKS = 1024;
/** Entries that a block of the old layout can have. */
const OLD_ENTRIES_PER_BLOCK = 311;
const LAST_SEQUENCE = 2 ** 48 - 1;

/** The ends of the journal, by the headers alone. */
export interface JournalEnds {
  /** Whether any block was written since the volume's last clean start. */
  readonly found: boolean;
  /** Highest sequence of a valid block; where nothing was found the journal's start. */
  readonly highest: number;
  /** Oldest block that the map, and the slab journals, still need. 0 where nothing was found. */
  readonly blockMapHead: number;
  readonly slabJournalHead: number;
}

export interface JournalScan extends JournalEnds {
  /** First block to be replayed, min of the heads. */
  readonly first: number;
  /** Last block with usable entries, and how many of them: all others have 217. */
  readonly tail: number;
  readonly tailEntries: number;
  /** Usage counters behind the last entry. */
  readonly logicalBlocksUsed: number;
  readonly blockMapDataBlocks: number;
}

/** The header of a block that counts, or null. */
export function validHeader(block: Uint8Array, superBlock: SuperBlock): RecoveryHeader | null {
  const header = readRecoveryHeader(block);
  const { metadataType: type, entryCount } = header;
  const isKnown =
    (type === RECOVERY_METADATA_TYPE && entryCount <= RECOVERY_ENTRIES_PER_BLOCK) ||
    (type === OLD_RECOVERY_METADATA_TYPE && entryCount <= OLD_ENTRIES_PER_BLOCK);
  const isOurs =
    header.recoveryCount === superBlock.completeRecoveries % 256 &&
    bytesEqual(header.nonce, superBlock.nonce);
  return isKnown && isOurs ? header : null;
}

/**
 * Reads blocks `first` … `first + count` − 1 of the journal, by sequence, into `bytes`; at most one
 * round of it. Fails with `Io`.
 */
export async function readJournalBlocks(
  storage: Storage,
  superBlock: SuperBlock,
  first: number,
  bytes: Uint8Array,
): Promise<void> {
  const { offset, count: size } = superBlock.partitions.recoveryJournal;
  const extents: Extent[] = [];
  const end = bytes.length / BLOCK_SIZE;
  for (let at = 0; at < end;) {
    const slot = (first + at) % size;
    const run = Math.min(end - at, size - slot);
    extents.push({
      offset: (offset + slot) * BLOCK_SIZE,
      bytes: bytes.subarray(at * BLOCK_SIZE, (at + run) * BLOCK_SIZE),
    });
    at += run;
  }
  await storage.read(extents);
}

/**
 * Calls `visit(sequence, block)` for journal blocks `first` … `last`, by sequence, until it returns
 * false; `block` is only valid during the call. `afterChunk` runs between reads.
 */
export async function eachJournalBlock(
  storage: Storage,
  superBlock: SuperBlock,
  range: { readonly first: number; readonly last: number },
  visit: (sequence: number, block: Uint8Array) => boolean,
  afterChunk: () => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  const { first, last } = range;
  const chunk = Math.min(CHUNK_BLOCKS, superBlock.recoveryJournalSize, last - first + 1);
  if (chunk <= 0) return;
  const bytes = new Uint8Array(chunk * BLOCK_SIZE);
  for (let at = first; at <= last; at += chunk) {
    const count = Math.min(chunk, last - at + 1);
    await readJournalBlocks(storage, superBlock, at, bytes.subarray(0, count * BLOCK_SIZE));
    for (let i = 0; i < count; i++) {
      if (!visit(at + i, bytes.subarray(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE))) return;
    }
    await afterChunk();
  }
}

/** Step A: reads every header once. Fails with `Corrupt` where a sequence is out of range, and `Io`. */
export async function findJournalEnds(
  storage: Storage,
  superBlock: SuperBlock,
): Promise<JournalEnds> {
  const size = superBlock.recoveryJournalSize;
  let found = false;
  let highest = superBlock.journalStart;
  let blockMapHead = 0;
  let slabJournalHead = 0;
  await eachJournalBlock(storage, superBlock, { first: 0, last: size - 1 }, (slot, block) => {
    const header = validHeader(block, superBlock);
    if (header === null || header.sequence % size !== slot) return true;
    if (header.sequence >= highest) {
      highest = header.sequence;
      found = true;
    }
    if (found) {
      blockMapHead = laterOf(blockMapHead, header.blockMapHead);
      slabJournalHead = laterOf(slabJournalHead, header.slabJournalHead);
    }
    return true;
  });
  if (highest >= LAST_SEQUENCE) throw corrupt(`its last block has number ${highest}`);
  return { found, highest, blockMapHead, slabJournalHead };
}

/** A head beyond every sequence there can be (`NaN`) must not be taken for none. */
function laterOf(head: number, other: number): number {
  return Number.isNaN(other) ? Infinity : Math.max(head, other);
}

/**
 * Finds what a recovery replays, and checks every entry of it. Fails with `Corrupt` where the journal
 * contradicts itself, with `UnsupportedVersion` for the layout of dm-vdo 6, and with `Io`.
 */
export async function scanJournal(
  storage: Storage,
  superBlock: SuperBlock,
  isDataBlock: (pbn: number) => boolean,
): Promise<JournalScan> {
  const ends = await findJournalEnds(storage, superBlock);
  const { logicalBlocksUsed, blockMapDataBlocks } = superBlock;
  const { blockMapHead, slabJournalHead, highest } = ends;
  const usage = { logicalBlocksUsed, blockMapDataBlocks };
  if (!ends.found) return { ...ends, first: highest + 1, tail: highest, tailEntries: 0, ...usage };
  const first = Math.min(blockMapHead, slabJournalHead);
  const found = await findTail(storage, superBlock, { first, last: highest }, isDataBlock);
  if (blockMapHead > found.tail || slabJournalHead > found.tail) {
    throw corrupt(`it is needed from block ${Math.max(blockMapHead, slabJournalHead)} on, and ends with ${found.tail}`); // prettier-ignore
  }
  return { ...ends, first, ...found };
}

type Tail = Pick<JournalScan, 'tail' | 'tailEntries' | 'logicalBlocksUsed' | 'blockMapDataBlocks'>;

/** Steps B and D. */
async function findTail(
  storage: Storage,
  superBlock: SuperBlock,
  range: { readonly first: number; readonly last: number },
  isDataBlock: (pbn: number) => boolean,
): Promise<Tail> {
  const { logicalBlocksUsed, blockMapDataBlocks } = superBlock;
  let tail: Tail | null = null;
  let lastSeen = range.first;
  const entries = new JournalEntries(1);
  await eachJournalBlock(storage, superBlock, range, (sequence, block) => {
    lastSeen = sequence;
    const header = validHeader(block, superBlock);
    if (header === null || header.sequence !== sequence) return false;
    checkType(header, tail !== null);
    const usable = usableEntryCount(block);
    if (usable > 0) {
      entries.count = 0;
      entries.add(block, sequence, usable);
      checkEntries(entries, superBlock, isDataBlock);
      tail = { tail: sequence, tailEntries: usable, ...usageBehind(header, entries) };
    }
    return usable === RECOVERY_ENTRIES_PER_BLOCK;
  });
  return tail ?? { tail: lastSeen, tailEntries: 0, logicalBlocksUsed, blockMapDataBlocks };
}

function checkType({ metadataType, sequence }: RecoveryHeader, isMixed: boolean): void {
  if (metadataType === RECOVERY_METADATA_TYPE) return;
  if (isMixed) throw corrupt(`block ${sequence} has another layout than those before`);
  throw new VdoError(
    'UnsupportedVersion',
    'the recovery journal has the layout of dm-vdo 6: recover the volume with that version',
    { sequence },
  );
}

function checkEntries(
  entries: JournalEntries,
  { rootOrigin }: SuperBlock,
  isDataBlock: (pbn: number) => boolean,
): void {
  for (let i = 0; i < entries.count; i++) {
    if (!entries.isValid(i, rootOrigin, isDataBlock)) {
      throw corrupt(`entry ${i} of block ${entries.sequence[i]!} makes no sense`);
    }
  }
}

/** Usage counters of a block's header with the block's own entries. */
function usageBehind(
  header: RecoveryHeader,
  entries: JournalEntries,
): Pick<Tail, 'logicalBlocksUsed' | 'blockMapDataBlocks'> {
  let { logicalBlocksUsed, blockMapDataBlocks } = header;
  for (let i = 0; i < entries.count; i++) {
    if (entries.operation[i] === BLOCK_MAP_REMAPPING) blockMapDataBlocks++;
    else {
      if (entries.newState[i] !== UNMAPPED) logicalBlocksUsed++;
      if (entries.oldState[i] !== UNMAPPED) logicalBlocksUsed--;
    }
  }
  if (!(logicalBlocksUsed >= 0) || !(blockMapDataBlocks >= 0)) {
    throw corrupt(`block ${header.sequence} counts ${logicalBlocksUsed} blocks in use`);
  }
  return { logicalBlocksUsed, blockMapDataBlocks };
}

function corrupt(what: string): VdoError {
  return new VdoError('Corrupt', `the recovery journal cannot be replayed: ${what}`);
}
