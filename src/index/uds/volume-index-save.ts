/**
 * The saved form of the volume index, both ways (INDEX §5.6, §6.5). We write it as dm-vdo with one
 * zone does, and read it with any number of zones.
 *
 *     dense     head · lists "m" · guard        head = MI5-0005 header, flush chapters,
 *     sparse    MI6-0001 · head of names that               DI-00002 header, list sizes
 *               are no hooks · head of hooks ·
 *               lists "d" · lists "s" · guard
 *
 * - A list is saved at bit offset 0, bits behind it zero; read at any offset, whatever lies around it.
 * - More is checked than dm-vdo checks: every list is decoded once, since one that does not end where
 *   it should makes the kernel give up its whole index later. Whoever gets `Corrupt` rebuilds.
 */
import { assert } from '../../base/assert.ts';
import { bytesEqual, getU16, getU32, getU64, setU32, setU64 } from '../../base/bytes.ts';
import { VdoError } from '../../base/errors.ts';
import type { IndexGeometry } from './index-geometry.ts';
import { SPARSE_SAMPLE_RATE } from './record-name.ts';
import type { SubIndex, VolumeIndex } from './volume-index.ts';
import { RESTORE_BAD, RESTORE_OTHER } from './zone.ts';
import type { Zone } from './zone.ts';

const SPARSE_MAGIC = 'MI6-0001';
const SPARSE_HEADER_SIZE = 12;
const VOLUME_MAGIC = 'MI5-0005';
const VOLUME_HEADER_SIZE = 40;
const DELTA_MAGIC = 'DI-00002';
const DELTA_HEADER_SIZE = 40;
const FLUSH_SIZE = 8;
const SIZE_SIZE = 2;
const GUARD = Uint8Array.from([0x7a, 0, 0, 0, 0, 0, 0, 0]);
/** Lists whose flush chapters and sizes pass at once. */
const LISTS_AT_ONCE = 65536;
const CHUNK_SIZE = 2 ** 20;

/** The tag of a sub-index's lists. */
function tagOf(index: VolumeIndex, number: number): number {
  if (!index.geometry.sparse) return 0x6d;
  return number === 0 ? 0x64 : 0x73;
}

function ascii(text: string): Buffer {
  return Buffer.from(text, 'latin1');
}

/** Calls `work` for runs of lists of a sub-index: zone, first list in the zone, count. */
function* runsOf(sub: SubIndex, first: number, end: number): Generator<[Zone, number, number]> {
  for (const zone of sub.zones) {
    const zoneEnd = Math.min(zone.firstList + zone.lists, end);
    let list = Math.max(zone.firstList, first);
    for (; list < zoneEnd; list += LISTS_AT_ONCE) {
      yield [zone, list - zone.firstList, Math.min(LISTS_AT_ONCE, zoneEnd - list)];
    }
  }
}

function* savedHead(sub: SubIndex, nonce: Uint8Array): Generator<Uint8Array> {
  const { lists } = sub.geometry;
  const header = new Uint8Array(VOLUME_HEADER_SIZE);
  header.set(ascii(VOLUME_MAGIC));
  header.set(nonce, 8);
  setU64(header, 16, sub.low);
  setU64(header, 24, sub.high);
  setU32(header, 36, lists);
  yield header;
  const bytes = new Uint8Array(LISTS_AT_ONCE * FLUSH_SIZE);
  for (const [zone, first, count] of runsOf(sub, 0, lists)) {
    zone.flushTo(bytes, 0, first, count);
    yield bytes.subarray(0, count * FLUSH_SIZE);
  }
  const counts = sub.zones.map((zone) => zone.counts());
  const delta = new Uint8Array(DELTA_HEADER_SIZE);
  delta.set(ascii(DELTA_MAGIC));
  setU32(delta, 12, 1);
  setU32(delta, 20, lists);
  setU64(
    delta,
    24,
    counts.reduce((sum, { records }) => sum + records, 0),
  );
  setU64(
    delta,
    32,
    counts.reduce((sum, { collisions }) => sum + collisions, 0),
  );
  yield delta;
  for (const [zone, first, count] of runsOf(sub, 0, lists)) {
    zone.sizesTo(bytes, 0, first, count);
    yield bytes.subarray(0, count * SIZE_SIZE);
  }
}

