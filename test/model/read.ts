/**
 * Reads logical blocks of a clean (or recovered) volume straight from its bytes: tree walk, compressed
 * fragments and LZ4 included, without the engine, its codecs or its libraries.
 */
import { Damaged, deviceBlock, readLayout, slabOf, type VolumeLayout } from './layout.ts';
import { getMapping, judgePage, slotAt, SLOTS, type Mapping } from './records.ts';
import { BLOCK, readBlocks, type Steps } from './steps.ts';

const FRAGMENT_SLOTS = 14;
const FRAGMENTS_AT = 36;
const ROOTS = 60;
const ROOT_HEIGHT = 4;

/** Expands a raw LZ4 block to exactly 4096 bytes. Throws `Damaged`. */
export function expandLz4(fragment: Buffer): Buffer {
  const out = Buffer.alloc(BLOCK);
  let from = 0;
  let to = 0;
  const length = (start: number): number => {
    let total = start;
    if (start !== 15) return total;
    for (let more = 255; more === 255; total += more) more = fragment[from++] ?? 0;
    return total;
  };
  while (from < fragment.length) {
    const token = fragment[from++]!;
    const literals = length(token >>> 4);
    if (from + literals > fragment.length || to + literals > BLOCK)
      throw new Damaged('LZ4 literals');
    fragment.copy(out, to, from, from + literals);
    from += literals;
    to += literals;
    if (from === fragment.length) break;
    if (from + 2 > fragment.length) throw new Damaged('LZ4 offset');
    const distance = fragment.readUInt16LE(from);
    from += 2;
    const match = length(token & 15) + 4;
    if (distance === 0 || distance > to || to + match > BLOCK) throw new Damaged('LZ4 match');
    for (let i = 0; i < match; i++, to++) out[to] = out[to - distance]!;
  }
  if (to !== BLOCK) throw new Damaged(`LZ4 block expands to ${to} bytes`);
  return out;
}

/** The contents of one slot of a compressed block. Throws `Damaged`. */
export function expandSlot(block: Buffer, slot: number): Buffer {
  if (block.readUInt32LE(0) !== 1 || block.readUInt32LE(4) !== 0) {
    throw new Damaged('not a compressed block');
  }
  if (slot >= FRAGMENT_SLOTS) throw new Damaged(`no slot ${slot}`);
  let at = FRAGMENTS_AT;
  for (let k = 0; k < slot; k++) at += block.readUInt16LE(8 + 2 * k);
  const size = block.readUInt16LE(8 + 2 * slot);
  if (size === 0 || at + size > BLOCK) throw new Damaged(`slot ${slot}: size ${size} at ${at}`);
  return expandLz4(block.subarray(at, at + size));
}

/** Root, and slot at each height from the root down to the leaf, of a logical block. */
export function pathOf(lbn: number): { readonly root: number; readonly slots: readonly number[] } {
  const page = Math.floor(lbn / SLOTS);
  let index = Math.floor(page / ROOTS);
  const slots = [lbn % SLOTS];
  for (let height = 1; height <= ROOT_HEIGHT; height++) {
    slots.unshift(index % SLOTS);
    index = Math.floor(index / SLOTS);
  }
  return { root: page % ROOTS, slots };
}

const UNMAPPED: Mapping = { state: 0, pbn: 0 };

/** Where a logical block is stored. */
export function* lookUp(layout: VolumeLayout, lbn: number): Steps<Mapping> {
  const { root, slots } = pathOf(lbn);
  let pbn = layout.rootOrigin + root;
  for (let depth = 0; depth <= ROOT_HEIGHT; depth++) {
    const [page] = yield* readBlocks([deviceBlock(layout, pbn)]);
    const verdict = judgePage(page!, pbn, layout.nonce);
    if (verdict === 'bad') throw new Damaged(`bad block map page ${pbn}`);
    if (verdict === 'empty') return UNMAPPED;
    const mapping = getMapping(page!, slotAt(slots[depth]!));
    if (mapping.state === 0 || depth === ROOT_HEIGHT) return mapping;
    pbn = mapping.pbn;
  }
  return UNMAPPED;
}

/** The 4096 bytes a mapping stands for. */
export function* readMapping(layout: VolumeLayout, { state, pbn }: Mapping): Steps<Buffer> {
  if (state === 0 || pbn === 0) return Buffer.alloc(BLOCK);
  if (!slabOf(layout, pbn)) throw new Damaged(`mapping to ${pbn}`);
  const [block] = yield* readBlocks([deviceBlock(layout, pbn)]);
  return state === 1 ? block! : expandSlot(block!, state - 2);
}

/** Contents of logical blocks. The volume must be clean: journals are not looked at. */
export function* readLbns(lbns: readonly number[]): Steps<Buffer[]> {
  const layout = yield* readLayout();
  const contents: Buffer[] = [];
  for (const lbn of lbns) contents.push(yield* readMapping(layout, yield* lookUp(layout, lbn)));
  return contents;
}
