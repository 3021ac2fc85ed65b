/**
 * The entries of delta lists: sorted (key, value) pairs, bit-packed (INDEX §5). Where lists lie is
 * delta-memory.ts; the twin is src/index/uds/zone-model.ts.
 *
 * - An entry is value, delta code, and for collision entries (delta 0, not the first) 128 bits of name.
 * - Header words of a list, here: from 16 on, u16 × 8: where the first entry begins whose key is n/8
 *   of all keys or more (or the end); from 32 on, u32 × 8: the key in front of it. These signposts are
 *   always right, so a search walks an eighth of a list at most.
 */
import { reserve, sizeOf, startOf } from './delta-memory';
import { moveBehind, moveToFront, nameEquals, writeBits, writeName } from './delta-bits';

const SIGNPOSTS: usize = 16;
const SIGNPOST_KEYS: usize = 32;
const NAME_BITS: u32 = 128;

export const NONE: u32 = 0;
export const BASE: u32 = 1;
export const COLLISION: u32 = 2;

export let valueBits: u32 = 0;
export let minBits: u32 = 0;
export let minKeys: u32 = 0;
export let incrementKeys: u32 = 0;
let postShift: u32 = 0;

export let records: u32 = 0;
export let collisions: u32 = 0;
export let usedBits: u64 = 0;

/** What the last search found: an entry or none, */
export let found: u32 = 0;
/** where it begins, or one would go, */
export let foundBit: u32 = 0;
/** where it, or the next entry, ends, */
export let foundEnd: u32 = 0;
/** its key or that of the next entry, */
let foundKey: u32 = 0;
/** and the key in front of it. */
export let keyBefore: u32 = 0;

/** The distance of the entry just found. */
export function foundDelta(): u32 {
  return found == COLLISION ? 0 : foundKey - keyBefore;
}

export function setCode(address: u32, value: u32, min: u32, keys: u32, increment: u32): void {
  postShift = address - 3;
  valueBits = value;
  minBits = min;
  minKeys = keys;
  incrementKeys = increment;
  records = 0;
  collisions = 0;
  usedBits = 0;
}

/** Bits that a distance takes. */
function codeBits(delta: u32): u32 {
  return minBits + (incrementKeys - minKeys + delta) / incrementKeys;
}

/** Writes a distance; returns the bit after it. */
function writeDelta(base: usize, bit: u32, delta: u32): u32 {
  if (delta < minKeys) {
    writeBits(base, bit, minBits, delta);
    return bit + minBits;
  }
  const above = delta - minKeys;
  let zeros = above / incrementKeys;
  writeBits(base, bit, minBits, minKeys + (above - zeros * incrementKeys));
  bit += minBits;
  for (; zeros >= 48; zeros -= 48, bit += 48) writeBits(base, bit, 48, 0);
  writeBits(base, bit, zeros + 1, (<u64>1) << zeros);
  return bit + zeros + 1;
}

/** Zeros from `bit` to the next one, where a word did not reach it. Stops at `end`. */
export function longRun(base: usize, bit: u32, end: u32): u32 {
  let at = bit;
  while (at < end) {
    const word = load<u64>(base + (at >> 3)) >> (at & 7);
    if (word != 0) return at + <u32>ctz<u64>(word) - bit;
    at += 64 - (at & 7);
  }
  return end - bit;
}

/**
 * Finds the entry of `key` and, among collision entries, of `name`; sets found … keyBefore. Starts at
 * the signpost in front of the key and walks an eighth of the list at most.
 */
export function search(h: usize, key: u32, name: usize): void {
  const base = startOf(h);
  const size = sizeOf(h);
  const post = <usize>(key >> postShift);
  let bit = <u32>load<u16>(h + SIGNPOSTS + (post << 1));
  let before = load<u32>(h + SIGNPOST_KEYS + (post << 2));
  const codeAt = <u64>valueBits;
  const restAt = <u64>(valueBits + minBits);
  const mask: u32 = (1 << minBits) - 1;
  const shortKeys = minKeys;
  const step = incrementKeys;
  found = NONE;
  while (bit < size) {
    const word = load<u64>(base + (bit >> 3)) >> (bit & 7);
    let delta = (<u32>(word >> codeAt)) & mask;
    let end = bit + <u32>restAt;
    const rest = word >> restAt;
    const isLong = delta >= shortKeys;
    let zeros = <u32>ctz<u64>(rest);
    if (isLong && rest == 0) zeros = longRun(base, end, size);
    // Without branches: which of the two comes is a toss of a coin.
    delta += select<u32>(zeros * step, 0, isLong);
    end += select<u32>(zeros + 1, 0, isLong);
    const now = before + delta;
    if (now >= key) {
      foundKey = now;
      foundEnd = end;
      if (now == key) found = BASE;
      break;
    }
    if (delta == 0 && bit > 0) end += NAME_BITS;
    before = now;
    bit = end;
  }
  foundBit = bit;
  keyBefore = before;
  if (bit >= size) foundEnd = size;
  if (found == BASE) searchCollisions(base, size, name);
}

