/**
 * The volume index: which virtual chapter a record name was last seen in, for all names of all
 * chapters, in about three bytes each (INDEX §6). It keeps 38 bits or so of a name: an answer says
 * "maybe in this chapter", and whoever asked looks there. Where two names agree in those bits, the
 * later one is entered in full, as a collision entry.
 *
 * - A sparse index has two parts: of hooks, for as long as a chapter exists, and of all other names,
 *   for the newest chapters.
 * - A part whose lists don't fit in one WebAssembly memory is cut into zones by list number. That is
 *   nobody's business but this file's: saves and limits are those of dm-vdo with one zone.
 * - `low` … `high` of a part are the chapters it knows; entries of older ones are removed when their
 *   list is next looked at. `high` is the open chapter.
 */
import { assert } from '../../base/assert.ts';
import { RECORD_NAME_SIZE } from '../../base/constants.ts';
import { maxZoneBits, zoneMemory } from './index-geometry.ts';
import type { IndexGeometry, SubIndexGeometry } from './index-geometry.ts';
import { isHook, volumeList } from './record-name.ts';
import { createZone, zoneSize } from './zone.ts';
import type { Zone } from './zone.ts';

/** Rows a zone takes at once; longer batches go in pieces. */
const DEFAULT_ROWS = 2048;
/** Address space of a zone at most: half of what WebAssembly offers. */
const MAX_ZONE_SIZE = 2 ** 31;

export interface VolumeIndexOptions {
  readonly kernel?: 'wasm' | 'typescript';
  readonly rows?: number;
  /** Memories that each part is cut into at least; more where one would be too small. */
  readonly zones?: number;
}

/** Columns of answers, one row a name. */
export interface VolumeIndexRows {
  /** `NO_ENTRY`, `BASE_ENTRY` or `COLLISION_ENTRY`. */
  readonly entry: Uint8Array;
  /** Virtual chapters; −1 where there is no entry. */
  readonly chapter: Float64Array;
}

export interface VolumeIndexStatistics {
  /** Entries, collision entries among them; also those of forgotten chapters that nobody met yet. */
  readonly records: number;
  readonly collisions: number;
  /** Entries removed because their chapter was forgotten. */
  readonly discarded: number;
  /** Names that did not go in because their list or the memory was full. */
  readonly overflows: number;
  /** Chapters forgotten before their time, to make room. */
  readonly earlyExpired: number;
  readonly lists: number;
  /** Bits of all lists. */
  readonly bits: number;
  /** Address space, and about what of it is resident. */
  readonly memoryBytes: number;
  readonly residentBytes: number;
}

/** A sub-index: its zones, and the chapters it knows. */
export interface SubIndex {
  readonly geometry: SubIndexGeometry;
  readonly zones: readonly Zone[];
  readonly listsPerZone: number;
  readonly maxBits: number;
  low: number;
  high: number;
}

function createSubIndex(geometry: SubIndexGeometry, options: VolumeIndexOptions): SubIndex {
  const { kernel = 'wasm', rows = DEFAULT_ROWS } = options;
  const { lists } = geometry;
  let count = options.zones ?? 1;
  while (zoneSize(Math.ceil(lists / count), zoneMemory(geometry, count), rows) > MAX_ZONE_SIZE) {
    count++;
  }
  const listsPerZone = Math.ceil(lists / count);
  const memory = zoneMemory(geometry, count);
  const zones: Zone[] = [];
  for (let firstList = 0; firstList < lists; firstList += listsPerZone) {
    const own = Math.min(listsPerZone, lists - firstList);
    zones.push(createZone({ geometry, firstList, lists: own, memory, rows }, kernel));
  }
  return { geometry, zones, listsPerZone, maxBits: maxZoneBits(geometry, 1), low: 0, high: 0 };
}

/** A new, empty index: open chapter 0. */
export function createVolumeIndex(
  geometry: IndexGeometry,
  options: VolumeIndexOptions = {},
): VolumeIndex {
  return new VolumeIndex(geometry, options);
}

