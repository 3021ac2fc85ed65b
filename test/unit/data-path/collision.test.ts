/**
 * Blocks of different content with one and the same name. MurmurHash3 is no cryptographic hash: with
 * a known seed, 16 bytes can be chosen so that the state becomes whatever is wanted. A hostile guest
 * can do that too, so sharing must never follow from a name.
 */
import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE, RECORD_NAME_SEED } from '../../../src/base/constants.ts';
import { joined, noise, squashy, tinyVolume } from '../../support/volumes.ts';
import { closeAndAudit, expectBlock, nameOf, ScriptedIndex, statistic } from './support.ts';

const MASK = 2n ** 64n - 1n;
const C1 = 0x87c37b91114253d5n;
const C2 = 0x4cf5ad432745937fn;
const rotate = (x: bigint, by: bigint): bigint => ((x << by) | (x >> (64n - by))) & MASK;
const times = (x: bigint, y: bigint): bigint => (x * y) & MASK;

/** Inverse of an odd number modulo 2^64. */
function inverse(x: bigint): bigint {
  let y = x;
  for (let i = 0; i < 6; i++) y = times(y, (2n - times(x, y)) & MASK);
  return y;
}

type State = readonly [bigint, bigint];

function step([h1, h2]: State, k1: bigint, k2: bigint): State {
  const m1 = times(rotate(times(k1, C1), 31n), C2);
  const a = (times((rotate(h1 ^ m1, 27n) + h2) & MASK, 5n) + 0x52dce729n) & MASK;
  const m2 = times(rotate(times(k2, C2), 33n), C1);
  return [a, (times((rotate(h2 ^ m2, 31n) + a) & MASK, 5n) + 0x38495ab5n) & MASK];
}

/** The 16 bytes, as two words, that lead from one state to another. */
function bridge([h1, h2]: State, [to1, to2]: State): [bigint, bigint] {
  const fifth = inverse(5n);
  const x1 = (times((to1 - 0x52dce729n) & MASK, fifth) - h2) & MASK;
  const m1 = rotate(x1, 64n - 27n) ^ h1;
  const x2 = (times((to2 - 0x38495ab5n) & MASK, fifth) - to1) & MASK;
  const m2 = rotate(x2, 64n - 31n) ^ h2;
  return [
    times(rotate(times(m1, inverse(C2)), 64n - 31n), inverse(C1)),
    times(rotate(times(m2, inverse(C1)), 64n - 33n), inverse(C2)),
  ];
}

/** A block with the name of `block` and other content; another one for each `seed`. */
function impostor(block: Uint8Array, seed: bigint): Uint8Array {
  const view = new DataView(Uint8Array.from(block).buffer);
  const word = (at: number): bigint => view.getBigUint64(at, true);
  const start: State = [BigInt(RECORD_NAME_SEED), BigInt(RECORD_NAME_SEED)];
  const goal = step(step(start, word(0), word(8)), word(16), word(24));
  const [k1, k2] = bridge(step(start, seed, seed), goal);
  [seed, seed, k1, k2].forEach((value, i) => view.setBigUint64(8 * i, value, true));
  return new Uint8Array(view.buffer);
}

test('an impostor has the name and not the content', () => {
  for (const block of [noise(1), squashy(2)]) {
    const other = impostor(block, 77n);
    expect(nameOf(other)).toBe(nameOf(block));
    expect(Buffer.compare(other, block)).not.toBe(0);
  }
});

describe('equal names, other content', () => {
  test.for([
    ['uncompressed', false, noise],
    ['compressed', true, squashy],
  ] as const)('in one batch, %s', async ([, compression, make]) => {
    const { volume, storage } = await tinyVolume({ compression });
    const blocks = [make(1), impostor(make(1), 5n), make(1), impostor(make(1), 6n), make(1)];
    await volume.write(0, joined(...blocks));
    for (const [lbn, block] of blocks.entries()) await expectBlock(volume, lbn, block);
    await volume.flush();
    for (const [lbn, block] of blocks.entries()) await expectBlock(volume, lbn, block);
    expect(statistic(volume, 'hashLock.concurrentHashCollisions')).toBe(2);
    expect(statistic(volume, 'hashLock.concurrentDataMatches')).toBe(2);
    await closeAndAudit(volume, storage);
  });

  test('with a fragment that waits', async () => {
    const { volume, storage } = await tinyVolume();
    const blocks = [squashy(1), impostor(squashy(1), 5n), squashy(1), impostor(squashy(1), 6n)];
    for (const [lbn, block] of blocks.entries()) {
      await volume.write(lbn * BLOCK_SIZE, block);
      await volume.read(0, 1);
    }
    expect(statistic(volume, 'packer.compressedFragmentsInPacker')).toBeGreaterThanOrEqual(3);
    for (const [lbn, block] of blocks.entries()) await expectBlock(volume, lbn, block);
    await volume.flush();
    for (const [lbn, block] of blocks.entries()) await expectBlock(volume, lbn, block);
    await closeAndAudit(volume, storage);
  });

  test('with a block that is stored: every index answers by name', async () => {
    const { volume, storage } = await tinyVolume({ compression: false });
    const blocks = [noise(1), impostor(noise(1), 5n), noise(1), impostor(noise(1), 6n)];
    for (const [lbn, block] of blocks.entries()) {
      await volume.write(lbn * BLOCK_SIZE, block);
      await volume.flush();
    }
    for (const [lbn, block] of blocks.entries()) await expectBlock(volume, lbn, block);
    expect(statistic(volume, 'hashLock.dedupeAdviceStale')).toBeGreaterThanOrEqual(2);
    await closeAndAudit(volume, storage);
  });

  test('with a slot of a compressed block', async () => {
    const index = new ScriptedIndex();
    const { volume, storage } = await tinyVolume({ index });
    await volume.write(0, joined(squashy(1), squashy(2)));
    await volume.flush();
    const place = index.placeOf(squashy(1))!;
    const other = impostor(squashy(1), 9n);
    index.advise(other, place.pbn, place.state);
    await volume.write(5 * BLOCK_SIZE, other);
    await volume.flush();
    await expectBlock(volume, 5, other);
    await expectBlock(volume, 0, squashy(1));
    await closeAndAudit(volume, storage);
  });
});
