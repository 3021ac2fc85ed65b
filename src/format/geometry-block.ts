/**
 * The geometry block, block 0 of a volume: what it is, its nonce, where index and data begin
 * (FORMAT §2.3). Written by the formatter only.
 *
 * - Version 5 carries `bioOffset`, which is subtracted from every physical block number to get the
 *   block on the device; version 4 has no such field and means 0.
 * - Region 0 (index) is `indexStart` … `dataStart` − 1 and may be empty; the super block lies at
 *   `dataStart`.
 * - The checksum covers everything before it; what follows it in the block is zero.
 */
import { BLOCK_SIZE, MAX_PHYSICAL_BLOCKS } from '../base/constants.ts';
import { assert } from '../base/assert.ts';
import { getU32, isZero, setU32, vdoCrc32 } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import { componentHeader } from './component.ts';
import { i32, raw, struct, u32, u64, u8, unused } from './struct.ts';

export interface GeometryBlock {
  readonly formatVersion: 4 | 5;
  /** Word without meaning in this version; the super block repeats it. 0 in new volumes. */
  readonly unusedWord: number;
  readonly nonce: Uint8Array;
  readonly uuid: Uint8Array;
  /** Blocks by which stored physical block numbers exceed those of the device. */
  readonly bioOffset: number;
  /** First block of the index region, counted like every pbn: with `bioOffset`. */
  readonly indexStart: number;
  /** Block of the super block, counted likewise. */
  readonly dataStart: number;
  /** Memory setting of the index: −256, −512, −768 or 1 … 1024; 0 without an index. */
  readonly indexMemory: number;
  readonly sparse: boolean;
}

export const GEOMETRY_ID = 5;
const MAGIC = new TextEncoder().encode('dmvdo001');
const HEADER_AT = MAGIC.length;
const BODY_AT = HEADER_AT + componentHeader.size;

const identity = {
  unusedWord: u32('without meaning; repeated in the super block'),
  nonce: raw(8, 'nonce: marks the metadata of this volume'),
  uuid: raw(16, 'UUID, in textual order'),
};
const regions = {
  indexRegionId: u32('0: index'),
  indexStart: u64('first block of the index region'),
  dataRegionId: u32('1: data'),
  dataStart: u64('block of the super block'),
  indexMemory: i32('memory setting of the index (§1.4)'),
  unused: unused(4),
  sparse: u8('1: sparse index'),
};

export const geometryMagic = struct('GeometryMagic', { magic: raw(8, '`dmvdo001`') }, 8);
export const geometryBody4 = struct('GeometryBody4', { ...identity, ...regions }, 61);
export const geometryBody5 = struct(
  'GeometryBody5',
  { ...identity, bioOffset: u64('subtracted from every pbn to get the device block'), ...regions },
  69,
);

/** Bytes including magic and checksum, by version. */
export const GEOMETRY_SIZE: Readonly<Record<4 | 5, number>> = {
  4: BODY_AT + geometryBody4.size + 4,
  5: BODY_AT + geometryBody5.size + 4,
};
assert(GEOMETRY_SIZE[4] === 93 && GEOMETRY_SIZE[5] === 101);

/** The 4 KiB block. */
export function encodeGeometryBlock(geometry: GeometryBlock): Uint8Array {
  const bytes = new Uint8Array(BLOCK_SIZE);
  const { formatVersion: major } = geometry;
  assert(major === 5 || geometry.bioOffset === 0, 'version 4 has no bio offset');
  const size = GEOMETRY_SIZE[major];
  geometryMagic.write(bytes, { magic: MAGIC });
  componentHeader.write(bytes, { id: GEOMETRY_ID, major, minor: 0, size }, HEADER_AT);
  const body = {
    ...geometry,
    indexRegionId: 0,
    dataRegionId: 1,
    sparse: geometry.sparse ? 1 : 0,
  };
  if (major === 5) geometryBody5.write(bytes, body, BODY_AT);
  else geometryBody4.write(bytes, body, BODY_AT);
  setU32(bytes, size - 4, vdoCrc32(bytes.subarray(0, size - 4)));
  return bytes;
}

/** Whether the block starts like a dm-vdo volume's; says nothing about the rest of it. */
export function hasGeometryMagic(bytes: Uint8Array): boolean {
  return MAGIC.every((byte, i) => bytes[i] === byte);
}

/**
 * Decodes block 0. Fails with `NotVdo`, `UnsupportedVersion`, `ChecksumMismatch`, or `Corrupt`
 * where a valid checksum covers nonsense.
 */
export function decodeGeometryBlock(bytes: Uint8Array): GeometryBlock {
  if (bytes.length < BLOCK_SIZE || !hasGeometryMagic(bytes)) {
    throw new VdoError('NotVdo', 'no dm-vdo volume here: block 0 has no geometry block', {
      pbn: 0,
    });
  }
  const version = checkVersion(bytes);
  const size = GEOMETRY_SIZE[version];
  if (getU32(bytes, size - 4) !== vdoCrc32(bytes.subarray(0, size - 4))) {
    throw new VdoError('ChecksumMismatch', 'geometry block: checksum does not match', { pbn: 0 });
  }
  if (!isZero(bytes.subarray(size, BLOCK_SIZE))) {
    throw corrupt('the rest of the block is not zero');
  }
  const body =
    version === 5
      ? geometryBody5.decode(bytes, BODY_AT)
      : { ...geometryBody4.decode(bytes, BODY_AT), bioOffset: 0 };
  const { indexRegionId, dataRegionId, sparse, ...rest } = body;
  if (indexRegionId !== 0 || dataRegionId !== 1) {
    throw corrupt(`regions ${indexRegionId}, ${dataRegionId} where 0, 1 belong`);
  }
  if (sparse > 1) throw corrupt(`sparse flag ${sparse}`);
  if (body.indexStart <= body.bioOffset || body.dataStart < body.indexStart) {
    throw corrupt(`index at block ${body.indexStart}, data at block ${body.dataStart}`);
  }
  if (body.dataStart >= MAX_PHYSICAL_BLOCKS) {
    throw corrupt(`data at block ${body.dataStart}, beyond the largest volume`);
  }
  return { formatVersion: version, ...rest, sparse: sparse === 1 };
}

function checkVersion(bytes: Uint8Array): 4 | 5 {
  const { id, major, minor, size } = componentHeader.read(bytes, HEADER_AT);
  if (id !== GEOMETRY_ID) throw corrupt(`component ${id} where ${GEOMETRY_ID} belongs`);
  for (const known of [4, 5] as const) {
    if (major === known && minor === 0 && size === GEOMETRY_SIZE[known]) return known;
  }
  throw new VdoError(
    'UnsupportedVersion',
    `geometry block has version ${major}.${minor} with ${size} bytes; this program knows 4.0 and 5.0`,
    { pbn: 0 },
  );
}

function corrupt(what: string): VdoError {
  return new VdoError('Corrupt', `geometry block: ${what}`, { pbn: 0 });
}
