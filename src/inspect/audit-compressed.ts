/**
 * The compressed blocks' part of an audit: every block that a mapping calls compressed must hold, in
 * each slot that is mapped, a fragment that expands to one block.
 */
import { BLOCK_SIZE, COMPRESSION_SLOTS } from '../base/constants.ts';
import { fragmentOffset, fragmentSize } from '../format/compressed-block.ts';
import { decompressBlock } from '../kernels/lz4.ts';
import type { BlockReader, Findings } from './audit-findings.ts';
import type { References } from './audit-references.ts';

/** Blocks read at once, and expanded before the event loop turns. */
const BLOCKS_AT_ONCE = 64;

/** Checks the compressed blocks whose slots `references` has; returns how many there were. */
export async function auditCompressed(
  references: References,
  reader: BlockReader,
  findings: Findings,
  onBlocks: (blocks: number) => void,
): Promise<number> {
  const block = new Uint8Array(BLOCK_SIZE);
  const { firstBlock, slabBlocks } = references.range;
  let total = 0;
  const pbns: number[] = [];
  const masks: number[] = [];
  const check = async (): Promise<void> => {
    const images = await reader.blocks(pbns);
    images.forEach((image, i) => {
      if (image !== undefined) checkBlock(pbns[i]!, image, masks[i]!, block, findings);
    });
    total += pbns.length;
    onBlocks(pbns.length);
    pbns.length = masks.length = 0;
  };
  for (const [slab, slots] of references.takeSlots()) {
    const start = firstBlock + slab * slabBlocks;
    for (let sbn = 0; sbn < slots.length; sbn++) {
      if (slots[sbn] === 0) continue;
      pbns.push(start + sbn);
      masks.push(slots[sbn]!);
      if (pbns.length === BLOCKS_AT_ONCE) await check();
    }
  }
  if (pbns.length > 0) await check();
  return total;
}

function checkBlock(
  pbn: number,
  image: Uint8Array,
  mask: number,
  block: Uint8Array,
  findings: Findings,
): void {
  for (let slot = 0; slot < COMPRESSION_SLOTS; slot++) {
    if ((mask & (1 << slot)) === 0) continue;
    const size = fragmentSize(image, slot);
    const at = fragmentOffset(image, slot);
    const wrong =
      size === 0
        ? 'no fragment'
        : decompressBlock(image.subarray(at, at + size), block)
          ? undefined
          : `${size} bytes that do not expand to a block`;
    if (wrong !== undefined) findings.add('compressed-block', { pbn, slot }, 'a fragment', wrong);
  }
}
