/** `uvdo rebuild`: brings a read-only volume back, its counts made anew from the block map. */
import { nameOfMapping, type Removal } from '../../src/repair/rebuild-map.ts';
import type { RebuildReport } from '../../src/repair/rebuild.ts';
import { rebuildVolume } from '../../src/volume/rebuild-volume.ts';
import type { Arguments, Command } from '../cli/args.ts';
import { printJson, printLines } from '../cli/json.ts';
import { PhaseProgress } from '../cli/progress.ts';
import { pairs } from '../cli/table.ts';

/** Removals printed for people, and kept for `--json`. */
const SHOWN = 200;
const KEPT = 100_000;

export const command: Command = {
  name: 'rebuild',
  summary: 'bring a read-only volume back: counts are made anew from the block map',
  usage: 'FILE',
  example: 'uvdo rebuild disk.vdo\nuvdo rebuild disk.vdo --json | jq .removed',
  options: { force: { help: 'rebuild a volume that is not read-only, too' } },
  arguments: [1, 1],

  async run(args) {
    const path = args.at(0);
    const removals: Removal[] = [];
    const started = performance.now();
    const report = await rebuild(args, removals);
    const seconds = (performance.now() - started) / 1000;
    if (args.json) printJson({ path, state: 'clean', ...report, removals, seconds });
    else printLines(summaryOf(report));
  },
};

async function rebuild(args: Arguments, removals: Removal[]): Promise<RebuildReport> {
  const progress = new PhaseProgress(args.quiet);
  let shown = 0;
  try {
    return await rebuildVolume(args.at(0), {
      force: args.flag('force'),
      signal: args.signal,
      onRemoval: (removal) => {
        if (removals.length < KEPT) removals.push(removal);
        if (args.json || shown++ >= SHOWN) return;
        progress.finish();
        printLines([lineOf(removal)]);
      },
      onProgress: (phase, done, total) => progress.update(phase, done, total),
    });
  } finally {
    progress.finish();
  }
}

/** `removed: mapping of logical block 12 to block 5000: no data block (page 66, slot 12)` */
function lineOf({ what, why, page, slot, lbn, pbn, state }: Removal): string {
  const named = nameOfMapping(pbn, state);
  if (lbn !== null) {
    return `removed: mapping of logical block ${lbn} to ${named}: ${why} (page ${page}, slot ${slot})`;
  }
  return `removed: ${what} ${pbn}: ${why} (page ${page}, slot ${slot})`;
}

function summaryOf({ journal, ...report }: RebuildReport): string[] {
  const unshown = report.removed - SHOWN;
  const skipped = journal.skippedEntries + journal.skippedBlocks;
  return [
    ...(unshown > 0 ? [`… ${unshown} more; --json has up to ${KEPT}`] : []),
    ...pairs([
      ['state', 'clean'],
      ['journal entries used', journal.entries],
      ['journal entries and blocks passed over', skipped === 0 ? undefined : skipped],
      ['references removed', report.removed],
      ['logical blocks used', report.logicalBlocksUsed],
      ['data blocks used', report.dataBlocksUsed],
      ['tree pages', report.blockMapDataBlocks],
    ]),
  ];
}
