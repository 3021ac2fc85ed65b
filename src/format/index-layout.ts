/**
 * The tables of the deduplication index's region: super block, configuration, headers of the two
 * saves (FORMAT §9.2, §9.4).
 *
 * A region table says which blocks hold what; the super block and each save begin with one, and a
 * payload follows it in the same block. All block numbers are those of the device.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { assert } from '../base/assert.ts';
import { bytesEqual, setU64 } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import { i32, raw, struct, u16, u32, u64, unused } from './struct.ts';

const ASCII = new TextEncoder();
const REGION_MAGIC = ASCII.encode('10ngRblA');
const SUPER_LABEL = ASCII.encode('*ALBIREO*SINGLE*FILE*LAYOUT*001*');
const CONFIG_MAGIC = ASCII.encode('ALBIC');
const CONFIG_VERSION = ASCII.encode('06.02');
const CONFIG_VERSION_REMAPPED = ASCII.encode('08.02');

export const TABLE_TYPE = { super: 1, save: 2, unsaved: 4 } as const;
/** What a region holds. */
export const REGION_KIND = {
  free: 0,
  header: 1,
  config: 100,
  index: 101,
  seal: 102,
  volume: 201,
  save: 202,
  pageMap: 301,
  volumeIndex: 302,
  openChapter: 303,
} as const;
/** Instance of a region that there is only one of. */
export const SOLE = 65535;
const TABLE_VERSION = 1;
const SAVE_VERSION = 1;
export const INDEX_SUPER_VERSION = 3;
export const CONVERTED_SUPER_VERSION = 7;
const NO_CHAPTER = new Uint8Array(8).fill(0xff);

export const indexRegionTable = struct(
  'IndexRegionTable',
  {
    magic: raw(8, '`10ngRblA`'),
    blocks: u64('blocks in all regions together'),
    type: u16('1 super block, 2 save, 4 no save'),
    version: u16('1'),
    count: u16('regions, n'),
    payload: u16('bytes of the payload behind the table'),
  },
  24,
);

export const indexRegion = struct(
  'IndexRegion',
  {
    start: u64('first block'),
    blocks: u64('number of blocks'),
    unused: unused(4),
    kind: u16('what it holds'),
    instance: u16('which of several; 65535 if there is only one'),
  },
  24,
);

export const indexSuperBlock = struct(
  'IndexSuperBlock',
  {
    label: raw(32, '`*ALBIREO*SINGLE*FILE*LAYOUT*001*`'),
    nonceInfo: raw(32, 'time and random bytes, repeated'),
    nonce: raw(8, 'primary nonce, from the nonce info'),
    version: u32('3; 7 in converted volumes'),
    blockSize: u32('4096'),
    indexes: u16('1'),
    saves: u16('2'),
    unused: unused(4),
    openChapterBlocks: u64('blocks of a saved open chapter'),
    pageMapBlocks: u64('blocks of a saved page map'),
  },
  104,
);

/** Behind the super block's fields, of version 7 only. */
export const indexSuperBlockOffsets = struct(
  'IndexSuperBlockOffsets',
  {
    volumeOffset: u64('blocks by which the chapters were moved'),
    startOffset: u64('blocks in front of the device that were given up'),
  },
  16,
);

export const indexConfig = struct(
  'IndexConfig',
  {
    magic: raw(5, '`ALBIC`'),
    version: raw(5, '`06.02`'),
    recordPages: u32('record pages per chapter'),
    chapters: u32('chapters'),
    sparseChapters: u32('sparse chapters among them'),
    cacheChapters: u32('7'),
    unused: unused(4),
    meanDelta: u32('4096'),
    pageSize: u32('32768'),
    sampleRate: u32('32 if sparse, else 0'),
    nonce: raw(8, 'nonce of the volume'),
  },
  50,
);

/** Behind the configuration's fields, of version 08.02 only. */
export const indexRemapping = struct(
  'IndexRemapping',
  {
    virtual: u64('number of the chapter that was moved'),
    physical: u64('slot where it lies'),
  },
  16,
);

