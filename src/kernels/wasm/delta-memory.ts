/**
 * Where delta lists lie in one memory. A list has a header of 64 bytes, one cache line:
 *
 *     0   u32 address of its first byte     4  u16 size in bits     6  u16 1 = to be loaded
 *     8   u64 flush chapter (delta.ts)
 *     16  u16 × 8, u32 × 8: signposts (delta-lists.ts)
 *
 * - Lists lie in order, each on a whole byte, with gaps behind them. A list grows into its own gap.
 * - 1024 lists are a segment, which has a part of the memory (`base` … `base + limit`) and has spread
 *   its lists over the first `cap` bytes of it: the rest was never touched. Where a gap is used up, the
 *   segment's lists are spread anew, over more bytes if need be. Where a segment's part is used up,
 *   the memory is divided anew. Where all of it is used up, the entry does not go in.
 */

export const LIST_HEADER: usize = 64;
const SEGMENT_SHIFT: u32 = 10;
const SEGMENT_LISTS: u32 = 1 << SEGMENT_SHIFT;
/** u32 base, cap, limit, used (the last only while the memory is divided). */
const SEGMENT_HEADER: usize = 16;
const MAX_LIST_BITS: u32 = 65535;
/** dm-vdo counts this guard behind its lists. */
const GUARD: u32 = 7;
/** Bytes behind each list when a segment is spread, if there is room: these, or a quarter of its size. */
const MIN_GAP: u32 = 64;

export let lists: u32 = 0;
export let headers: usize = 0;
let segments: usize = 0;
let segmentCount: u32 = 0;
let area: usize = 0;
let areaSize: u32 = 0;

export function setMemory(
  count: u32,
  headersAt: usize,
  segmentsAt: usize,
  at: usize,
  size: u32,
): void {
  lists = count;
  headers = headersAt;
  segments = segmentsAt;
  segmentCount = (count + SEGMENT_LISTS - 1) >> SEGMENT_SHIFT;
  area = at;
  areaSize = size;
  divide(0);
}

export function headerOf(list: u32): usize {
  return headers + <usize>list * LIST_HEADER;
}

export function startOf(h: usize): usize {
  return load<u32>(h);
}

export function sizeOf(h: usize): u32 {
  return load<u16>(h, 4);
}

export function bytesOf(h: usize): u32 {
  return (sizeOf(h) + 7) >> 3;
}

function segmentOf(index: u32): usize {
  return segments + <usize>index * SEGMENT_HEADER;
}

function lastOf(segment: u32): u32 {
  return min((segment + 1) << SEGMENT_SHIFT, lists);
}

/** Makes sure that a list may grow to `bits` bits. False: it may not, and nothing has changed. */
export function reserve(h: usize, bits: u32): bool {
  if (bits > MAX_LIST_BITS) return false;
  const bytes = (bits + 7) >> 3;
  return bytes <= capacityOf(h) || makeRoom(h, bytes);
}

function capacityOf(h: usize): u32 {
  const list = <u32>((h - headers) / LIST_HEADER);
  const segment = list >> SEGMENT_SHIFT;
  if (list + 1 < lastOf(segment)) return <u32>(startOf(h + LIST_HEADER) - startOf(h));
  const s = segmentOf(segment);
  const cap = load<u32>(s, 4);
  // Not spread yet: its lists have no address.
  return cap == 0 ? 0 : load<u32>(s) + cap - <u32>startOf(h);
}

function bytesOfSegment(segment: u32): u32 {
  let bytes: u32 = 0;
  const last = lastOf(segment);
  for (let list = segment << SEGMENT_SHIFT; list < last; list++) bytes += bytesOf(headerOf(list));
  return bytes;
}

/** Gives the list at `h` room for `bytes` bytes. */
function makeRoom(h: usize, bytes: u32): bool {
  const segment = (<u32>((h - headers) / LIST_HEADER)) >> SEGMENT_SHIFT;
  const s = segmentOf(segment);
  const used = bytesOfSegment(segment) - bytesOf(h) + bytes;
  const limit = load<u32>(s, 8);
  if (used > limit - (limit >> 6)) {
    let total: u64 = <u64>(bytes - bytesOf(h) + GUARD);
    for (let i: u32 = 0; i < segmentCount; i++) total += bytesOfSegment(i);
    if (total > areaSize) return false;
    if (used > limit || total < areaSize - (areaSize >> 5)) {
      divideAnew(h, bytes);
      return true;
    }
  }
  pack(segment << SEGMENT_SHIFT, lastOf(segment), load<u32>(s));
  store<u32>(s, used, 12);
  spread(segment, load<u32>(s), h, bytes - bytesOf(h));
  return true;
}

