/**
 * The index's part of an audit: whether the region holds an index of this volume, and one that was
 * saved and can be loaded. All of it is advice: damage here loses no data and is no disagreement, so it
 * is told beside the findings. Chapters are not read.
 */
import { VdoError } from '../base/errors.ts';
import { NEW } from '../format/super-block.ts';
import { indexGeometry, indexGigabytes } from '../index/uds/index-geometry.ts';
import { IndexPageMap } from '../index/uds/index-page-map.ts';
import { readRegion } from '../index/uds/index-region.ts';
import { IndexSaves } from '../index/uds/index-saves.ts';
import { OpenChapter } from '../index/uds/open-chapter.ts';
import type { Storage } from '../storage/storage.ts';
import type { Labels } from '../volume/labels.ts';

export interface IndexAudit {
  /**
   * `none`: the volume has no room for one; `empty`: never used; `saved`; `unsaved`: the next start
   * makes it anew from its chapters; `damaged`: the next start begins with an empty one.
   */
  readonly state: 'none' | 'empty' | 'saved' | 'unsaved' | 'damaged';
  readonly problem: string | null;
  /** Of a saved index: oldest and newest chapter, and records in the newest, which is open. */
  readonly oldestChapter: number | null;
  readonly newestChapter: number | null;
  readonly openRecords: number | null;
}

/** Looks at the index region of the volume on `device`. */
export async function auditIndex(device: Storage, labels: Labels): Promise<IndexAudit> {
  const { geometry, superBlock } = labels;
  const nothing = { problem: null, oldestChapter: null, newestChapter: null, openRecords: null };
  const blocks = geometry.dataStart - geometry.indexStart;
  if (blocks === 0 || geometry.indexMemory === 0) return { state: 'none', ...nothing };
  if (superBlock.state === NEW) return { state: 'empty', ...nothing };
  try {
    if (indexGigabytes(geometry.indexMemory) === undefined) {
      throw new VdoError('UnsupportedVersion', `index memory setting ${geometry.indexMemory}`);
    }
    const shape = indexGeometry(geometry.indexMemory, geometry.sparse);
    if (blocks < shape.totalBlocks) {
      throw new VdoError('Corrupt', `the region has ${blocks} blocks of ${shape.totalBlocks}`);
    }
    const start = geometry.indexStart - geometry.bioOffset;
    const place = { storage: device, geometry: shape, start, nonce: superBlock.nonce };
    const saves = new IndexSaves(await readRegion(place));
    const save = await saves.find();
    if (save === null) return { state: 'unsaved', ...nothing };
    const chapter = new OpenChapter(shape.recordsPerChapter);
    await saves.loadOpenChapter(save, chapter);
    await saves.loadPageMap(save, new IndexPageMap(shape));
    const { oldest: oldestChapter, newest: newestChapter } = save;
    const chapters = { oldestChapter, newestChapter, openRecords: chapter.count };
    return { state: 'saved', problem: null, ...chapters };
  } catch (error) {
    if (!(error instanceof VdoError)) throw error;
    if (error.code === 'NotVdo') return { state: 'empty', ...nothing };
    return { state: 'damaged', ...nothing, problem: error.message };
  }
}