export class VolumeIndex {
  readonly geometry: IndexGeometry;
  /** The one of a dense index; of a sparse one, of other names and of hooks. Read by saves. */
  readonly subIndexes: readonly SubIndex[];
  readonly #rows: number;
  /** Zones of all sub-indexes, and the rows of a batch that each is asked about. */
  readonly #zones: readonly Zone[];
  readonly #zoneOfRow: Uint32Array;
  readonly #rowsOfZone: Uint32Array;
  #earlyExpired = 0;

  constructor(geometry: IndexGeometry, options: VolumeIndexOptions) {
    this.geometry = geometry;
    this.#rows = options.rows ?? DEFAULT_ROWS;
    this.subIndexes = geometry.subIndexes.map((sub) => createSubIndex(sub, options));
    this.#zones = this.subIndexes.flatMap(({ zones }) => zones);
    this.#zoneOfRow = new Uint32Array(this.#rows);
    this.#rowsOfZone = new Uint32Array(this.#zones.length);
  }

  /** The oldest chapter of which every name is known (of a sparse index: of which every hook is). */
  get low(): number {
    return this.subIndexes.at(-1)!.low;
  }

  /** The open chapter. */
  get high(): number {
    return this.subIndexes[0]!.high;
  }

  /** Opens a chapter: forgets those it displaces, and more where memory runs short (INDEX §6.3, §6.4). */
  openChapter(virtualChapter: number): void {
    for (const sub of this.subIndexes) {
      const { geometry, zones, maxBits } = sub;
      const high = virtualChapter;
      let low = Math.max(0, high - geometry.chapters + 1);
      const bits = zones.reduce((sum, zone) => sum + zone.counts().bits, 0);
      if (bits > maxBits) {
        const expired = 1 + Math.floor((bits - maxBits) / geometry.bitsPerChapter);
        const next = expired === 1 || low + expired < high ? low + expired : high;
        this.#earlyExpired += next - low;
        low = next;
      }
      this.setChapters(sub, low, high);
    }
  }

  /** Sets what a sub-index knows, as a save has it. */
  setChapters(sub: SubIndex, low: number, high: number): void {
    sub.low = low;
    sub.high = Math.max(low, high);
    for (const zone of sub.zones) zone.setChapters(sub.low, sub.high);
  }

