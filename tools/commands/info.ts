/** `uvdo info`: what a volume is: geometry, sizes, state, index. Never writes. */
import { BLOCK_SIZE } from '../../src/base/constants.ts';
import { VdoError } from '../../src/base/errors.ts';
import { CLEAN, DIRTY, NEW, stateName } from '../../src/format/super-block.ts';
import { lockStorage, openStorage } from '../../src/nbd-client/open-storage.ts';
import { indexGigabytes } from '../../src/index/uds/index-geometry.ts';
import { readLabels, slabsOf, type Labels } from '../../src/volume/labels.ts';
import type { Command } from '../cli/args.ts';
import { hexOf, printJson, printLines, remark, uuidOf } from '../cli/json.ts';
import { formatExactSize, formatSize } from '../cli/sizes.ts';
import { pairs } from '../cli/table.ts';

export const command: Command = {
  name: 'info',
  summary: 'show geometry, sizes, state and index of a volume',
  usage: 'FILE',
  example: 'uvdo info disk.vdo\nuvdo info --json disk.vdo',
  options: {},
  arguments: [1, 1],

  async run(args) {
    const path = args.at(0);
    const storage = await openStorage(path, { readOnly: true });
    let labels: Labels;
    try {
      labels = await readLabels(storage);
    } finally {
      await storage.close();
    }
    const { state } = labels.superBlock;
    const inUse = state === DIRTY && (await isInUse(path));
    const description = { path, ...describe(labels), inUse };
    if (args.json) printJson(description);
    else printLines(textOf(description));
    if (state === CLEAN || state === NEW || inUse) return 0;
    remark(`uvdo info: ${path} is ${stateName(state)}: ${advice(state)}`);
    return 3;
  },
};

/** Whether some process has the volume open: then its state is dirty for good reason. */
async function isInUse(path: string): Promise<boolean> {
  try {
    const lock = await lockStorage(path);
    await lock.release();
    return false;
  } catch (error) {
    return error instanceof VdoError && error.code === 'Busy';
  }
}

function advice(state: number): string {
  const name = stateName(state);
  if (name === 'read-only') return 'it met an error and takes no writes until it is rebuilt';
  if (name === 'force-rebuild') return 'it will be rebuilt when it is next started';
  return 'it was not closed; opening it for writing recovers it, and so does uvdo recover';
}

function describe({ geometry, superBlock }: Labels) {
  return {
    uuid: uuidOf(geometry.uuid),
    nonce: hexOf(geometry.nonce),
    state: stateName(superBlock.state),
    physicalSize: superBlock.physicalBlocks * BLOCK_SIZE,
    logicalSize: superBlock.logicalBlocks * BLOCK_SIZE,
    slabSize: superBlock.slabSize * BLOCK_SIZE,
    slabs: slabsOf(superBlock),
    indexMemory: indexGigabytes(geometry.indexMemory) ?? null,
    sparseIndex: geometry.sparse,
    indexSize: (geometry.dataStart - geometry.indexStart) * BLOCK_SIZE,
    formatVersion: geometry.formatVersion,
    bioOffset: geometry.bioOffset,
    recoveryJournalBlocks: superBlock.recoveryJournalSize,
    slabJournalBlocks: superBlock.slabJournalBlocks,
    physicalZones: superBlock.zoneCount,
    // As of the last clean stop.
    logicalBlocksUsed: superBlock.logicalBlocksUsed,
    blockMapDataBlocks: superBlock.blockMapDataBlocks,
    completeRecoveries: superBlock.completeRecoveries,
    readOnlyRecoveries: superBlock.readOnlyRecoveries,
  };
}

type Description = ReturnType<typeof describe> & { path: string; inUse: boolean };

function textOf(d: Description): string[] {
  const index =
    d.indexMemory === null
      ? 'none'
      : `${d.indexMemory} GB of memory${d.sparseIndex ? ', sparse' : ''}, ${formatSize(d.indexSize)} on disk`;
  return pairs([
    ['volume', d.path],
    ['UUID', d.uuid],
    ['nonce', d.nonce],
    ['state', d.inUse ? `${d.state} (in use)` : d.state],
    ['physical size', formatExactSize(d.physicalSize)],
    ['logical size', formatExactSize(d.logicalSize)],
    ['slabs', `${d.slabs} of ${formatSize(d.slabSize)}`],
    ['index', index],
    ['format version', d.formatVersion],
    ['bio offset', d.bioOffset === 0 ? undefined : d.bioOffset],
    ['recovery journal', `${d.recoveryJournalBlocks} blocks`],
    ['slab journals', `${d.slabJournalBlocks} blocks each`],
    ['physical zones', d.physicalZones === 0 ? 'never started' : d.physicalZones],
    ['logical blocks used', `${d.logicalBlocksUsed} at the last clean stop`],
    ['tree pages', `${d.blockMapDataBlocks} at the last clean stop`],
    ['recoveries', `${d.completeRecoveries} completed, ${d.readOnlyRecoveries} rebuilds`],
  ]);
}
