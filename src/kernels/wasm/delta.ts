/**
 * A zone of a volume index: batches of names against the delta lists of one memory (INDEX §6).
 * Compiled into delta.wasm by `npm run build`; the twin, which says the same more simply, is
 * src/index/uds/zone-model.ts. The caller has checked all arguments; chapters arrive as f64.
 *
 * - Row i of every column belongs to name i. A name's list lies in this zone: the caller sees to it.
 * - Entries of chapters below `low` go when their list is next looked at: see delta-purge.ts.
 */
import {
  BASE,
  COLLISION,
  NONE,
  collisions,
  examine,
  found,
  foundBit,
  foundDelta,
  foundEnd,
  insertBase,
  insertCollision,
  keyBefore,
  records,
  removeAt,
  search,
  setCode,
  setFound,
  usedBits,
  valueBits,
} from './delta-lists';
import {
  bytesOf,
  headerOf,
  layOut,
  lists,
  setMemory,
  sizeOf,
  startOf,
  touchedBytes,
} from './delta-memory';
import { copyShifted, readBits } from './delta-bits';
import { purge, purged } from './delta-purge';

const NAME_SIZE: usize = 16;
const SAVED_HEADER: u32 = 8;
/** Rows whose lists are fetched from memory together, before any of them is searched. */
const AHEAD: u32 = 16;

const PUT_SET: u8 = 1;
const PUT_BASE: u8 = 2;
const PUT_COLLISION: u8 = 3;
const PUT_OVERFLOW: u8 = 4;
const REPLAY_SEARCH: u8 = 5;

let namesAt: usize = 0;
let entryAt: usize = 0;
let chapterAt: usize = 0;
let actionAt: usize = 0;
let resultAt: usize = 0;
let placeAt: usize = 0;
let firstList: u32 = 0;
let allLists: u64 = 0;
let keyMask: u32 = 0;
let mask: u32 = 0;
let low: u64 = 0;
let high: u64 = 0;
let overflows: f64 = 0;
/** Keeps the compiler from dropping loads whose only use is that they were made. */
let touched: u32 = 0;

export { setMemory, setCode, layOut, touchedBytes };

export function setZone(first: u32, all: u32, addressBits: u32): void {
  firstList = first;
  allLists = all;
  keyMask = (1 << addressBits) - 1;
  mask = (1 << valueBits) - 1;
}

/** Addresses of the columns: names, entries, chapters (f64), actions, results, places (u32). */
export function setColumns(
  names: usize,
  entry: usize,
  chapter: usize,
  action: usize,
  result: usize,
  place: usize,
): void {
  namesAt = names;
  entryAt = entry;
  chapterAt = chapter;
  actionAt = action;
  resultAt = result;
  placeAt = place;
}

export function setChapters(lowest: f64, highest: f64): void {
  low = <u64>lowest;
  high = <u64>highest;
}

export function recordCount(): f64 {
  return <f64>records;
}

export function collisionCount(): f64 {
  return <f64>collisions;
}

export function bitCount(): f64 {
  return <f64>usedBits;
}

export function purgedCount(): f64 {
  return purged;
}

export function overflowCount(): f64 {
  return overflows;
}

function keyOf(name: usize): u32 {
  return bswap<u32>(load<u32>(name, 4)) & keyMask;
}

/**
 * Finds the lists of some rows, and loads a byte of each where its search will begin: independent
 * loads, which the processor does all at once, instead of two that wait for memory in every search.
 */
function fetch(row: u32, end: u32): void {
  let sum: u32 = 0;
  for (let i = row; i < end; i++) {
    const name = namesAt + <usize>i * NAME_SIZE;
    const x =
      ((<u64>bswap<u32>(load<u32>(name))) << 12) | (<u64>(bswap<u32>(load<u32>(name, 4)) >> 20));
    const h = headerOf(<u32>(x % allLists) - firstList);
    store<u32>(placeAt + (i << 2), <u32>h);
    sum += load<u32>(h);
  }
  for (let i = row; i < end; i++) {
    const h = <usize>load<u32>(placeAt + (i << 2));
    const key = keyOf(namesAt + <usize>i * NAME_SIZE);
    const post = <usize>(key >> (31 - clz<u32>(keyMask + 1) - 3));
    sum += load<u8>(startOf(h) + (load<u16>(h + 16 + (post << 1)) >> 3));
  }
  touched = sum;
}

/** The header of row i's list, whose expired entries are gone, after its name was searched there. */
function find(i: u32, name: usize): usize {
  const h = <usize>load<u32>(placeAt + (i << 2));
  if (load<u64>(h, 8) < low) purge(h, low, high, mask);
  search(h, keyOf(name), name);
  return h;
}

/** The chapter of the entry just found. */
function foundChapter(h: usize): u64 {
  const value = <u32>readBits(startOf(h), foundBit, valueBits);
  return low + ((value - <u32>low) & mask);
}

/** Fills entries and chapters of rows 0 … count − 1. */
export function lookup(count: u32): void {
  for (let row: u32 = 0; row < count;) {
    const end = min(row + AHEAD, count);
    fetch(row, end);
    for (; row < end; row++) {
      const h = find(row, namesAt + <usize>row * NAME_SIZE);
      note(row, found, found == NONE ? -1 : <f64>foundChapter(h));
    }
  }
}

