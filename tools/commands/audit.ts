/** `uvdo audit`: do block map, counts, summary, journals and compressed blocks agree? Never writes. */
import { auditVolume, type AuditReport } from '../../src/inspect/audit.ts';
import type { Finding } from '../../src/inspect/audit-findings.ts';
import { lockStorage, openStorage } from '../../src/nbd-client/open-storage.ts';
import type { Arguments, Command } from '../cli/args.ts';
import { printJson, printLines } from '../cli/json.ts';
import { PhaseProgress } from '../cli/progress.ts';
import { pairs } from '../cli/table.ts';

/** Findings printed for people; `--json` has the rest. */
const SHOWN = 200;

export const command: Command = {
  name: 'audit',
  summary: 'check that block map, reference counts, journals and compressed blocks agree',
  usage: 'FILE',
  example: 'uvdo audit disk.vdo\nuvdo audit disk.vdo --json | jq .errorsByKind',
  options: {
    'as-stored': { help: 'leave journals aside and judge what lies on disk, as vdoaudit does' },
  },
  arguments: [1, 1],

  async run(args) {
    const path = args.at(0);
    const storage = await openStorage(path, { readOnly: true });
    try {
      // What a server changes meanwhile would look like damage.
      await (await lockStorage(path)).release();
      const started = performance.now();
      const report = await audit(args, storage);
      const seconds = (performance.now() - started) / 1000;
      if (args.json) printJson({ path, ...report, omitted: omitted(report), seconds });
      else printLines(summaryOf(report));
      return report.clean && report.needs === null ? 0 : 3;
    } finally {
      await storage.close();
    }
  },
};

async function audit(
  args: Arguments,
  storage: Parameters<typeof auditVolume>[0],
): Promise<AuditReport> {
  const progress = new PhaseProgress(args.quiet);
  let shown = 0;
  const { signal } = args;
  try {
    return await auditVolume(storage, {
      asStored: args.flag('as-stored'),
      signal,
      onFinding: (finding) => {
        if (args.json || shown++ >= SHOWN) return;
        progress.finish();
        printLines([lineOf(finding)]);
      },
      onProgress: (phase, done, total) => progress.update(phase, done, total),
    });
  } finally {
    progress.finish();
  }
}

const omitted = ({ errors, errorCount }: AuditReport): number => errorCount - errors.length;

/** `reference-count  pbn 2100, slab 1: expected 2, found 3` */
function lineOf({ kind, where, expected, found }: Finding): string {
  const place = Object.entries(where).map(([name, value]) => `${name} ${value}`);
  return `${kind}  ${place.join(', ')}: expected ${expected}, found ${found}`;
}

const ADVICE = {
  recovery: 'it was not closed and needs recovery, which a writable start does',
  scrubbing: 'journals of slabs are to be applied, which a writable start does',
  rebuild: 'it is read-only until it is rebuilt',
} as const;

function summaryOf(report: AuditReport): string[] {
  const { errorCount, errorsByKind, needs } = report;
  const kinds = Object.entries(errorsByKind).map(([kind, count]) => `${count} ${kind}`);
  const verdict =
    errorCount > 0
      ? `${errorCount} disagreements: ${kinds.join(', ')}`
      : report.clean
        ? 'everything agrees'
        : 'everything agrees once that is done';
  const unshown = errorCount - SHOWN;
  return [
    ...(unshown > 0 ? [`… ${unshown} more; --json has up to 100000`] : []),
    ...pairs([
      ['state', report.state],
      ['logical blocks used', report.logicalBlocksUsed],
      ['data blocks used', report.dataBlocksUsed],
      ['compressed blocks', report.compressedBlocks],
      ['tree pages', report.blockMapDataBlocks],
      ['slabs', report.slabs],
      ['journal entries to replay', report.recovery?.entries],
      ['tree pages to write', report.recovery?.pages],
      ['slabs to scrub', report.slabsToScrub === 0 ? undefined : report.slabsToScrub],
      ['index', indexOf(report)],
      ['needs', needs === null ? undefined : `${needs}: ${ADVICE[needs]}`],
      ['result', verdict],
    ]),
  ];
}

function indexOf({ index }: AuditReport): string {
  const { state, problem, oldestChapter, newestChapter, openRecords } = index;
  if (state === 'saved') {
    return `saved: chapters ${oldestChapter} … ${newestChapter}, ${openRecords} records in the last`;
  }
  return problem === null ? state : `${state}: ${problem}`;
}