/** The bytes of a save, in chunks of at most 1 MiB; each is overwritten when the next is asked for. */
export function* saveVolumeIndex(index: VolumeIndex, nonce: Uint8Array): Generator<Uint8Array> {
  assert(nonce.length === 8, 'nonce of a volume');
  if (index.geometry.sparse) {
    const header = new Uint8Array(SPARSE_HEADER_SIZE);
    header.set(ascii(SPARSE_MAGIC));
    setU32(header, 8, SPARSE_SAMPLE_RATE);
    yield header;
  }
  for (const sub of index.subIndexes) yield* savedHead(sub, nonce);
  for (const [number, sub] of index.subIndexes.entries()) {
    for (const zone of sub.zones) {
      for (let list = 0; list < zone.lists;) {
        list = zone.save(list, tagOf(index, number));
        yield zone.saved;
      }
    }
  }
  yield GUARD;
}

/** Bytes that a save takes now. Looks at every list: some milliseconds. */
export function savedVolumeIndexSize(index: VolumeIndex): number {
  let size = GUARD.length + (index.geometry.sparse ? SPARSE_HEADER_SIZE : 0);
  const sizes = new Uint8Array(LISTS_AT_ONCE * SIZE_SIZE);
  for (const sub of index.subIndexes) {
    const { lists } = sub.geometry;
    size += VOLUME_HEADER_SIZE + DELTA_HEADER_SIZE + lists * (FLUSH_SIZE + SIZE_SIZE);
    for (const [zone, first, count] of runsOf(sub, 0, lists)) {
      zone.sizesTo(sizes, 0, first, count);
      for (let i = 0; i < count; i++) {
        const bytes = (getU16(sizes, 2 * i) + 7) >>> 3;
        if (bytes > 0) size += 8 + bytes;
      }
    }
  }
  return size;
}

/** One zone's stream of a save. */
export interface VolumeIndexSource {
  /**
   * The `size` bytes (at most 1 MiB) at `offset` from the stream's start, fewer where its region ends.
   */
  read(offset: number, size: number): Promise<Uint8Array> | Uint8Array;
}

/**
 * Fills a fresh index from a save of the volume with this nonce; `sources` are the streams of its
 * zones, in order. Fails with `Corrupt`, or with what the sources throw; the index is of no use then.
 */
export async function loadVolumeIndex(
  index: VolumeIndex,
  sources: readonly VolumeIndexSource[],
  nonce: Uint8Array,
): Promise<void> {
  const streams = sources.map((source, zone) => new Stream(index, source, zone, sources.length));
  const pending: number[] = [];
  for (const stream of streams) pending.push(await stream.loadHead(nonce));
  const [first] = streams;
  assert(first !== undefined, 'streams of a save');
  index.subIndexes.forEach((sub, number) => {
    const heads = streams.map((stream) => stream.heads[number]!);
    checkHeads(sub, heads);
    const low = Math.max(...heads.map((head) => head.low));
    index.setChapters(sub, low, heads[0]!.high);
    if (!sub.zones.every((zone) => zone.layOut())) {
      throw corrupt('its lists do not fit in the memory of an index of this size', 0);
    }
  });
  for (const [zone, stream] of streams.entries()) await stream.loadLists(pending[zone]!);
}

/** What a zone's stream says of its part of a sub-index, in front of the lists. */
export interface VolumeIndexHead {
  /** Chapters that it knows; `high` was open. */
  readonly low: number;
  readonly high: number;
  readonly firstList: number;
  readonly lists: number;
  /** Entries, of which some are collisions. Kernels with several zones count all of them in zone 0. */
  readonly records: number;
  readonly collisions: number;
}

