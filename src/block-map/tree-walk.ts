/**
 * Visits every page of the 60 block map trees on disk, level by level from the roots down, many
 * pages a read. What a page is worth, and which of its children are entered, the visitor says.
 *
 * Pages are numbered as leaves are: page `n` of a level belongs to root n mod 60, and the child in
 * `slot` of page `n` has the number `childNumber(n, slot)` in the level below. A leaf's number is
 * lbn / 812.
 *
 * - The visitor decides about every child before any page of the level below is read; all interior
 *   pages come before all leaves. A visitor that enters no block twice ends whatever the pages say.
 * - Memory: two numbers a page of the widest level, and one batch of images.
 *
 * Implements docs/FORMAT.md §3.
 */
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_MAP_ROOT_COUNT,
  BLOCK_MAP_TREE_HEIGHT,
} from '../base/constants.ts';

/** Pages that are read and visited together. */
export const WALK_BATCH_PAGES = 256;

/** Pages of one height, as columns. */
export interface Level {
  /** 4 (roots) … 0 (leaves). */
  readonly height: number;
  readonly pbns: number[];
  readonly numbers: number[];
}

/** A part of a level, at most `WALK_BATCH_PAGES` pages: rows `start` … `end` − 1. */
export interface Batch extends Level {
  readonly start: number;
  readonly end: number;
}

/** Enters the page at `pbn` as child `slot` of the page in row `row`. */
export type Enter = (row: number, slot: number, pbn: number) => void;

export interface TreeVisitor {
  /** Visits a batch of interior pages; what it enters is visited with the next level. */
  interior(batch: Batch, enter: Enter): Promise<void>;
  /** Visits a batch of leaves. */
  leaves(batch: Batch): Promise<void>;
}

/** Number, in the level below, of the child in `slot` of page `number`. */
export function childNumber(number: number, slot: number): number {
  const root = number % BLOCK_MAP_ROOT_COUNT;
  const index = (number - root) / BLOCK_MAP_ROOT_COUNT;
  return (index * BLOCK_MAP_ENTRIES_PER_PAGE + slot) * BLOCK_MAP_ROOT_COUNT + root;
}

/** Walks all trees; returns the leaves that were visited. */
export async function walkTrees(rootOrigin: number, visitor: TreeVisitor): Promise<Level> {
  const roots = Array.from({ length: BLOCK_MAP_ROOT_COUNT }, (_, root) => root);
  let level: Level = {
    height: BLOCK_MAP_TREE_HEIGHT - 1,
    pbns: roots.map((root) => rootOrigin + root),
    numbers: roots,
  };
  while (level.height > 0) {
    const above = level;
    const below: Level = { height: above.height - 1, pbns: [], numbers: [] };
    const enter: Enter = (row, slot, pbn) => {
      below.pbns.push(pbn);
      below.numbers.push(childNumber(above.numbers[row]!, slot));
    };
    await inBatches(above, (batch) => visitor.interior(batch, enter));
    level = below;
  }
  await inBatches(level, (batch) => visitor.leaves(batch));
  return level;
}

/** Gives `visit` the pages of a level, a batch at a time, in their order. */
export async function inBatches(
  level: Level,
  visit: (batch: Batch) => Promise<void>,
): Promise<void> {
  for (let start = 0; start < level.pbns.length; start += WALK_BATCH_PAGES) {
    const end = Math.min(level.pbns.length, start + WALK_BATCH_PAGES);
    await visit({ ...level, start, end });
  }
}