function note(row: u32, entry: u32, chapter: f64): void {
  store<u8>(entryAt + row, <u8>entry);
  store<f64>(chapterAt + ((<usize>row) << 3), chapter);
}

/** Sets the chapter of the entry just found, or adds one. A base entry found is another name's, if so told. */
function enter(h: usize, name: usize, chapter: u64, isOther: bool): u8 {
  const value = (<u32>chapter) & mask;
  let result = PUT_SET;
  if (found == NONE) {
    result = insertBase(h, keyOf(name), value) ? PUT_BASE : PUT_OVERFLOW;
  } else if (found == BASE && isOther) {
    result = insertCollision(h, keyOf(name), value, name) ? PUT_COLLISION : PUT_OVERFLOW;
  } else {
    setFound(h, value);
  }
  if (result == PUT_OVERFLOW) overflows += 1;
  else if (chapter < load<u64>(h, 8)) store<u64>(h, chapter, 8);
  return result;
}

/** Does the action of every row: 0 none, 1 set, 2 add. Fills results. */
export function put(count: u32, chapter: f64): void {
  for (let row: u32 = 0; row < count;) {
    const end = min(row + AHEAD, count);
    fetch(row, end);
    for (; row < end; row++) {
      const action = load<u8>(actionAt + row);
      let result: u8 = 0;
      if (action != 0) {
        const name = namesAt + <usize>row * NAME_SIZE;
        const h = find(row, name);
        result = enter(h, name, <u64>chapter, action == 2);
      }
      store<u8>(resultAt + row, result);
    }
  }
}

/** Enters the records of a chapter that is read again; REPLAY_SEARCH where that takes a look at another. */
export function replay(count: u32, chapter: f64): void {
  const own = <u64>chapter;
  for (let row: u32 = 0; row < count;) {
    const end = min(row + AHEAD, count);
    fetch(row, end);
    for (; row < end; row++) {
      const name = namesAt + <usize>row * NAME_SIZE;
      const h = find(row, name);
      let result: u8 = 0;
      let other = own;
      if (found != NONE) other = foundChapter(h);
      note(row, found, found == NONE ? -1 : <f64>other);
      if (found == NONE || (found == COLLISION && other < own) || (found == BASE && other == own)) {
        result = enter(h, name, own, true);
      } else if (found == BASE) {
        result = REPLAY_SEARCH;
      }
      store<u8>(resultAt + row, result);
    }
  }
}

/** Removes what a lookup of the row's name finds. Fills results. */
export function remove(count: u32): void {
  fetch(0, count);
  for (let row: u32 = 0; row < count; row++) {
    const h = find(row, namesAt + <usize>row * NAME_SIZE);
    if (found != NONE) removeAt(h, foundBit, foundEnd, foundDelta(), keyBefore);
    store<u8>(resultAt + row, found == NONE ? 0 : 1);
  }
}

let savedTo: usize = 0;

export function savedEnd(): usize {
  return savedTo;
}

/** Writes saved records of lists from `list` on, while they fit before `end`; returns the next list. */
export function save(list: u32, to: usize, end: usize, tag: u32): u32 {
  for (; list < lists; list++) {
    const h = headerOf(list);
    const bytes = bytesOf(h);
    if (bytes == 0) continue;
    if (to + SAVED_HEADER + bytes > end) break;
    store<u16>(to, <u16>tag);
    store<u16>(to, <u16>bytes, 2);
    store<u32>(to, firstList + list, 4);
    memory.copy(to + SAVED_HEADER, startOf(h), bytes);
    to += SAVED_HEADER + bytes;
    const last = sizeOf(h) & 7;
    if (last != 0) store<u8>(to - 1, load<u8>(to - 1) & (<u8>(((<u32>1) << last) - 1)));
  }
  savedTo = to;
  return list;
}

let loadState: u32 = 0;
let loadCount: u32 = 0;

/** Why the last `restore` ended: 0 the next record is cut off, 1 it belongs elsewhere, 2 it is bad. */
export function loadEnd(): u32 {
  return loadState;
}

export function loadedLists(): u32 {
  return loadCount;
}

/** Takes saved records from `at` on; returns the address of the first that was not taken. */
export function restore(at: usize, end: usize, tag: u32): usize {
  loadState = 0;
  loadCount = 0;
  while (at + SAVED_HEADER <= end) {
    const list = load<u32>(at, 4) - firstList;
    loadState = 1;
    if (load<u8>(at) != <u8>tag || list >= lists) return at;
    const h = headerOf(list);
    const shift = <u32>load<u8>(at, 1);
    const bytes = <u32>load<u16>(at, 2);
    loadState = 2;
    if (load<u16>(h, 6) != 1 || shift > 7 || bytes != (shift + sizeOf(h) + 7) >> 3) return at;
    if (at + SAVED_HEADER + bytes > end) break;
    copyShifted(startOf(h), at + SAVED_HEADER, bytesOf(h), shift);
    store<u16>(h, 0, 6);
    if (!examine(h)) return at;
    at += SAVED_HEADER + bytes;
    loadCount++;
  }
  loadState = 0;
  return at;
}
