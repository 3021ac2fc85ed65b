/** Record names for tests of the index: random ones, and ones that like to meet. */
import type { Random } from '../../../../bench/data.ts';

const EDGES = [0, 1, 0xfffff, 0x20000, 0x1ffff, 0x40000, 77, 78];

/**
 * Writes a name at `at`: every second one into one of three lists, with one of few addresses, and
 * differing from others of those only in its last byte.
 */
export function adversarialName(random: Random, names: Uint8Array, at: number): void {
  for (let b = 0; b < 16; b++) names[at + b] = random.below(256);
  if (random.below(2) === 0) return;
  const list = random.below(3);
  const address =
    random.below(3) === 0 ? random.below(2 ** 20) : EDGES[random.below(EDGES.length)]!;
  names.fill(0, at, at + 15);
  names[at + 5] = (address >>> 16) | (list << 4);
  names[at + 6] = address >>> 8;
  names[at + 7] = address;
  names[at + 15] = random.below(6);
}

/** A batch of at most `rows` different names; some are from `pool`, which gets the new ones. */
export function batchOfNames(
  random: Random,
  pool: Uint8Array[],
  rows: number,
): { names: Uint8Array; count: number } {
  const names = new Uint8Array(rows * 16);
  const seen = new Set<string>();
  let count = 0;
  while (count < rows) {
    const at = count * 16;
    if (pool.length > 0 && random.below(2) === 0) names.set(pool[random.below(pool.length)]!, at);
    else adversarialName(random, names, at);
    const name = names.slice(at, at + 16);
    const hex = Buffer.from(name).toString('hex');
    if (seen.has(hex)) {
      if (random.below(4) === 0) break;
      continue;
    }
    seen.add(hex);
    pool.push(name);
    count++;
  }
  return { names, count };
}
