/**
 * The recovery journal in a read-only rebuild: whatever can still be read of it goes into the block
 * map. Unlike a recovery it stops nowhere: blocks, sectors and entries that make no sense are passed
 * over, since the counts are made anew from the map afterwards.
 *
 * - Also read is the layout of dm-vdo 6 (entries of 11 bytes, one for each change of a count): there
 *   only increments say what a slot maps to.
 * - A block counts in its place and with its own sequence only, so at most one round is looked at.
 *
 * Implements docs/FORMAT.md §7.4, step 2.
 */
import { RECOVERY_ENTRIES_PER_SECTOR, SECTOR_SIZE, SECTORS_PER_BLOCK } from '../base/constants.ts';
import { getU16, getU32 } from '../base/bytes.ts';
import { mappingPbn, mappingState } from '../format/block-map-page.ts';
import {
  BLOCK_MAP_REMAPPING,
  DATA_REMAPPING,
  RECOVERY_METADATA_TYPE,
  recoveryBlockHeader,
  recoverySector,
  sectorEntryCount,
} from '../format/recovery-block.ts';
import type { SuperBlock } from '../format/super-block.ts';
import type { Storage } from '../storage/storage.ts';
import { JournalEntries } from './journal-entries.ts';
import { replayBlockMap } from './replay-map.ts';
import { eachJournalBlock, validHeader, type JournalEnds } from './scan-journal.ts';

/** Journal blocks whose entries are in memory at a time. */
const WINDOW_BLOCKS = 4096;

// The layout of dm-vdo 6: word (operation, slot, page bits 35 … 32), page bits 31 … 0, mapping.
const OLD_ENTRY_SIZE = 11;
const OLD_ENTRIES_PER_SECTOR = 46;
const OLD_DATA_INCREMENT = 1;
const OLD_BLOCK_MAP_INCREMENT = 3;

export interface Salvage {
  /** Entries whose mappings went into the map. */
  entries: number;
  /** Entries that make no sense, and journal blocks that are none. */
  skippedEntries: number;
  skippedBlocks: number;
  /** Pages written. */
  pages: number;
}

/** Replays what can be replayed. Fails with `Io`; can be repeated. */
export async function salvageJournal(
  storage: Storage,
  superBlock: SuperBlock,
  ends: JournalEnds,
  isDataBlock: (pbn: number) => boolean,
): Promise<Salvage> {
  const salvage: Salvage = { entries: 0, skippedEntries: 0, skippedBlocks: 0, pages: 0 };
  if (!ends.found) return salvage;
  const { highest, blockMapHead } = ends;
  const size = superBlock.recoveryJournalSize;
  const first = Math.max(1, blockMapHead, highest - size + 1);
  const { rootOrigin, nonce } = superBlock;
  const window = new JournalEntries(2 * Math.min(WINDOW_BLOCKS, Math.max(1, highest - first + 1)));
  for (let at = first; at <= highest; at += WINDOW_BLOCKS) {
    const last = Math.min(highest, at + WINDOW_BLOCKS - 1);
    window.count = 0;
    await eachJournalBlock(storage, superBlock, { first: at, last }, (sequence, block) => {
      const header = validHeader(block, superBlock);
      if (header === null || header.sequence !== sequence) salvage.skippedBlocks++;
      else addSectors(window, block, sequence, header);
      return true;
    });
    const found = window.count;
    keepValid(window, rootOrigin, isDataBlock);
    salvage.entries += window.count;
    salvage.skippedEntries += found - window.count;
    salvage.pages += await replayBlockMap(storage, nonce, window, 0, 'is empty');
  }
  return salvage;
}

/** Adds what each sector that belongs to the block holds, up to what the header promises. */
function addSectors(
  window: JournalEntries,
  block: Uint8Array,
  sequence: number,
  { metadataType, entryCount }: { metadataType: number; entryCount: number },
): void {
  const isOld = metadataType !== RECOVERY_METADATA_TYPE;
  const perSector = isOld ? OLD_ENTRIES_PER_SECTOR : RECOVERY_ENTRIES_PER_SECTOR;
  for (let sector = 1; sector < SECTORS_PER_BLOCK; sector++) {
    const before = (sector - 1) * perSector;
    const count = Math.min(entryCount - before, sectorEntryCount(block, sector));
    if (!isOurs(block, sector, perSector)) continue;
    for (let i = 0; i < count; i++) {
      if (isOld) addOld(window, block, sequence, sector * SECTOR_SIZE, i);
      else window.addOne(block, sequence, before + i);
    }
  }
}

/** Whether a sector belongs to the same write as the header. */
function isOurs(block: Uint8Array, sector: number, perSector: number): boolean {
  const at = sector * SECTOR_SIZE;
  return (
    block[at] === block[recoveryBlockHeader.offset.checkByte] &&
    block[at + 1] === block[recoveryBlockHeader.offset.recoveryCount] &&
    sectorEntryCount(block, sector) <= perSector
  );
}

/** Adds an entry of the old layout where it says what a slot maps to. */
function addOld(
  window: JournalEntries,
  block: Uint8Array,
  sequence: number,
  sectorAt: number,
  index: number,
): void {
  const at = sectorAt + recoverySector.offset.entries + index * OLD_ENTRY_SIZE;
  const word = getU16(block, at);
  const operation = word & 3;
  if (operation !== OLD_DATA_INCREMENT && operation !== OLD_BLOCK_MAP_INCREMENT) return;
  const i = window.count++;
  const isBlockMap = operation === OLD_BLOCK_MAP_INCREMENT;
  window.operation[i] = isBlockMap ? BLOCK_MAP_REMAPPING : DATA_REMAPPING;
  window.slot[i] = (word >>> 2) & 0x3ff;
  window.page[i] = (word >>> 12) * 2 ** 32 + getU32(block, at + 2);
  window.newPbn[i] = mappingPbn(block, at + 6);
  window.newState[i] = mappingState(block, at + 6);
  window.oldPbn[i] = 0;
  window.oldState[i] = 0;
  window.sequence[i] = sequence;
}

/** Moves the entries that can be replayed to the front and forgets the others. */
function keepValid(
  window: JournalEntries,
  rootOrigin: number,
  isDataBlock: (pbn: number) => boolean,
): void {
  const { page, slot, newPbn, newState } = window;
  let kept = 0;
  for (let i = 0; i < window.count; i++) {
    if (!window.isValid(i, rootOrigin, isDataBlock)) continue;
    page[kept] = page[i]!;
    slot[kept] = slot[i]!;
    newPbn[kept] = newPbn[i]!;
    newState[kept] = newState[i]!;
    kept++;
  }
  window.count = kept;
}
