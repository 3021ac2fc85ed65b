import { describe, expect, test } from 'vitest';
import { Random } from '../../../../bench/data.ts';
import { indexGeometry, makeIndexGeometry } from '../../../../src/index/uds/index-geometry.ts';
import { createVolumeIndex } from '../../../../src/index/uds/volume-index.ts';
import { saveVolumeIndex } from '../../../../src/index/uds/volume-index-save.ts';
import type { VolumeIndex } from '../../../../src/index/uds/volume-index.ts';
import { ADD, SET } from '../../../../src/index/uds/zone.ts';
import { batchOfNames } from './names.ts';

const ROWS = 64;

interface Columns {
  entry: Uint8Array;
  chapter: Float64Array;
  result: Uint8Array;
}

const columns = (): Columns => ({
  entry: new Uint8Array(ROWS),
  chapter: new Float64Array(ROWS),
  result: new Uint8Array(ROWS),
});

function expectAlike(a: VolumeIndex, b: VolumeIndex): void {
  const [one, other] = [a.statistics(), b.statistics()];
  const of = ({ records, collisions, bits, discarded, overflows, earlyExpired }: typeof one) => ({
    records,
    collisions,
    bits,
    discarded,
    overflows,
    earlyExpired,
  });
  expect(of(one)).toEqual(of(other));
  const nonce = Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]);
  const saved = (index: VolumeIndex): Buffer =>
    Buffer.concat(Array.from(saveVolumeIndex(index, nonce), (chunk) => Buffer.from(chunk)));
  expect(Buffer.compare(saved(a), saved(b))).toBe(0);
}

describe.each([
  ['dense', { recordPages: 1, chapters: 8, sparseChapters: 0 }, 1],
  ['in three zones', { recordPages: 1, chapters: 8, sparseChapters: 0 }, 3],
  ['sparse', { recordPages: 1, chapters: 20, sparseChapters: 14 }, 1],
  ['sparse, in two zones', { recordPages: 1, chapters: 20, sparseChapters: 14 }, 2],
])('a volume index, %s', (_, shape, zones) => {
  test.each([1, 2])('does what its twin does, seed %i', (seed) => {
    const geometry = makeIndexGeometry(shape);
    const wasm = createVolumeIndex(geometry, { rows: 50, zones });
    const twin = createVolumeIndex(geometry, { kernel: 'typescript' });
    const random = new Random(seed);
    const pool: Uint8Array[] = [];
    let chapter = 0;
    const [a, b] = [columns(), columns()];
    for (let step = 0; step < 120; step++) {
      const { names, count } = batchOfNames(random, pool, ROWS);
      const what = random.below(12);
      const run = (index: VolumeIndex, to: Columns, action: Uint8Array): void => {
        index.lookup(names, count, to);
        if (what < 9) index.put(names, count, action, chapter, to.result);
        else if (what < 11) index.replay(names, count, chapter, to, to.result);
        else index.remove(names, count, to.result);
      };
      const action = Uint8Array.from({ length: ROWS }, () => [0, ADD, ADD, SET][random.below(4)]!);
      run(wasm, a, action);
      run(twin, b, action);
      expect(a).toEqual(b);
      if (random.below(8) === 0) {
        chapter += random.below(10) === 0 ? 1 + random.below(30) : 1;
        wasm.openChapter(chapter);
        twin.openChapter(chapter);
      }
      if (step % 25 === 24) expectAlike(wasm, twin);
    }
    expect(wasm.statistics().collisions).toBeGreaterThan(20);
    expect(wasm.statistics().discarded).toBeGreaterThan(20);
  });
});

