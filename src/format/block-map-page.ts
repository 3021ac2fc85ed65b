/**
 * A block map page: header and 812 entries of five bytes (FORMAT §3). Leaf, interior and root
 * pages share the form.
 *
 * ```
 * byte 0            bytes 1 … 4
 * pppp ssss         pbn bits 31 … 0, little-endian      p: pbn bits 35 … 32, s: mapping state
 * ```
 *
 * - A page whose initialized flag is 0 counts as empty whatever else it holds; that makes its first
 *   write tear-proof: it is written with 0, then again with 1.
 * - The same five bytes appear twice in every recovery journal entry (`mappingPbn` …).
 */
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_SIZE,
  COMPRESSED_BASE,
  COMPRESSION_SLOTS,
  UNCOMPRESSED,
  UNMAPPED,
} from '../base/constants.ts';
import { assert } from '../base/assert.ts';
import { getU32, getU64, setU32 } from '../base/bytes.ts';
import { raw, struct, u32, u64, u8, unused } from './struct.ts';

const VERSION_MAJOR = 4;
const VERSION_MINOR = 1;

export const blockMapPageHeader = struct(
  'BlockMapPageHeader',
  {
    versionMajor: u32('4'),
    versionMinor: u32('1'),
    nonce: raw(8, 'nonce of the volume'),
    pbn: u64("the page's own physical block number"),
    unused1: unused(8),
    initialized: u8('1 once the page counts, else 0'),
    zero: unused(1, 'written as zero, ignored on reading'),
    unused2: unused(2),
  },
  36,
);

export const blockMapEntry = struct(
  'BlockMapEntry',
  {
    stateAndHigh: u8('bits 3 … 0 mapping state, bits 7 … 4 pbn bits 35 … 32'),
    pbnLow: u32('pbn bits 31 … 0'),
  },
  5,
);

export const PAGE_HEADER_SIZE = 36;
export const MAPPING_SIZE = 5;
const NONCE_AT = blockMapPageHeader.offset.nonce;
const PBN_AT = blockMapPageHeader.offset.pbn;
const INITIALIZED_AT = blockMapPageHeader.offset.initialized;
const TWO_32 = 2 ** 32;
const MAX_STATE = COMPRESSED_BASE + COMPRESSION_SLOTS - 1;

assert(PAGE_HEADER_SIZE === blockMapPageHeader.size);
assert(PAGE_HEADER_SIZE + MAPPING_SIZE * BLOCK_MAP_ENTRIES_PER_PAGE === BLOCK_SIZE);

/** Makes `bytes` an empty page: header set, every entry unmapped. */
export function formatPage(
  bytes: Uint8Array,
  nonce: Uint8Array,
  pbn: number,
  initialized: boolean,
): void {
  bytes.fill(0);
  blockMapPageHeader.write(bytes, {
    versionMajor: VERSION_MAJOR,
    versionMinor: VERSION_MINOR,
    nonce,
    pbn,
    initialized: initialized ? 1 : 0,
  });
}

/**
 * What the block read from `pbn` is: a page, nothing yet (unknown version, other volume, or not
 * initialized: it reads as empty), or a page that belongs elsewhere.
 */
export function pageValidity(
  bytes: Uint8Array,
  nonce: Uint8Array,
  pbn: number,
): 'valid' | 'empty' | 'bad' {
  if (getU32(bytes, 0) !== VERSION_MAJOR || getU32(bytes, 4) !== VERSION_MINOR) return 'empty';
  // Any value but 1 was never written by dm-vdo; like dm-vdo, only zero means "not yet".
  if (bytes[INITIALIZED_AT] === 0) return 'empty';
  for (let i = 0; i < 8; i++) if (bytes[NONCE_AT + i] !== nonce[i]) return 'empty';
  return getU64(bytes, PBN_AT) === pbn ? 'valid' : 'bad';
}

export function isInitialized(bytes: Uint8Array): boolean {
  return bytes[INITIALIZED_AT] !== 0;
}

export function setInitialized(bytes: Uint8Array, on: boolean): void {
  bytes[INITIALIZED_AT] = on ? 1 : 0;
}

/** Physical block of the mapping stored at `at`. */
export function mappingPbn(bytes: Uint8Array, at: number): number {
  return (bytes[at]! >>> 4) * TWO_32 + getU32(bytes, at + 1);
}

/** Mapping state stored at `at`. */
export function mappingState(bytes: Uint8Array, at: number): number {
  return bytes[at]! & 0x0f;
}

/** Stores a mapping in the five bytes at `at`. */
export function setMapping(bytes: Uint8Array, at: number, pbn: number, state: number): void {
  const high = pbn >= TWO_32 ? Math.floor(pbn / TWO_32) : 0;
  bytes[at] = (high << 4) | state;
  setU32(bytes, at + 1, pbn - high * TWO_32);
}

/** Physical block that `slot` of the page names. */
export function entryPbn(bytes: Uint8Array, slot: number): number {
  return mappingPbn(bytes, PAGE_HEADER_SIZE + slot * MAPPING_SIZE);
}

/** Mapping state of `slot` of the page. */
export function entryState(bytes: Uint8Array, slot: number): number {
  return bytes[PAGE_HEADER_SIZE + slot * MAPPING_SIZE]! & 0x0f;
}

/** Stores a mapping in `slot` of the page. */
export function setEntry(bytes: Uint8Array, slot: number, pbn: number, state: number): void {
  setMapping(bytes, PAGE_HEADER_SIZE + slot * MAPPING_SIZE, pbn, state);
}

/**
 * Whether pbn and state go together: block 0 is unmapped or written as zeros, any other block is
 * mapped. Says nothing about where the block lies.
 */
export function isLegalMapping(pbn: number, state: number): boolean {
  if (state > MAX_STATE) return false;
  return pbn === 0 ? state <= UNCOMPRESSED : state !== UNMAPPED;
}
