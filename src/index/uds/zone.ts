/**
 * A zone of a volume index: a range of delta lists in one WebAssembly memory, and columns through
 * which batches of names go in and answers come out (INDEX §6). The work is done in
 * src/kernels/wasm/delta.ts; zone-model.ts does the same in TypeScript, for tests and for
 * installations without the compiled module.
 *
 * - The memory has its full size from the start and never grows; what was never used is not resident.
 * - Row i of each column belongs to name i. The caller gives a zone only names whose lists it has.
 */
import { assert } from '../../base/assert.ts';
import { getU16, setU16 } from '../../base/bytes.ts';
import { RECORD_NAME_SIZE } from '../../base/constants.ts';
import { wasmModule } from '../../kernels/wasm-module.ts';
import type { SubIndexGeometry } from './index-geometry.ts';
import { createZoneModel } from './zone-model.ts';

/** What a lookup found: nothing; an entry that may be the name's; one that holds the full name. */
export const NO_ENTRY = 0;
export const BASE_ENTRY = 1;
export const COLLISION_ENTRY = 2;

/** What `put` does with a row: nothing; set the chapter of the name's entry; add an entry. */
export const NOTHING = 0;
export const SET = 1;
export const ADD = 2;

/** What `put` and `replay` did with a row. */
export const PUT_NOTHING = 0;
export const PUT_SET = 1;
export const PUT_BASE = 2;
export const PUT_COLLISION = 3;
/** No room: the name is not in the index. */
export const PUT_OVERFLOW = 4;
/** `replay` left the row: the base entry's chapter has to be searched for the name. */
export const REPLAY_SEARCH = 5;

/** How a chunk of saved records ended: in the middle of one, before one of another zone, at a bad one. */
export const RESTORE_MORE = 0;
export const RESTORE_OTHER = 1;
export const RESTORE_BAD = 2;

export interface ZoneShape {
  readonly geometry: SubIndexGeometry;
  readonly firstList: number;
  readonly lists: number;
  /** Bytes for lists. */
  readonly memory: number;
  /** Rows of the columns. */
  readonly rows: number;
}

export interface ZoneCounts {
  /** Entries, collision entries among them. */
  readonly records: number;
  readonly collisions: number;
  /** Bits of all lists. */
  readonly bits: number;
  /** Entries removed because their chapter is gone. */
  readonly purged: number;
  readonly overflows: number;
  /** Address space, and what of it was ever used. */
  readonly memoryBytes: number;
  readonly residentBytes: number;
}

export interface Zone {
  readonly firstList: number;
  readonly lists: number;
  readonly names: Uint8Array;
  readonly entry: Uint8Array;
  /** Virtual chapters, −1 where there is no entry. */
  readonly chapter: Float64Array;
  readonly action: Uint8Array;
  readonly result: Uint8Array;
  /** Fills `entry` and `chapter` of rows 0 … count − 1. */
  lookup(count: number): void;
  /** Does each row's `action` with `virtualChapter`, which is low … high; fills `result`. */
  put(count: number, virtualChapter: number): void;
  /** As a rebuild enters the records of a chapter (INDEX §8.1); fills `entry`, `chapter`, `result`. */
  replay(count: number, virtualChapter: number): void;
  /** Removes what lookups find; `result` is 1 where there was something. */
  remove(count: number): void;
  setChapters(low: number, high: number): void;
  counts(): ZoneCounts;

  // Saved form (INDEX §5.6). Lists are counted from the zone's first one here.
  flushTo(bytes: Uint8Array, at: number, first: number, count: number): void;
  sizesTo(bytes: Uint8Array, at: number, first: number, count: number): void;
  /** Encodes records of lists from `list` on into `saved`; returns the next list. */
  save(list: number, tag: number): number;
  readonly saved: Uint8Array;
  setFlush(bytes: Uint8Array, at: number, first: number, count: number): void;
  /** Returns how many lists are not empty. */
  setSizes(bytes: Uint8Array, at: number, first: number, count: number): number;
  /** Once all sizes are set. False: the lists do not fit. */
  layOut(): boolean;
  /** Takes whole records from the front of `bytes`, at most 1 MiB. */
  restore(bytes: Uint8Array, tag: number): { taken: number; lists: number; end: number };
}