/** The heads in one zone's stream, one a sub-index; the lists are not read. Fails with `Corrupt`. */
export async function readVolumeIndexHeads(
  geometry: IndexGeometry,
  source: VolumeIndexSource,
  zone: number,
): Promise<VolumeIndexHead[]> {
  const headers: VolumeIndexHead[] = [];
  let at = geometry.sparse ? SPARSE_HEADER_SIZE : 0;
  for (let i = 0; i < geometry.subIndexes.length; i++) {
    const volume = await headerAt(source, zone, at, VOLUME_MAGIC);
    const { lists } = rangesOf(volume);
    at += VOLUME_HEADER_SIZE + lists * FLUSH_SIZE;
    const delta = await headerAt(source, zone, at, DELTA_MAGIC);
    at += DELTA_HEADER_SIZE + lists * SIZE_SIZE;
    headers.push({ ...rangesOf(volume), ...entriesOf(delta) });
  }
  return headers;
}

/** One of the two headers, which are of one size. */
async function headerAt(source: VolumeIndexSource, zone: number, at: number, magic: string) {
  const bytes = await source.read(at, VOLUME_HEADER_SIZE);
  if (bytes.length < VOLUME_HEADER_SIZE || !bytesEqual(bytes.subarray(0, 8), ascii(magic))) {
    throw corrupt(`no ${magic} header`, zone);
  }
  return bytes;
}

/** What the first header of a sub-index says. */
function rangesOf(header: Uint8Array) {
  const [low, high] = [getU64(header, 16), getU64(header, 24)];
  return { low, high, firstList: getU32(header, 32), lists: getU32(header, 36) };
}

/** What the second one says. */
function entriesOf(header: Uint8Array) {
  return { records: getU64(header, 24), collisions: getU64(header, 32) };
}

function checkHeads(sub: SubIndex, heads: readonly VolumeIndexHead[]): void {
  let next = 0;
  heads.forEach(({ firstList, lists, high }, zone) => {
    if (firstList !== next) throw corrupt(`its lists begin at ${firstList}, not at ${next}`, zone);
    if (high !== heads[0]!.high) throw corrupt('its zones disagree about the open chapter', zone);
    next += lists;
  });
  if (next !== sub.geometry.lists) {
    throw corrupt(`it has ${next} lists of ${sub.geometry.lists}`, heads.length - 1);
  }
  const sum = (of: (head: VolumeIndexHead) => number): number =>
    heads.reduce((total, head) => total + of(head), 0);
  if (!(sum(({ collisions }) => collisions) <= sum(({ records }) => records))) {
    throw corrupt('it counts more collision entries than entries', 0);
  }
}

function corrupt(what: string, zone: number): VdoError {
  return new VdoError('Corrupt', `saved volume index: ${what}`, { zone });
}

/** Reads one zone's stream from front to back. */
class Stream {
  readonly heads: VolumeIndexHead[] = [];
  readonly #index: VolumeIndex;
  readonly #source: VolumeIndexSource;
  readonly #zone: number;
  readonly #zones: number;
  #offset = 0;

  constructor(index: VolumeIndex, source: VolumeIndexSource, zone: number, zones: number) {
    this.#index = index;
    this.#source = source;
    this.#zone = zone;
    this.#zones = zones;
  }

  /** Loads what comes in front of the lists; returns how many lists come. */
  async loadHead(nonce: Uint8Array): Promise<number> {
    if (this.#index.geometry.sparse) {
      const header = await this.#take(SPARSE_HEADER_SIZE);
      this.#checkMagic(header, SPARSE_MAGIC);
      if (getU32(header, 8) !== SPARSE_SAMPLE_RATE) throw this.#corrupt('unknown sample rate');
    }
    let pending = 0;
    for (const sub of this.#index.subIndexes) {
      pending += await this.#loadSubIndexHead(sub, nonce);
    }
    return pending;
  }

