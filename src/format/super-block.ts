/**
 * The super block: state, sizes and layout of the volume, and what its components keep between runs
 * (FORMAT §2.4). 438 bytes in the first sector of the first block of the data region, so that a
 * write never tears.
 *
 * - Partitions are looked up by id. Their stored order means nothing, but is kept: dm-vdo itself
 *   reverses it at every start.
 * - Decoding checks what the block says about itself; `volume/labels.ts` compares it with the geometry
 *   block, the layout formulas and the size of the device.
 */
import {
  BLOCK_MAP_ROOT_COUNT,
  BLOCK_SIZE,
  MAX_LOGICAL_BLOCKS,
  MAX_PHYSICAL_BLOCKS,
  MAX_PHYSICAL_ZONES,
  MAX_SLAB_BITS,
} from '../base/constants.ts';
import { assert } from '../base/assert.ts';
import { getU32, isZero, setU32, vdoCrc32 } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import { checkComponent, componentHeader, type ComponentVersion } from './component.ts';
import { raw, struct, u32, u64, u8, zero } from './struct.ts';

/** States of a volume, as stored. */
export const DIRTY = 0;
export const NEW = 1;
export const CLEAN = 2;
export const READ_ONLY = 3;
export const FORCE_REBUILD = 4;
export const RECOVERING = 5;
export const REPLAYING = 6;
export const REBUILD_FOR_UPGRADE = 7;
export type VolumeState = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7;

/** Whether the journal of a volume in this state is to be replayed first. */
export function needsReplay(state: VolumeState): boolean {
  return state === DIRTY || state === REPLAYING;
}

/** Whether a volume in this state can only be read, as it stands, until it is rebuilt. */
export function needsRebuild(state: VolumeState): boolean {
  return state === READ_ONLY || state === FORCE_REBUILD || state === REBUILD_FOR_UPGRADE;
}

const STATE_NAMES = [
  'dirty',
  'new',
  'clean',
  'read-only',
  'force-rebuild',
  'recovering',
  'replaying',
  'rebuild-for-upgrade',
] as const;

/** The state in words, for people and `--json`. */
export function stateName(state: number): string {
  return STATE_NAMES[state] ?? `unknown (${state})`;
}

/** A range of physical blocks. */
export interface Partition {
  readonly offset: number;
  readonly count: number;
}

/** Names of the partitions by their id on disk. */
export const PARTITION_NAMES = ['blockMap', 'slabDepot', 'recoveryJournal', 'slabSummary'] as const;
export type PartitionName = (typeof PARTITION_NAMES)[number];

/** How every slab of a volume is divided, in blocks. */
export interface SlabConfig {
  readonly blocks: number;
  readonly dataBlocks: number;
  readonly referenceBlocks: number;
  readonly journalBlocks: number;
  readonly flushingThreshold: number;
  readonly blockingThreshold: number;
  readonly scrubbingThreshold: number;
}

export interface SuperBlock {
  /** Word without meaning, taken over from the geometry block. */
  readonly unusedWord: number;
  readonly state: VolumeState;
  readonly completeRecoveries: number;
  readonly readOnlyRecoveries: number;
  readonly logicalBlocks: number;
  readonly physicalBlocks: number;
  readonly slabSize: number;
  readonly recoveryJournalSize: number;
  readonly slabJournalBlocks: number;
  readonly nonce: Uint8Array;
  readonly firstFree: number;
  readonly lastFree: number;
  readonly partitions: Readonly<Record<PartitionName, Partition>>;
  /** Partition ids in the order they are stored. */
  readonly partitionOrder: readonly number[];
  /** Sequence number the recovery journal starts, or recovery begins, with. */
  readonly journalStart: number;
  readonly logicalBlocksUsed: number;
  readonly blockMapDataBlocks: number;
  readonly slab: SlabConfig;
  /** First block of the first slab, and the block after the last slab. */
  readonly firstBlock: number;
  readonly lastBlock: number;
  /** Physical zones of the last run; 0 in a new volume. */
  readonly zoneCount: number;
  readonly rootOrigin: number;
  readonly rootCount: number;
}

