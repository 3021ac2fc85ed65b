/**
 * What lies in the index region of a volume: whose index it is, its saves, its chapters, and what the next
 * start makes of them (FORMAT §9).
 *
 * - Labels, headers and the open chapter are read, and the few chapters that tell where the ring begins
 *   and ends; not the volume index, which may have gigabytes.
 * - A damaged index harms no data: `problem` says what is wrong with it.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { isZero } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import { NEW } from '../format/super-block.ts';
import {
  CONVERTED_SUPER_VERSION,
  decodeRegionTable,
  indexSuperBlock,
  indexSuperBlockOffsets,
  TABLE_TYPE,
  type IndexOffsets,
  type Region,
} from '../format/index-layout.ts';
import { findChapters } from '../index/uds/chapter-scan.ts';
import {
  indexGeometry,
  indexGigabytes,
  physicalChapter,
  type IndexGeometry,
} from '../index/uds/index-geometry.ts';
import { IndexPageMap } from '../index/uds/index-page-map.ts';
import { readRegion, type IndexRegion } from '../index/uds/index-region.ts';
import { IndexSaves, type FoundSave } from '../index/uds/index-saves.ts';
import { OpenChapter } from '../index/uds/open-chapter.ts';
import { readVolumeIndexHeads, type VolumeIndexHead } from '../index/uds/volume-index-save.ts';
import type { Inspection } from './inspection.ts';

/** A chapter, and the slot of the ring where it lies. */
export interface DumpedChapter {
  readonly chapter: number;
  readonly slot: number;
}

export interface DumpedSave {
  readonly slot: 0 | 1;
  /** Block of its header. */
  readonly start: number;
  /** `invalid`: it says that it is a save, but not of this index, or not whole. */
  readonly state: 'valid' | 'unsaved' | 'invalid' | 'none';
  /** The later one of those that are valid. */
  readonly counts: boolean;
  readonly saved: string | null;
  readonly timestamp: number | null;
  readonly nonce: Uint8Array | null;
  readonly newest: DumpedChapter | null;
  readonly oldest: DumpedChapter | null;
  /** Records of the open chapter; null where it is none any more: a chapter was closed since. */
  readonly openRecords: number | null;
  readonly pageMapUpdated: number | null;
  /** Of each zone, one part for each sub-index. */
  readonly zones: readonly (readonly VolumeIndexHead[])[];
  /** What is wrong with its parts. */
  readonly problem: string | null;
}

export interface DumpedIndex {
  /** `none`, `empty` (never used), or `present`. */
  readonly kind: 'none' | 'empty' | 'present';
  readonly start: number;
  readonly blocks: number;
  readonly bytes: number;
  /** Gigabytes of memory, or `null` without an index. */
  readonly indexMemory: number | null;
  readonly sparseIndex: boolean;
  /** The shape that the memory setting gives. */
  readonly geometry: IndexGeometry | null;
  readonly superVersion: number | null;
  readonly regions: readonly Region[];
  readonly nonceInfo: Uint8Array | null;
  readonly primaryNonce: Uint8Array | null;
  /** Stamps chapters and saves. */
  readonly volumeNonce: Uint8Array | null;
  /** Of a converted volume: why the numbers of `regions` are not where they lie, and the chapter that was moved. */
  readonly converted: (IndexOffsets & { readonly moved: DumpedChapter | null }) | null;
  readonly saves: readonly DumpedSave[];
  /** What the chapters on disk say, without any save. */
  readonly onDisk: { readonly oldest: DumpedChapter; readonly newest: DumpedChapter } | null;
  /** Why it is no index of this volume. */
  readonly problem: string | null;
  readonly nextStart: string;
}

const NOTHING = {
  geometry: null,
  superVersion: null,
  regions: [],
  nonceInfo: null,
  primaryNonce: null,
  volumeNonce: null,
  converted: null,
  saves: [],
  onDisk: null,
  problem: null,
};