  async #loadSubIndexHead(sub: SubIndex, nonce: Uint8Array): Promise<number> {
    const header = await this.#take(VOLUME_HEADER_SIZE);
    this.#checkMagic(header, VOLUME_MAGIC);
    if (!bytesEqual(header.subarray(8, 16), nonce)) throw this.#corrupt('of another volume');
    const ranges = rangesOf(header);
    const { low, high, firstList, lists } = ranges;
    if (!(low <= high)) throw this.#corrupt(`it knows chapters ${low} to ${high}`);
    if (firstList + lists > sub.geometry.lists) {
      throw this.#corrupt(`lists ${firstList} to ${firstList + lists} of ${sub.geometry.lists}`);
    }
    for (const [zone, first, count] of runsOf(sub, firstList, firstList + lists)) {
      zone.setFlush(await this.#take(count * FLUSH_SIZE), 0, first, count);
    }
    const delta = await this.#take(DELTA_HEADER_SIZE);
    this.#checkMagic(delta, DELTA_MAGIC);
    const isOwn = getU32(delta, 8) === this.#zone && getU32(delta, 12) === this.#zones;
    if (!isOwn) throw this.#corrupt('it belongs to another zone');
    if (getU32(delta, 16) !== firstList || getU32(delta, 20) !== lists) {
      throw this.#corrupt('its two headers disagree about its lists');
    }
    let pending = 0;
    for (const [zone, first, count] of runsOf(sub, firstList, firstList + lists)) {
      pending += zone.setSizes(await this.#take(count * SIZE_SIZE), 0, first, count);
    }
    this.heads.push({ ...ranges, ...entriesOf(delta) });
    return pending;
  }

  /** Loads `pending` lists and the guard behind them. */
  async loadLists(pending: number): Promise<void> {
    let left = pending;
    while (left > 0) {
      const bytes = await this.#source.read(this.#offset, CHUNK_SIZE);
      let taken = 0;
      while (left > 0) {
        const part = this.#restore(bytes.subarray(taken));
        taken += part.taken;
        left -= part.lists;
        if (part.taken === 0) break;
      }
      if (taken === 0) throw this.#corrupt('it ends in the middle of a list');
      this.#offset += taken;
    }
    if (!bytesEqual(await this.#take(GUARD.length), GUARD)) {
      throw this.#corrupt('the guard at its end is missing');
    }
  }

  /** Gives records to the zone that their first list belongs to. */
  #restore(bytes: Uint8Array): { taken: number; lists: number } {
    if (bytes.length < 8) return { taken: 0, lists: 0 };
    const list = getU32(bytes, 4);
    const tag = bytes[0]!;
    const number = this.#index.subIndexes.findIndex((_, i) => tagOf(this.#index, i) === tag);
    const zone = this.#index.subIndexes[number]?.zones.find(
      ({ firstList, lists }) => list >= firstList && list < firstList + lists,
    );
    if (zone === undefined) throw this.#corrupt(`bad record of list ${list}`);
    const { taken, lists, end } = zone.restore(bytes, tag);
    if (end === RESTORE_BAD || (end === RESTORE_OTHER && taken === 0)) {
      throw this.#corrupt(`list ${getU32(bytes, taken + 4)} does not hold what its size says`);
    }
    return { taken, lists };
  }

  async #take(size: number): Promise<Uint8Array> {
    const bytes = await this.#source.read(this.#offset, size);
    if (bytes.length < size) throw this.#corrupt('it is cut off');
    this.#offset += size;
    return bytes;
  }

  #checkMagic(header: Uint8Array, magic: string): void {
    if (!bytesEqual(header.subarray(0, 8), ascii(magic))) throw this.#corrupt(`no ${magic} header`);
  }

  #corrupt(what: string): VdoError {
    return corrupt(what, this.#zone);
  }
}
