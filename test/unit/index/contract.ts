/** What every `HashIndex` must do; each index runs it from its own test file. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Random, randomFill } from '../../../bench/data.ts';
import type { Advice, HashIndex } from '../../../src/index/hash-index.ts';

export interface Columns extends Advice {
  readonly pbn: Float64Array<ArrayBuffer>;
  readonly state: Uint8Array<ArrayBuffer>;
}

export const columns = (count: number): Columns => ({
  pbn: new Float64Array(count),
  state: new Uint8Array(count),
});

/** `count` names from a seed. */
export function namesOf(count: number, seed: number): Uint8Array<ArrayBuffer> {
  const names = new Uint8Array(count * 16);
  randomFill(names, seed);
  return names;
}

/** `count` locations from a seed, any that the format allows. */
export function locationsOf(count: number, seed: number): Columns {
  const random = new Random(seed);
  const all = columns(count);
  for (let i = 0; i < count; i++) {
    all.pbn[i] = 1 + random.next() + 2 ** 32 * random.below(15);
    all.state[i] = 1 + random.below(15);
  }
  return all;
}

export interface ContractOptions {
  /** False for an index that knows nothing by design. */
  readonly remembers: boolean;
}

export function hashIndexContract(
  name: string,
  open: () => Promise<HashIndex> | HashIndex,
  { remembers }: ContractOptions,
): void {
  describe(`${name} as a hash index`, () => {
    let index: HashIndex;
    beforeEach(async () => {
      index = await open();
    });
    afterEach(() => index.close());

    const expectKnown = async (names: Uint8Array, locations: Columns) => {
      const count = locations.pbn.length;
      const advice = columns(count);
      advice.pbn.fill(77);
      advice.state.fill(7);
      await index.lookup(names, count, advice);
      expect(advice).toEqual(remembers ? locations : columns(count));
    };

    it('knows nothing at first, and touches no rows but those asked for', async () => {
      const advice = columns(10);
      advice.pbn.fill(77);
      advice.state.fill(7);
      await index.lookup(namesOf(10, 1), 6, advice);
      expect([...advice.pbn]).toEqual([0, 0, 0, 0, 0, 0, 77, 77, 77, 77]);
      expect([...advice.state.subarray(6)]).toEqual([7, 7, 7, 7]);
      expect(index.statistics()).toMatchObject({
        entriesIndexed: 0,
        queriesFound: 0,
        queriesNotFound: 6,
      });
    });

    it('guesses yes for what it knows, and seldom for what it does not, if it guesses at all', async () => {
      if (index.mayHold === undefined) return;
      const names = namesOf(3000, 41);
      await index.update(names, 3000, locationsOf(3000, 42));
      const before = index.statistics();
      const result = new Uint8Array(3001).fill(7);
      index.mayHold(names, 3000, result);
      expect(result.subarray(0, 3000).every((flag) => flag === 1)).toBe(true);
      expect(result[3000]).toBe(7);
      index.mayHold(namesOf(3000, 43), 3000, result);
      expect(result.subarray(0, 3000).filter((flag) => flag === 1).length).toBeLessThan(100);
      expect(index.statistics()).toEqual(before);
    });

    it('takes empty batches', async () => {
      await index.lookup(new Uint8Array(0), 0, columns(0));
      await index.update(new Uint8Array(0), 0, columns(0));
    });

    it('gives back what it was told, any location of the format', async () => {
      const names = namesOf(500, 2);
      const locations = locationsOf(500, 3);
      locations.pbn.set([1, 2 ** 32 - 1, 2 ** 32, 2 ** 36 - 1]);
      locations.state.set([1, 15, 2, 15]);
      await index.update(names, 500, locations);
      await expectKnown(names, locations);
      const { entriesIndexed, updatesNotFound } = index.statistics();
      expect(entriesIndexed).toBe(remembers ? 500 : 0);
      expect(updatesNotFound).toBe(500);
    });

    it('replaces what it knew', async () => {
      const names = namesOf(300, 4);
      await index.update(names, 300, locationsOf(300, 5));
      const newer = locationsOf(300, 6);
      await index.update(names, 300, newer);
      await expectKnown(names, newer);
    });

    it('believes the last of equal names in a batch', async () => {
      const names = namesOf(3, 7);
      names.copyWithin(32, 0, 16);
      const locations = locationsOf(3, 8);
      await index.update(names, 3, locations);
      locations.pbn[0] = locations.pbn[2]!;
      locations.state[0] = locations.state[2]!;
      await expectKnown(names, locations);
    });

    it('forgets a name that is said to lie nowhere', async () => {
      const names = namesOf(4, 9);
      const locations = locationsOf(4, 10);
      await index.update(names, 4, locations);
      locations.pbn[1] = 0;
      locations.state[1] = 0;
      await index.update(names, 4, locations);
      await expectKnown(names, locations);
    });

    it('keeps no hold of the arrays it was given', async () => {
      const names = namesOf(100, 11);
      const locations = locationsOf(100, 12);
      const [sameNames, same] = [namesOf(100, 11), locationsOf(100, 12)];
      await index.update(names, 100, locations);
      names.fill(1);
      locations.pbn.fill(1);
      locations.state.fill(1);
      await expectKnown(sameNames, same);
    });

    it('tells names apart that differ in one of their first bits', async () => {
      const names = new Uint8Array(57 * 16);
      for (let i = 0; i < 57; i++) {
        names.fill(0x5a, i * 16, i * 16 + 16);
        if (i > 0) names[i * 16 + ((i - 1) >> 3)]! ^= 1 << ((i - 1) & 7);
      }
      const locations = locationsOf(57, 13);
      await index.update(names, 57, locations);
      await expectKnown(names, locations);
    });

    it('serves large batches, names shuffled, half of them unknown', async () => {
      const count = 4000;
      const known = namesOf(count, 14);
      const locations = locationsOf(count, 15);
      for (let at = 0; at < count; at += 1000) {
        await index.update(known.subarray(at * 16), 1000, {
          pbn: locations.pbn.subarray(at),
          state: locations.state.subarray(at),
        });
      }
      const mixed = namesOf(2 * count, 16);
      const expected = columns(2 * count);
      for (let i = 0; i < count; i++) {
        const from = (i * 7) % count;
        mixed.set(known.subarray(from * 16, from * 16 + 16), i * 32);
        expected.pbn[2 * i] = locations.pbn[from]!;
        expected.state[2 * i] = locations.state[from]!;
      }
      await expectKnown(mixed, expected);
      const statistics = index.statistics();
      expect(statistics.queriesFound).toBe(remembers ? count : 0);
      expect(statistics.queriesNotFound).toBe(remembers ? count : 2 * count);
      expect(statistics.updatesFound + statistics.updatesNotFound).toBe(count);
    });
  });
}
