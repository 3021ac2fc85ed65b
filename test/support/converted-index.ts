/**
 * An empty deduplication index as the conversion of an old volume leaves it: a super block of version 7,
 * whose blocks are numbered as they were before `startOffset` blocks in front of the device were given up and
 * the chapters lost `volumeOffset` blocks of room, and a configuration that names the chapter that was moved.
 */
import {
  encodeIndexConfig,
  encodeIndexSuperBlock,
  encodeRegionTable,
  indexRemapping,
  indexSuperBlock,
  indexSuperBlockOffsets,
  REGION_KIND,
  SOLE,
  TABLE_TYPE,
  type IndexOffsets,
} from '../../src/format/index-layout.ts';
import { setU32 } from '../../src/base/bytes.ts';
import type { IndexGeometry, Remapping } from '../../src/index/uds/index-geometry.ts';
import { primaryNonce } from '../../src/index/uds/nonces.ts';
import type { Storage } from '../../src/storage/storage.ts';

const BLOCK = 4096;

export interface ConvertedIndex extends IndexOffsets {
  readonly storage: Storage;
  readonly geometry: IndexGeometry;
  /** First block of the index on the device. */
  readonly start: number;
  readonly nonce: Uint8Array;
  readonly remapping: Remapping;
}

export async function writeConvertedIndex(index: ConvertedIndex): Promise<void> {
  const { storage, geometry, start, nonce, remapping, volumeOffset, startOffset } = index;
  const before = start - (volumeOffset - startOffset);
  const save = before + 2 + geometry.volumeBlocks + volumeOffset;
  const { volumeBlocks, saveBlocks, subIndexBlocks, openChapterBlocks, pageMapBlocks } = geometry;
  const sole = { instance: SOLE };
  const regions = [
    { kind: REGION_KIND.header, start: before, blocks: 1, ...sole },
    { kind: REGION_KIND.config, start: before + 1, blocks: 1, ...sole },
    { kind: REGION_KIND.index, start: before + 2, blocks: subIndexBlocks, instance: 0 },
    { kind: REGION_KIND.volume, start: before + 2, blocks: volumeBlocks, ...sole },
    { kind: REGION_KIND.save, start: save, blocks: saveBlocks, instance: 0 },
    { kind: REGION_KIND.save, start: save + saveBlocks, blocks: saveBlocks, instance: 1 },
    { kind: REGION_KIND.seal, start: save + 2 * saveBlocks, blocks: 1, ...sole },
  ];
  const nonceInfo = Uint8Array.from({ length: 32 }, (_, i) => i * 3 + 1);
  const fields = { nonceInfo, nonce: primaryNonce(nonceInfo), openChapterBlocks, pageMapBlocks };
  const payload = new Uint8Array(indexSuperBlock.size + indexSuperBlockOffsets.size);
  payload.set(encodeIndexSuperBlock(fields));
  setU32(payload, 72, 7);
  indexSuperBlockOffsets.write(payload, { volumeOffset, startOffset }, indexSuperBlock.size);
  const table = { type: TABLE_TYPE.super, blocks: geometry.totalBlocks, regions, payload };
  const config = encodeIndexConfig({
    recordPages: geometry.recordPagesPerChapter,
    chapters: geometry.chapters,
    sparseChapters: geometry.sparseChapters,
    cacheChapters: 7,
    meanDelta: 4096,
    pageSize: 32768,
    sampleRate: geometry.sparseSampleRate,
    nonce,
  });
  config.set(new TextEncoder().encode('08.02'), 5);
  indexRemapping.write(config, remapping, 50);
  const zeros = (): Uint8Array => new Uint8Array(BLOCK);
  const first = save - startOffset;
  await storage.write([
    { offset: start * BLOCK, bytes: encodeRegionTable(table) },
    { offset: (start + 1) * BLOCK, bytes: config },
    { offset: first * BLOCK, bytes: zeros() },
    { offset: (first + saveBlocks) * BLOCK, bytes: zeros() },
  ]);
  await storage.flush();
}
