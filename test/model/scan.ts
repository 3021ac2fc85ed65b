/**
 * Steps A, B and D of dm-vdo's recovery, as the specification reads: where the recovery journal ends,
 * which of its entries are usable, what the usage counters are.
 */
import { Damaged, type VolumeLayout } from './layout.ts';
import {
  decodeJournalEntry,
  decodeJournalHeader,
  JOURNAL_ENTRIES,
  journalEntryAt,
  SECTOR_ENTRIES,
  type JournalEntry,
  type JournalHeader,
} from './records.ts';

export interface ScannedBlock {
  readonly sequence: number;
  readonly header: JournalHeader;
  readonly entries: readonly JournalEntry[];
}

export interface JournalScan {
  readonly highest: number;
  readonly found: boolean;
  readonly blockMapHead: number;
  readonly slabJournalHead: number;
  readonly tail: number;
  /** From the lower head to the tail, in order. */
  readonly blocks: readonly ScannedBlock[];
  readonly logicalBlocksUsed: number;
  readonly treePages: number;
}

/** Usable entries of a block and whether it is the last one that may be used. */
function usableEntries(
  block: Buffer,
  header: JournalHeader,
): { entries: JournalEntry[]; short: boolean } {
  const entries: JournalEntry[] = [];
  for (let sector = 1; sector < 8; sector++) {
    const at = sector * 512;
    const count = block[at + 2]!;
    if (block[at] !== block[51] || block[at + 1] !== block[52] || count > SECTOR_ENTRIES) break;
    const usable = Math.min(count, header.entryCount - entries.length);
    for (let i = 0; i < usable; i++) {
      entries.push(decodeJournalEntry(block, journalEntryAt((sector - 1) * SECTOR_ENTRIES + i)));
    }
    if (usable < SECTOR_ENTRIES) break;
  }
  const short = header.entryCount !== JOURNAL_ENTRIES || entries.length < header.entryCount;
  return { entries, short };
}

export function scanJournal(layout: VolumeLayout, journal: readonly Buffer[]): JournalScan {
  const size = layout.journalBlocks;
  const recoveryCount = layout.completeRecoveries & 0xff;
  const headers = journal.map((block) => decodeJournalHeader(block, layout.nonce, recoveryCount));
  let highest = layout.journalStart;
  let found = false;
  let blockMapHead = 0;
  let slabJournalHead = 0;
  headers.forEach((header, i) => {
    if (!header || header.sequence % size !== i) return;
    if (header.sequence >= highest) {
      highest = header.sequence;
      found = true;
    }
    if (!found) return;
    blockMapHead = Math.max(blockMapHead, header.blockMapHead);
    slabJournalHead = Math.max(slabJournalHead, header.slabJournalHead);
  });
  const counters = { logicalBlocksUsed: layout.logicalBlocksUsed, treePages: layout.treePages };
  const base = { highest, found, blockMapHead, slabJournalHead };
  if (!found) return { ...base, tail: highest, blocks: [], ...counters };

  const blocks: ScannedBlock[] = [];
  let usableSeen = false;
  let tail = highest;
  for (let sequence = Math.min(blockMapHead, slabJournalHead); sequence <= highest; sequence++) {
    const header = headers[sequence % size];
    const valid = header !== undefined && header.sequence === sequence;
    const { entries, short } = valid
      ? usableEntries(journal[sequence % size]!, header)
      : { entries: [], short: true };
    tail = entries.length === 0 && usableSeen ? sequence - 1 : sequence;
    if (valid && entries.length > 0) {
      blocks.push({ sequence, header, entries });
      usableSeen = true;
    }
    if (short) break;
  }
  if (blockMapHead > tail || slabJournalHead > tail) {
    throw new Damaged(`journal heads ${blockMapHead}, ${slabJournalHead} beyond tail ${tail}`);
  }
  return { ...base, tail, blocks, ...usageAt(blocks.at(-1), counters) };
}

/** Step D. */
function usageAt(
  tail: ScannedBlock | undefined,
  superBlock: { logicalBlocksUsed: number; treePages: number },
): { logicalBlocksUsed: number; treePages: number } {
  if (!tail) return superBlock;
  let { logicalBlocksUsed, treePages } = tail.header;
  for (const { operation, mapping, unmapping } of tail.entries) {
    if (operation === 1) treePages++;
    else logicalBlocksUsed += Number(mapping.state !== 0) - Number(unmapping.state !== 0);
  }
  return { logicalBlocksUsed, treePages };
}
