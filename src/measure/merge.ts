/**
 * Merges sorted runs: every content once, with the sum of its sightings. Segment by segment, so that
 * memory holds one of 256 parts of each run.
 */
import { RECORD_WORDS, SEGMENTS } from './store.ts';

/** One run to be merged. */
export interface MergeInput {
  readSegment(segment: number): Promise<Uint32Array>;
}

/** Merged records, one after another; the arrays are used again. */
export interface MergedRecord {
  n0: number;
  n1: number;
  /** Segment, top byte, fragment size: word 2 of a record (store.ts). The largest size of all. */
  word2: number;
  times: number;
  /** The runs that have it, as indexes into the inputs, and where in `words` of each. */
  readonly inputs: number[];
  readonly places: number[];
}

const NAME_MASK = 0xffff0000;
const SIZE_MASK = 0xff00;

/** Calls `visit` for every content, in order. `words[input]` are the records at hand of each run. */
export async function mergeRuns(
  inputs: readonly MergeInput[],
  visit: (record: MergedRecord, words: readonly Uint32Array[]) => void,
  afterSegment: () => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  for (let segment = 0; segment < SEGMENTS; segment++) {
    const words = await Promise.all(inputs.map((input) => input.readSegment(segment)));
    mergeSegment(words, visit);
    await afterSegment();
  }
}

function mergeSegment(
  words: readonly Uint32Array[],
  visit: (record: MergedRecord, words: readonly Uint32Array[]) => void,
): void {
  const at = new Array<number>(words.length).fill(0);
  const record: MergedRecord = { n0: 0, n1: 0, word2: 0, times: 0, inputs: [], places: [] };
  for (;;) {
    const least = leastOf(words, at);
    if (least < 0) return;
    const first = words[least]!;
    record.n0 = first[at[least]!]!;
    record.n1 = first[at[least]! + 1]!;
    const name = first[at[least]! + 2]! & NAME_MASK;
    record.inputs.length = 0;
    record.places.length = 0;
    record.times = 0;
    let size = 0;
    for (let input = least; input < words.length; input++) {
      const list = words[input]!;
      const place = at[input]!;
      if (place >= list.length || list[place] !== record.n0) continue;
      if (list[place + 1] !== record.n1 || (list[place + 2]! & NAME_MASK) !== name) continue;
      record.inputs.push(input);
      record.places.push(place);
      record.times += list[place + 3]!;
      size = Math.max(size, list[place + 2]! & SIZE_MASK);
      at[input] = place + RECORD_WORDS;
    }
    record.word2 = (name | size) >>> 0;
    visit(record, words);
  }
}

/** The first input whose next record is not larger than any other's; −1 at the end of all. */
function leastOf(words: readonly Uint32Array[], at: readonly number[]): number {
  let least = -1;
  for (let input = 0; input < words.length; input++) {
    const list = words[input]!;
    const place = at[input]!;
    if (place >= list.length) continue;
    if (least < 0 || isLess(list, place, words[least]!, at[least]!)) least = input;
  }
  return least;
}

function isLess(a: Uint32Array, atA: number, b: Uint32Array, atB: number): boolean {
  if (a[atA] !== b[atB]) return a[atA]! < b[atB]!;
  if (a[atA + 1] !== b[atB + 1]) return a[atA + 1]! < b[atB + 1]!;
  return (a[atA + 2]! & NAME_MASK) >>> 0 < (b[atB + 2]! & NAME_MASK) >>> 0;
}
