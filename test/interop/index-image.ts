/**
 * The deduplication index of a volume file, opened beside its volume: to look at what the kernel wrote,
 * and to give a volume a history that would take hours to write.
 */
import { indexGeometry, type IndexGeometry } from '../../src/index/uds/index-geometry.ts';
import { IndexPageMap } from '../../src/index/uds/index-page-map.ts';
import { createRegion, readRegion, type IndexRegion } from '../../src/index/uds/index-region.ts';
import { IndexSaves } from '../../src/index/uds/index-saves.ts';
import { OpenChapter } from '../../src/index/uds/open-chapter.ts';
import { openUdsIndex } from '../../src/index/uds/open-uds-index.ts';
import { UdsIndex } from '../../src/index/uds/uds-index.ts';
import { createVolumeIndex, type VolumeIndex } from '../../src/index/uds/volume-index.ts';
import { openFileStorage } from '../../src/storage/file-storage.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { readLabels } from '../../src/volume/labels.ts';

export interface IndexImage {
  readonly storage: Storage;
  readonly geometry: IndexGeometry;
  readonly start: number;
  readonly blocks: number;
  readonly nonce: Uint8Array;
}

/** Where the index of the volume in `path` lies; the caller closes `storage`. */
export async function indexImage(path: string): Promise<IndexImage> {
  const storage = await openFileStorage(path, {});
  const { geometry, superBlock } = await readLabels(storage);
  return {
    storage,
    geometry: indexGeometry(geometry.indexMemory, geometry.sparse),
    start: geometry.indexStart,
    blocks: geometry.dataStart - geometry.indexStart,
    nonce: superBlock.nonce,
  };
}

export function openIndex(image: IndexImage): Promise<UdsIndex> {
  return openUdsIndex({ ...image, isNew: false });
}

/** Runs `work` on the index region of `path`. */
export async function withIndex<T>(
  path: string,
  work: (region: IndexRegion, image: IndexImage) => Promise<T>,
): Promise<T> {
  const image = await indexImage(path);
  try {
    return await work(await readRegion(image), image);
  } finally {
    await image.storage.close();
  }
}

export interface History {
  readonly index: UdsIndex;
  readonly region: IndexRegion;
  readonly saves: IndexSaves;
  readonly volumeIndex: VolumeIndex;
  readonly pageMap: IndexPageMap;
}

/**
 * A new index in which chapters `oldest` … `newest` − 1 are said to exist, none of them known to the volume
 * index. `nonceInfo` is any 32 bytes.
 */
export async function madeUpHistory(
  image: IndexImage,
  oldest: number,
  newest: number,
): Promise<History> {
  const nonceInfo = Uint8Array.from({ length: 32 }, (_, i) => i * 7 + 3);
  const region = await createRegion(image, nonceInfo);
  const volumeIndex = createVolumeIndex(image.geometry);
  volumeIndex.openChapter(newest);
  const saves = new IndexSaves(region);
  const pageMap = new IndexPageMap(image.geometry);
  const index = new UdsIndex({
    region,
    saves,
    volumeIndex,
    pageMap,
    openChapter: new OpenChapter(image.geometry.recordsPerChapter),
    newest,
    oldest,
    rebuild: false,
    changed: true,
    warning: null,
    cachePages: 64,
    now: Date.now,
  });
  return { index, region, saves, volumeIndex, pageMap };
}
