/**
 * Geometry block, super block and everything that follows from them, decoded independently of
 * `src/format` on purpose: two readings of the specification that must agree.
 */
import { BLOCK, readBlocks, type Steps } from './steps.ts';

export const STATE = {
  DIRTY: 0,
  NEW: 1,
  CLEAN: 2,
  READ_ONLY: 3,
  FORCE_REBUILD: 4,
  RECOVERING: 5,
  REPLAYING: 6,
} as const;

/** The volume is damaged, or the kernel would refuse it; `message` says what was found. */
export class Damaged extends Error {
  override name = 'Damaged';
}

export function getU64(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at + 4) * 2 ** 32 + bytes.readUInt32LE(at);
}

export function setU64(bytes: Buffer, at: number, value: number): void {
  bytes.writeUInt32LE(value % 2 ** 32, at);
  bytes.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4);
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let word = n;
  for (let bit = 0; bit < 8; bit++) word = word & 1 ? (word >>> 1) ^ 0xedb88320 : word >>> 1;
  return word;
});

/** CRC-32 with a register that starts at 0. */
export function crcOf(bytes: Uint8Array): number {
  let register = 0;
  for (const byte of bytes) register = CRC_TABLE[(register ^ byte) & 255]! ^ (register >>> 8);
  return ~register >>> 0;
}

/** A slab's place, in PBNs. */
export interface SlabPlace {
  readonly base: number;
  readonly counts: number;
  readonly journal: number;
}

export interface VolumeLayout {
  readonly nonce: Buffer;
  readonly bioOffset: number;
  readonly superBlock: Buffer;
  readonly superPbn: number;
  readonly state: number;
  readonly completeRecoveries: number;
  readonly logicalBlocks: number;
  readonly physicalBlocks: number;
  readonly journalBlocks: number;
  readonly journalOrigin: number;
  readonly journalStart: number;
  readonly logicalBlocksUsed: number;
  readonly treePages: number;
  readonly rootOrigin: number;
  readonly summaryOrigin: number;
  readonly zoneCount: number;
  readonly slabBlocks: number;
  readonly slabBits: number;
  readonly dataBlocks: number;
  readonly countBlocks: number;
  readonly slabJournalBlocks: number;
  readonly firstBlock: number;
  readonly slabCount: number;
}

export function slabPlace(layout: VolumeLayout, slab: number): SlabPlace {
  const base = layout.firstBlock + slab * layout.slabBlocks;
  const counts = base + layout.dataBlocks;
  return { base, counts, journal: counts + layout.countBlocks };
}

/** Slab and offset of a physical data block; undefined for any other block, block 0 included. */
export function slabOf(
  layout: VolumeLayout,
  pbn: number,
): { readonly slab: number; readonly offset: number } | undefined {
  const relative = pbn - layout.firstBlock;
  if (relative < 0) return undefined;
  const slab = Math.floor(relative / layout.slabBlocks);
  const offset = relative - slab * layout.slabBlocks;
  return slab < layout.slabCount && offset < layout.dataBlocks ? { slab, offset } : undefined;
}

/** The device block of a PBN. */
export const deviceBlock = (layout: VolumeLayout, pbn: number): number => pbn - layout.bioOffset;

function decodeGeometry(block: Buffer): { nonce: Buffer; bioOffset: number; dataStart: number } {
  if (block.toString('latin1', 0, 8) !== 'dmvdo001') throw new Damaged('geometry: bad magic');
  const old = block.readUInt32LE(12) <= 4;
  const size = getU64(block, 20);
  if (block.readUInt32LE(8) !== 5 || size !== (old ? 93 : 101)) throw new Damaged('geometry');
  if (crcOf(block.subarray(0, size - 4)) !== block.readUInt32LE(size - 4)) {
    throw new Damaged('geometry: checksum');
  }
  const regions = old ? 56 : 64;
  return {
    nonce: Buffer.from(block.subarray(32, 40)),
    bioOffset: old ? 0 : getU64(block, 56),
    dataStart: getU64(block, regions + 16),
  };
}

function partitionOffsets(block: Buffer): Map<number, number> {
  const offsets = new Map<number, number>();
  for (let i = 0; i < block[144]!; i++) {
    offsets.set(block[145 + 25 * i]!, getU64(block, 146 + 25 * i));
  }
  if (block[144] !== 4 || offsets.size !== 4) throw new Damaged('super block: partitions');
  return offsets;
}