  /** Says for `count` names which chapter each may be in. */
  lookup(names: Uint8Array, count: number, found: VolumeIndexRows): void {
    this.#forEachPiece(count, (first, end) => {
      this.#distribute(names, first, end, null);
      this.#run((zone, rows) => zone.lookup(rows));
      this.#collect(first, end, found, null);
    });
  }

  /**
   * Does `action[i]` (`NOTHING`, `SET`, `ADD`) with name i; `result[i]` says what that came to. `SET`:
   * the entry that a lookup found is this name's: its chapter is set (or one added, if it went away
   * meanwhile). `ADD`: no entry is this name's: a base entry, or a collision entry where another name
   * has that. The names of one call are all different. `virtualChapter` is from `low` to `high`.
   */
  put(
    names: Uint8Array,
    count: number,
    action: Uint8Array,
    virtualChapter: number,
    result: Uint8Array,
  ): void {
    this.#forEachPiece(count, (first, end) => {
      this.#distribute(names, first, end, action);
      this.#run((zone, rows) => zone.put(rows, virtualChapter));
      this.#collect(first, end, null, result);
    });
  }

  /**
   * Enters names of a chapter that is read again (INDEX §8.1), in order, as far as the volume index
   * alone can: `REPLAY_SEARCH` rows have a base entry of another chapter, `found.chapter[i]`, which
   * has to be searched for the name. Found there: `put` with `SET` (nothing, if that chapter is newer).
   * Not there: `put` with `ADD`.
   */
  replay(
    names: Uint8Array,
    count: number,
    virtualChapter: number,
    found: VolumeIndexRows,
    result: Uint8Array,
  ): void {
    this.#forEachPiece(count, (first, end) => {
      this.#distribute(names, first, end, null);
      this.#run((zone, rows) => zone.replay(rows, virtualChapter));
      this.#collect(first, end, found, result);
    });
  }

  /** Removes what a lookup of each name finds; `result[i]` is 1 where that was something. */
  remove(names: Uint8Array, count: number, result: Uint8Array): void {
    this.#forEachPiece(count, (first, end) => {
      this.#distribute(names, first, end, null);
      this.#run((zone, rows) => zone.remove(rows));
      this.#collect(first, end, null, result);
    });
  }

  statistics(): VolumeIndexStatistics {
    const counts = this.#zones.map((zone) => zone.counts());
    const sum = (of: (count: (typeof counts)[number]) => number): number =>
      counts.reduce((total, count) => total + of(count), 0);
    return {
      records: sum(({ records }) => records),
      collisions: sum(({ collisions }) => collisions),
      discarded: sum(({ purged }) => purged),
      overflows: sum(({ overflows }) => overflows),
      earlyExpired: this.#earlyExpired,
      lists: this.geometry.subIndexes.reduce((total, { lists }) => total + lists, 0),
      bits: sum(({ bits }) => bits),
      memoryBytes: sum(({ memoryBytes }) => memoryBytes),
      residentBytes: sum(({ residentBytes }) => residentBytes),
    };
  }

  #forEachPiece(count: number, work: (first: number, end: number) => void): void {
    for (let first = 0; first < count; first += this.#rows) {
      work(first, Math.min(first + this.#rows, count));
    }
  }

  /** Copies names (and actions) of a piece to the zones that have their lists. */
  #distribute(names: Uint8Array, first: number, end: number, action: Uint8Array | null): void {
    const [only] = this.#zones;
    if (this.#zones.length === 1) {
      only!.names.set(names.subarray(first * RECORD_NAME_SIZE, end * RECORD_NAME_SIZE));
      if (action !== null) only!.action.set(action.subarray(first, end));
      this.#rowsOfZone[0] = end - first;
      return;
    }
    this.#rowsOfZone.fill(0);
    for (let i = first; i < end; i++) {
      const at = i * RECORD_NAME_SIZE;
      const number = this.#zoneOf(names, at);
      const zone = this.#zones[number]!;
      const row = this.#rowsOfZone[number]!++;
      this.#zoneOfRow[i - first] = number;
      for (let b = 0; b < RECORD_NAME_SIZE; b++) {
        zone.names[row * RECORD_NAME_SIZE + b] = names[at + b]!;
      }
      if (action !== null) zone.action[row] = action[i]!;
    }
  }

  /** The number of the zone that a name belongs to. */
  #zoneOf(names: Uint8Array, at: number): number {
    const [first, hooks] = this.subIndexes;
    const sub = hooks !== undefined && isHook(names, at) ? hooks : first!;
    const own = Math.floor(volumeList(names, at, sub.geometry.lists) / sub.listsPerZone);
    return sub === first ? own : own + first!.zones.length;
  }

  #run(work: (zone: Zone, rows: number) => void): void {
    for (let number = 0; number < this.#zones.length; number++) {
      const rows = this.#rowsOfZone[number]!;
      if (rows > 0) work(this.#zones[number]!, rows);
    }
  }

  /** Brings the zones' answers back into the order of the piece. */
  #collect(
    first: number,
    end: number,
    found: VolumeIndexRows | null,
    result: Uint8Array | null,
  ): void {
    const [only] = this.#zones;
    if (this.#zones.length === 1) {
      const rows = end - first;
      found?.entry.set(only!.entry.subarray(0, rows), first);
      found?.chapter.set(only!.chapter.subarray(0, rows), first);
      result?.set(only!.result.subarray(0, rows), first);
      return;
    }
    assert(end - first <= this.#zoneOfRow.length, 'rows of a piece');
    this.#rowsOfZone.fill(0);
    for (let i = first; i < end; i++) {
      const number = this.#zoneOfRow[i - first]!;
      const zone = this.#zones[number]!;
      const row = this.#rowsOfZone[number]!++;
      if (found !== null) {
        found.entry[i] = zone.entry[row]!;
        found.chapter[i] = zone.chapter[row]!;
      }
      if (result !== null) result[i] = zone.result[row]!;
    }
  }
}