export const indexSave = struct(
  'IndexSave',
  {
    timestamp: u64('milliseconds since 1970'),
    nonce: raw(8, 'save nonce'),
    version: u32('1'),
    unused: unused(4),
    minusOne: i32('−1'),
    pageMapKind: u32('301'),
    newest: u64('number of the open chapter'),
    oldest: u64('oldest chapter'),
    last: raw(8, 'newest − 1; all ones when that is −1'),
    unused2: unused(8),
  },
  64,
);

export interface Region {
  readonly start: number;
  readonly blocks: number;
  readonly kind: number;
  readonly instance: number;
}

/** A decoded table; the payload is a view of the block. */
export interface RegionTable {
  readonly type: number;
  readonly blocks: number;
  readonly regions: readonly Region[];
  readonly payload: Uint8Array;
}

/**
 * The region table at the start of `block`. Fails with `NotVdo` where there is none, with
 * `UnsupportedVersion`, or with `Corrupt`.
 */
export function decodeRegionTable(block: Uint8Array): RegionTable {
  const header = indexRegionTable.read(block);
  if (!bytesEqual(header.magic, REGION_MAGIC)) throw new VdoError('NotVdo', 'no region table');
  if (header.version !== TABLE_VERSION) {
    throw new VdoError('UnsupportedVersion', `region table of version ${header.version}`);
  }
  const payloadAt = indexRegionTable.size + header.count * indexRegion.size;
  if (Number.isNaN(header.blocks) || payloadAt + header.payload > block.length) {
    throw new VdoError('Corrupt', 'a region table that exceeds its block');
  }
  const regions: Region[] = [];
  for (let i = 0; i < header.count; i++) {
    const region = indexRegion.decode(block, indexRegionTable.size + i * indexRegion.size);
    regions.push(region);
  }
  const payload = block.subarray(payloadAt, payloadAt + header.payload);
  return { type: header.type, blocks: header.blocks, regions, payload };
}

/** A block that begins with this table. */
export function encodeRegionTable(table: RegionTable): Uint8Array {
  const block = new Uint8Array(BLOCK_SIZE);
  const { type, blocks, regions, payload } = table;
  indexRegionTable.write(block, {
    magic: REGION_MAGIC,
    blocks,
    type,
    version: TABLE_VERSION,
    count: regions.length,
    payload: payload.length,
  });
  const payloadAt = indexRegionTable.size + regions.length * indexRegion.size;
  assert(payloadAt + payload.length <= BLOCK_SIZE, 'a region table fits its block');
  regions.forEach((region, i) => {
    indexRegion.write(block, region, indexRegionTable.size + i * indexRegion.size);
  });
  block.set(payload, payloadAt);
  return block;
}

/** Whether the regions are these, in this order. */
export function sameRegions(a: readonly Region[], b: readonly Region[]): boolean {
  return (
    a.length === b.length &&
    a.every((region, i) => {
      const other = b[i]!;
      return (
        region.start === other.start &&
        region.blocks === other.blocks &&
        region.kind === other.kind &&
        region.instance === other.instance
      );
    })
  );
}

export interface IndexSuperBlock {
  readonly nonceInfo: Uint8Array;
  /** Primary nonce. */
  readonly nonce: Uint8Array;
  readonly openChapterBlocks: number;
  readonly pageMapBlocks: number;
}

/** Where a conversion put the parts of an index; 0, 0 everywhere else. */
export interface IndexOffsets {
  readonly volumeOffset: number;
  readonly startOffset: number;
}

/** The payload of a super block of version 3. */
export function encodeIndexSuperBlock(value: IndexSuperBlock): Uint8Array {
  const bytes = new Uint8Array(indexSuperBlock.size);
  indexSuperBlock.write(bytes, {
    ...value,
    label: SUPER_LABEL,
    version: INDEX_SUPER_VERSION,
    blockSize: BLOCK_SIZE,
    indexes: 1,
    saves: 2,
  });
  return bytes;
}

