/**
 * What a range of the volume is: holes, zeros, data, and how the blocks are held. Found in the block
 * map alone; parts without a leaf cost next to nothing however long they are.
 *
 * The map is read in steps, each one job of the engine, so that other requests get their turn; what is
 * written meanwhile may be seen or not.
 */
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_SIZE,
  UNCOMPRESSED,
  UNMAPPED,
} from '../base/constants.ts';
import type { DataPath } from '../data-path/data-path.ts';
import type { Engine } from '../data-path/engine.ts';
import { Mapping, type DeviceExtent, type ExtentOptions } from '../device/block-device.ts';

const ENTRIES = BLOCK_MAP_ENTRIES_PER_PAGE;
/** Leaves of one step. */
const STEP_LEAVES = 64;
/** Leaves read for one answer at most where it may be short: 12 GiB of mapped blocks. */
const SHORT_LEAVES = 4096;

type Kind = DeviceExtent['kind'];

/** Kinds of `length` bytes from `offset`, as `BlockDevice.extents`. */
export async function findExtents(
  path: DataPath,
  engine: Engine,
  range: { readonly offset: number; readonly length: number },
  { maxExtents = Infinity, mapping = false }: ExtentOptions,
): Promise<DeviceExtent[]> {
  const runs = new Runs(range, maxExtents, mapping);
  const end = Math.ceil((range.offset + range.length) / BLOCK_SIZE);
  let lbn = Math.floor(range.offset / BLOCK_SIZE);
  for (let leaves = 0; lbn < end && !runs.isFull; leaves += STEP_LEAVES) {
    if (maxExtents !== Infinity && leaves >= SHORT_LEAVES) break;
    lbn = await engine.inspect(() => scanStep(path, lbn, end, runs));
  }
  return runs.found;
}

/** Adds what some leaves from `lbn` on say; returns the first block that was not looked at. */
async function scanStep(path: DataPath, lbn: number, end: number, runs: Runs): Promise<number> {
  const { blockMap } = path;
  const lastPage = Math.ceil(end / ENTRIES);
  const limit = Math.min(STEP_LEAVES, path.stepPages);
  const pages: number[] = [];
  let page = Math.floor(lbn / ENTRIES);
  while (pages.length < limit) {
    page = await blockMap.nextLeaf(page, lastPage);
    if (page === lastPage) break;
    pages.push(page++);
  }
  await blockMap.load(pages);
  let at = lbn;
  for (const leaf of pages) {
    const start = Math.max(at, leaf * ENTRIES);
    runs.add(at, start, 'hole', 0);
    at = Math.min(end, (leaf + 1) * ENTRIES);
    addLeaf(path, leaf, { start, end: at }, runs);
    if (runs.isFull) return at;
  }
  if (pages.length === limit) return at;
  runs.add(at, end, 'hole', 0);
  return end;
}

function addLeaf(
  path: DataPath,
  page: number,
  { start, end }: { readonly start: number; readonly end: number },
  runs: Runs,
): void {
  const { blockMap, packer, depot } = path;
  const frame = blockMap.find(page);
  for (let lbn = start; lbn < end && !runs.isFull; lbn++) {
    const slot = lbn - page * ENTRIES;
    const pbn = blockMap.pbnAt(frame, slot);
    const state = blockMap.stateAt(frame, slot);
    const isWaiting = packer.fragmentCount > 0 && packer.findLbn(lbn) >= 0;
    let kind: Kind = 'data';
    let mapping = 0;
    if (isWaiting) mapping = Mapping.compressed;
    else if (pbn === 0) {
      kind = state === UNMAPPED ? 'hole' : 'zero';
      mapping = state === UNMAPPED ? 0 : Mapping.zero;
    } else if (runs.tellsMapping) {
      mapping = state === UNCOMPRESSED ? Mapping.stored : Mapping.compressed;
      if (depot.isDataBlock(pbn) && depot.references(pbn) > 1) mapping |= Mapping.shared;
    }
    runs.add(lbn, lbn + 1, kind, mapping);
  }
}

/** Runs as they are found, cut to the range. */
class Runs {
  readonly found: { offset: number; length: number; kind: Kind; mapping?: number }[] = [];
  readonly tellsMapping: boolean;
  readonly #start: number;
  readonly #end: number;
  readonly #most: number;
  /** Of the run being extended. */
  #kind: Kind | undefined;
  #mapping = 0;
  /** The run after the last one that may be told has begun. */
  isFull = false;

  constructor(range: { offset: number; length: number }, most: number, tellsMapping: boolean) {
    this.#start = range.offset;
    this.#end = range.offset + range.length;
    this.#most = most;
    this.tellsMapping = tellsMapping;
  }

  /** Adds blocks `first` … `end` − 1. */
  add(first: number, end: number, kind: Kind, mapping: number): void {
    const from = Math.max(first * BLOCK_SIZE, this.#start);
    const to = Math.min(end * BLOCK_SIZE, this.#end);
    if (to <= from || this.isFull) return;
    if (kind === this.#kind && (!this.tellsMapping || mapping === this.#mapping)) {
      this.found[this.found.length - 1]!.length += to - from;
      return;
    }
    if (this.found.length === this.#most) {
      this.isFull = true;
      return;
    }
    this.#kind = kind;
    this.#mapping = mapping;
    const run = { offset: from, length: to - from, kind };
    this.found.push(this.tellsMapping ? { ...run, mapping } : run);
  }
}
