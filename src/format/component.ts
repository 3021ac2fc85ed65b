/**
 * The header that precedes every component of the geometry block and the super block (FORMAT §2.2).
 * The size counts what follows the header, except in the geometry block, where it counts everything.
 */
import { VdoError } from '../base/errors.ts';
import { struct, u32, u64 } from './struct.ts';

export const componentHeader = struct(
  'ComponentHeader',
  {
    id: u32('0 super block, 1 layout, 2 recovery journal, 3 slab depot, 4 block map, 5 geometry'),
    major: u32('major version'),
    minor: u32('minor version'),
    size: u64('bytes after this header (geometry block: of the whole structure)'),
  },
  20,
);

export interface ComponentVersion {
  readonly id: number;
  readonly major: number;
  readonly minor: number;
  readonly size: number;
}

/** Fails unless the header at `at` is exactly `expected` (or, if asked, has a smaller size). */
export function checkComponent(
  bytes: Uint8Array,
  at: number,
  name: string,
  expected: ComponentVersion,
  smaller = false,
): void {
  const header = componentHeader.read(bytes, at);
  if (header.id !== expected.id) {
    throw new VdoError('Corrupt', `${name}: component ${header.id} where ${expected.id} belongs`);
  }
  if (header.major !== expected.major || header.minor !== expected.minor) {
    const found = `${header.major}.${header.minor}`;
    const known = `${expected.major}.${expected.minor}`;
    throw new VdoError(
      'UnsupportedVersion',
      `${name} has version ${found}; this program knows ${known}`,
    );
  }
  if (!(smaller ? header.size <= expected.size : header.size === expected.size)) {
    throw new VdoError(
      'UnsupportedVersion',
      `${name} has ${header.size} bytes; version ${expected.major}.${expected.minor} has ${expected.size}`,
    );
  }
}
