/**
 * The twin of a zone in TypeScript: every list an array of entries, changed as INDEX §5.4 and §6 say
 * and encoded only to be saved. It shares no arithmetic of bits with the WebAssembly one. A tenth as
 * fast, and some fifty bytes an entry: for tests, and for installations without the compiled module.
 */
import { assert } from '../../base/assert.ts';
import { getU16, getU32, getU64, setU16, setU32, setU64 } from '../../base/bytes.ts';
import { RECORD_NAME_SIZE } from '../../base/constants.ts';
import { deltaBits, getBits, setBits, writeDelta } from './delta-code.ts';
import { volumeAddress, volumeList } from './record-name.ts';
import type { Zone, ZoneCounts, ZoneShape } from './zone.ts';

const NAME_BITS = 128;
const MAX_LIST_BITS = 65535;
const GUARD = 7;
const STAGING_SIZE = 2 ** 20;
const SAVED_HEADER_SIZE = 8;

interface Entry {
  key: number;
  value: number;
  /** Of a collision entry. */
  name: Uint8Array | null;
}

interface List {
  entries: Entry[];
  bits: number;
  flush: number;
  /** Its size is known, its entries are still to come. */
  isPending: boolean;
}

export function createZoneModel(shape: ZoneShape): Zone {
  return new ZoneModel(shape);
}

class ZoneModel implements Zone {
  readonly firstList: number;
  readonly lists: number;
  readonly names: Uint8Array;
  readonly entry: Uint8Array;
  readonly chapter: Float64Array;
  readonly action: Uint8Array;
  readonly result: Uint8Array;
  saved: Uint8Array = new Uint8Array(0);
  readonly #shape: ZoneShape;
  readonly #lists: List[];
  readonly #mask: number;
  /** Of all lists, as they are saved. */
  #bytes = 0;
  #low = 0;
  #high = 0;
  #purged = 0;
  #overflows = 0;

