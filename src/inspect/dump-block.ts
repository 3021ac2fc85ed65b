/**
 * One physical block: what it is for, what it looks like, and its bytes.
 */
import { COMPRESSION_SLOTS, COUNTS_PER_BLOCK } from '../base/constants.ts';
import { isZero } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import { pageValidity } from '../format/block-map-page.ts';
import { fragmentSize } from '../format/compressed-block.ts';
import { decodeReferenceBlock } from '../format/reference-block.ts';
import { placeOf, slabRanges, type BlockPlace } from './dump-layout.ts';
import type { Inspection } from './inspection.ts';

export interface BlockDump {
  readonly pbn: number;
  readonly place: BlockPlace;
  /** What the bytes look like. Data may look like metadata: only its mapping tells. */
  readonly looksLike: 'zeros' | 'block map page' | 'compressed block' | 'data' | 'metadata';
  /** Fragment sizes by slot, where it looks like a compressed block. */
  readonly fragments?: readonly number[];
  /** The stored reference count, for a block that can hold data. */
  readonly referenceCount?: number;
  readonly bytes: Uint8Array;
}

/** Block `pbn`. Fails with `OutOfRange`, or `Io` where it cannot be read. */
export async function dumpBlock(inspection: Inspection, pbn: number): Promise<BlockDump> {
  const { physicalBlocks, nonce } = inspection.needSuperBlock();
  const first = inspection.geometry?.bioOffset ?? 0;
  if (pbn < first || pbn >= physicalBlocks) {
    throw new VdoError('OutOfRange', `physical blocks are ${first} … ${physicalBlocks - 1}`);
  }
  const bytes = await inspection.block(pbn);
  if (bytes === undefined) throw new VdoError('Io', inspection.problems.at(-1) ?? 'unreadable');
  const place = placeOf(inspection, pbn);
  const dump = { pbn, place, bytes, ...(await countOf(inspection, place)) };
  if (isZero(bytes)) return { ...dump, looksLike: 'zeros' };
  if (pageValidity(bytes, nonce, pbn) === 'valid') return { ...dump, looksLike: 'block map page' };
  if (place.area !== 'slab data') return { ...dump, looksLike: 'metadata' };
  const fragments = Array.from({ length: COMPRESSION_SLOTS }, (_, k) => fragmentSize(bytes, k));
  if (fragments.some((size) => size > 0)) {
    return { ...dump, looksLike: 'compressed block', fragments };
  }
  return { ...dump, looksLike: 'data' };
}

async function countOf(
  inspection: Inspection,
  place: BlockPlace,
): Promise<{ referenceCount?: number }> {
  if (place.area !== 'slab data' || place.slab === undefined) return {};
  const { start } = slabRanges(inspection, place.slab).referenceCounts;
  const block = await inspection.block(start + Math.floor(place.index / COUNTS_PER_BLOCK));
  if (block === undefined) return {};
  const counts = new Uint8Array(COUNTS_PER_BLOCK);
  decodeReferenceBlock(block, counts, 0);
  return { referenceCount: counts[place.index % COUNTS_PER_BLOCK]! };
}

/** Lines of sixteen bytes in hex and ASCII, repeated lines shortened to `*`. */
export function hexLines(bytes: Uint8Array): string[] {
  const lines: string[] = [];
  let previous = '';
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16);
    const hex = Array.from(row, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
    if (hex === previous) {
      if (lines.at(-1) !== '*') lines.push('*');
      continue;
    }
    previous = hex;
    const text = Array.from(row, (byte) =>
      byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '.',
    ).join('');
    lines.push(`${at.toString(16).padStart(4, '0')}  ${hex.padEnd(47)}  ${text}`);
  }
  lines.push(bytes.length.toString(16).padStart(4, '0'));
  return lines;
}
