/**
 * What dm-log-writes saw: every write below a volume, in the order in which it became durable, with
 * its flags. A write without flags stands where the flush that covered it stands.
 */
import { readFileSync } from 'node:fs';
import { BLOCK, type VdoImage } from './vdo-image.ts';

const MAGIC = 0x6a736677736872n;
const FLUSH = 1;
const FUA = 2;
const DISCARD = 4;
const MARK = 8;

export type Region =
  | 'geometry'
  | 'super block'
  | 'root page'
  | 'data'
  | 'reference block'
  | 'slab journal'
  | 'recovery journal'
  | 'slab summary';

export interface LoggedWrite {
  readonly pbn: number;
  readonly flush: boolean;
  readonly fua: boolean;
  readonly region: Region;
  readonly bytes: Buffer;
}

/** Which structure a block belongs to. */
export function regionOf(image: VdoImage, pbn: number): Region {
  if (pbn < 1) return 'geometry';
  if (pbn === 1) return 'super block';
  if (pbn < image.firstBlock) return 'root page';
  const end = image.firstBlock + image.slabs * image.slabSize;
  if (pbn >= end + image.journalSize) return 'slab summary';
  if (pbn >= end) return 'recovery journal';
  const sbn = (pbn - image.firstBlock) % image.slabSize;
  if (sbn < image.dataBlocks) return 'data';
  return sbn < image.dataBlocks + image.referenceBlocks ? 'reference block' : 'slab journal';
}

/** Reads a log. Empty flushes are entries of no length: `pbn` -1. */
export function readWriteLog(path: string, image: VdoImage): LoggedWrite[] {
  const log = readFileSync(path);
  if (log.readBigUInt64LE(0) !== MAGIC) throw new Error('no write log');
  const entries = Number(log.readBigUInt64LE(16));
  const sectorSize = log.readUInt32LE(24);
  const writes: LoggedWrite[] = [];
  let at = sectorSize;
  for (let i = 0; i < entries; i++) {
    const sector = Number(log.readBigUInt64LE(at));
    const length = Number(log.readBigUInt64LE(at + 8)) * 512;
    const flags = Number(log.readBigUInt64LE(at + 16));
    const dataLength = Number(log.readBigUInt64LE(at + 24));
    at += sectorSize;
    if (flags & MARK) at += Math.ceil(dataLength / sectorSize) * sectorSize;
    if (flags & (MARK | DISCARD)) continue;
    const flush = (flags & FLUSH) !== 0;
    const fua = (flags & FUA) !== 0;
    if (length === 0) writes.push({ pbn: -1, flush, fua, region: 'data', bytes: Buffer.alloc(0) });
    for (let done = 0; done < length; done += BLOCK) {
      const pbn = (sector * 512 + done) / BLOCK;
      const bytes = log.subarray(at + done, at + done + BLOCK);
      writes.push({ pbn, flush: flush && done === 0, fua, region: regionOf(image, pbn), bytes });
    }
    at += length;
  }
  return writes;
}