/** Fails with `Corrupt`, or with `UnsupportedVersion` for what other versions of dm-vdo wrote. */
export function decodeIndexSuperBlock(payload: Uint8Array): IndexSuperBlock & IndexOffsets {
  const value = indexSuperBlock.decode(payload);
  if (!bytesEqual(value.label, SUPER_LABEL)) {
    throw new VdoError('Corrupt', 'the super block of the index lacks its label');
  }
  const converted = value.version === CONVERTED_SUPER_VERSION;
  if (value.version !== INDEX_SUPER_VERSION && !converted) {
    throw new VdoError(
      'UnsupportedVersion',
      `the super block of the index has version ${value.version}, not 3 or 7`,
    );
  }
  if (value.blockSize !== BLOCK_SIZE || value.indexes !== 1 || value.saves !== 2) {
    throw new VdoError('Corrupt', 'the super block of the index contradicts itself');
  }
  const { nonceInfo, nonce, openChapterBlocks, pageMapBlocks } = value;
  if (converted && payload.length < indexSuperBlock.size + indexSuperBlockOffsets.size) {
    throw new VdoError('Corrupt', 'the super block of the index is cut off');
  }
  const { volumeOffset, startOffset } = converted
    ? indexSuperBlockOffsets.decode(payload, indexSuperBlock.size)
    : { volumeOffset: 0, startOffset: 0 };
  if (startOffset > volumeOffset) {
    throw new VdoError('Corrupt', 'the super block of the index moves it before its start');
  }
  return { nonceInfo, nonce, openChapterBlocks, pageMapBlocks, volumeOffset, startOffset };
}

export interface IndexConfig {
  readonly recordPages: number;
  readonly chapters: number;
  readonly sparseChapters: number;
  readonly cacheChapters: number;
  readonly meanDelta: number;
  readonly pageSize: number;
  readonly sampleRate: number;
  /** Nonce of the volume. */
  readonly nonce: Uint8Array;
}

/** The configuration block. */
export function encodeIndexConfig(config: IndexConfig): Uint8Array {
  const block = new Uint8Array(BLOCK_SIZE);
  indexConfig.write(block, { ...config, magic: CONFIG_MAGIC, version: CONFIG_VERSION });
  return block;
}

/** The configuration, and the chapter that was moved, if any. Fails with `Corrupt`. */
export function decodeIndexConfig(block: Uint8Array) {
  const { magic, version, ...config } = indexConfig.decode(block);
  if (!bytesEqual(magic, CONFIG_MAGIC)) {
    throw new VdoError('Corrupt', 'the configuration of the index lacks its magic');
  }
  const isRemapped = bytesEqual(version, CONFIG_VERSION_REMAPPED);
  if (!isRemapped && !bytesEqual(version, CONFIG_VERSION)) {
    throw new VdoError('Corrupt', 'the configuration of the index has an unknown version');
  }
  const remapping = isRemapped ? indexRemapping.decode(block, indexConfig.size) : null;
  return { config, remapping };
}

export interface IndexSave {
  /** Milliseconds since 1970; never 0. */
  readonly timestamp: number;
  readonly nonce: Uint8Array;
  /** Number of the open chapter. */
  readonly newest: number;
  readonly oldest: number;
}

/** The payload of a save's header. */
export function encodeIndexSave({ timestamp, nonce, newest, oldest }: IndexSave): Uint8Array {
  const bytes = new Uint8Array(indexSave.size);
  const last = NO_CHAPTER.slice();
  if (newest > 0) setU64(last, 0, newest - 1);
  indexSave.write(bytes, {
    timestamp,
    nonce,
    version: SAVE_VERSION,
    minusOne: -1,
    pageMapKind: REGION_KIND.pageMap,
    newest,
    oldest,
    last,
  });
  return bytes;
}

/** Fails with `Corrupt` or `UnsupportedVersion`. */
export function decodeIndexSave(payload: Uint8Array): IndexSave {
  const { timestamp, nonce, version, newest, oldest } = indexSave.decode(payload);
  if (version !== SAVE_VERSION) {
    throw new VdoError('UnsupportedVersion', `a save of the index has version ${version}`);
  }
  return { timestamp, nonce, newest, oldest };
}

/** What `nonceOf` hashes of a save: its time and place (FORMAT §9.3). */
export function saveIdentity(timestamp: number, startBlock: number): Uint8Array {
  const bytes = new Uint8Array(32);
  setU64(bytes, 0, timestamp);
  bytes[16] = SAVE_VERSION;
  setU64(bytes, 24, startBlock);
  return bytes;
}

/** What `nonceOf` hashes for the nonce of chapters and volume index saves (FORMAT §9.3). */
export function volumeIdentity(startBlock: number): Uint8Array {
  const bytes = new Uint8Array(16);
  setU64(bytes, 0, startBlock);
  return bytes;
}