/** Walks the collision entries behind the base entry just found. */
function searchCollisions(base: usize, size: u32, name: usize): void {
  let bit = foundEnd;
  while (bit < size) {
    const word = load<u64>(base + (bit >> 3)) >> (bit & 7);
    if (((<u32>(word >> valueBits)) & ((1 << minBits) - 1)) != 0) return;
    const nameBit = bit + valueBits + minBits;
    if (nameEquals(base, nameBit, name)) {
      found = COLLISION;
      foundBit = bit;
      foundEnd = nameBit + NAME_BITS;
      keyBefore = foundKey;
      return;
    }
    bit = nameBit + NAME_BITS;
  }
}

/** Gives the entry just found another value. */
export function setFound(h: usize, value: u32): void {
  writeBits(startOf(h), foundBit, valueBits, value);
}

/** Puts a base entry where the search found none. False: no room. */
export function insertBase(h: usize, key: u32, value: u32): bool {
  const size = sizeOf(h);
  const bit = foundBit;
  const entryBits = valueBits + codeBits(key - keyBefore);
  if (bit >= size) {
    if (!reserve(h, size + entryBits)) return false;
    const base = startOf(h);
    writeBits(base, bit, valueBits, value);
    writeDelta(base, bit + valueBits, key - keyBefore);
    grow(h, key, bit, entryBits, entryBits);
    return true;
  }
  const nextDelta = foundKey - key;
  const nextEnd = foundEnd;
  const added = entryBits + valueBits + codeBits(nextDelta) - (nextEnd - bit);
  if (!reserve(h, size + added)) return false;
  const base = startOf(h);
  const nextValue = (load<u64>(base + (bit >> 3)) >> (bit & 7)) & (((<u64>1) << valueBits) - 1);
  moveBehind(base, nextEnd, size, added);
  writeBits(base, bit, valueBits, value);
  const next = writeDelta(base, bit + valueBits, key - keyBefore);
  writeBits(base, next, valueBits, nextValue);
  writeDelta(base, next + valueBits, nextDelta);
  grow(h, key, bit, entryBits, added);
  return true;
}

/** Puts a collision entry right behind the base entry just found. False: no room. */
export function insertCollision(h: usize, key: u32, value: u32, name: usize): bool {
  const size = sizeOf(h);
  const bit = foundEnd;
  const entryBits = valueBits + minBits + NAME_BITS;
  if (!reserve(h, size + entryBits)) return false;
  const base = startOf(h);
  moveBehind(base, bit, size, entryBits);
  writeBits(base, bit, valueBits, value);
  writeBits(base, bit + valueBits, minBits, 0);
  writeName(base, bit + valueBits + minBits, name);
  grow(h, key, bit, entryBits, entryBits);
  collisions++;
  return true;
}

/** Sets the new size, and the signposts behind the new entry of `key` at `bit`. */
function grow(h: usize, key: u32, bit: u32, entryBits: u32, added: u32): void {
  store<u16>(h, sizeOf(h) + added, 4);
  records++;
  usedBits += added;
  for (let post: usize = (key >> postShift) + 1; post < 8; post++) {
    const at = h + SIGNPOSTS + (post << 1);
    const where = <u32>load<u16>(at);
    if (where == bit) {
      store<u16>(at, bit + entryBits);
      store<u32>(h + SIGNPOST_KEYS + (post << 2), key);
    } else {
      store<u16>(at, where + added);
    }
  }
}

/**
 * Removes an entry: from `bit` to `end`, `delta` behind `before`. A collision entry just vanishes; the
 * next entry takes the distance of a base entry, or its place if it is a collision entry of it.
 */
