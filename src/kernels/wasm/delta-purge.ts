/**
 * Removes from a list what belongs to forgotten chapters (INDEX §6.2). An index that is full does so
 * for most lists it looks at, so the list is surveyed first: all of it, four parts at a time, since
 * where an entry begins is known only when the one before it has been read, which leaves most of the
 * processor idle. Only parts with something to remove are then walked with their keys.
 */
import {
  distance,
  endOf,
  minBits,
  minKeys,
  removeAt,
  signpost,
  signpostKey,
  valueBits,
} from './delta-lists';
import { sizeOf, startOf } from './delta-memory';

export let purged: f64 = 0;

/** Smallest chapter that stays, counted from the first that does. */
let least: u32 = 0;

/** Whether an entry from `bit` to `end` has to go; `from` is the first chapter that stays. */
function surveyRest(base: usize, bit: u32, end: u32, from: u32, mask: u32, gone: u32): u32 {
  let signs: u32 = 0;
  while (bit < end) {
    const word = load<u64>(base + (bit >> 3)) >> (bit & 7);
    const chapter = ((<u32>word - from + gone) & mask) - gone;
    signs |= chapter;
    least = min(least, chapter);
    const code = (<u32>(word >> valueBits)) & ((1 << minBits) - 1);
    const run = word >> (valueBits + minBits);
    if (code == 0 || run == 0) bit = endOf(base, bit, end);
    else bit += valueBits + minBits + select<u32>(<u32>ctz<u64>(run) + 1, 0, code >= minKeys);
  }
  return signs >> 31;
}

/**
 * Surveys four parts of a list, `part`, + 2, + 4 and + 6: returns a bit for each that has something to
 * remove. Chapters are counted from `from`, the first that stays; `gone` are older: they come out
 * negative, and as the largest of unsigned numbers.
 */
function survey(h: usize, part: u32, from: u32, mask: u32, gone: u32): u32 {
  const base = startOf(h);
  let a = signpost(h, part);
  let b = signpost(h, part + 2);
  let c = signpost(h, part + 4);
  let d = signpost(h, part + 6);
  const aEnd = signpost(h, part + 1);
  const bEnd = signpost(h, part + 3);
  const cEnd = signpost(h, part + 5);
  const dEnd = signpost(h, part + 7);
  const codeAt = <u64>valueBits;
  const restAt = <u64>(valueBits + minBits);
  const rest = valueBits + minBits;
  const codeMask: u32 = (1 << minBits) - 1;
  const short = minKeys;
  const origin = gone - from;
  let signA: u32 = 0;
  let signB: u32 = 0;
  let signC: u32 = 0;
  let signD: u32 = 0;
  let smallest = least;
  while (a < aEnd && b < bEnd && c < cEnd && d < dEnd) {
    const wordA = load<u64>(base + (a >> 3)) >> (a & 7);
    const wordB = load<u64>(base + (b >> 3)) >> (b & 7);
    const wordC = load<u64>(base + (c >> 3)) >> (c & 7);
    const wordD = load<u64>(base + (d >> 3)) >> (d & 7);
    const chapterA = ((<u32>wordA + origin) & mask) - gone;
    const chapterB = ((<u32>wordB + origin) & mask) - gone;
    const chapterC = ((<u32>wordC + origin) & mask) - gone;
    const chapterD = ((<u32>wordD + origin) & mask) - gone;
    signA |= chapterA;
    signB |= chapterB;
    signC |= chapterC;
    signD |= chapterD;
    smallest = min(min(smallest, min(chapterA, chapterB)), min(chapterC, chapterD));
    const codeA = (<u32>(wordA >> codeAt)) & codeMask;
    const codeB = (<u32>(wordB >> codeAt)) & codeMask;
    const codeC = (<u32>(wordC >> codeAt)) & codeMask;
    const codeD = (<u32>(wordD >> codeAt)) & codeMask;
    const runA = wordA >> restAt;
    const runB = wordB >> restAt;
    const runC = wordC >> restAt;
    const runD = wordD >> restAt;
    if (codeA == 0 || runA == 0) a = endOf(base, a, aEnd);
    else a += rest + select<u32>(<u32>ctz<u64>(runA) + 1, 0, codeA >= short);
    if (codeB == 0 || runB == 0) b = endOf(base, b, bEnd);
    else b += rest + select<u32>(<u32>ctz<u64>(runB) + 1, 0, codeB >= short);
    if (codeC == 0 || runC == 0) c = endOf(base, c, cEnd);
    else c += rest + select<u32>(<u32>ctz<u64>(runC) + 1, 0, codeC >= short);
    if (codeD == 0 || runD == 0) d = endOf(base, d, dEnd);
    else d += rest + select<u32>(<u32>ctz<u64>(runD) + 1, 0, codeD >= short);
  }
  least = smallest;
  const parts = (signA >> 31) | ((signB >> 31) << 2) | ((signC >> 31) << 4) | ((signD >> 31) << 6);
  return (
    (parts |
      surveyRest(base, a, aEnd, from, mask, gone) |
      (surveyRest(base, b, bEnd, from, mask, gone) << 2) |
      (surveyRest(base, c, cEnd, from, mask, gone) << 4) |
      (surveyRest(base, d, dEnd, from, mask, gone) << 6)) <<
    part
  );
}

/** Removes the entries of a part that have to go. */
function purgePart(h: usize, part: u32, from: u32, mask: u32, gone: u32): void {
  const base = startOf(h);
  let bit = signpost(h, part);
  let before = signpostKey(h, part);
  while (bit < signpost(h, part + 1)) {
    const word = load<u32>(base + (bit >> 3)) >> (bit & 7);
    const end = endOf(base, bit, sizeOf(h));
    const delta = distance;
    if (((word - from + gone) & mask) < gone) {
      removeAt(h, bit, end, delta, before);
      purged += 1;
    } else {
      before += delta;
      bit = end;
    }
  }
}

/** Removes what belongs to chapters below `low`, and notes a lower bound of what is left. */
export function purge(h: usize, low: u64, high: u64, mask: u32): void {
  const flush = load<u64>(h, 8);
  const gone = <u32>min(low - flush, <u64>mask + 1);
  const from = <u32>flush + gone;
  least = mask - gone;
  let parts = survey(h, 0, from, mask, gone) | survey(h, 1, from, mask, gone);
  for (; parts != 0; parts &= parts - 1) purgePart(h, ctz(parts), from, mask, gone);
  const smallest = <u64>(gone > mask ? mask : gone + least);
  store<u64>(h, min(high, low + ((flush + smallest - low) & mask)), 8);
}
