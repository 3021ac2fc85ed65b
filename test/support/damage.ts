/**
 * Damage of every kind, forged at random places of a clean volume: what an audit must find. Each kind
 * says how dm-vdo's own `vdoaudit` judges it.
 */
import { slabOf, slabPlace } from '../model/layout.ts';
import { getMapping, setMapping, slotAt, SLOTS, type Mapping } from '../model/records.ts';
import type { Random } from '../sim/random.ts';
import type { Image, PageRef } from './image.ts';

export interface Damage {
  /** Forges it; false where this volume offers no place for it. */
  readonly forge: (image: Image, random: Random) => boolean;
  /** Kinds of findings of which there must be one; none: the volume must still audit clean. */
  readonly kinds: readonly string[];
  /** What `vdoaudit` says: `unseen` where it does not look, or tells and ends with 0. */
  readonly vdoaudit: 'clean' | 'wrong' | 'unseen';
}

interface Entry {
  readonly page: PageRef;
  readonly slot: number;
  readonly mapping: Mapping;
}

function entriesAt(image: Image, height: 'leaf' | 'interior'): Entry[] {
  return image
    .pages()
    .filter((page) => (page.height === 0) === (height === 'leaf'))
    .flatMap((page) => image.entries(page.pbn).map((entry) => ({ page, ...entry })));
}

const setEntry = (image: Image, { page, slot }: Entry, mapping: Mapping): void =>
  setMapping(image.block(page.pbn), slotAt(slot), mapping);

/** Picks an entry that fits and changes it. */
function remap(
  height: 'leaf' | 'interior',
  fits: (entry: Entry) => boolean,
  change: (entry: Entry, image: Image, random: Random) => Mapping,
) {
  return (image: Image, random: Random): boolean => {
    const entries = entriesAt(image, height).filter(fits);
    if (entries.length === 0) return false;
    const entry = random.pick(entries);
    setEntry(image, entry, change(entry, image, random));
    return true;
  };
}

/** Data blocks whose stored count `fits`. */
function pickBlock(image: Image, random: Random, fits: (count: number) => boolean): number {
  const { layout } = image;
  for (let tries = 0; tries < 5000; tries++) {
    const slab = random.below(layout.slabCount);
    if (!image.summary(slab).load) continue;
    const pbn = slabPlace(layout, slab).base + random.below(layout.dataBlocks);
    if (fits(image.count(pbn))) return pbn;
  }
  return -1;
}

function recount(fits: (count: number) => boolean, change: (count: number) => number) {
  return (image: Image, random: Random): boolean => {
    const pbn = pickBlock(image, random, fits);
    if (pbn < 0) return false;
    image.setCount(pbn, change(image.count(pbn)));
    return true;
  };
}

function usedSlab(image: Image, random: Random): number {
  const used = Array.from({ length: image.layout.slabCount }, (_, slab) => slab).filter(
    (slab) => image.summary(slab).load,
  );
  return used.length === 0 ? -1 : random.pick(used);
}

function onPage(height: 'leaf' | 'interior', change: (block: Buffer, page: PageRef) => void) {
  return (image: Image, random: Random): boolean => {
    const pages = image
      .pages()
      .filter((page) => (page.height === 0) === (height === 'leaf') && page.height < 4)
      .filter(({ pbn }) => image.entries(pbn).length > 0);
    if (pages.length === 0) return false;
    const page = random.pick(pages);
    change(image.block(page.pbn), page);
    return true;
  };
}

const isData = ({ mapping }: Entry): boolean => mapping.state === 1 && mapping.pbn !== 0;
const isUsed = (count: number): boolean => count > 0 && count < 200;