interface WasmExports {
  setMemory(lists: number, headers: number, segments: number, area: number, size: number): void;
  setCode(address: number, value: number, min: number, keys: number, increment: number): void;
  setZone(first: number, all: number, addressBits: number): void;
  setColumns(
    names: number,
    entry: number,
    chapter: number,
    action: number,
    result: number,
    place: number,
  ): void;
  setChapters(low: number, high: number): void;
  lookup(count: number): void;
  put(count: number, chapter: number): void;
  replay(count: number, chapter: number): void;
  remove(count: number): void;
  recordCount(): number;
  collisionCount(): number;
  bitCount(): number;
  purgedCount(): number;
  overflowCount(): number;
  touchedBytes(): number;
  save(list: number, to: number, end: number, tag: number): number;
  savedEnd(): number;
  layOut(): number;
  restore(at: number, end: number, tag: number): number;
  loadEnd(): number;
  loadedLists(): number;
}

const WASM_PAGE_SIZE = 65536;
const LIST_HEADER_SIZE = 64;
const SEGMENT_LISTS = 1024;
const SEGMENT_HEADER_SIZE = 16;
/** Behind the lists: loads and stores reach that far past what they are about. */
const GUARD_SIZE = 64;
/** Saved records pass through here. */
const STAGING_SIZE = 2 ** 20;

/** A new, empty zone; in WebAssembly unless the module is missing or `kernel` says otherwise. */
export function createZone(shape: ZoneShape, kernel: 'wasm' | 'typescript' = 'wasm'): Zone {
  const module = kernel === 'wasm' ? wasmModule('delta') : null;
  return module === null ? createZoneModel(shape) : new WasmZone(shape, module);
}

/** Bytes of address space that a zone takes; less than 2^32 is a must. */
export function zoneSize(lists: number, memory: number, rows: number): number {
  const columns = rows * (RECORD_NAME_SIZE + 1 + 8 + 1 + 1 + 4) + 6 * 64;
  const segments = Math.ceil(lists / SEGMENT_LISTS);
  const headers = lists * LIST_HEADER_SIZE + segments * SEGMENT_HEADER_SIZE;
  const size = WASM_PAGE_SIZE + columns + STAGING_SIZE + headers + memory + 3 * GUARD_SIZE;
  return Math.ceil(size / WASM_PAGE_SIZE) * WASM_PAGE_SIZE;
}

class WasmZone implements Zone {
  readonly firstList: number;
  readonly lists: number;
  readonly names: Uint8Array;
  readonly entry: Uint8Array;
  readonly chapter: Float64Array;
  readonly action: Uint8Array;
  readonly result: Uint8Array;
  readonly #rows: number;
  readonly #wasm: WasmExports;
  readonly #bytes: Uint8Array;
  readonly #staging: number;
  readonly #headers: number;
  /** What the headers and columns take: resident with the first use. */
  readonly #fixedBytes: number;
  saved: Uint8Array;

  constructor(shape: ZoneShape, module: WebAssembly.Module) {
    const { geometry, firstList, lists, memory: listMemory, rows } = shape;
    const size = zoneSize(lists, listMemory, rows);
    assert(size < 2 ** 32, 'size of a zone');
    const pages = size / WASM_PAGE_SIZE;
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const { buffer } = memory;
    let end = WASM_PAGE_SIZE;
    const region = (bytes: number): number => {
      const start = end;
      end = Math.ceil((start + bytes) / 64) * 64;
      return start;
    };
    const columns = [16, 1, 8, 1, 1, 4].map((width) => region(rows * width));
    const [names = 0, entry = 0, chapter = 0, action = 0, result = 0, place = 0] = columns;
    this.#staging = region(STAGING_SIZE);
    this.#headers = region(lists * LIST_HEADER_SIZE);
    const segments = region(Math.ceil(lists / SEGMENT_LISTS) * SEGMENT_HEADER_SIZE);
    this.#fixedBytes = end;
    const area = region(listMemory);
    assert(area + listMemory + GUARD_SIZE <= size, 'size of a zone');
    this.firstList = firstList;
    this.lists = lists;
    this.#rows = rows;
    this.names = new Uint8Array(buffer, names, rows * RECORD_NAME_SIZE);
    this.entry = new Uint8Array(buffer, entry, rows);
    this.chapter = new Float64Array(buffer, chapter, rows);
    this.action = new Uint8Array(buffer, action, rows);
    this.result = new Uint8Array(buffer, result, rows);
    this.#bytes = new Uint8Array(buffer);
    this.saved = this.#bytes.subarray(0, 0);
    const instance = new WebAssembly.Instance(module, { env: { memory } });
    this.#wasm = instance.exports as unknown as WasmExports;
    const { minBits, minKeys, incrementKeys } = geometry.code;
    this.#wasm.setCode(geometry.addressBits, geometry.chapterBits, minBits, minKeys, incrementKeys);
    this.#wasm.setMemory(lists, this.#headers, segments, area, listMemory);
    this.#wasm.setZone(firstList, geometry.lists, geometry.addressBits);
    this.#wasm.setColumns(names, entry, chapter, action, result, place);
  }

