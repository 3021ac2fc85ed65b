/**
 * The deduplication index of a volume file, opened beside its volume: to look at what the kernel wrote,
 * and to give a volume a history that would take hours to write.
 */
import { randomFill } from '../../bench/data.ts';
import { setU64 } from '../../src/base/bytes.ts';
import { CHAPTER_PAGE_SIZE, RECORD_SIZE } from '../../src/format/chapter-page.ts';
import { buildChapterIndex } from '../../src/index/uds/chapter-index.ts';
import { pageOffset } from '../../src/index/uds/chapter-scan.ts';
import {
  indexGeometry,
  physicalChapter,
  type IndexGeometry,
} from '../../src/index/uds/index-geometry.ts';
import { IndexPageMap } from '../../src/index/uds/index-page-map.ts';
import { createRegion, readRegion, type IndexRegion } from '../../src/index/uds/index-region.ts';
import { IndexSaves } from '../../src/index/uds/index-saves.ts';
import { OpenChapter } from '../../src/index/uds/open-chapter.ts';
import { openUdsIndex } from '../../src/index/uds/open-uds-index.ts';
import { UdsIndex } from '../../src/index/uds/uds-index.ts';
import { loadVolumeIndex, saveVolumeIndex } from '../../src/index/uds/volume-index-save.ts';
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

/** Saves a made-up history, with an empty open chapter if there is no other, and closes the storage. */
export async function saveHistory(
  { storage, geometry }: IndexImage,
  { region, saves, volumeIndex, pageMap }: History,
  range: { readonly oldest: number; readonly newest: number },
  openChapter = new OpenChapter(geometry.recordsPerChapter),
): Promise<void> {
  await saves.write({
    ...range,
    openChapter,
    pageMap,
    volumeIndex: saveVolumeIndex(volumeIndex, region.volumeNonce),
    now: Date.now(),
  });
  await storage.close();
}

/**
 * Puts chapters `first` … `end` − 1 in their slots, with index pages as good as any. Their record pages are holes, so that
 * they take little room: to a rebuild every record is one and the same, with a name of zeros.
 */
export async function thinChapters(region: IndexRegion, first: number, end: number): Promise<void> {
  const { geometry, volumeNonce, storage } = region;
  const { recordsPerChapter: count } = geometry;
  const records = new Uint8Array(count * RECORD_SIZE);
  randomFill(records, 31);
  const { pages } = buildChapterIndex(geometry, volumeNonce, { chapter: first, records, count });
  for (let chapter = first; chapter < end; chapter++) {
    for (let page = 0; page < geometry.indexPagesPerChapter; page++) {
      setU64(pages, page * CHAPTER_PAGE_SIZE + 8, chapter);
    }
    const slot = physicalChapter(geometry, chapter);
    await storage.write([{ offset: pageOffset(region, slot, 0), bytes: pages }]);
  }
}

/**
 * The volume index that was saved, as we save it, but for the flush chapters: lower bounds, which may be lower
 * where a list was not looked at.
 */
export function savedVolumeIndexOf(path: string): Promise<Buffer> {
  return withIndex(path, async (region) => {
    const saves = new IndexSaves(region);
    const save = await saves.find();
    if (save === null) throw new Error(`no save in ${path}`);
    const index = createVolumeIndex(region.geometry);
    await loadVolumeIndex(index, saves.volumeIndexSources(save), region.volumeNonce);
    const bytes = Buffer.concat(
      Array.from(saveVolumeIndex(index, region.volumeNonce), (chunk) => Buffer.from(chunk)),
    );
    const { lists } = region.geometry.subIndexes[0]!;
    return bytes.fill(0, 40, 40 + 8 * lists);
  });
}
