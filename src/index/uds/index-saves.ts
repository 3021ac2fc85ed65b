/**
 * The two save slots of an index: which one counts, how one is written, how the newest is made to
 * count no more (FORMAT §9.4).
 *
 * - The valid slot with the later timestamp counts; where its contents then prove wrong the other one is
 *   not tried. A save gets a later timestamp than the other one, whatever the clock says.
 * - The slot that does not count is the one that is written: a crash amid it leaves the other.
 * - Chapters may be closed only after `invalidate`: the page map of a save must agree with the chapters.
 */
import { BLOCK_SIZE, MiB } from '../../base/constants.ts';
import { assert } from '../../base/assert.ts';
import { bytesEqual } from '../../base/bytes.ts';
import { VdoError } from '../../base/errors.ts';
import {
  decodeIndexSave,
  decodeRegionTable,
  encodeIndexSave,
  encodeRegionTable,
  REGION_KIND,
  sameRegions,
  TABLE_TYPE,
  type IndexSave,
  type Region,
} from '../../format/index-layout.ts';
import { openChapterHeader, readOpenChapterHeader } from '../../format/index-save.ts';
import { RECORD_SIZE } from '../../format/chapter-page.ts';
import type { Storage } from '../../storage/storage.ts';
import { emptySaveHeader, saveRegions, type IndexRegion } from './index-region.ts';
import type { IndexPageMap } from './index-page-map.ts';
import { saveNonce } from './nonces.ts';
import type { OpenChapter } from './open-chapter.ts';
import type { VolumeIndexSource } from './volume-index-save.ts';

const STEP_BYTES = MiB;

/** A save that counts. */
export interface FoundSave extends IndexSave {
  readonly slot: 0 | 1;
  readonly zones: number;
  readonly regions: readonly Region[];
}

/** What a save is made of. */
export interface SaveContents {
  readonly newest: number;
  readonly oldest: number;
  readonly openChapter: OpenChapter;
  readonly pageMap: IndexPageMap;
  /** The stream of the volume index, one zone, in pieces that are used before the next is asked for. */
  readonly volumeIndex: Iterable<Uint8Array>;
  /** Milliseconds since 1970. */
  readonly now: number;
}

export class IndexSaves {
  readonly #region: IndexRegion;
  readonly #storage: Storage;
  #slots: [FoundSave | null, FoundSave | null] = [null, null];

  constructor(region: IndexRegion) {
    this.#region = region;
    this.#storage = region.storage;
  }

  /** Reads both headers; returns the save that counts, or null. A header that is none is no error. */
  async find(): Promise<FoundSave | null> {
    this.#slots = [await this.#readSlot(0), await this.#readSlot(1)];
    return this.#newest();
  }

  /** The valid saves that `find` saw, by slot. */
  get slots(): readonly [FoundSave | null, FoundSave | null] {
    return this.#slots;
  }

  /** Reads the saved open chapter. Fails with `Corrupt`. */
  async loadOpenChapter(save: FoundSave, chapter: OpenChapter): Promise<void> {
    const region = partOf(save, REGION_KIND.openChapter);
    const first = new Uint8Array(BLOCK_SIZE);
    await this.#storage.read([{ offset: region.start * BLOCK_SIZE, bytes: first }]);
    const size = openChapterHeader.size + readOpenChapterHeader(first) * RECORD_SIZE;
    if (size > region.blocks * BLOCK_SIZE) {
      throw new VdoError('Corrupt', 'the saved open chapter of the index exceeds its region');
    }
    const bytes = new Uint8Array(Math.ceil(size / BLOCK_SIZE) * BLOCK_SIZE);
    await this.#storage.read([{ offset: region.start * BLOCK_SIZE, bytes }]);
    chapter.decode(bytes);
  }

  /** Reads the saved page map. Fails with `Corrupt`. */
  async loadPageMap(save: FoundSave, map: IndexPageMap): Promise<void> {
    const region = partOf(save, REGION_KIND.pageMap);
    const bytes = new Uint8Array(region.blocks * BLOCK_SIZE);
    await this.#storage.read([{ offset: region.start * BLOCK_SIZE, bytes }]);
    map.decode(bytes);
  }

  /** The saved volume index, zone after zone, to be read as wanted. */
  volumeIndexSources(save: FoundSave): VolumeIndexSource[] {
    return Array.from({ length: save.zones }, (_, zone) => {
      const { start, blocks } = partOf(save, REGION_KIND.volumeIndex, zone);
      return {
        read: async (offset, size) => {
          const end = Math.min(offset + size, blocks * BLOCK_SIZE);
          const bytes = new Uint8Array(Math.max(0, end - offset));
          await this.#storage.read([{ offset: start * BLOCK_SIZE + offset, bytes }]);
          return bytes;
        },
      };
    });
  }

