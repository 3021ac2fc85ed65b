/**
 * Opens the index of a volume: creates it in a new volume, loads its save, or has it rebuilt from its
 * chapters. Implements docs/FORMAT.md §9.8.
 *
 * - Opening writes nothing, unless there is no index: then a new one begins.
 * - What is damaged costs what the index knew, never the volume: it begins anew and says so. What only
 *   another version of dm-vdo understands, or does not fit, is left alone: `UnsupportedVersion`, `NoSpace`.
 */
import { randomBytes } from 'node:crypto';
import { VdoError } from '../../base/errors.ts';
import { setU64 } from '../../base/bytes.ts';
import type { Storage } from '../../storage/storage.ts';
import { findChapters, type ChapterRange } from './chapter-scan.ts';
import type { IndexGeometry } from './index-geometry.ts';
import { IndexPageMap } from './index-page-map.ts';
import {
  createRegion,
  NONCE_INFO_SIZE,
  readRegion,
  type IndexRegion,
  type RegionPlace,
} from './index-region.ts';
import { IndexSaves } from './index-saves.ts';
import { OpenChapter } from './open-chapter.ts';
import { MAX_ROWS, UdsIndex } from './uds-index.ts';
import { loadVolumeIndex } from './volume-index-save.ts';
import { createVolumeIndex, type VolumeIndex } from './volume-index.ts';

/** Pages kept for each record page of a chapter, as dm-vdo does. */
const CACHE_CHAPTERS = 7;
const NONCE_UNIT = 12;

export interface UdsIndexOptions {
  /** Where the region lies, with offsets as on the device. */
  readonly storage: Storage;
  /** First block of the region, and how many it has. */
  readonly start: number;
  readonly blocks: number;
  readonly geometry: IndexGeometry;
  /** Nonce of the volume. */
  readonly nonce: Uint8Array;
  /** A volume that was never started: whatever lies in the region means nothing. */
  readonly isNew: boolean;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
  /** Bytes that no one else has: for nonces. */
  readonly random?: (size: number) => Uint8Array;
  readonly cachePages?: number;
}

/** Fails with `Io`, `UnsupportedVersion`, `NoSpace`. */
export async function openUdsIndex(options: UdsIndexOptions): Promise<UdsIndex> {
  const { geometry, blocks, isNew } = options;
  if (blocks < geometry.totalBlocks) {
    throw new VdoError(
      'NoSpace',
      `the index region has ${blocks} blocks, its memory setting needs ${geometry.totalBlocks}`,
    );
  }
  const found = isNew ? null : await findRegion(options);
  if (found instanceof VdoError) return create(options, found);
  return found === null ? create(options, null) : open(options, found);
}

/** The region; null where there is none; why it cannot be believed. */
async function findRegion(options: UdsIndexOptions): Promise<IndexRegion | VdoError | null> {
  try {
    return await readRegion(placeOf(options));
  } catch (error) {
    if (!(error instanceof VdoError)) throw error;
    if (error.code === 'NotVdo') return null;
    if (error.code === 'Corrupt') return startsOver(error);
    throw error;
  }
}

function startsOver(why: VdoError): VdoError {
  const message = `${why.message}; deduplication starts over with an empty index`;
  return new VdoError('Corrupt', message, why.where, why);
}

function placeOf({ storage, geometry, start, nonce }: UdsIndexOptions): RegionPlace {
  return { storage, geometry, start, nonce };
}

async function create(options: UdsIndexOptions, warning: VdoError | null): Promise<UdsIndex> {
  const { now = Date.now, random = randomBytes, geometry } = options;
  const unit = new Uint8Array(NONCE_UNIT);
  setU64(unit, 0, now() * 1_000_000);
  unit.set(random(4), 8);
  const info = Uint8Array.from({ length: NONCE_INFO_SIZE }, (_, i) => unit[i % NONCE_UNIT]!);
  const region = await createRegion(placeOf(options), info);
  return assemble(options, region, {
    ...emptyState(geometry),
    saves: new IndexSaves(region),
    rebuild: false,
    changed: true,
    warning,
  });
}

interface IndexState {
  readonly volumeIndex: VolumeIndex;
  readonly pageMap: IndexPageMap;
  readonly openChapter: OpenChapter;
  readonly newest: number;
  readonly oldest: number;
}

function emptyState(geometry: IndexGeometry): IndexState {
  return {
    volumeIndex: createVolumeIndex(geometry, { rows: MAX_ROWS }),
    pageMap: new IndexPageMap(geometry),
    openChapter: new OpenChapter(geometry.recordsPerChapter),
    newest: 0,
    oldest: 0,
  };
}

type Assembled = IndexState & {
  readonly saves: IndexSaves;
  readonly rebuild: boolean;
  readonly changed: boolean;
  readonly warning: VdoError | null;
};

function assemble(options: UdsIndexOptions, region: IndexRegion, state: Assembled): UdsIndex {
  const { now = Date.now, cachePages = CACHE_CHAPTERS * region.geometry.recordPagesPerChapter } =
    options;
  return new UdsIndex({ ...state, region, cachePages, now });
}

async function open(options: UdsIndexOptions, region: IndexRegion): Promise<UdsIndex> {
  const saves = new IndexSaves(region);
  const loaded = await load(region, saves);
  if (loaded !== null) {
    return assemble(options, region, {
      ...loaded,
      saves,
      rebuild: false,
      changed: false,
      warning: null,
    });
  }
  const range = await rangeOf(region);
  if (range instanceof VdoError) return create(options, range);
  const state = emptyState(region.geometry);
  state.volumeIndex.openChapter(range.newest);
  const rebuild = range.newest > range.oldest;
  return assemble(options, region, {
    ...state,
    ...range,
    saves,
    rebuild,
    changed: true,
    warning: null,
  });
}

/** The state that was saved; null where there is no save that can be loaded. Fails with `Io`. */
async function load(region: IndexRegion, saves: IndexSaves): Promise<IndexState | null> {
  const save = await saves.find();
  if (save === null) return null;
  const state = emptyState(region.geometry);
  const { newest, oldest } = save;
  try {
    await saves.loadOpenChapter(save, state.openChapter);
    const { volumeIndex } = state;
    await loadVolumeIndex(volumeIndex, saves.volumeIndexSources(save), region.volumeNonce);
    await saves.loadPageMap(save, state.pageMap);
    if (volumeIndex.high !== newest) {
      throw new VdoError('Corrupt', 'the saved volume index is of another time');
    }
  } catch (error) {
    if (error instanceof VdoError && error.code !== 'Io') return null;
    throw error;
  }
  return { ...state, newest, oldest };
}

async function rangeOf(region: IndexRegion): Promise<ChapterRange | VdoError> {
  try {
    return await findChapters(region);
  } catch (error) {
    if (error instanceof VdoError && error.code === 'Corrupt') return startsOver(error);
    throw error;
  }
}