/** By name. */
export const DAMAGE: Readonly<Record<string, Damage>> = {
  'a count too high': {
    forge: recount(isUsed, (count) => count + 1),
    kinds: ['reference-count'],
    vdoaudit: 'wrong',
  },
  'a count too low': {
    forge: recount(isUsed, (count) => count - 1),
    kinds: ['reference-count'],
    vdoaudit: 'wrong',
  },
  'a free block with a count': {
    forge: recount(
      (count) => count === 0,
      () => 3,
    ),
    kinds: ['reference-count'],
    vdoaudit: 'wrong',
  },
  'a free block counted provisionally': {
    forge: recount(
      (count) => count === 0,
      () => 255,
    ),
    kinds: [],
    vdoaudit: 'clean',
  },
  'a used block counted provisionally': {
    forge: recount(isUsed, () => 255),
    kinds: ['reference-count'],
    vdoaudit: 'wrong',
  },
  'a tree page with a count of its own': {
    forge: recount(
      (count) => count === 254,
      () => 7,
    ),
    kinds: ['reference-count'],
    vdoaudit: 'wrong',
  },
  'a tree page counted once': {
    forge: (image, random) => {
      const pages = image.pages().filter(({ height }) => height < 4);
      if (pages.length === 0) return false;
      image.setCount(random.pick(pages).pbn, 1);
      return true;
    },
    kinds: [],
    vdoaudit: 'clean',
  },
  'a mapping to another block': {
    forge: remap('leaf', isData, ({ mapping }, image, random) => {
      const pbn = pickBlock(image, random, (count) => count > 0 && count < 100);
      return { state: 1, pbn: pbn === mapping.pbn || pbn < 0 ? mapping.pbn + 1 : pbn };
    }),
    kinds: ['reference-count', 'compressed-block', 'mapping'],
    vdoaudit: 'wrong',
  },
  'a mapping lost': {
    forge: remap(
      'leaf',
      () => true,
      () => ({ state: 0, pbn: 0 }),
    ),
    kinds: ['counter'],
    vdoaudit: 'wrong',
  },
  'a mapping too many': {
    forge: (image, random) => {
      const leaves = image.pages().filter(({ height }) => height === 0);
      if (leaves.length === 0) return false;
      const block = image.block(random.pick(leaves).pbn);
      const free = Array.from({ length: SLOTS }, (_, slot) => slot).filter(
        (slot) => getMapping(block, slotAt(slot)).state === 0,
      );
      const pbn = pickBlock(image, random, isUsed);
      if (free.length === 0 || pbn < 0) return false;
      setMapping(block, slotAt(free[0]!), { state: 1, pbn });
      return true;
    },
    kinds: ['counter'],
    vdoaudit: 'wrong',
  },
  'a mapping to a reference block': {
    forge: remap('leaf', isData, (_entry, image) => ({
      state: 1,
      pbn: slabPlace(image.layout, 0).counts,
    })),
    kinds: ['mapping'],
    vdoaudit: 'wrong',
  },
  'a mapping outside of the volume': {
    forge: remap('leaf', isData, () => ({ state: 1, pbn: 2 ** 35 })),
    kinds: ['mapping'],
    vdoaudit: 'wrong',
  },
  'a mapping to a tree page': {
    forge: remap('leaf', isData, ({ page }) => ({ state: 1, pbn: page.pbn })),
    kinds: ['mapping'],
    vdoaudit: 'wrong',
  },
  'an unmapped entry with a block': {
    forge: remap('leaf', isData, ({ mapping }) => ({ state: 0, pbn: mapping.pbn })),
    kinds: ['mapping'],
    vdoaudit: 'wrong',
  },
  'a compressed entry without a block': {
    forge: remap('leaf', isData, () => ({ state: 9, pbn: 0 })),
    kinds: ['mapping'],
    vdoaudit: 'wrong',
  },
  'a plain block mapped as compressed': {
    forge: remap('leaf', isData, ({ mapping }) => ({ state: 4, pbn: mapping.pbn })),
    kinds: ['compressed-block'],
    vdoaudit: 'unseen',
  },
  'a leaf of another volume': {
    forge: onPage('leaf', (block) => (block[9] = block[9]! ^ 0x40)),
    kinds: ['counter'],
    vdoaudit: 'wrong',
  },
  'a leaf that says it is another': {
    forge: onPage('leaf', (block) => (block[16] = block[16]! ^ 1)),
    kinds: ['tree-page'],
    vdoaudit: 'wrong',
  },
  'an interior page that says it is another': {
    forge: onPage('interior', (block) => (block[16] = block[16]! ^ 1)),
    kinds: ['tree-page'],
    vdoaudit: 'wrong',
  },
  'a lost tree page': {
    forge: remap(
      'interior',
      () => true,
      () => ({ state: 0, pbn: 0 }),
    ),
    kinds: ['counter'],
    vdoaudit: 'wrong',
  },
  'a tree page named twice': {
    forge: (image, random) => {
      const entries = entriesAt(image, 'interior').filter(({ page }) => page.height === 1);
      const [first, second] = [random.pick(entries), random.pick(entries)];
      if (first === undefined || second === undefined || first === second) return false;
      setEntry(image, first, second.mapping);
      return true;
    },
    kinds: ['tree-entry'],
    vdoaudit: 'wrong',
  },
  'a tree page that names itself': {
    forge: remap(
      'interior',
      ({ page }) => page.height < 4,
      ({ page }) => ({
        state: 1,
        pbn: page.pbn,
      }),
    ),
    kinds: ['tree-entry'],
    vdoaudit: 'wrong',
  },
  'a tree page mapped as compressed': {
    forge: remap(
      'interior',
      () => true,
      ({ mapping }) => ({ state: 3, pbn: mapping.pbn }),
    ),
    kinds: ['tree-entry'],
    vdoaudit: 'unseen',
  },
  'a tree page in a slab journal': {
    forge: remap(
      'interior',
      () => true,
      (_entry, image) => ({
        state: 1,
        pbn: slabPlace(image.layout, 0).journal + 1,
      }),
    ),
    kinds: ['tree-entry'],
    vdoaudit: 'wrong',
  },
  'a fullness hint far off': {
    forge: (image, random) => {
      const slab = usedSlab(image, random);
      if (slab < 0) return false;
      const { hint } = image.summary(slab);
      image.setSummary(slab, { hint: hint > 30 ? hint - 9 : hint + 9 });
      return true;
    },
    kinds: ['slab-summary'],
    vdoaudit: 'wrong',
  },
  'a fullness hint far off, of a slab that will be scrubbed': {
    forge: (image, random) => {
      const slab = usedSlab(image, random);
      if (slab < 0) return false;
      const { hint } = image.summary(slab);
      image.setSummary(slab, { hint: hint > 30 ? hint - 9 : hint + 9, dirty: true });
      return true;
    },
    kinds: ['slab-summary'],
    vdoaudit: 'wrong',
  },
  'counts that are not to be loaded': {
    forge: (image, random) => {
      const slab = usedSlab(image, random);
      const { base } = slab < 0 ? { base: 0 } : slabPlace(image.layout, slab);
      const used = Array.from({ length: image.layout.dataBlocks }, (_, i) => base + i);
      if (slab < 0 || !used.some((pbn) => image.count(pbn) > 0)) return false;
      image.setSummary(slab, { load: false });
      return true;
    },
    kinds: ['reference-count'],
    vdoaudit: 'wrong',
  },
  'a wrong number of logical blocks used': {
    forge: (image) => {
      image.changeSuperBlock({ logicalBlocksUsed: image.layout.logicalBlocksUsed + 1 });
      return true;
    },
    kinds: ['counter'],
    vdoaudit: 'wrong',
  },
  'a wrong number of tree pages': {
    forge: (image) => {
      image.changeSuperBlock({ treePages: image.layout.treePages + 1 });
      return true;
    },
    kinds: ['counter'],
    vdoaudit: 'unseen',
  },
  'a torn reference block': {
    forge: (image, random) => {
      const slab = usedSlab(image, random);
      if (slab < 0) return false;
      const block = image.block(slabPlace(image.layout, slab).counts);
      block[512] = block[512]! ^ 1;
      return true;
    },
    kinds: ['reference-block'],
    vdoaudit: 'unseen',
  },
  'a slab journal that ends elsewhere': {
    forge: (image, random) => {
      const slab = usedSlab(image, random);
      if (slab < 0) return false;
      const { tailOffset } = image.summary(slab);
      if (tailOffset === 0) return false;
      image.setSummary(slab, { tailOffset: (tailOffset + 1) % image.layout.slabJournalBlocks });
      return true;
    },
    kinds: ['slab-journal'],
    vdoaudit: 'unseen',
  },
  'a compressed block overwritten': {
    forge: (image, random) => {
      const entries = entriesAt(image, 'leaf').filter(({ mapping }) => mapping.state >= 2);
      if (entries.length === 0) return false;
      image.block(random.pick(entries).mapping.pbn).fill(0xee);
      return true;
    },
    kinds: ['compressed-block'],
    vdoaudit: 'unseen',
  },
  'a journal that goes on where it has been': {
    forge: (image) => {
      if (image.layout.journalStart < 3) return false;
      image.changeSuperBlock({ journalStart: image.layout.journalStart - 1 });
      return true;
    },
    kinds: ['recovery-journal'],
    vdoaudit: 'unseen',
  },
};

/** Whether a block is a data block of some slab. */
export function isDataBlock(image: Image, pbn: number): boolean {
  return slabOf(image.layout, pbn) !== undefined;
}
