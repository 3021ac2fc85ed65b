/** What the format tests share: hex images, seeded random bytes, the volume of the worked example. */
import type { SuperBlock } from '../../../src/format/super-block.ts';
import type { GeometryBlock } from '../../../src/format/geometry-block.ts';
import { vdoCrc32, setU32 } from '../../../src/base/bytes.ts';
import { VdoError, type VdoCode } from '../../../src/base/errors.ts';

/** Bytes from hex digits; anything else between them is layout. */
export function hex(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text.replace(/[^0-9a-fA-F]/g, ''), 'hex'));
}

/** Small, seeded, good enough: mulberry32. Returns integers below `below`. */
export function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

export function randomBytes(next: (below: number) => number, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) bytes[i] = next(256);
  return bytes;
}

/** Restores the checksum at `at` after a deliberate change before it. */
export function reseal(bytes: Uint8Array, at: number): void {
  setU32(bytes, at, vdoCrc32(bytes.subarray(0, at)));
}

/** The code of the `VdoError` that `run` throws; 'none' when it returns; other errors pass through. */
export function codeOf(run: () => unknown): VdoCode | 'none' {
  try {
    run();
  } catch (error) {
    if (error instanceof VdoError) return error.code;
    throw error;
  }
  return 'none';
}

export const NONCE = hex('c2b0256d07610600');

/** A 5 GiB device with slabs of 8192 blocks and the smallest index, as dm-vdo's tool formats it. */
export const GEOMETRY: GeometryBlock = {
  formatVersion: 5,
  unusedWord: 0,
  nonce: NONCE,
  uuid: hex('56ba439a-ba1d-4367-8cb1-1a0d44d5476a'),
  bioOffset: 0,
  indexStart: 1,
  dataStart: 679128,
  indexMemory: -256,
  sparse: false,
};

export const SUPER_BLOCK: SuperBlock = {
  unusedWord: 0,
  state: 1,
  completeRecoveries: 0,
  readOnlyRecoveries: 0,
  logicalBlocks: 580622,
  physicalBlocks: 1310720,
  slabSize: 8192,
  recoveryJournalSize: 32768,
  slabJournalBlocks: 224,
  nonce: NONCE,
  firstFree: 1277888,
  lastFree: 1277888,
  partitions: {
    blockMap: { offset: 679129, count: 60 },
    slabDepot: { offset: 679189, count: 598699 },
    recoveryJournal: { offset: 1277888, count: 32768 },
    slabSummary: { offset: 1310656, count: 64 },
  },
  partitionOrder: [1, 2, 3, 0],
  journalStart: 1,
  logicalBlocksUsed: 0,
  blockMapDataBlocks: 0,
  slab: {
    blocks: 8192,
    dataBlocks: 7966,
    referenceBlocks: 2,
    journalBlocks: 224,
    flushingThreshold: 168,
    blockingThreshold: 208,
    scrubbingThreshold: 222,
  },
  firstBlock: 679189,
  lastBlock: 1277205,
  zoneCount: 0,
  rootOrigin: 679129,
  rootCount: 60,
};
