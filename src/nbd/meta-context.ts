/**
 * Metadata contexts: what `BLOCK_STATUS` can tell about a range.
 *
 * - `base:allocation`, which every client knows: 3 (hole, reads as zeros) where nothing is mapped or
 *   zeros are, 0 where there is data. 0 is no promise that an overwrite finds space: on a volume that
 *   deduplicates nobody can give that.
 * - `x-uvdo:mapping`: how a volume holds the blocks (`Mapping`, docs/NBD.md).
 */
import type { DeviceExtent } from '../device/block-device.ts';
import type { StatusRuns } from './messages.ts';
import { Allocation } from './protocol.ts';

interface Context {
  readonly id: number;
  readonly name: string;
  /** The flags of an extent. */
  readonly flagsOf: (extent: DeviceExtent) => number;
}

const CONTEXTS: readonly Context[] = [
  {
    id: 1,
    name: 'base:allocation',
    flagsOf: ({ kind }) => (kind === 'data' ? 0 : Allocation.hole | Allocation.zero),
  },
  { id: 2, name: 'x-uvdo:mapping', flagsOf: ({ mapping = 0 }) => mapping },
];

/** Whether extents with their mapping are needed to tell about these contexts. */
export function wantMapping(ids: readonly number[]): boolean {
  return ids.includes(2);
}

export interface NamedContext {
  readonly id: number;
  readonly name: string;
}

/**
 * The contexts that queries name, in a fixed order. With `list`, a namespace alone (`base:`) names all
 * in it, and no queries name everything; otherwise both select nothing.
 */
export function findContexts(queries: readonly string[], list: boolean): readonly NamedContext[] {
  return CONTEXTS.filter(
    ({ name }) =>
      queries.includes(name) ||
      (list && (queries.length === 0 || queries.includes(name.slice(0, name.indexOf(':') + 1)))),
  );
}

/** One context's answer: neighbours of equal flags joined, `limit` runs at most. */
export function runsOf(id: number, extents: readonly DeviceExtent[], limit: number): StatusRuns {
  const { flagsOf } = CONTEXTS.find((context) => context.id === id)!;
  const lengths: number[] = [];
  const flags: number[] = [];
  for (const extent of extents) {
    const flag = flagsOf(extent);
    const last = lengths.length - 1;
    if (last >= 0 && flags[last] === flag) lengths[last]! += extent.length;
    else if (lengths.length === limit) break;
    else {
      lengths.push(extent.length);
      flags.push(flag);
    }
  }
  return { id, lengths, flags };
}
