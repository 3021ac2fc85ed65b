/**
 * Measurements of several hosts as one: their stores are merged record by record.
 *
 * What counts contents is exact, as if one run had read everything: blocks that are stored as they are
 * among them. How fragments are packed depends on the order of blocks, which is not known across hosts.
 * So the fragments of each store and those of the union are packed in the order of names, and the blocks
 * that the stores needed for theirs shrink in the same proportion.
 */
import { VdoError } from '../base/errors.ts';
import { WIDE_PACKER_BINS } from '../volume/open.ts';
import { figuresOf, type Measurement } from './figures.ts';
import { KernelPacker, keyOf } from './kernel-packer.ts';
import type { FinalFigures, KeptState } from './kept-state.ts';
import { mergeRuns, type MergeInput } from './merge.ts';
import { SourceSets } from './source-sets.ts';
import { Walker } from './spilled-contents.ts';
import { MeasureStore } from './store.ts';
import { SIZE_UNIT } from './stored-model.ts';
import { windowSetting } from './window-settings.ts';

export interface MergeOptions {
  /** Index memory in GB to be recommended. Default 0.25. */
  readonly indexMemory?: number;
  readonly sparseIndex?: boolean;
}

interface Member {
  readonly store: MeasureStore;
  readonly state: KeptState;
  /** Sets of sources of this store → sets of all. */
  readonly sets: readonly number[];
  readonly packed: NameOrder;
}

/** Contents packed in the order of names. */
class NameOrder {
  /** Contents that do not shrink. */
  plain = 0;
  fragments = 0;
  readonly packer = new KernelPacker(WIDE_PACKER_BINS);

  /** Word 2 of a record. */
  add(word2: number, key: number): void {
    const units = (word2 >>> 8) & 0xff;
    if (units === 0) {
      this.plain++;
      return;
    }
    this.fragments++;
    // Sizes are kept in units of 16, rounded up.
    this.packer.add(units * SIZE_UNIT - SIZE_UNIT / 2, key);
  }
}

const MAX_MATRIX_SOURCES = 64;

/**
 * The figures of several stores together. Nothing is written. Fails with `InvalidArgument` for folders
 * that are no stores, stores that were made with different options, or are not finished.
 */
export async function mergeMeasurements(
  directories: readonly string[],
  options: MergeOptions = {},
): Promise<Measurement> {
  const startMs = performance.now();
  const stores: MeasureStore[] = [];
  try {
    for (const directory of directories) stores.push(await MeasureStore.open(directory, true));
    return await mergeStores(stores, options, startMs);
  } finally {
    for (const store of stores) await store.close();
  }
}