/** Moves lists to the front, one behind the other from `to` on; returns where the last ends. */
function pack(first: u32, last: u32, to: usize): usize {
  for (let list = first; list < last; list++) {
    const h = headerOf(list);
    const bytes = bytesOf(h);
    const start = startOf(h);
    if (bytes > 0 && start != to) memory.copy(to, start, bytes);
    store<u32>(h, <u32>to);
    to += bytes;
  }
  return to;
}

/**
 * Spreads a segment's lists, which lie packed from `packed` on, over its part of the memory; the gap
 * of the one at `grown` is larger by `extra`. `used` of the segment includes that.
 */
function spread(segment: u32, packed: usize, grown: usize, extra: u32): void {
  const s = segmentOf(segment);
  const first = segment << SEGMENT_SHIFT;
  const count = lastOf(segment) - first;
  const used = load<u32>(s, 12);
  const cap = min(load<u32>(s, 8), used + max(used >> 2, MIN_GAP * count));
  store<u32>(s, cap, 4);
  const free = <u64>(cap - used);
  const shift = load<u32>(s) - <u32>packed;
  for (let i = count; i > 0;) {
    i--;
    const h = headerOf(first + i);
    const start = <u32>startOf(h);
    const to = start + shift + <u32>((free * i) / count) + (h > grown ? extra : 0);
    const bytes = bytesOf(h);
    if (bytes > 0 && to != start) memory.copy(to, start, bytes);
    store<u32>(h, to);
  }
}

/** Divides the memory between the segments: what each uses, and of the rest as much for every list. */
function divide(total: u64): void {
  const free = <u64>(areaSize - GUARD) - total;
  let base = <u32>area;
  for (let i: u32 = 0; i < segmentCount; i++) {
    const s = segmentOf(i);
    const share = <u32>((free * (lastOf(i) - (i << SEGMENT_SHIFT))) / lists);
    const limit = load<u32>(s, 12) + share;
    store<u32>(s, base);
    store<u32>(s, limit, 8);
    base += limit;
  }
}

/** Divides the memory by what is used, and moves all lists. As slow as copying all of it twice. */
function divideAnew(grown: usize, bytes: u32): void {
  const extra = bytes - bytesOf(grown);
  const own = (<u32>((grown - headers) / LIST_HEADER)) >> SEGMENT_SHIFT;
  let total: u64 = 0;
  let to = area;
  for (let i: u32 = 0; i < segmentCount; i++) {
    const used = bytesOfSegment(i) + (i == own ? extra : 0);
    store<u32>(segmentOf(i), used, 12);
    total += used;
    to = pack(i << SEGMENT_SHIFT, lastOf(i), to);
  }
  divide(total);
  for (let i = segmentCount; i > 0;) {
    i--;
    spread(i, startOf(headerOf(i << SEGMENT_SHIFT)), grown, i == own ? extra : 0);
  }
}

/** Lays out lists whose sizes are known and whose bits are still to come. False: they don't fit. */
export function layOut(): bool {
  let total: u64 = 0;
  for (let i: u32 = 0; i < segmentCount; i++) {
    const used = bytesOfSegment(i);
    store<u32>(segmentOf(i), used, 12);
    total += used;
  }
  if (total + GUARD > areaSize) return false;
  divide(total);
  for (let i: u32 = 0; i < segmentCount; i++) {
    const s = segmentOf(i);
    const first = i << SEGMENT_SHIFT;
    const count = lastOf(i) - first;
    const used = load<u32>(s, 12);
    const cap = min(load<u32>(s, 8), used + max(used >> 2, MIN_GAP * count));
    store<u32>(s, cap, 4);
    let before: u32 = 0;
    for (let list: u32 = 0; list < count; list++) {
      const h = headerOf(first + list);
      store<u32>(h, load<u32>(s) + before + <u32>((<u64>(cap - used) * list) / count));
      before += bytesOf(h);
    }
  }
  return true;
}

/** Bytes of the memory that were ever laid out: about what is resident. */
export function touchedBytes(): f64 {
  let bytes: f64 = 0;
  for (let i: u32 = 0; i < segmentCount; i++) bytes += <f64>load<u32>(segmentOf(i), 4);
  return bytes;
}
