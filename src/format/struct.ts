/**
 * Fixed-layout structures, each declared once: the declaration gives size, offsets, reading,
 * writing, the check of reserved bytes, and the byte table of docs/FORMAT.md.
 *
 * - Fields lie back to back in the order of declaration, without padding, little-endian.
 * - `zero` fields are reserved: written as zeros, and `decode` insists on them.
 * - `unused` fields are written as zeros and never looked at: dm-vdo leaves anything there.
 * - A 64-bit field above 2^53 − 1 reads as `NaN`; `decode` calls it corrupt. No legal field is so
 *   large, and a `NaN` equals nothing, so plain comparisons reject it too.
 */
import { getU16, getU32, getU64, isZero, setU16, setU32, setU64 } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import { assert } from '../base/assert.ts';

/** Position in a journal: a block by its sequence number, an entry by its index in the block. */
export interface JournalPoint {
  readonly sequence: number;
  readonly index: number;
}

export interface Field<T> {
  /** Spelling of the type in byte tables. */
  readonly type: string;
  readonly size: number;
  /** What the byte table says about it. */
  readonly doc: string;
  readonly role: 'value' | 'zero' | 'unused';
  get(bytes: Uint8Array, at: number): T;
  set(bytes: Uint8Array, at: number, value: T): void;
}

type Fields = Readonly<Record<string, Field<unknown>>>;
/** The decoded form: reserved and unused fields have no place in it. */
export type Value<F> = {
  -readonly [K in keyof F as F[K] extends Field<null> ? never : K]: F[K] extends Field<infer T>
    ? T
    : never;
};

function value<T>(
  type: string,
  size: number,
  doc: string,
  get: (bytes: Uint8Array, at: number) => T,
  set: (bytes: Uint8Array, at: number, value: T) => void,
): Field<T> {
  return { type, size, doc, role: 'value', get, set };
}

export const u8 = (doc: string): Field<number> =>
  value(
    'u8',
    1,
    doc,
    (bytes, at) => bytes[at]!,
    (bytes, at, n) => {
      bytes[at] = n;
    },
  );

export const u16 = (doc: string): Field<number> => value('u16', 2, doc, getU16, setU16);
export const u32 = (doc: string): Field<number> => value('u32', 4, doc, getU32, setU32);
export const i32 = (doc: string): Field<number> =>
  value('i32', 4, doc, (bytes, at) => getU32(bytes, at) | 0, setU32);
export const u64 = (doc: string): Field<number> => value('u64', 8, doc, getU64, setU64);

/** `size` raw bytes. Reading copies them. */
export const raw = (size: number, doc: string): Field<Uint8Array> =>
  value(
    `${size} bytes`,
    size,
    doc,
    (bytes, at) => bytes.slice(at, at + size),
    (bytes, at, source) => {
      assert(source.length === size, `field of ${size} bytes, got ${source.length}`);
      bytes.set(source, at);
    },
  );

/** A `JournalPoint` in 64 bits: sequence above, a 16-bit index below. */
export const point = (doc: string): Field<JournalPoint> =>
  value('point', 8, doc, getPoint, (bytes, at, p) => setPoint(bytes, at, p.sequence, p.index));

function filler(role: 'zero' | 'unused', size: number, doc: string): Field<null> {
  const set = (bytes: Uint8Array, at: number): void => {
    bytes.fill(0, at, at + size);
  };
  return { type: `${size} bytes`, size, doc, role, get: () => null, set };
}

/** Reserved bytes: zero, and checked. */
export const zero = (size: number, doc = 'zero'): Field<null> => filler('zero', size, doc);
/** Bytes without meaning: written as zeros, ignored on reading. */
export const unused = (size: number, doc = 'unused; written as zeros, ignored on reading') =>
  filler('unused', size, doc);

export function getPoint(bytes: Uint8Array, at: number): JournalPoint {
  return { sequence: getU48(bytes, at + 2), index: getU16(bytes, at) };
}

export function setPoint(bytes: Uint8Array, at: number, sequence: number, index: number): void {
  setU16(bytes, at, index);
  setU32(bytes, at + 2, (sequence % 2 ** 32) | 0);
  setU16(bytes, at + 6, Math.floor(sequence / 2 ** 32));
}

function getU48(bytes: Uint8Array, at: number): number {
  return getU16(bytes, at + 4) * 2 ** 32 + getU32(bytes, at);
}

/** One row of a byte table. */
export interface FieldRow {
  readonly name: string;
  readonly offset: number;
  readonly size: number;
  readonly type: string;
  readonly role: 'value' | 'zero' | 'unused';
  readonly doc: string;
}

export interface Struct<V> {
  readonly name: string;
  readonly size: number;
  readonly offset: Readonly<Record<keyof V & string, number>>;
  readonly rows: readonly FieldRow[];
  /** The fields at `at`, unchecked: an oversized 64-bit field is `NaN`. */
  read(bytes: Uint8Array, at?: number): V;
  /** Like `read`, but fails with `Corrupt` for oversized fields and reserved bytes that are not zero. */
  decode(bytes: Uint8Array, at?: number): V;
  /** Stores every field at `at`, reserved bytes as zeros. */
  write(bytes: Uint8Array, value: V, at?: number): void;
}

/** Declares a structure. `size`, when given, is asserted: it says what the format's table says. */
export function struct<F extends Fields>(name: string, fields: F, size?: number): Struct<Value<F>> {
  type V = Value<F>;
  const list = Object.entries(fields);
  const offset: Record<string, number> = {};
  const rows: FieldRow[] = [];
  let end = 0;
  for (const [key, field] of list) {
    offset[key] = end;
    const { size: bytes, type, role, doc } = field;
    rows.push({ name: key, offset: end, size: bytes, type, role, doc });
    end += bytes;
  }
  assert(size === undefined || size === end, `${name} is declared with ${end} bytes, not ${size}`);

  const read = (bytes: Uint8Array, at = 0): V => {
    const result: Record<string, unknown> = {};
    for (const [key, field] of list) {
      if (field.role === 'value') result[key] = field.get(bytes, at + offset[key]!);
    }
    return result as V;
  };
  const decode = (bytes: Uint8Array, at = 0): V => {
    if (bytes.length < at + end) {
      throw new VdoError('Corrupt', `${name} needs ${end} bytes, ${bytes.length - at} are there`);
    }
    const result = read(bytes, at) as Record<string, unknown>;
    for (const [key, field] of list) {
      const from = at + offset[key]!;
      if (field.role === 'zero' && !isZero(bytes.subarray(from, from + field.size))) {
        throw new VdoError('Corrupt', `${name}.${key}: reserved bytes are not zero`);
      }
      if (Number.isNaN(result[key])) {
        throw new VdoError('Corrupt', `${name}.${key} is larger than any legal value`);
      }
    }
    return result as V;
  };
  const write = (bytes: Uint8Array, v: V, at = 0): void => {
    for (const [key, field] of list) {
      field.set(bytes, at + offset[key]!, (v as Record<string, unknown>)[key]);
    }
  };
  const offsets = offset as unknown as Readonly<Record<keyof V & string, number>>;
  return { name, size: end, offset: offsets, rows, read, decode, write };
}