/** Reads and checks geometry and super block. Throws `Damaged`. */
export function* readLayout(): Steps<VolumeLayout> {
  const [geometryBlock] = yield* readBlocks([0]);
  const { nonce, bioOffset, dataStart } = decodeGeometry(geometryBlock!);
  const [block] = (yield* readBlocks([dataStart - bioOffset])) as [Buffer];
  if (block.readUInt32LE(0) !== 0 || block.readUInt32LE(4) !== 12) {
    throw new Damaged('super block: header');
  }
  if (crcOf(block.subarray(0, 434)) !== block.readUInt32LE(434)) {
    throw new Damaged('super block: checksum');
  }
  if (!block.subarray(100, 108).equals(nonce)) throw new Damaged('super block: nonce');
  const offsets = partitionOffsets(block);
  const firstBlock = getU64(block, 365);
  const slabBlocks = getU64(block, 309);
  return {
    nonce,
    bioOffset,
    superBlock: Buffer.from(block),
    superPbn: dataStart,
    state: block.readUInt32LE(40),
    completeRecoveries: getU64(block, 44),
    logicalBlocks: getU64(block, 60),
    physicalBlocks: getU64(block, 68),
    journalBlocks: getU64(block, 84),
    journalOrigin: offsets.get(2)!,
    journalStart: getU64(block, 265),
    logicalBlocksUsed: getU64(block, 273),
    treePages: getU64(block, 281),
    rootOrigin: offsets.get(0)!,
    summaryOrigin: offsets.get(3)!,
    zoneCount: block[381]!,
    slabBlocks,
    slabBits: Math.log2(slabBlocks),
    dataBlocks: getU64(block, 317),
    countBlocks: getU64(block, 325),
    slabJournalBlocks: getU64(block, 333),
    firstBlock,
    slabCount: (getU64(block, 373) - firstBlock) / slabBlocks,
  };
}

export interface SuperBlockChange {
  readonly state: number;
  readonly completeRecoveries?: number;
  readonly journalStart?: number;
  readonly logicalBlocksUsed?: number;
  readonly treePages?: number;
  readonly zoneCount?: number;
}

/** A copy of a super block with some fields changed and the checksum made right. */
export function changedSuperBlock(block: Buffer, change: SuperBlockChange): Buffer {
  const changed = Buffer.from(block);
  changed.writeUInt32LE(change.state, 40);
  if (change.completeRecoveries !== undefined) setU64(changed, 44, change.completeRecoveries);
  if (change.journalStart !== undefined) setU64(changed, 265, change.journalStart);
  if (change.logicalBlocksUsed !== undefined) setU64(changed, 273, change.logicalBlocksUsed);
  if (change.treePages !== undefined) setU64(changed, 281, change.treePages);
  if (change.zoneCount !== undefined) changed[381] = change.zoneCount;
  changed.writeUInt32LE(crcOf(changed.subarray(0, 434)), 434);
  return changed;
}

export interface TinyGeometry {
  readonly slabBlocks: number;
  readonly slabJournalBlocks: number;
  readonly journalBlocks: number;
  readonly slabCount: number;
  readonly logicalBlocks: number;
  readonly zoneCount?: number;
}

/** The geometry block and super block (state NEW) of a volume without an index region. */
export function encodeTinyVolume(tiny: TinyGeometry): {
  readonly physicalBlocks: number;
  readonly blocks: Map<number, Buffer>;
} {
  const { slabBlocks: z, slabJournalBlocks: j, journalBlocks: r } = tiny;
  const countBlocks = Math.ceil((z - j) / 4032);
  let data = z - j - countBlocks;
  if (z < 1024) data = 2 ** Math.floor(Math.log2(data));
  const firstBlock = 62;
  const lastBlock = firstBlock + tiny.slabCount * z;
  const physicalBlocks = lastBlock + r + 64;
  const geometry = Buffer.alloc(BLOCK);
  geometry.write('dmvdo001', 'latin1');
  for (const [at, value] of [
    [8, 5],
    [12, 5],
    [20, 101],
    [32, 0x1234567],
    [80, 1],
    [68, 1],
  ]) {
    geometry.writeUInt32LE(value!, at!);
  }
  geometry.writeUInt32LE(1, 76);
  geometry.writeUInt32LE(crcOf(geometry.subarray(0, 97)), 97);
  const block = Buffer.alloc(BLOCK);
  const words: readonly (readonly [number, number])[] = [
    [4, 12], [12, 418], [24, 67], [32, 41], [40, STATE.NEW], [60, tiny.logicalBlocks],
    [68, physicalBlocks], [76, z], [84, r], [92, j], [100, 0x1234567],
    [108, 1], [112, 3], [120, 117], [128, lastBlock], [136, lastBlock],
    [245, 2], [249, 7], [257, 24], [265, 1], [289, 3], [293, 2], [301, 73],
    [309, z], [317, data], [325, countBlocks], [333, j], [365, firstBlock], [373, lastBlock],
    [382, 4], [386, 2], [394, 32], [402, 1], [418, 2], [426, 60],
  ]; // prettier-ignore
  for (const [at, value] of words) block.writeUInt32LE(value, at);
  const flushing = Math.floor((3 * j + 3) / 4);
  const scrubbing = j > 2 ? j - 2 : j;
  setU64(block, 341, flushing);
  setU64(block, 349, Math.min(scrubbing, flushing + Math.floor((5 * (j - flushing)) / 7)));
  setU64(block, 357, scrubbing);
  block[144] = 4;
  const partitions = [
    [1, firstBlock, lastBlock - firstBlock],
    [2, lastBlock, r],
    [3, lastBlock + r, 64],
    [0, 2, 60],
  ] as const;
  partitions.forEach(([id, offset, count], i) => {
    block[145 + 25 * i] = id;
    setU64(block, 146 + 25 * i, offset);
    setU64(block, 162 + 25 * i, count);
  });
  const superBlock = changedSuperBlock(block, { state: STATE.NEW, zoneCount: tiny.zoneCount ?? 0 });
  return {
    physicalBlocks,
    blocks: new Map([
      [0, geometry],
      [1, superBlock],
    ]),
  };
}
