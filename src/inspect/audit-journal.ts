/**
 * The recovery journal's part of an audit of a saved volume: its super block says with which sequence
 * the journal goes on. A block that this run of the volume would recognise with that number or a later
 * one would be replayed after the next crash, over whatever has happened since.
 *
 * Implements docs/FORMAT.md §7.2.
 */
import { bytesEqual } from '../base/bytes.ts';
import { BLOCK_SIZE } from '../base/constants.ts';
import { readRecoveryHeader, RECOVERY_METADATA_TYPE } from '../format/recovery-block.ts';
import type { SuperBlock } from '../format/super-block.ts';
import type { BlockReader, Findings } from './audit-findings.ts';

const BLOCKS_PER_READ = 1024;

/** Checks the journal of a clean volume. */
export async function auditSavedJournal(
  superBlock: SuperBlock,
  reader: BlockReader,
  findings: Findings,
  onBlocks: (blocks: number) => void,
): Promise<void> {
  const { offset, count } = superBlock.partitions.recoveryJournal;
  const { nonce, journalStart, completeRecoveries } = superBlock;
  for (let first = 0; first < count; first += BLOCKS_PER_READ) {
    const blocks = Math.min(BLOCKS_PER_READ, count - first);
    const bytes = await reader.range(offset + first, blocks);
    for (let i = 0; i < blocks; i++) {
      const header = readRecoveryHeader(bytes.subarray(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE));
      const isCurrent =
        header.metadataType === RECOVERY_METADATA_TYPE &&
        header.recoveryCount === completeRecoveries % 256 &&
        header.sequence % count === first + i &&
        header.sequence >= journalStart &&
        bytesEqual(header.nonce, nonce);
      if (!isCurrent) continue;
      const expected = `sequences below ${journalStart}, where the journal goes on`;
      const where = { pbn: offset + first + i };
      findings.add('recovery-journal', where, expected, `a block with sequence ${header.sequence}`);
    }
    onBlocks(blocks);
  }
}