export const vdoComponent = struct(
  'VdoComponent',
  {
    unusedWord: u32('without meaning; as in the geometry block'),
    volumeMajor: u32('volume version: 67'),
    volumeMinor: u32('0'),
    componentMajor: u32('version of this component: 41'),
    componentMinor: u32('0'),
    state: u32('state of the volume (§2.5)'),
    completeRecoveries: u64('recoveries completed'),
    readOnlyRecoveries: u64('read-only rebuilds completed'),
    logicalBlocks: u64('logical size in blocks'),
    physicalBlocks: u64('physical size in blocks'),
    slabSize: u64('blocks per slab, a power of two'),
    recoveryJournalSize: u64('blocks of the recovery journal'),
    slabJournalBlocks: u64('blocks of each slab journal'),
    nonce: raw(8, 'nonce, equal to that of the geometry block'),
  },
  88,
);

export const layoutComponent = struct(
  'LayoutComponent',
  {
    firstFree: u64('start of the recovery journal partition'),
    lastFree: u64('the same'),
    partitionCount: u8('4'),
  },
  17,
);

export const layoutPartition = struct(
  'LayoutPartition',
  {
    id: u8('0 block map roots, 1 slab depot, 2 recovery journal, 3 slab summary'),
    offset: u64('first block'),
    base: zero(8),
    count: u64('blocks'),
  },
  25,
);

export const recoveryJournalComponent = struct(
  'RecoveryJournalComponent',
  {
    journalStart: u64('sequence number to start with'),
    logicalBlocksUsed: u64('mapped logical blocks, those mapped to zeros included'),
    blockMapDataBlocks: u64('tree pages allocated from slabs'),
  },
  24,
);

export const slabDepotComponent = struct(
  'SlabDepotComponent',
  {
    blocks: u64('blocks per slab'),
    dataBlocks: u64('data blocks per slab'),
    referenceBlocks: u64('reference count blocks per slab'),
    journalBlocks: u64('journal blocks per slab'),
    flushingThreshold: u64('slab journal length that starts reference block writes'),
    blockingThreshold: u64('slab journal length that makes entries wait'),
    scrubbingThreshold: u64('slab journal length that wants scrubbing before use'),
    firstBlock: u64('first block of the first slab'),
    lastBlock: u64('block after the last slab'),
    zoneCount: u8('physical zones of the last run; 0 = never run'),
  },
  73,
);

export const blockMapComponent = struct(
  'BlockMapComponent',
  {
    flatPageOrigin: u64('1'),
    flatPageCount: u64('0'),
    rootOrigin: u64('first of the tree roots'),
    rootCount: u64('60'),
  },
  32,
);

const HEADER = componentHeader.size;
const VDO_AT = HEADER;
const LAYOUT_AT = VDO_AT + vdoComponent.size;
const PARTITIONS_AT = LAYOUT_AT + HEADER + layoutComponent.size;
const JOURNAL_AT = PARTITIONS_AT + 4 * layoutPartition.size;
const DEPOT_AT = JOURNAL_AT + HEADER + recoveryJournalComponent.size;
const BLOCK_MAP_AT = DEPOT_AT + HEADER + slabDepotComponent.size;
const CRC_AT = BLOCK_MAP_AT + HEADER + blockMapComponent.size;
/** Bytes of the encoded super block; the rest of its block is zero. */
export const SUPER_BLOCK_SIZE = CRC_AT + 4;
assert(LAYOUT_AT === 108 && JOURNAL_AT === 245 && DEPOT_AT === 289 && BLOCK_MAP_AT === 382);
assert(SUPER_BLOCK_SIZE === 438);

const SUPER_BLOCK: ComponentVersion = {
  id: 0,
  major: 12,
  minor: 0,
  size: SUPER_BLOCK_SIZE - HEADER,
};
const LAYOUT: ComponentVersion = { id: 1, major: 3, minor: 0, size: 117 };
const JOURNAL: ComponentVersion = { id: 2, major: 7, minor: 0, size: 24 };
const DEPOT: ComponentVersion = { id: 3, major: 2, minor: 0, size: 73 };
const BLOCK_MAP: ComponentVersion = { id: 4, major: 2, minor: 0, size: 32 };

/** Where each part lies, for the byte tables and `dump`. */
export const SUPER_BLOCK_PARTS = [
  { at: VDO_AT, struct: vdoComponent },
  { at: LAYOUT_AT + HEADER, struct: layoutComponent },
  { at: PARTITIONS_AT, struct: layoutPartition },
  { at: JOURNAL_AT + HEADER, struct: recoveryJournalComponent },
  { at: DEPOT_AT + HEADER, struct: slabDepotComponent },
  { at: BLOCK_MAP_AT + HEADER, struct: blockMapComponent },
] as const;

