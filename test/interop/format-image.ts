/**
 * Formats a small volume without index in memory, by the format's own tables and not by `src/`:
 * journals may be tiny (16 and 64 blocks), so that a test reaches their ends in a second.
 */
import {
  BLOCK,
  COUNTS_PER_BLOCK,
  crc32,
  put64,
  ROOTS,
  State,
  SUMMARY_BLOCKS,
  SUPER_PBN,
  VdoImage,
} from './vdo-image.ts';

export interface ImageOptions {
  readonly slabSize: number;
  readonly slabJournal: number;
  readonly journal: number;
  readonly slabs: number;
  readonly logicalBlocks: number;
}

function header(bytes: Buffer, at: number, id: number, major: number, size: number): void {
  bytes.writeUInt32LE(id, at);
  bytes.writeUInt32LE(major, at + 4);
  put64(bytes, at + 12, size);
}

/** A volume without index, in state NEW, as a formatter writes it. */
export function formatImage(options: ImageOptions): VdoImage {
  const { slabSize, slabJournal, journal, slabs, logicalBlocks } = options;
  const first = SUPER_PBN + 1 + ROOTS;
  const depot = slabs * slabSize;
  const physical = first + depot + journal + SUMMARY_BLOCKS;
  const nonce = BigInt(Date.now()) * 1000n;
  const bytes = Buffer.alloc(physical * BLOCK);

  bytes.write('dmvdo001', 0, 'ascii');
  header(bytes, 8, 5, 5, 101);
  bytes.writeBigUInt64LE(nonce, 32);
  for (let i = 0; i < 16; i++) bytes.writeUInt8((i * 37 + 11) & 0xff, 40 + i);
  put64(bytes, 68, 1);
  bytes.writeUInt32LE(1, 76);
  put64(bytes, 80, SUPER_PBN);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 97)), 97);

  const s = bytes.subarray(SUPER_PBN * BLOCK, (SUPER_PBN + 1) * BLOCK);
  header(s, 0, 0, 12, 418);
  s.writeUInt32LE(67, 24);
  s.writeUInt32LE(41, 32);
  s.writeUInt32LE(State.new, 40);
  [logicalBlocks, physical, slabSize, journal, slabJournal].forEach((value, i) =>
    put64(s, 60 + 8 * i, value),
  );
  s.writeBigUInt64LE(nonce, 100);
  header(s, 108, 1, 3, 117);
  put64(s, 128, first + depot);
  put64(s, 136, first + depot);
  s.writeUInt8(4, 144);
  const partitions = [
    [1, first, depot],
    [2, first + depot, journal],
    [3, first + depot + journal, SUMMARY_BLOCKS],
    [0, SUPER_PBN + 1, ROOTS],
  ] as const;
  partitions.forEach(([id, offset, count], i) => {
    s.writeUInt8(id, 145 + 25 * i);
    put64(s, 146 + 25 * i, offset);
    put64(s, 162 + 25 * i, count);
  });
  header(s, 245, 2, 7, 24);
  put64(s, 265, 1);
  header(s, 289, 3, 2, 73);
  const references = Math.ceil((slabSize - slabJournal) / COUNTS_PER_BLOCK);
  const flushing = Math.floor((3 * slabJournal + 3) / 4);
  const scrubbing = slabJournal - 2;
  const blocking = Math.min(flushing + Math.floor((5 * (slabJournal - flushing)) / 7), scrubbing);
  const data = slabSize - slabJournal - references;
  [slabSize, data, references, slabJournal, flushing, blocking, scrubbing, first, first + depot]
    .forEach((value, i) => put64(s, 309 + 8 * i, value)); // prettier-ignore
  header(s, 382, 4, 2, 32);
  put64(s, 402, 1);
  put64(s, 418, SUPER_PBN + 1);
  put64(s, 426, ROOTS);
  const image = new VdoImage(bytes);
  image.setSuper({});
  return image;
}
