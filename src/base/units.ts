/**
 * The block numbers of a volume as types of their own, so that a logical number is never used as a
 * physical one. The brands exist for the compiler only: at run time each is a plain number, exact
 * below 2^53. Columns (`Float64Array`) hold them unbranded; arithmetic loses the brand on purpose.
 */

declare const brand: unique symbol;
type Branded<Name extends string> = number & { readonly [brand]: Name };

/** Logical block number: a client's 4 KiB block, 0 … 2^40 − 1. */
export type Lbn = Branded<'Lbn'>;
/** Physical block number: a 4 KiB block of the volume, 0 … 2^36 − 1. Block 0 doubles as "zeros". */
export type Pbn = Branded<'Pbn'>;
/** Slab block number: offset of a block in its slab. */
export type Sbn = Branded<'Sbn'>;
/** Number of a slab, 0 … 8191. */
export type SlabNumber = Branded<'SlabNumber'>;
/** Sequence number of a journal block, 1 … 2^48 − 1. */
export type Sequence = Branded<'Sequence'>;
/** State of a mapping: 0 unmapped, 1 uncompressed, 2 + k slot k of a compressed block. */
export type MappingState = Branded<'MappingState'>;

export const lbn = (n: number): Lbn => n as Lbn;
export const pbn = (n: number): Pbn => n as Pbn;
export const sbn = (n: number): Sbn => n as Sbn;
export const slabNumber = (n: number): SlabNumber => n as SlabNumber;
export const sequence = (n: number): Sequence => n as Sequence;
export const mappingState = (n: number): MappingState => n as MappingState;