export async function dumpIndex(inspection: Inspection): Promise<DumpedIndex> {
  const { indexStart, dataStart, indexMemory, sparse, bioOffset } = inspection.needGeometry();
  const blocks = dataStart - indexStart;
  const gigabytes = indexGigabytes(indexMemory);
  const place = {
    start: indexStart,
    blocks,
    bytes: blocks * BLOCK_SIZE,
    sparseIndex: sparse,
    indexMemory: gigabytes ?? null,
  };
  if (blocks === 0) {
    return { kind: 'none', ...place, ...NOTHING, indexMemory: null, nextStart: 'no index' };
  }
  const first = await inspection.block(indexStart);
  const kind = first !== undefined && isZero(first) ? 'empty' : 'present';
  if (gigabytes === undefined) {
    inspection.note(`index memory setting ${indexMemory} is unknown`);
    return { kind, ...place, ...NOTHING, nextStart: 'runs without this index' };
  }
  const geometry = indexGeometry(indexMemory, sparse);
  // A larger one is as good: converted volumes have it.
  if (blocks < geometry.totalBlocks) {
    inspection.note(`the index region has ${blocks} blocks where ${geometry.totalBlocks} belong`);
  }
  const shape = { kind, ...place, ...NOTHING, geometry } as const;
  const nothing = 'begins with an empty index';
  if (first === undefined || kind === 'empty') return { ...shape, nextStart: nothing };
  const label = { ...shape, ...labelOf(first) };
  const nonce = inspection.superBlock?.nonce;
  if (nonce === undefined || blocks < geometry.totalBlocks) {
    return { ...label, nextStart: nonce === undefined ? 'unknown' : 'runs without this index' };
  }
  const { storage } = inspection;
  try {
    const region = await readRegion({ storage, geometry, start: indexStart - bioOffset, nonce });
    const { saves, newest } = await dumpSaves(region);
    const { chapters: onDisk, problem } = await chaptersOf(region);
    const isNew = inspection.superBlock?.state === NEW;
    const { virtual, physical } = region.geometry.remapping;
    const moved = virtual + physical === 0 ? null : { chapter: virtual, slot: physical };
    const { converted } = label;
    return {
      ...label,
      converted: converted === null ? null : { ...converted, moved },
      volumeNonce: region.volumeNonce,
      saves,
      onDisk,
      problem,
      nextStart: isNew ? nothing : nextStartOf(newest, onDisk, problem),
    };
  } catch (error) {
    if (!(error instanceof VdoError)) throw error;
    const startsOver = error.code === 'Corrupt' || error.code === 'NotVdo';
    const nextStart = startsOver ? nothing : 'runs without this index';
    return { ...label, problem: error.message, nextStart };
  }
}

/** Fields of the super block, whatever they are worth. */
function labelOf(block: Uint8Array) {
  try {
    const { regions, payload } = decodeRegionTable(block);
    if (payload.length < indexSuperBlock.size) return { regions };
    const { version, nonceInfo, nonce } = indexSuperBlock.read(payload);
    const label = { superVersion: version, regions, nonceInfo, primaryNonce: nonce };
    const end = indexSuperBlock.size + indexSuperBlockOffsets.size;
    if (version !== CONVERTED_SUPER_VERSION || payload.length < end) return label;
    const offsets = indexSuperBlockOffsets.read(payload, indexSuperBlock.size);
    return { ...label, converted: { ...offsets, moved: null } };
  } catch (error) {
    if (!(error instanceof VdoError)) throw error;
    return {};
  }
}

async function dumpSaves(region: IndexRegion) {
  const found = new IndexSaves(region);
  const newest = await found.find();
  const saves: DumpedSave[] = [];
  for (const slot of [0, 1] as const) {
    const save = found.slots[slot];
    saves.push(
      save === null
        ? await dumpNoSave(region, slot)
        : await dumpSave(region, found, save, save === newest),
    );
  }
  return { saves, newest: saves.find(({ counts }) => counts) ?? null };
}