/** The 4 KiB block. */
export function encodeSuperBlock(superBlock: SuperBlock): Uint8Array {
  const bytes = new Uint8Array(BLOCK_SIZE);
  const { partitionOrder, partitions, slab } = superBlock;
  componentHeader.write(bytes, SUPER_BLOCK);
  vdoComponent.write(
    bytes,
    { ...superBlock, volumeMajor: 67, volumeMinor: 0, componentMajor: 41, componentMinor: 0 },
    VDO_AT,
  );
  componentHeader.write(bytes, LAYOUT, LAYOUT_AT);
  layoutComponent.write(bytes, { ...superBlock, partitionCount: 4 }, LAYOUT_AT + HEADER);
  assert(partitionOrder.length === 4 && new Set(partitionOrder).size === 4, 'partition order');
  partitionOrder.forEach((id, i) => {
    const partition = partitions[PARTITION_NAMES[id]!];
    const at = PARTITIONS_AT + i * layoutPartition.size;
    layoutPartition.write(bytes, { id, ...partition }, at);
  });
  componentHeader.write(bytes, JOURNAL, JOURNAL_AT);
  recoveryJournalComponent.write(bytes, superBlock, JOURNAL_AT + HEADER);
  componentHeader.write(bytes, DEPOT, DEPOT_AT);
  slabDepotComponent.write(bytes, { ...slab, ...depotRange(superBlock) }, DEPOT_AT + HEADER);
  componentHeader.write(bytes, BLOCK_MAP, BLOCK_MAP_AT);
  blockMapComponent.write(
    bytes,
    { ...superBlock, flatPageOrigin: 1, flatPageCount: 0 },
    BLOCK_MAP_AT + HEADER,
  );
  setU32(bytes, CRC_AT, vdoCrc32(bytes.subarray(0, CRC_AT)));
  return bytes;
}

function depotRange({ firstBlock, lastBlock, zoneCount }: SuperBlock) {
  return { firstBlock, lastBlock, zoneCount };
}

/**
 * Decodes the first block of the data region. Fails with `UnsupportedVersion`, `ChecksumMismatch`,
 * or `Corrupt` where it contradicts itself.
 */
export function decodeSuperBlock(bytes: Uint8Array): SuperBlock {
  if (bytes.length < BLOCK_SIZE) throw corrupt(`only ${bytes.length} bytes`);
  checkComponent(bytes, 0, 'super block', SUPER_BLOCK, true);
  if (getU32(bytes, CRC_AT) !== vdoCrc32(bytes.subarray(0, CRC_AT))) {
    throw new VdoError('ChecksumMismatch', 'super block: checksum does not match');
  }
  if (!isZero(bytes.subarray(SUPER_BLOCK_SIZE, BLOCK_SIZE))) {
    throw corrupt('the rest of the block is not zero');
  }
  checkComponent(bytes, LAYOUT_AT, 'layout', LAYOUT);
  checkComponent(bytes, JOURNAL_AT, 'recovery journal state', JOURNAL);
  checkComponent(bytes, DEPOT_AT, 'slab depot state', DEPOT);
  checkComponent(bytes, BLOCK_MAP_AT, 'block map state', BLOCK_MAP);

  const { volumeMajor, volumeMinor, componentMajor, componentMinor, state, ...vdo } =
    vdoComponent.decode(bytes, VDO_AT);
  checkVersion('volume', volumeMajor, volumeMinor, 67);
  checkVersion('volume component', componentMajor, componentMinor, 41);
  if (state > REBUILD_FOR_UPGRADE) throw corrupt(`state ${state}`);
  const { partitionCount, ...free } = layoutComponent.decode(bytes, LAYOUT_AT + HEADER);
  const journal = recoveryJournalComponent.decode(bytes, JOURNAL_AT + HEADER);
  const { firstBlock, lastBlock, zoneCount, ...slab } = slabDepotComponent.decode(
    bytes,
    DEPOT_AT + HEADER,
  );
  const { flatPageOrigin, flatPageCount, ...roots } = blockMapComponent.decode(
    bytes,
    BLOCK_MAP_AT + HEADER,
  );
  if (flatPageOrigin !== 1 || flatPageCount !== 0) {
    throw corrupt(`flat block map of ${flatPageCount} pages at block ${flatPageOrigin}`);
  }
  const superBlock: SuperBlock = {
    ...vdo,
    state: state as VolumeState,
    ...free,
    ...decodePartitions(bytes, partitionCount),
    ...journal,
    slab,
    firstBlock,
    lastBlock,
    zoneCount,
    ...roots,
  };
  checkSizes(superBlock);
  return superBlock;
}

