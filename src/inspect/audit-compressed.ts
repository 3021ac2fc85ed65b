/**
 * The compressed blocks' part of an audit: every block that a mapping calls compressed must hold, in
 * each slot that is mapped, a fragment that expands to one block.
 */
import { COMPRESSION_SLOTS } from '../base/constants.ts';
import { fragmentSize } from '../format/compressed-block.ts';
import { Arena } from '../kernels/arena.ts';
import { createKernels, type Kernels } from '../kernels/kernels.ts';
import type { BlockReader, Findings } from './audit-findings.ts';
import type { References } from './audit-references.ts';

/** Blocks read at once, and expanded before the event loop turns. */
const BLOCKS_AT_ONCE = 128;

/** Checks the compressed blocks whose slots `references` has; returns how many there were. */
export async function auditCompressed(
  references: References,
  reader: BlockReader,
  findings: Findings,
  onBlocks: (blocks: number) => void,
): Promise<number> {
  const arena = new Arena(BLOCKS_AT_ONCE);
  const kernels = createKernels(arena);
  const { firstBlock, slabBlocks } = references.range;
  let total = 0;
  const pbns: number[] = [];
  const masks: number[] = [];
  const check = async (): Promise<void> => {
    const images = await reader.blocks(pbns, 0, pbns.length, arena.blocks);
    images.forEach((image, i) => {
      if (image === undefined) return;
      checkBlock({ arena, kernels, findings }, pbns[i]!, image, masks[i]!);
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

interface Checker {
  readonly arena: Arena;
  readonly kernels: Kernels;
  readonly findings: Findings;
}

/** `image` lies in the arena. */
function checkBlock(
  { arena, kernels, findings }: Checker,
  pbn: number,
  image: Uint8Array,
  mask: number,
): void {
  const into = arena.expanded.byteOffset;
  for (let slot = 0; slot < COMPRESSION_SLOTS; slot++) {
    if ((mask & (1 << slot)) === 0 || kernels.expand(image.byteOffset, slot, into)) continue;
    const size = fragmentSize(image, slot);
    const found = size === 0 ? 'no fragment' : `${size} bytes that do not expand to a block`;
    findings.add('compressed-block', { pbn, slot }, 'a fragment', found);
  }
}
