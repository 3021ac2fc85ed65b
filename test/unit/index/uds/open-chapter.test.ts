/** The open chapter against a Map, with names that its hash cannot tell apart. */
import { describe, expect, test } from 'vitest';
import { RECORD_SIZE } from '../../../../src/format/chapter-page.ts';
import {
  OpenChapter,
  recordPbn,
  recordState,
  writeRecordData,
} from '../../../../src/index/uds/open-chapter.ts';
import { random, randomBytes } from '../../format/support.ts';

const CAPACITY = 700;

/** What names have in common: bytes 10 to 13 choose the slot. */
const KINDS: readonly [string, (name: Uint8Array, i: number) => void][] = [
  ['of all kinds', () => undefined],
  ['all of one slot', (name) => name.fill(7, 10, 14)],
  ['of the last slots, so that the search goes round', (name) => name.fill(0xff, 10, 14)],
  ['equal but for the last byte, or the first', (name, i) => name.fill(1, i % 2, 15 + (i % 2))],
];

describe.each(KINDS)('names %s', (_, twist) => {
  test.each([1, 2, 3])('seed %i', (seed) => {
    const next = random(seed);
    // The first never fills it, and is saved; the others do.
    const pool = Array.from({ length: seed === 1 ? CAPACITY - 1 : 2 * CAPACITY }, (_unused, i) => {
      const name = randomBytes(next, 16);
      twist(name, i);
      return name;
    });
    const chapter = new OpenChapter(CAPACITY);
    const model = new Map<string, { number: number; pbn: number; state: number }>();
    const key = (name: Uint8Array): string => Buffer.from(name).toString('hex');
    for (let step = 0; step < 4 * CAPACITY; step++) {
      const name = pool[next(pool.length)]!;
      const known = model.get(key(name));
      const number = chapter.find(name, 0);
      expect(number).toBe(known?.number ?? -1);
      if (known === undefined && chapter.isFull) continue;
      const entry = {
        number: known?.number ?? chapter.append(name, 0),
        pbn: 1 + next(2 ** 30),
        state: 1 + next(15),
      };
      writeRecordData(chapter.records, entry.number * RECORD_SIZE, entry.pbn, entry.state);
      model.set(key(name), entry);
    }
    const distinct = new Set(pool.map(key)).size;
    expect(chapter.isFull).toBe(distinct > CAPACITY);
    expect(chapter.count).toBe(model.size);
    const check = (copy: OpenChapter, count: number): void => {
      for (const name of pool) {
        const { number, pbn, state } = model.get(key(name)) ?? { number: -1, pbn: 0, state: 0 };
        const found = copy.find(name, 0);
        expect(found).toBe(number < count ? number : -1);
        if (found < 0) continue;
        expect(recordPbn(copy.records, found * RECORD_SIZE)).toBe(pbn);
        expect(recordState(copy.records, found * RECORD_SIZE)).toBe(state);
      }
    };
    check(chapter, CAPACITY);
    if (chapter.isFull) return;
    const copy = new OpenChapter(CAPACITY);
    copy.decode(chapter.encode());
    check(copy, CAPACITY);
    // One with less room takes what fits.
    const small = new OpenChapter(100);
    small.decode(chapter.encode());
    check(small, 99);
  });
});
