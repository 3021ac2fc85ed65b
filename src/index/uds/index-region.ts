/**
 * The index's region of a volume: where its parts lie, whether it is an index of this volume, and how a
 * new one begins (FORMAT §9.2).
 *
 * - A region is believed if super block and configuration are exactly those that the volume's own
 *   settings ask for. Anything else is no index.
 * - A new index has fresh nonce info, and so a fresh nonce: what older ones left behind means nothing.
 *   The super block is written last.
 */
import { BLOCK_SIZE } from '../../base/constants.ts';
import { assert } from '../../base/assert.ts';
import { bytesEqual, isZero } from '../../base/bytes.ts';
import { VdoError } from '../../base/errors.ts';
import {
  decodeIndexConfig,
  decodeIndexSuperBlock,
  decodeRegionTable,
  encodeIndexConfig,
  encodeIndexSuperBlock,
  encodeRegionTable,
  REGION_KIND,
  sameRegions,
  SOLE,
  TABLE_TYPE,
  type IndexConfig,
  type IndexOffsets,
  type Region,
} from '../../format/index-layout.ts';
import type { Storage } from '../../storage/storage.ts';
import {
  CACHE_CHAPTERS,
  INDEX_PAGE_SIZE,
  VOLUME_INDEX_MEAN_DELTA,
  type IndexGeometry,
} from './index-geometry.ts';
import { primaryNonce, volumeNonce } from './nonces.ts';

export const NONCE_INFO_SIZE = 32;
const NO_OFFSETS: IndexOffsets = { volumeOffset: 0, startOffset: 0 };

export interface RegionPlace {
  readonly storage: Storage;
  readonly geometry: IndexGeometry;
  /** First block of the region on the device. */
  readonly start: number;
  /** Nonce of the volume. */
  readonly nonce: Uint8Array;
}

/** An index that is there. */
export interface IndexRegion extends RegionPlace {
  /** First block of the ring of chapters. */
  readonly volumeStart: number;
  /** First block of each save. */
  readonly saveStarts: readonly [number, number];
  /** A save's header counts blocks from so many blocks before the device: 0 unless it was converted. */
  readonly startOffset: number;
  /** Stamps chapters and saves. */
  readonly volumeNonce: Uint8Array;
}

function configOf({ geometry, nonce }: RegionPlace): IndexConfig {
  return {
    recordPages: geometry.recordPagesPerChapter,
    chapters: geometry.chapters,
    sparseChapters: geometry.sparseChapters,
    cacheChapters: CACHE_CHAPTERS,
    meanDelta: VOLUME_INDEX_MEAN_DELTA,
    pageSize: INDEX_PAGE_SIZE,
    sampleRate: geometry.sparseSampleRate,
    nonce,
  };
}

/**
 * Regions of the super block's table: the only ones that this geometry allows. Those of a converted volume
 * have the numbers that their blocks had before, when the index began at `start`; the chapters lost room in front.
 */
function regionsOf(geometry: IndexGeometry, start: number, volumeOffset: number): Region[] {
  const { volumeBlocks, saveBlocks, subIndexBlocks } = geometry;
  const volume = start + 2;
  const save = volume + volumeBlocks + volumeOffset;
  const region = (kind: number, first: number, blocks: number, instance = SOLE): Region => ({
    start: first,
    blocks,
    kind,
    instance,
  });
  return [
    region(REGION_KIND.header, start, 1),
    region(REGION_KIND.config, start + 1, 1),
    region(REGION_KIND.index, volume, subIndexBlocks, 0),
    region(REGION_KIND.volume, volume, volumeBlocks),
    region(REGION_KIND.save, save, saveBlocks, 0),
    region(REGION_KIND.save, save + saveBlocks, saveBlocks, 1),
    region(REGION_KIND.seal, save + 2 * saveBlocks, 1),
  ];
}

/** The first block of the index as the table of its super block numbers it. */
function numberedStart(start: number, { volumeOffset, startOffset }: IndexOffsets): number {
  return start - (volumeOffset - startOffset);
}

function regionWith(place: RegionPlace, primary: Uint8Array, offsets: IndexOffsets): IndexRegion {
  const { geometry, start } = place;
  const volumeStart = start + 2;
  const save = volumeStart + geometry.volumeBlocks;
  return {
    ...place,
    volumeStart,
    saveStarts: [save, save + geometry.saveBlocks],
    startOffset: offsets.startOffset,
    volumeNonce: volumeNonce(primary, numberedStart(start, offsets) + 2),
  };
}

/**
 * The index that lies there. Fails with `NotVdo` where there is nothing at all (zeros), with `Corrupt`
 * where it is damaged or another volume's, and with `UnsupportedVersion` for what only other versions of
 * dm-vdo understand.
 */
