/** Whether two closed volumes are the same: every mapping, every reference count, every counter. */
import { openFileStorage } from '../../src/storage/file-storage.ts';
import { auditVolume } from '../model/audit.ts';
import { readLayout, slabPlace, deviceBlock, type VolumeLayout } from '../model/layout.ts';
import { range, readBlocks, runOn } from '../model/steps.ts';

interface Contents {
  readonly errors: readonly string[];
  readonly usage: { logicalBlocksUsed: number; treePages: number; dataBlocksUsed: number };
  readonly layout: VolumeLayout;
  /** Place of each mapped block: 16 × physical block + state. */
  readonly mappings: ReadonlyMap<number, number>;
  /** Counts of each slab, provisional ones as 0. */
  readonly counts: readonly Buffer[];
}

async function contentsOf(path: string): Promise<Contents> {
  const storage = await openFileStorage(path, { readOnly: true });
  try {
    const mappings = new Map<number, number>();
    const { errors, logicalBlocksUsed, treePages, dataBlocksUsed } = await auditVolume(storage, {
      onMapping: (lbn, { pbn, state }) => mappings.set(lbn, 16 * pbn + state),
    });
    const layout = await runOn(readLayout(), storage);
    const counts: Buffer[] = [];
    for (let slab = 0; slab < layout.slabCount; slab++) {
      const start = deviceBlock(layout, slabPlace(layout, slab).counts);
      const blocks = Buffer.concat(
        await runOn(readBlocks(range(start, layout.countBlocks)), storage),
      );
      for (let at = 0; at < blocks.length; at++) {
        // Commit points may differ: who scrubbed last wrote them.
        if (at % 512 < 8 || blocks[at] === 255) blocks[at] = 0;
      }
      counts.push(blocks);
    }
    const usage = { logicalBlocksUsed, treePages, dataBlocksUsed };
    return { errors, usage, layout, mappings, counts };
  } finally {
    await storage.close();
  }
}

/** What differs between two volumes, and what an audit says of either; empty if nothing. Both may be empty. */
export async function differences(ours: string, theirs: string): Promise<string[]> {
  const [a, b] = [await contentsOf(ours), await contentsOf(theirs)];
  const found = [...a.errors.map((e) => `ours: ${e}`), ...b.errors.map((e) => `theirs: ${e}`)];
  for (const key of ['logicalBlocksUsed', 'treePages', 'dataBlocksUsed'] as const) {
    if (a.usage[key] !== b.usage[key]) found.push(`${key}: ${a.usage[key]}, ${b.usage[key]}`);
  }
  for (const key of ['completeRecoveries', 'readOnlyRecoveries', 'journalStart'] as const) {
    const [x, y] = [a.layout, b.layout].map((l) => (l as unknown as Record<string, number>)[key]);
    if (x !== y) found.push(`${key}: ${x}, ${y}`);
  }
  for (const lbn of new Set([...a.mappings.keys(), ...b.mappings.keys()])) {
    const [x, y] = [a.mappings.get(lbn), b.mappings.get(lbn)];
    if (x !== y) found.push(`lbn ${lbn} at ${x}, ${y}`);
  }
  a.counts.forEach((counts, slab) => {
    if (!counts.equals(b.counts[slab] ?? Buffer.alloc(0))) found.push(`counts of slab ${slab}`);
  });
  return found.slice(0, 20);
}