export function removeAt(h: usize, bit: u32, end: u32, delta: u32, before: u32): void {
  const base = startOf(h);
  const size = sizeOf(h);
  records--;
  if (delta == 0 && bit > 0) {
    collisions--;
    moveToFront(base, end, size, end - bit);
    shrink(h, bit, end, end, end - bit, before);
    return;
  }
  if (end >= size) {
    shrink(h, bit, end, end, end - bit, before);
    return;
  }
  const word = load<u64>(base + (end >> 3)) >> (end & 7);
  const nextValue = word & (((<u64>1) << valueBits) - 1);
  let nextDelta = (<u32>(word >> valueBits)) & ((1 << minBits) - 1);
  let nextEnd = end + valueBits + minBits;
  if (nextDelta >= minKeys) {
    const zeros = longRun(base, nextEnd, size);
    nextDelta += zeros * incrementKeys;
    nextEnd += zeros + 1;
  } else if (nextDelta == 0) {
    nextEnd += NAME_BITS;
    collisions--;
  }
  const removed = nextEnd - bit - valueBits - codeBits(delta + nextDelta);
  writeBits(base, bit, valueBits, nextValue);
  // The new code may be longer than what lies in front of the next entry's end: move first.
  moveToFront(base, nextEnd, size, removed);
  writeDelta(base, bit + valueBits, delta + nextDelta);
  shrink(h, bit, end, nextEnd, removed, before);
}

/** Sets the new size, and the signposts at and behind an entry that was removed. */
function shrink(h: usize, bit: u32, end: u32, nextEnd: u32, removed: u32, before: u32): void {
  store<u16>(h, sizeOf(h) - removed, 4);
  usedBits -= removed;
  for (let post: usize = 1; post < 8; post++) {
    const at = h + SIGNPOSTS + (post << 1);
    const where = <u32>load<u16>(at);
    if (where <= bit) continue;
    if (where == end) {
      store<u16>(at, bit);
      store<u32>(h + SIGNPOST_KEYS + (post << 2), before);
    } else {
      store<u16>(at, where - removed);
    }
  }
}

/** Keys from the entry before to the one that `endOf` read last. */
export let distance: u32 = 0;

/** The end of the entry at `bit`; sets `distance`, 0 of a collision entry. */
export function endOf(base: usize, bit: u32, size: u32): u32 {
  const word = load<u64>(base + (bit >> 3)) >> (bit & 7);
  let delta = (<u32>(word >> valueBits)) & ((1 << minBits) - 1);
  let end = bit + valueBits + minBits;
  if (delta >= minKeys) {
    const zeros = longRun(base, end, size);
    delta += zeros * incrementKeys;
    end += zeros + 1;
  } else if (delta == 0 && bit > 0) {
    end += NAME_BITS;
  }
  distance = delta;
  return end;
}

/**
 * Walks a list that was just loaded, counts its entries and sets its signposts. False: its last entry
 * does not end where the list does.
 */
export function examine(h: usize): bool {
  const base = startOf(h);
  const size = sizeOf(h);
  let bit: u32 = 0;
  let key: u32 = 0;
  let post: u32 = 1;
  while (bit < size) {
    const end = endOf(base, bit, size);
    if (distance == 0 && bit > 0) collisions++;
    const now = key + distance;
    if (now >> postShift > 7) return false;
    for (; post <= now >> postShift; post++) setSignpost(h, post, bit, key);
    key = now;
    bit = end;
    records++;
  }
  for (; post < 8; post++) setSignpost(h, post, size, key);
  usedBits += size;
  return bit == size;
}

/** Where part 0 … 7 of a list begins: 1/8 of all keys each; 8 is its end. */
export function signpost(h: usize, part: u32): u32 {
  return part == 8 ? sizeOf(h) : <u32>load<u16>(h + SIGNPOSTS + ((<usize>part) << 1));
}

/** The key in front of a part. */
export function signpostKey(h: usize, part: u32): u32 {
  return load<u32>(h + SIGNPOST_KEYS + ((<usize>part) << 2));
}

function setSignpost(h: usize, post: usize, bit: u32, key: u32): void {
  store<u16>(h + SIGNPOSTS + (post << 1), bit);
  store<u32>(h + SIGNPOST_KEYS + (post << 2), key);
}
