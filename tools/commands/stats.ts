/** `uvdo stats`: every statistic, under dm-vdo's names: from the server that has it open, or else from the file. */
import { openVolume } from '../../src/volume/open.ts';
import type { Statistics } from '../../src/volume/statistics.ts';
import type { Arguments, Command } from '../cli/args.ts';
import { askControl } from '../cli/control.ts';
import { printJson, printLines } from '../cli/json.ts';
import { tellNotice } from '../cli/transfer.ts';

export const command: Command = {
  name: 'stats',
  summary: "show every statistic of a volume under dm-vdo's names; never writes",
  usage: 'FILE',
  example: 'uvdo stats disk.vdo --json | jq .savings',
  options: {},
  arguments: [1, 1],

  async run(args) {
    const path = args.at(0);
    const statistics =
      ((await askControl(path, 'stats')) as Statistics | undefined) ??
      (await readStatistics(path, args));
    if (args.json) printJson(statistics);
    else printLines(linesOf(statistics, ''));
  },
};

async function readStatistics(path: string, args: Arguments): Promise<Statistics> {
  const volume = await openVolume(path, { readOnly: true });
  try {
    tellNotice(volume, 'stats', path, args);
    if (!volume.asItStands) await volume.scrubbed();
    return volume.statistics();
  } finally {
    await volume.close();
  }
}

/** One line a statistic, groups spelled `group.name`. */
function linesOf(statistics: Statistics | object, prefix: string): string[] {
  return Object.entries(statistics).flatMap(([key, value]) =>
    typeof value === 'object' && value !== null
      ? linesOf(value as object, `${prefix}${key}.`)
      : [`${prefix}${key}: ${typeof value === 'number' ? Number(value.toFixed(3)) : value}`],
  );
}
