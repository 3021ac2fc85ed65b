/**
 * What a save of the index keeps beside the volume index: the open chapter and the index page map
 * (FORMAT §9.4).
 */
import { bytesEqual } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import { raw, struct, u32, u64 } from './struct.ts';

const ASCII = new TextEncoder();
const OPEN_CHAPTER_MAGIC = ASCII.encode('ALBOC');
const OPEN_CHAPTER_VERSION = ASCII.encode('02.00');
const PAGE_MAP_MAGIC = ASCII.encode('ALBIPM02');

export const openChapterHeader = struct(
  'OpenChapterHeader',
  {
    magic: raw(5, '`ALBOC`'),
    version: raw(5, '`02.00`'),
    records: u32('records that follow'),
  },
  14,
);

export const pageMapHeader = struct(
  'PageMapHeader',
  {
    magic: raw(8, '`ALBIPM02`'),
    updated: u64('chapter that was written last'),
  },
  16,
);

/** Stores the header of a saved open chapter. */
export function writeOpenChapterHeader(bytes: Uint8Array, records: number): void {
  openChapterHeader.write(bytes, {
    magic: OPEN_CHAPTER_MAGIC,
    version: OPEN_CHAPTER_VERSION,
    records,
  });
}

/** Number of records of a saved open chapter. Fails with `Corrupt`. */
export function readOpenChapterHeader(bytes: Uint8Array): number {
  const { magic, version, records } = openChapterHeader.decode(bytes);
  if (!bytesEqual(magic, OPEN_CHAPTER_MAGIC) || !bytesEqual(version, OPEN_CHAPTER_VERSION)) {
    throw new VdoError('Corrupt', 'the saved open chapter of the index is none');
  }
  return records;
}

/** Stores the header of a saved index page map. */
export function writePageMapHeader(bytes: Uint8Array, updated: number): void {
  pageMapHeader.write(bytes, { magic: PAGE_MAP_MAGIC, updated });
}

/** Chapter that was written last before the map was saved. Fails with `Corrupt`. */
export function readPageMapHeader(bytes: Uint8Array): number {
  const { magic, updated } = pageMapHeader.decode(bytes);
  if (!bytesEqual(magic, PAGE_MAP_MAGIC)) {
    throw new VdoError('Corrupt', 'the saved page map of the index is none');
  }
  return updated;
}