async function dumpNoSave(region: IndexRegion, slot: 0 | 1): Promise<DumpedSave> {
  const start = region.saveStarts[slot];
  const block = new Uint8Array(BLOCK_SIZE);
  await region.storage.read([{ offset: start * BLOCK_SIZE, bytes: block }]);
  return {
    slot,
    start,
    state: tableState(block),
    counts: false,
    saved: null,
    timestamp: null,
    nonce: null,
    newest: null,
    oldest: null,
    openRecords: null,
    pageMapUpdated: null,
    zones: [],
    problem: null,
  };
}

function tableState(block: Uint8Array): 'unsaved' | 'invalid' | 'none' {
  try {
    const { type } = decodeRegionTable(block);
    return type === TABLE_TYPE.unsaved ? 'unsaved' : 'invalid';
  } catch (error) {
    if (!(error instanceof VdoError)) throw error;
    return error.code === 'NotVdo' ? 'none' : 'invalid';
  }
}

async function dumpSave(
  region: IndexRegion,
  saves: IndexSaves,
  save: FoundSave,
  counts: boolean,
): Promise<DumpedSave> {
  const { geometry } = region;
  const problems: string[] = [];
  const attempt = async <T>(work: () => Promise<T>): Promise<T | null> => {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof VdoError)) throw error;
      problems.push(error.message);
      return null;
    }
  };
  const openRecords = await attempt(async () => {
    const chapter = new OpenChapter(geometry.recordsPerChapter);
    await saves.loadOpenChapter(save, chapter);
    return chapter.count;
  });
  const pageMapUpdated = await attempt(async () => {
    const map = new IndexPageMap(geometry);
    await saves.loadPageMap(save, map);
    return map.updated;
  });
  const zones: (readonly VolumeIndexHead[])[] = [];
  for (const [zone, source] of saves.volumeIndexSources(save).entries()) {
    zones.push((await attempt(() => readVolumeIndexHeads(geometry, source, zone))) ?? []);
  }
  return {
    slot: save.slot,
    start: region.saveStarts[save.slot],
    state: 'valid',
    counts,
    saved: timeOf(save.timestamp),
    timestamp: save.timestamp,
    nonce: save.nonce,
    newest: chapterAt(geometry, save.newest),
    oldest: chapterAt(geometry, save.oldest),
    openRecords,
    pageMapUpdated,
    zones,
    problem: problems.length === 0 ? null : problems.join('; '),
  };
}

/** Milliseconds since 1970 as text, as far as that has words for it. */
function timeOf(milliseconds: number): string | null {
  const date = new Date(milliseconds);
  return Number.isNaN(date.getTime()) ? null : date.toISOString();
}

function chapterAt(geometry: IndexGeometry, chapter: number): DumpedChapter {
  return { chapter, slot: physicalChapter(geometry, chapter) };
}

async function chaptersOf(region: IndexRegion) {
  try {
    const { oldest, newest } = await findChapters(region);
    if (newest === oldest) return { chapters: null, problem: null };
    const { geometry } = region;
    const chapters = {
      oldest: chapterAt(geometry, oldest),
      newest: chapterAt(geometry, newest - 1),
    };
    return { chapters, problem: null };
  } catch (error) {
    if (!(error instanceof VdoError)) throw error;
    return { chapters: null, problem: error.message };
  }
}

function nextStartOf(
  save: DumpedSave | null,
  onDisk: DumpedIndex['onDisk'],
  problem: string | null,
): string {
  if (save !== null && save.problem === null) return `loads the save in slot ${save.slot}`;
  if (problem !== null) return 'begins with an empty index';
  if (onDisk === null) return 'begins with an empty index: no chapter was closed';
  const { oldest, newest } = onDisk;
  return `is rebuilt from chapters ${oldest.chapter} … ${newest.chapter}`;
}
