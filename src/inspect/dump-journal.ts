/**
 * The recovery journal as it lies on disk (FORMAT §5): every block that this volume wrote and that a
 * recovery would still recognise, or that an earlier one has outdated.
 */
import { BLOCK_SIZE, RECOVERY_ENTRIES_PER_BLOCK } from '../base/constants.ts';
import { bytesEqual } from '../base/bytes.ts';
import {
  checkByte,
  OLD_RECOVERY_METADATA_TYPE,
  readRecoveryEntry,
  readRecoveryHeader,
  RECOVERY_METADATA_TYPE,
  usableEntryCount,
  type RecoveryEntry,
} from '../format/recovery-block.ts';
import type { Inspection } from './inspection.ts';

const BLOCKS_PER_READ = 256;

export interface RecoveryBlockDump {
  readonly pbn: number;
  readonly sequence: number;
  readonly blockMapHead: number;
  readonly slabJournalHead: number;
  readonly entryCount: number;
  /** Entries found in its sectors; fewer than `entryCount` after a torn write. */
  readonly usableEntries: number;
  readonly logicalBlocksUsed: number;
  readonly blockMapDataBlocks: number;
  readonly recoveryCount: number;
  /** Whether it belongs to the present run of the volume: its recovery count is the current one. */
  readonly current: boolean;
  readonly entries?: readonly RecoveryEntry[];
}

/** All journal blocks of this volume, by sequence number; on request with their entries. */
export async function dumpJournal(
  inspection: Inspection,
  withEntries: boolean,
): Promise<RecoveryBlockDump[]> {
  const { partitions } = inspection.needSuperBlock();
  const { offset } = partitions.recoveryJournal;
  const count = Math.min(partitions.recoveryJournal.count, inspection.blocksFrom(offset));
  const blocks: RecoveryBlockDump[] = [];
  for (let first = 0; first < count; first += BLOCKS_PER_READ) {
    const some = Math.min(BLOCKS_PER_READ, count - first);
    const bytes = await inspection.blocks(offset + first, some);
    for (let i = 0; bytes !== undefined && i < some; i++) {
      const block = bytes.subarray(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE);
      const dump = dumpBlock(inspection, block, first + i, withEntries);
      if (dump !== undefined) blocks.push(dump);
    }
  }
  return blocks.sort((a, b) => a.sequence - b.sequence);
}

function dumpBlock(
  inspection: Inspection,
  bytes: Uint8Array,
  index: number,
  withEntries: boolean,
): RecoveryBlockDump | undefined {
  const superBlock = inspection.needSuperBlock();
  const { offset, count: journalBlocks } = superBlock.partitions.recoveryJournal;
  const header = readRecoveryHeader(bytes);
  if (!bytesEqual(header.nonce, superBlock.nonce)) return undefined;
  const pbn = offset + index;
  if (header.metadataType === OLD_RECOVERY_METADATA_TYPE) {
    inspection.note(`journal block ${pbn} has the layout of dm-vdo 6, which is not shown`);
    return undefined;
  }
  if (header.metadataType !== RECOVERY_METADATA_TYPE) return undefined;
  const { sequence, entryCount, recoveryCount } = header;
  const misplaced = sequence % journalBlocks !== index;
  const damaged = header.checkByte !== checkByte(sequence, journalBlocks);
  if (misplaced || damaged || entryCount > RECOVERY_ENTRIES_PER_BLOCK) {
    inspection.note(`journal block ${pbn}: its header makes no sense (sequence ${sequence})`);
    return undefined;
  }
  const usableEntries = usableEntryCount(bytes);
  const { blockMapHead, slabJournalHead, logicalBlocksUsed, blockMapDataBlocks } = header;
  const dump = {
    pbn,
    sequence,
    blockMapHead,
    slabJournalHead,
    entryCount,
    usableEntries,
    logicalBlocksUsed,
    blockMapDataBlocks,
    recoveryCount,
    current: recoveryCount === superBlock.completeRecoveries % 256,
  };
  if (!withEntries) return dump;
  const entries = Array.from({ length: usableEntries }, (_, k) => readRecoveryEntry(bytes, k));
  return { ...dump, entries };
}