function checkVersion(name: string, major: number, minor: number, known: number): void {
  if (major === known && minor === 0) return;
  throw new VdoError(
    'UnsupportedVersion',
    `${name} version ${major}.${minor}; this program knows ${known}.0`,
  );
}

function decodePartitions(
  bytes: Uint8Array,
  count: number,
): Pick<SuperBlock, 'partitions' | 'partitionOrder'> {
  if (count !== 4) throw corrupt(`${count} partitions where 4 belong`);
  const partitions: Partial<Record<PartitionName, Partition>> = {};
  const partitionOrder: number[] = [];
  for (let i = 0; i < count; i++) {
    const at = PARTITIONS_AT + i * layoutPartition.size;
    const { id, offset, count: blocks } = layoutPartition.decode(bytes, at);
    const name = PARTITION_NAMES[id];
    if (name === undefined) throw corrupt(`unknown partition ${id}`);
    if (partitions[name] !== undefined) throw corrupt(`partition ${id} occurs twice`);
    partitions[name] = { offset, count: blocks };
    partitionOrder.push(id);
  }
  return { partitions: partitions as Record<PartitionName, Partition>, partitionOrder };
}

function isPowerOfTwo(n: number): boolean {
  return n >= 1 && Number.isInteger(Math.log2(n));
}

/** Limits that every volume keeps, whatever its device. */
function checkSizes(sb: SuperBlock): void {
  const check = (ok: boolean, what: string): void => {
    if (!ok) throw corrupt(what);
  };
  check(
    sb.physicalBlocks >= 1 && sb.physicalBlocks <= MAX_PHYSICAL_BLOCKS,
    `${sb.physicalBlocks} physical blocks`,
  );
  check(
    sb.logicalBlocks >= 1 && sb.logicalBlocks <= MAX_LOGICAL_BLOCKS,
    `${sb.logicalBlocks} logical blocks`,
  );
  check(
    isPowerOfTwo(sb.slabSize) && sb.slabSize <= 2 ** MAX_SLAB_BITS,
    `slabs of ${sb.slabSize} blocks`,
  );
  check(
    isPowerOfTwo(sb.recoveryJournalSize),
    `recovery journal of ${sb.recoveryJournalSize} blocks`,
  );
  check(
    sb.slabJournalBlocks >= 2 && sb.slabJournalBlocks <= sb.slabSize,
    `slab journals of ${sb.slabJournalBlocks} blocks`,
  );
  check(
    sb.slab.blocks === sb.slabSize && sb.slab.journalBlocks === sb.slabJournalBlocks,
    'slab sizes of depot and volume differ',
  );
  check(
    sb.partitions.recoveryJournal.count === sb.recoveryJournalSize,
    `recovery journal partition of ${sb.partitions.recoveryJournal.count} blocks, journal of ${sb.recoveryJournalSize}`,
  );
  check(sb.rootCount === BLOCK_MAP_ROOT_COUNT, `${sb.rootCount} block map roots`);
  check(
    sb.rootOrigin === sb.partitions.blockMap.offset &&
      sb.partitions.blockMap.count === BLOCK_MAP_ROOT_COUNT,
    'block map roots and their partition differ',
  );
  check(sb.firstBlock === sb.partitions.slabDepot.offset, 'first slab and its partition differ');
  check(sb.lastBlock > sb.firstBlock, `slabs from block ${sb.firstBlock} to ${sb.lastBlock}`);
  check(sb.zoneCount <= MAX_PHYSICAL_ZONES, `${sb.zoneCount} physical zones`);
  check(sb.journalStart < 2 ** 48, `journal start ${sb.journalStart}`);
  // Each recovery counts them up, and must find room to.
  check(sb.completeRecoveries < 2 ** 52, `${sb.completeRecoveries} recoveries`);
  check(sb.readOnlyRecoveries < 2 ** 52, `${sb.readOnlyRecoveries} rebuilds`);
}

function corrupt(what: string): VdoError {
  return new VdoError('Corrupt', `super block: ${what}`);
}