export async function readRegion(place: RegionPlace): Promise<IndexRegion> {
  const bytes = new Uint8Array(2 * BLOCK_SIZE);
  await place.storage.read([{ offset: place.start * BLOCK_SIZE, bytes }]);
  const superBlock = bytes.subarray(0, BLOCK_SIZE);
  if (isZero(superBlock)) throw new VdoError('NotVdo', 'the index region is empty');
  const wrong = (what: string): VdoError =>
    new VdoError('Corrupt', `the index region is damaged: ${what}`, { block: place.start });
  let table;
  try {
    table = decodeRegionTable(superBlock);
  } catch (error) {
    if (error instanceof VdoError && error.code === 'NotVdo') throw wrong(error.message);
    throw error;
  }
  if (table.type !== TABLE_TYPE.super) throw wrong('its first block is no super block');
  const { nonce, nonceInfo, volumeOffset, startOffset, ...sizes } = decodeIndexSuperBlock(
    table.payload,
  );
  const offsets = { volumeOffset, startOffset };
  const { geometry } = place;
  if (!bytesEqual(primaryNonce(nonceInfo), nonce)) throw wrong('its nonce is not as computed');
  if (
    table.blocks !== geometry.totalBlocks ||
    !sameRegions(
      table.regions,
      regionsOf(geometry, numberedStart(place.start, offsets), volumeOffset),
    ) ||
    sizes.openChapterBlocks !== geometry.openChapterBlocks ||
    sizes.pageMapBlocks !== geometry.pageMapBlocks
  ) {
    throw wrong('its parts are not where the memory setting puts them');
  }
  const { config, remapping } = decodeIndexConfig(bytes.subarray(BLOCK_SIZE));
  const expected = configOf(place);
  if (!bytesEqual(encodeIndexConfig(config), encodeIndexConfig(expected))) {
    throw wrong('it belongs to another volume or memory setting');
  }
  const shape = remapping === null ? geometry : { ...geometry, remapping };
  return regionWith({ ...place, geometry: shape }, nonce, offsets);
}

/** Regions of a save's table for so many zones of the volume index. */
export function saveRegions(
  { openChapterBlocks, pageMapBlocks, saveBlocks }: IndexGeometry,
  start: number,
  zones: number,
): Region[] {
  const zoneBlocks = Math.floor((saveBlocks - 1 - pageMapBlocks - openChapterBlocks) / zones);
  let next = start;
  const region = (kind: number, blocks: number, instance = SOLE): Region => {
    next += blocks;
    return { start: next - blocks, blocks, kind, instance };
  };
  const regions = [region(REGION_KIND.header, 1), region(REGION_KIND.pageMap, pageMapBlocks)];
  for (let zone = 0; zone < zones; zone++) {
    regions.push(region(REGION_KIND.volumeIndex, zoneBlocks, zone));
  }
  regions.push(region(REGION_KIND.openChapter, openChapterBlocks));
  const free = start + saveBlocks - next;
  if (free > 0) regions.push(region(REGION_KIND.free, free));
  return regions;
}

/** The header of a save that is none. */
export function emptySaveHeader(geometry: IndexGeometry, start: number): Uint8Array {
  const { pageMapBlocks, saveBlocks } = geometry;
  const free = start + 1 + pageMapBlocks;
  return encodeRegionTable({
    type: TABLE_TYPE.unsaved,
    blocks: saveBlocks,
    regions: [
      { start, blocks: 1, kind: REGION_KIND.header, instance: SOLE },
      { start: start + 1, blocks: pageMapBlocks, kind: REGION_KIND.pageMap, instance: SOLE },
      { start: free, blocks: start + saveBlocks - free, kind: REGION_KIND.free, instance: SOLE },
    ],
    payload: new Uint8Array(24),
  });
}

/**
 * Begins a new index: whatever was there is forgotten. `nonceInfo` must be new. Fails with `Io`, and then
 * there may be no index.
 */
export async function createRegion(
  place: RegionPlace,
  nonceInfo: Uint8Array,
): Promise<IndexRegion> {
  assert(nonceInfo.length === NONCE_INFO_SIZE, 'nonce info of an index');
  const { storage, geometry, start } = place;
  const nonce = primaryNonce(nonceInfo);
  const region = regionWith(place, nonce, NO_OFFSETS);
  const { openChapterBlocks, pageMapBlocks, totalBlocks } = geometry;
  const superBlock = encodeRegionTable({
    type: TABLE_TYPE.super,
    blocks: totalBlocks,
    regions: regionsOf(geometry, start, 0),
    payload: encodeIndexSuperBlock({ nonceInfo, nonce, openChapterBlocks, pageMapBlocks }),
  });
  const steps = [
    ...region.saveStarts.map((at) => ({ at, bytes: emptySaveHeader(geometry, at) })),
    { at: start + 1, bytes: encodeIndexConfig(configOf(place)) },
    { at: start, bytes: superBlock },
  ];
  for (const { at, bytes } of steps) {
    await storage.write([{ offset: at * BLOCK_SIZE, bytes }]);
    await storage.flush();
  }
  return region;
}
