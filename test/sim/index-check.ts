/**
 * What must hold of the deduplication index after every crash, judged the way dm-vdo would: a save that
 * loads must agree with the chapters on disk, for dm-vdo stops using an index that does not; without a
 * save the chapters must make a range.
 */
import { checkIndexPages, findChapters, pageOffset } from '../../src/index/uds/chapter-scan.ts';
import { indexPageFirstList, indexPageLists } from '../../src/format/chapter-page.ts';
import { IndexPageMap } from '../../src/index/uds/index-page-map.ts';
import { physicalChapter, type IndexGeometry } from '../../src/index/uds/index-geometry.ts';
import { readRegion, type RegionPlace } from '../../src/index/uds/index-region.ts';
import { IndexSaves } from '../../src/index/uds/index-saves.ts';
import { OpenChapter } from '../../src/index/uds/open-chapter.ts';
import { openUdsIndex } from '../../src/index/uds/open-uds-index.ts';
import type { UdsIndex } from '../../src/index/uds/uds-index.ts';
import { loadVolumeIndex } from '../../src/index/uds/volume-index-save.ts';
import { createVolumeIndex } from '../../src/index/uds/volume-index.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { Violation } from './crash-check.ts';

const PAGE = 32768;

/** Where the index of a story lies. */
export interface IndexSite {
  readonly geometry: IndexGeometry;
  /** First block. */
  readonly start: number;
  readonly nonce: Uint8Array;
}

export function openIndexAt(
  storage: Storage,
  site: IndexSite,
  options: { isNew: boolean; now: number; cachePages?: number },
): Promise<UdsIndex> {
  const { now, ...others } = options;
  return openUdsIndex({
    ...site,
    ...others,
    storage,
    blocks: site.geometry.totalBlocks,
    now: () => now,
    random: (size) => new Uint8Array(size).fill(now),
  });
}

/**
 * Judges an index that was created some time ago. Returns what dm-vdo would do: load a save, or rebuild.
 * Throws `Violation`.
 */
export async function checkIndex(storage: Storage, site: IndexSite): Promise<'load' | 'rebuild'> {
  const place: RegionPlace = { ...site, storage };
  const region = await readRegion(place);
  const saves = new IndexSaves(region);
  const save = await saves.find();
  const { geometry } = site;
  const openChapter = new OpenChapter(geometry.recordsPerChapter);
  const map = new IndexPageMap(geometry);
  const volumeIndex = createVolumeIndex(geometry, { kernel: 'typescript' });
  try {
    if (save === null) throw new Error('no save');
    await saves.loadOpenChapter(save, openChapter);
    await loadVolumeIndex(volumeIndex, saves.volumeIndexSources(save), region.volumeNonce);
    await saves.loadPageMap(save, map);
  } catch {
    await findChapters(region);
    return 'rebuild';
  }
  for (let chapter = save.oldest; chapter < save.newest; chapter++) {
    const slot = physicalChapter(geometry, chapter);
    const pages = new Uint8Array(geometry.indexPagesPerChapter * PAGE);
    await storage.read([{ offset: pageOffset(region, slot, 0), bytes: pages }]);
    const info = checkIndexPages(region, slot, pages);
    if (info?.chapter !== chapter) {
      throw new Violation(`the save names chapter ${chapter}, slot ${slot} holds ${info?.chapter}`);
    }
    for (let page = 0; page < geometry.indexPagesPerChapter; page++) {
      const bytes = pages.subarray(page * PAGE, (page + 1) * PAGE);
      if (!map.agrees(slot, page, indexPageFirstList(bytes), indexPageLists(bytes))) {
        throw new Violation(`the page map is wrong about page ${page} of chapter ${chapter}`);
      }
    }
  }
  return 'load';
}
