/**
 * Mutations of a volume, for fuzzing: fields of labels (with the checksum made right, so that they are
 * believed), tree pages with cycles and cross links, journals with lies, counts, summaries, random
 * flips, blocks in each other's places.
 */
import { crcOf, slabPlace } from '../model/layout.ts';
import { setMapping, slotAt, SLOTS } from '../model/records.ts';
import type { Random } from '../sim/random.ts';
import type { Image, PageRef } from './image.ts';

const BLOCK = 4096;

/** Numbers that are wrong in instructive ways. */
function oddNumber(random: Random, near: number): bigint {
  const odd = [0n, 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 36n, 2n ** 40n, 2n ** 48n - 1n, 2n ** 48n];
  const more = [2n ** 53n - 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];
  const close = [-64, -2, -1, 1, 2, 64].map((step) => BigInt(Math.max(0, near + step)));
  return random.pick([...odd, ...more, ...close, BigInt(random.next())]);
}

function put64(bytes: Buffer, at: number, random: Random): void {
  const near = Number(bytes.readBigUInt64LE(at) & 0xffff_ffff_ffffn);
  bytes.writeBigUInt64LE(BigInt.asUintN(64, oddNumber(random, near)), at);
}

type Mutation = (image: Image, random: Random) => void;

const seal = (block: Buffer, size: number): void => {
  block.writeUInt32LE(crcOf(block.subarray(0, size)), size);
};

const superBlockField: Mutation = (image, random) => {
  const block = image.block(image.layout.superPbn);
  const fields = [
    44, 52, 60, 68, 76, 84, 92, 128, 136, 146, 154, 162, 171, 187, 196, 212, 221, 237,
  ];
  const more = [265, 273, 281, 309, 317, 325, 333, 341, 349, 357, 365, 373, 402, 410, 418, 426];
  put64(block, random.pick([...fields, ...more]), random);
  if (random.chance(0.3)) block[random.pick([40, 144, 145, 170, 381])] = random.below(20);
  seal(block, 434);
};

const superBlockState: Mutation = (image, random) => {
  const block = image.block(image.layout.superPbn);
  block.writeUInt32LE(random.pick([0, 2, 3, 4, 5, 6, 7]), 40);
  seal(block, 434);
};

const geometryField: Mutation = (image, random) => {
  const block = image.block(0);
  if (random.chance(0.5)) put64(block, random.pick([20, 32, 56, 68, 80]), random);
  else block[random.pick([8, 12, 16, 64, 76, 88, 96])] = random.below(256);
  if (random.chance(0.8)) seal(block, 97);
};

/** A block that something may wrongly name. */
function anyPbn(image: Image, random: Random, pages: readonly PageRef[]): number {
  const { layout } = image;
  const slab = slabPlace(layout, random.below(layout.slabCount));
  return random.pick([
    0,
    1,
    layout.superPbn,
    layout.rootOrigin + random.below(60),
    layout.journalOrigin,
    layout.physicalBlocks - 1,
    layout.physicalBlocks,
    2 ** 36 - 1,
    slab.base + random.below(layout.dataBlocks),
    slab.counts,
    slab.journal,
    ...(pages.length > 0 ? [random.pick(pages).pbn, random.pick(pages).pbn] : []),
  ]);
}

const treeEntry: Mutation = (image, random) => {
  const pages = image.pages();
  if (pages.length === 0) return;
  const inner = pages.filter(({ height }) => height > 0);
  const page = random.pick(random.chance(0.6) && inner.length > 0 ? inner : pages);
  const state = random.chance(0.7) ? 1 : random.below(16);
  for (let n = random.pick([1, 1, 3, SLOTS]); n > 0; n--) {
    const slot = random.chance(0.5) ? random.below(4) : random.below(SLOTS);
    const pbn = anyPbn(image, random, pages);
    setMapping(image.block(page.pbn), slotAt(slot), { state, pbn });
  }
};

const treeHeader: Mutation = (image, random) => {
  const pages = image.pages();
  if (pages.length === 0) return;
  const block = image.block(random.pick(pages).pbn);
  block[random.below(36)] = random.below(256);
};

/** Fields of a recovery journal block that this run wrote, or of any. */
const journalHeader: Mutation = (image, random) => {
  const { layout } = image;
  const near = layout.journalStart + random.below(8);
  const slot = random.chance(0.7)
    ? near % layout.journalBlocks
    : random.below(layout.journalBlocks);
  const block = image.block(layout.journalOrigin + slot);
  if (random.chance(0.6)) put64(block, random.pick([0, 8, 16, 35, 43]), random);
  else block[random.pick([24, 32, 33, 34, 51, 52, 512, 513, 514])] = random.below(256);
};

const journalEntry: Mutation = (image, random) => {
  const { layout } = image;
  const pages = image.pages();
  const slot = (layout.journalStart + random.below(6)) % layout.journalBlocks;
  const block = image.block(layout.journalOrigin + slot);
  for (let n = random.between(1, 4); n > 0; n--) {
    const at = 512 + 3 + 16 * random.below(31);
    const pbn = anyPbn(image, random, pages);
    if (random.chance(0.4)) block.writeUInt32LE(pbn % 2 ** 32, at + 2);
    else if (random.chance(0.5)) setMapping(block, at + 6, { state: random.below(16), pbn });
    else block[at + random.below(16)] = random.below(256);
  }
};

const slabJournal: Mutation = (image, random) => {
  const { layout } = image;
  const { journal } = slabPlace(layout, random.below(layout.slabCount));
  const block = image.block(journal + random.below(Math.min(4, layout.slabJournalBlocks)));
  if (random.chance(0.6)) put64(block, random.pick([0, 8, 16]), random);
  else block[random.below(80)] = random.below(256);
};

const referenceBlock: Mutation = (image, random) => {
  const { layout } = image;
  const block = image.block(slabPlace(layout, random.below(layout.slabCount)).counts);
  if (random.chance(0.4)) put64(block, 512 * random.below(8), random);
  else for (let n = 20; n > 0; n--) block[random.below(BLOCK)] = random.below(256);
};

const summary: Mutation = (image, random) => {
  const slab = random.below(image.layout.slabCount);
  image.setSummary(slab, {
    tailOffset: random.below(256),
    hint: random.below(64),
    load: random.chance(0.5),
    dirty: random.chance(0.5),
  });
};

const flips: Mutation = (image, random) => {
  for (let n = random.between(1, 40); n > 0; n--) {
    const at = random.below(image.bytes.length);
    image.bytes[at] = image.bytes[at]! ^ (1 << random.below(8));
  }
};

/** One block of metadata over another, zeros or noise over one. */
const wholeBlock: Mutation = (image, random) => {
  const { layout } = image;
  const pages = image.pages();
  const pick = (): Buffer => {
    for (;;) {
      const pbn = anyPbn(image, random, pages);
      if (pbn < layout.physicalBlocks) return image.block(pbn);
    }
  };
  const target = pick();
  if (random.chance(0.5)) pick().copy(target);
  else if (random.chance(0.5)) target.fill(0);
  else for (let i = 0; i < BLOCK; i += 4) target.writeUInt32LE(random.next(), i);
};

/** By name; the layout of the image is the one from before. */
export const MUTATIONS: Readonly<Record<string, Mutation>> = {
  superBlockField,
  superBlockState,
  geometryField,
  treeEntry,
  treeHeader,
  journalHeader,
  journalEntry,
  slabJournal,
  referenceBlock,
  summary,
  flips,
  wholeBlock,
};