  lookup(count: number): void {
    assert(count <= this.#rows, 'rows of a zone');
    this.#wasm.lookup(count);
  }

  put(count: number, virtualChapter: number): void {
    assert(count <= this.#rows, 'rows of a zone');
    this.#wasm.put(count, virtualChapter);
  }

  replay(count: number, virtualChapter: number): void {
    assert(count <= this.#rows, 'rows of a zone');
    this.#wasm.replay(count, virtualChapter);
  }

  remove(count: number): void {
    assert(count <= this.#rows, 'rows of a zone');
    this.#wasm.remove(count);
  }

  setChapters(low: number, high: number): void {
    assert(low >= 0 && low <= high && Number.isSafeInteger(high), 'chapters of a zone');
    this.#wasm.setChapters(low, high);
  }

  counts(): ZoneCounts {
    const wasm = this.#wasm;
    return {
      records: wasm.recordCount(),
      collisions: wasm.collisionCount(),
      bits: wasm.bitCount(),
      purged: wasm.purgedCount(),
      overflows: wasm.overflowCount(),
      memoryBytes: this.#bytes.length,
      residentBytes: this.#fixedBytes + wasm.touchedBytes(),
    };
  }

  flushTo(bytes: Uint8Array, at: number, first: number, count: number): void {
    for (let i = 0; i < count; i++) {
      const from = this.#header(first + i) + 8;
      for (let b = 0; b < 8; b++) bytes[at + 8 * i + b] = this.#bytes[from + b]!;
    }
  }

  sizesTo(bytes: Uint8Array, at: number, first: number, count: number): void {
    for (let i = 0; i < count; i++) {
      setU16(bytes, at + 2 * i, getU16(this.#bytes, this.#header(first + i) + 4));
    }
  }

  save(list: number, tag: number): number {
    const end = this.#staging + STAGING_SIZE;
    const next = this.#wasm.save(list, this.#staging, end, tag) >>> 0;
    this.saved = this.#bytes.subarray(this.#staging, this.#wasm.savedEnd() >>> 0);
    return next;
  }

  setFlush(bytes: Uint8Array, at: number, first: number, count: number): void {
    for (let i = 0; i < count; i++) {
      const to = this.#header(first + i) + 8;
      for (let b = 0; b < 8; b++) this.#bytes[to + b] = bytes[at + 8 * i + b]!;
    }
  }

  setSizes(bytes: Uint8Array, at: number, first: number, count: number): number {
    let pending = 0;
    for (let i = 0; i < count; i++) {
      const size = getU16(bytes, at + 2 * i);
      const header = this.#header(first + i);
      setU16(this.#bytes, header + 4, size);
      setU16(this.#bytes, header + 6, size > 0 ? 1 : 0);
      if (size > 0) pending++;
    }
    return pending;
  }

  layOut(): boolean {
    return this.#wasm.layOut() !== 0;
  }

  restore(bytes: Uint8Array, tag: number): { taken: number; lists: number; end: number } {
    assert(bytes.length <= STAGING_SIZE, 'chunk of saved lists');
    this.#bytes.set(bytes, this.#staging);
    const end = this.#wasm.restore(this.#staging, this.#staging + bytes.length, tag) >>> 0;
    const lists = this.#wasm.loadedLists();
    return { taken: end - this.#staging, lists, end: this.#wasm.loadEnd() };
  }

  #header(list: number): number {
    assert(list >= 0 && list < this.lists, 'list of a zone');
    return this.#headers + list * LIST_HEADER_SIZE;
  }
}