async function mergeStores(
  stores: readonly MeasureStore[],
  options: MergeOptions,
  startMs: number,
): Promise<Measurement> {
  const states = stores.map(stateOf);
  const [first] = states as [KeptState];
  for (const [i, state] of states.entries()) {
    if (state.compression === first.compression && state.sample === first.sample) continue;
    const message = `${stores[i]!.directory} was made with other options than ${stores[0]!.directory}`;
    throw new VdoError('InvalidArgument', message);
  }
  const sources = states.flatMap((state, i) =>
    state.sources.map((tally) => ({ ...tally, path: `${stores[i]!.directory}: ${tally.path}` })),
  );
  const { members, sets } = membersOf(stores, states, sources.length);
  const union = new NameOrder();
  const walker = new Walker(sets, sources.length);
  await walk(members, sets, walker, union);
  const walked = walker.finish();
  const proportion = (of: (packed: NameOrder) => number): number => {
    const apart = members.reduce((sum, { packed }) => sum + of(packed), 0);
    return apart === 0 ? 0 : of(union) / apart;
  };
  const ofBlocks = proportion(({ packer }) => packer.storedBlocks);
  const ofFragments = proportion(({ fragments }) => fragments);
  const total = (of: (member: Member) => number): number =>
    members.reduce((sum, member) => sum + of(member), 0);
  const plainOf = ({ packed }: Member): number => packed.plain;
  const stored = (of: (final: FinalFigures) => number): number =>
    union.plain + Math.round((total((m) => of(finalOf(m))) - total(plainOf)) * ofBlocks);
  const { indexMemory = 0.25, sparseIndex = false } = options;
  return figuresOf({
    sources,
    topFiles: states.flatMap(({ topFiles }) => topFiles),
    uniqueBlocks: walked.uniqueBlocks,
    compressedBlocks: Math.round(total((m) => finalOf(m).compressedBlocks) * ofFragments),
    packedBlocks: Math.round(total((m) => finalOf(m).packedBlocks) * ofBlocks),
    storedBlocks: first.compression ? stored((final) => final.storedBlocks) : walked.copies,
    kernelStoredBlocks: first.compression
      ? stored((final) => final.kernelStoredBlocks)
      : walked.copies,
    shared: walked.shared,
    references: walked.references,
    windows: [],
    missed: [],
    asked: windowSetting(indexMemory, sparseIndex),
    sparseIndex,
    alignment: null,
    sample: first.sample,
    compression: first.compression,
    errors: total(({ state }) => state.errors),
    seconds: (performance.now() - startMs) / 1000,
    tableBytes: 0,
    windowBytes: 0,
  });
}

/** The stores with their sets of sources told apart from each other's; sets are null for too many. */
function membersOf(
  stores: readonly MeasureStore[],
  states: readonly KeptState[],
  sources: number,
): { members: Member[]; sets: SourceSets | null } {
  const isMatrix = sources <= MAX_MATRIX_SOURCES && states.every((state) => state.sets !== null);
  const sets = isMatrix ? new SourceSets(sources) : null;
  let base = 0;
  const members = stores.map((store, i): Member => {
    const state = states[i]!;
    const first = base;
    base += state.sources.length;
    const inAll = (set: readonly number[]): number =>
      sets?.of(set.map((source) => first + source)) ?? 0;
    return { store, state, sets: (state.sets ?? []).map(inAll), packed: new NameOrder() };
  });
  return { members, sets };
}

const NO_FIGURES: FinalFigures = {
  compressedBlocks: 0,
  packedBlocks: 0,
  storedBlocks: 0,
  kernelStoredBlocks: 0,
};
const finalOf = ({ state }: Member): FinalFigures => state.final ?? NO_FIGURES;

function stateOf({ directory, state }: MeasureStore): KeptState {
  if (state === null) {
    throw new VdoError('InvalidArgument', `nothing was measured into ${directory} yet`);
  }
  const kept = state as KeptState;
  if (kept.position === null && kept.done.every(Boolean)) return kept;
  const message = `the measurement in ${directory} was interrupted: finish it first`;
  throw new VdoError('InvalidArgument', message);
}

/** Looks at every content of all stores once, and packs each store's and the union's. */
function walk(
  members: readonly Member[],
  sets: SourceSets | null,
  walker: Walker,
  union: NameOrder,
): Promise<void> {
  const owners: Member[] = [];
  const inputs: MergeInput[] = [];
  for (const member of members) {
    for (const { run } of member.store.runs) {
      owners.push(member);
      inputs.push({ readSegment: (segment) => member.store.readSegment(run, segment) });
    }
  }
  return mergeRuns(inputs, (merged, words) => {
    const key = keyOf(merged.n0, merged.n1);
    let set = 0;
    for (let i = 0; i < merged.inputs.length; i++) {
      const input = merged.inputs[i]!;
      const owner = owners[input]!;
      const list = words[input]!;
      const place = merged.places[i]!;
      if (sets !== null) set = sets.union(set, owner.sets[list[place + 4]!]!);
      owner.packed.add(list[place + 2]!, key);
    }
    walker.add(merged.times, set);
    union.add(merged.word2, key);
  });
}