/** Puts names that share a list and an address, mostly, until nothing goes in any more. */
test.each([
  { what: 'one list', lists: 1, chapters: 8, steps: 25 },
  { what: 'a memory of one segment', lists: 12, chapters: 8, steps: 120 },
  { what: 'a memory of two segments, all in the first', lists: 110, chapters: 260, steps: 760 },
])('until $what is full: as the twin', ({ lists, chapters, steps }) => {
  const geometry = makeIndexGeometry({ recordPages: 1, chapters, sparseChapters: 0 });
  const wasm = createVolumeIndex(geometry);
  const twin = createVolumeIndex(geometry, { kernel: 'typescript' });
  const random = new Random(lists);
  const action = new Uint8Array(ROWS).fill(ADD);
  const [a, b] = [columns(), columns()];
  const step = (number: number): void => {
    const names = new Uint8Array(ROWS * 16);
    for (let row = 0; row < ROWS; row++) {
      const at = row * 16;
      const list = random.below(lists);
      names[at + 4] = list >> 4;
      names[at + 5] = (list << 4) | random.below(4);
      names[at + 7] = random.below(3);
      names[at + 13] = row;
      names.set([number >> 8, number], at + 14);
    }
    wasm.put(names, ROWS, action, wasm.high, a.result);
    twin.put(names, ROWS, action, wasm.high, b.result);
    expect(a.result).toEqual(b.result);
  };
  for (let number = 0; number < steps; number++) step(number);
  expectAlike(wasm, twin);
  const full = wasm.statistics();
  expect(full.overflows).toBeGreaterThan(ROWS);
  const { memory } = geometry.subIndexes[0]!;
  expect(full.bits).toBeGreaterThan(lists === 1 ? 65535 - 150 : (memory - 8 * lists) * 8);
  // Chapters are forgotten early now, but only lists that are looked at become shorter.
  for (let number = steps; number < steps + 20; number++) {
    wasm.openChapter(number - steps + 1);
    twin.openChapter(number - steps + 1);
    step(number);
  }
  expectAlike(wasm, twin);
  expect(wasm.statistics().discarded).toBeGreaterThan(lists === 1 ? 400 : 500);
  expect(wasm.statistics().earlyExpired > 0).toBe(lists > 1);
});

test('names of the last chapters are found in theirs, older ones nowhere', () => {
  const geometry = makeIndexGeometry({ recordPages: 1, chapters: 8, sparseChapters: 0 });
  const index = createVolumeIndex(geometry);
  const random = new Random(9);
  const names = new Uint8Array(20 * 1024 * 16).map(() => random.below(256));
  const rows = 1024;
  const action = new Uint8Array(rows).fill(ADD);
  const result = new Uint8Array(rows);
  const found = { entry: new Uint8Array(rows), chapter: new Float64Array(rows) };
  const named = (chapter: number) => names.subarray(chapter * rows * 16, (chapter + 1) * rows * 16);
  for (let chapter = 0; chapter < 20; chapter++) {
    index.openChapter(chapter);
    index.put(named(chapter), rows, action, chapter, result);
    // A hit refreshes: chapter 3 goes on to be known.
    index.lookup(named(3), rows, found);
    const refresh = found.chapter.map((value, i) =>
      value >= 0 && value !== chapter && chapter > 3 && found.entry[i] !== 0 ? SET : 0,
    );
    if (chapter > 3) index.put(named(3), rows, Uint8Array.from(refresh), chapter, result);
  }
  const right = (chapter: number, expected: number): number => {
    index.lookup(named(chapter), rows, found);
    return found.chapter.filter((value) => value === expected).length;
  };
  // Names that agree in all bits the index keeps are rare among 8192.
  for (let chapter = 12; chapter < 20; chapter++)
    expect(right(chapter, chapter)).toBeGreaterThan(rows - 3);
  for (const chapter of [0, 1, 2, 4, 11]) expect(right(chapter, -1)).toBeGreaterThan(rows - 3);
  expect(right(3, 19)).toBeGreaterThan(rows - 3);
});

test.each([
  [2, false, 1],
  [4, false, 2],
  [16, false, 8],
  [8, true, 2 + 2],
])('an index of %i GB, sparse %s, lies in %i memories', (gigabytes, sparse, memories) => {
  const geometry = indexGeometry(gigabytes, sparse);
  const index = createVolumeIndex(geometry);
  const zones = index.subIndexes.flatMap((sub) => sub.zones);
  expect(zones.length).toBe(memories);
  for (const zone of zones) expect(zone.counts().memoryBytes).toBeLessThanOrEqual(2 ** 31);
  const random = new Random(gigabytes);
  const rows = 256;
  const names = new Uint8Array(rows * 16).map(() => random.below(256));
  const found = { entry: new Uint8Array(rows), chapter: new Float64Array(rows) };
  const result = new Uint8Array(rows);
  // Far along: chapter numbers of more bits than are stored.
  const chapter = 2 ** 40 + 12345;
  index.openChapter(chapter);
  index.put(names, rows, new Uint8Array(rows).fill(ADD), chapter, result);
  index.openChapter(chapter + 1);
  index.lookup(names, rows, found);
  expect(found.chapter).toEqual(new Float64Array(rows).fill(chapter));
  expect(Math.min(...zones.map((zone) => zone.counts().records))).toBeGreaterThan(0);
  // As large as it may become, and yet next to nothing of it is resident.
  const { memoryBytes } = index.statistics();
  expect(memoryBytes).toBeGreaterThan(0.8e9 * gigabytes);
  index.openChapter(chapter + geometry.chapters);
  index.lookup(names, rows, found);
  expect(found.entry.every((entry) => entry === 0)).toBe(true);
  expect(index.statistics()).toMatchObject({ records: 0, discarded: rows, bits: 0 });
});