  constructor(shape: ZoneShape) {
    const { firstList, lists, rows } = shape;
    this.#shape = shape;
    this.firstList = firstList;
    this.lists = lists;
    this.names = new Uint8Array(rows * RECORD_NAME_SIZE);
    this.entry = new Uint8Array(rows);
    this.chapter = new Float64Array(rows);
    this.action = new Uint8Array(rows);
    this.result = new Uint8Array(rows);
    this.#mask = 2 ** shape.geometry.chapterBits - 1;
    this.#lists = Array.from({ length: lists }, () => ({
      entries: [],
      bits: 0,
      flush: 0,
      isPending: false,
    }));
  }

  lookup(count: number): void {
    for (let row = 0; row < count; row++) this.#note(row, ...this.#find(row));
  }

  put(count: number, virtualChapter: number): void {
    for (let row = 0; row < count; row++) {
      const action = this.action[row]!;
      this.result[row] = 0;
      if (action === 0) continue;
      const [list, at] = this.#find(row);
      this.result[row] = this.#enter(row, list, at, virtualChapter, action === 2);
    }
  }

  replay(count: number, virtualChapter: number): void {
    for (let row = 0; row < count; row++) {
      const [list, at] = this.#find(row);
      this.#note(row, list, at);
      const kind = this.entry[row]!;
      const other = this.chapter[row]!;
      const isNew =
        kind === 0 ||
        (kind === 2 && other < virtualChapter) ||
        (kind === 1 && other === virtualChapter);
      this.result[row] = isNew
        ? this.#enter(row, list, at, virtualChapter, true)
        : kind === 1
          ? 5
          : 0;
    }
  }

  remove(count: number): void {
    for (let row = 0; row < count; row++) {
      const [list, at] = this.#find(row);
      this.result[row] = at < 0 ? 0 : 1;
      if (at >= 0) this.#removeAt(list, at);
    }
  }

  setChapters(low: number, high: number): void {
    this.#low = low;
    this.#high = high;
  }

  counts(): ZoneCounts {
    const entries = this.#lists.flatMap((list) => list.entries);
    return {
      records: entries.length,
      collisions: entries.filter(({ name }) => name !== null).length,
      bits: this.#lists.reduce((sum, { bits }) => sum + bits, 0),
      purged: this.#purged,
      overflows: this.#overflows,
      memoryBytes: entries.length * 50,
      residentBytes: entries.length * 50,
    };
  }

  /** The row's list, purged, and the place of the name's entry in it, or −1. */
  #find(row: number): [List, number] {
    const at = row * RECORD_NAME_SIZE;
    const number = volumeList(this.names, at, this.#shape.geometry.lists) - this.firstList;
    const list = this.#lists[number];
    assert(list !== undefined, 'list of a zone');
    if (list.flush < this.#low) this.#purge(list);
    const key = volumeAddress(this.names, at);
    const base = list.entries.findIndex((entry) => entry.key === key);
    const name = this.#nameOf(row);
    for (let i = base + 1; base >= 0 && list.entries[i]?.key === key; i++) {
      if (name.equals(list.entries[i]!.name!)) return [list, i];
    }
    return [list, base];
  }

  #nameOf(row: number): Buffer {
    const at = row * RECORD_NAME_SIZE;
    return Buffer.from(this.names.slice(at, at + RECORD_NAME_SIZE));
  }

  #note(row: number, list: List, at: number): void {
    const entry = list.entries[at];
    this.entry[row] = entry === undefined ? 0 : entry.name === null ? 1 : 2;
    this.chapter[row] = entry === undefined ? -1 : this.#chapterOf(entry.value, this.#low);
  }

  /** The chapter not below `from` that has this value. */
  #chapterOf(value: number, from: number): number {
    const span = this.#mask + 1;
    return from + ((((value - from) % span) + span) % span);
  }

  #purge(list: List): void {
    const gone = Math.min(this.#low - list.flush, this.#mask + 1);
    const relative = ({ value }: Entry): number => this.#chapterOf(value, list.flush) - list.flush;
    let smallest = this.#mask;
    for (let at = 0; at < list.entries.length;) {
      const chapter = relative(list.entries[at]!);
      if (chapter < gone) {
        this.#removeAt(list, at);
        this.#purged++;
      } else {
        smallest = Math.min(smallest, chapter);
        at++;
      }
    }
    list.flush = Math.min(this.#high, this.#chapterOf(list.flush + smallest, this.#low));
  }

  #removeAt(list: List, at: number): void {
    const { entries } = list;
    const before = this.#bitsOf(entries, at, at + 2);
    const [removed] = entries.splice(at, 1);
    const next = entries[at];
    if (removed!.name === null && next !== undefined && next.key === removed!.key) next.name = null;
    this.#resize(list, list.bits - before + this.#bitsOf(entries, at, at + 1));
  }

  #resize(list: List, bits: number): void {
    this.#bytes += Math.ceil(bits / 8) - Math.ceil(list.bits / 8);
    list.bits = bits;
  }

  /** Bits of entries `first` … `end` − 1. */
  #bitsOf(entries: readonly Entry[], first: number, end: number): number {
    const { code, chapterBits } = this.#shape.geometry;
    let bits = 0;
    for (let i = first; i < end && i < entries.length; i++) {
      const entry = entries[i]!;
      bits += chapterBits + deltaBits(code, entry.key - (entries[i - 1]?.key ?? 0));
      if (entry.name !== null) bits += NAME_BITS;
    }
    return bits;
  }

  #enter(row: number, list: List, at: number, chapter: number, isOther: boolean): number {
    const value = chapter % (this.#mask + 1);
    const found = list.entries[at];
    if (found !== undefined && (found.name !== null || !isOther)) {
      found.value = value;
      list.flush = Math.min(list.flush, chapter);
      return 1;
    }
    const key = volumeAddress(this.names, row * RECORD_NAME_SIZE);
    const entry: Entry = { key, value, name: found === undefined ? null : this.#nameOf(row) };
    const behind = list.entries.findIndex((other) => other.key > key);
    const place = found !== undefined ? at + 1 : behind < 0 ? list.entries.length : behind;
    const before = this.#bitsOf(list.entries, place, place + 1);
    list.entries.splice(place, 0, entry);
    const bits = list.bits - before + this.#bitsOf(list.entries, place, place + 2);
    if (bits > MAX_LIST_BITS || !this.#fits(Math.ceil(bits / 8) - Math.ceil(list.bits / 8))) {
      list.entries.splice(place, 1);
      this.#overflows++;
      return 4;
    }
    this.#resize(list, bits);
    list.flush = Math.min(list.flush, chapter);
    return found === undefined ? 2 : 3;
  }

  #fits(more: number): boolean {
    return this.#bytes + GUARD + more <= this.#shape.memory;
  }

  flushTo(bytes: Uint8Array, at: number, first: number, count: number): void {
    for (let i = 0; i < count; i++) setU64(bytes, at + 8 * i, this.#lists[first + i]!.flush);
  }

  sizesTo(bytes: Uint8Array, at: number, first: number, count: number): void {
    for (let i = 0; i < count; i++) setU16(bytes, at + 2 * i, this.#lists[first + i]!.bits);
  }

  save(list: number, tag: number): number {
    const bytes = new Uint8Array(STAGING_SIZE);
    let to = 0;
    for (; list < this.lists; list++) {
      const { entries, bits } = this.#lists[list]!;
      const size = Math.ceil(bits / 8);
      if (size === 0) continue;
      if (to + SAVED_HEADER_SIZE + size > STAGING_SIZE) break;
      bytes[to] = tag;
      setU16(bytes, to + 2, size);
      setU32(bytes, to + 4, this.firstList + list);
      this.#encode(entries, bytes, (to + SAVED_HEADER_SIZE) * 8);
      to += SAVED_HEADER_SIZE + size;
    }
    this.saved = bytes.subarray(0, to);
    return list;
  }

  #encode(entries: readonly Entry[], bytes: Uint8Array, from: number): void {
    const { code, chapterBits } = this.#shape.geometry;
    let bit = from;
    let key = 0;
    for (const entry of entries) {
      setBits(bytes, bit, chapterBits, entry.value);
      bit = writeDelta(bytes, bit + chapterBits, code, entry.key - key);
      key = entry.key;
      for (const byte of entry.name ?? []) {
        setBits(bytes, bit, 8, byte);
        bit += 8;
      }
    }
  }

  setFlush(bytes: Uint8Array, at: number, first: number, count: number): void {
    for (let i = 0; i < count; i++) this.#lists[first + i]!.flush = getU64(bytes, at + 8 * i);
  }

  setSizes(bytes: Uint8Array, at: number, first: number, count: number): number {
    let pending = 0;
    for (let i = 0; i < count; i++) {
      const list = this.#lists[first + i]!;
      this.#resize(list, getU16(bytes, at + 2 * i));
      list.isPending = list.bits > 0;
      if (list.isPending) pending++;
    }
    return pending;
  }

  layOut(): boolean {
    return this.#fits(0);
  }

  restore(bytes: Uint8Array, tag: number): { taken: number; lists: number; end: number } {
    let taken = 0;
    for (let lists = 0; ; lists++) {
      if (taken + SAVED_HEADER_SIZE > bytes.length) return { taken, lists, end: 0 };
      const list = this.#lists[getU32(bytes, taken + 4) - this.firstList];
      if (bytes[taken] !== tag || list === undefined) return { taken, lists, end: 1 };
      const shift = bytes[taken + 1]!;
      const size = getU16(bytes, taken + 2);
      if (!list.isPending || shift > 7 || size !== Math.ceil((shift + list.bits) / 8)) {
        return { taken, lists, end: 2 };
      }
      const start = taken + SAVED_HEADER_SIZE;
      if (start + size > bytes.length) return { taken, lists, end: 0 };
      const entries = this.#decode(bytes, start * 8 + shift, start * 8 + shift + list.bits);
      if (entries === null) return { taken, lists, end: 2 };
      list.entries = entries;
      list.isPending = false;
      taken = start + size;
    }
  }

  /** The entries of a list, or null if the last does not end at `end`. */
  #decode(bytes: Uint8Array, from: number, end: number): Entry[] | null {
    const { code, chapterBits, addressBits } = this.#shape.geometry;
    const entries: Entry[] = [];
    let key = 0;
    let bit = from;
    while (bit < end) {
      const value = getBits(bytes, bit, chapterBits);
      let delta = getBits(bytes, bit + chapterBits, code.minBits);
      let at = bit + chapterBits + code.minBits;
      if (delta >= code.minKeys) {
        for (; at < end && getBits(bytes, at, 1) === 0; at++) delta += code.incrementKeys;
        at++;
      }
      key += delta;
      let name: Uint8Array | null = null;
      if (delta === 0 && bit > from) {
        const start = at;
        name = Uint8Array.from({ length: 16 }, (_, i) => getBits(bytes, start + 8 * i, 8));
        at += NAME_BITS;
      }
      if (key >= 2 ** addressBits) return null;
      entries.push({ key, value, name });
      bit = at;
    }
    return bit === end ? entries : null;
  }
}