  /** Makes it certain that no save on disk can be loaded. Durable when it returns. */
  async invalidate(): Promise<void> {
    const save = this.#newest();
    if (save === null) return;
    const { start } = partOf(save, REGION_KIND.openChapter);
    const bytes = new Uint8Array(BLOCK_SIZE);
    await this.#storage.write([{ offset: start * BLOCK_SIZE, bytes }]);
    await this.#storage.flush();
  }

  /** Saves. Nothing of what is saved may change meanwhile. */
  async write(contents: SaveContents): Promise<void> {
    const { geometry, saveStarts, startOffset, volumeNonce } = this.#region;
    const newest = this.#newest();
    const slot = newest?.slot === 0 ? 1 : 0;
    const start = saveStarts[slot];
    const regions = saveRegions(geometry, start, 1);
    const timestamp = Math.max(contents.now, (newest?.timestamp ?? 0) + 1);
    const save: FoundSave = {
      slot,
      zones: 1,
      regions,
      timestamp,
      nonce: saveNonce(volumeNonce, timestamp, start + startOffset),
      newest: contents.newest,
      oldest: contents.oldest,
    };
    await this.#writeAt(start, emptySaveHeader(geometry, start + startOffset));
    this.#slots[slot] = null;
    await this.#writePart(partOf(save, REGION_KIND.openChapter), [contents.openChapter.encode()]);
    await this.#writePart(partOf(save, REGION_KIND.volumeIndex, 0), contents.volumeIndex);
    await this.#writePart(partOf(save, REGION_KIND.pageMap), [contents.pageMap.encode()]);
    const header = encodeRegionTable({
      type: TABLE_TYPE.save,
      blocks: geometry.saveBlocks,
      regions: saveRegions(geometry, start + startOffset, 1),
      payload: encodeIndexSave(save),
    });
    await this.#writeAt(start, header);
    this.#slots[slot] = save;
  }

  #newest(): FoundSave | null {
    const [first, second] = this.#slots;
    if (first === null || second === null) return first ?? second;
    return second.timestamp > first.timestamp ? second : first;
  }

  async #readSlot(slot: 0 | 1): Promise<FoundSave | null> {
    const { geometry, saveStarts, startOffset, volumeNonce } = this.#region;
    const start = saveStarts[slot];
    const numbered = start + startOffset;
    const block = new Uint8Array(BLOCK_SIZE);
    await this.#storage.read([{ offset: start * BLOCK_SIZE, bytes: block }]);
    try {
      const { type, blocks, regions, payload } = decodeRegionTable(block);
      if (type !== TABLE_TYPE.save || blocks !== geometry.saveBlocks) return null;
      const zones = regions.filter(({ kind }) => kind === REGION_KIND.volumeIndex).length;
      if (zones === 0 || !sameRegions(regions, saveRegions(geometry, numbered, zones))) return null;
      const save = decodeIndexSave(payload);
      if (save.timestamp === 0) return null;
      if (!bytesEqual(save.nonce, saveNonce(volumeNonce, save.timestamp, numbered))) return null;
      return { ...save, slot, zones, regions: saveRegions(geometry, start, zones) };
    } catch (error) {
      if (error instanceof VdoError && error.code !== 'Io') return null;
      throw error;
    }
  }

  async #writeAt(block: number, bytes: Uint8Array): Promise<void> {
    await this.#storage.write([{ offset: block * BLOCK_SIZE, bytes }]);
    await this.#storage.flush();
  }

  /** Writes pieces one after another, whole blocks, the last one filled up with zeros; flushes. */
  async #writePart(region: Region, pieces: Iterable<Uint8Array>): Promise<void> {
    const buffer = new Uint8Array(STEP_BYTES);
    let at = region.start * BLOCK_SIZE;
    let filled = 0;
    const drain = async (): Promise<void> => {
      const size = Math.ceil(filled / BLOCK_SIZE) * BLOCK_SIZE;
      buffer.fill(0, filled, size);
      assert(at + size <= (region.start + region.blocks) * BLOCK_SIZE, 'a save fits its region');
      if (size > 0) await this.#storage.write([{ offset: at, bytes: buffer.subarray(0, size) }]);
      at += size;
      filled = 0;
    };
    for (const piece of pieces) {
      for (let from = 0; from < piece.length;) {
        const length = Math.min(piece.length - from, STEP_BYTES - filled);
        buffer.set(piece.subarray(from, from + length), filled);
        from += length;
        filled += length;
        if (filled === STEP_BYTES) await drain();
      }
    }
    await drain();
    await this.#storage.flush();
  }
}

function partOf(save: FoundSave, kind: number, instance?: number): Region {
  const region = save.regions.find(
    (candidate) =>
      candidate.kind === kind && (instance === undefined || candidate.instance === instance),
  );
  assert(region !== undefined, 'a part of a save');
  return region;
}
