/** `uvdo stats`: every statistic of a closed volume, under dm-vdo's names. */
import { openVolume } from '../../src/volume/open.ts';
import type { Statistics } from '../../src/volume/statistics.ts';
import type { Command } from '../cli/args.ts';
import { printJson, printLines } from '../cli/json.ts';

export const command: Command = {
  name: 'stats',
  summary: "show every statistic of a volume under dm-vdo's names; never writes",
  usage: 'FILE',
  example: 'uvdo stats disk.vdo --json | jq .savings',
  options: {},
  arguments: [1, 1],

  async run(args) {
    const volume = await openVolume(args.at(0), { readOnly: true });
    try {
      const statistics = volume.statistics();
      if (args.json) printJson(statistics);
      else printLines(linesOf(statistics, ''));
    } finally {
      await volume.close();
    }
  },
};

/** One line a statistic, groups spelled `group.name`. */
function linesOf(statistics: Statistics | object, prefix: string): string[] {
  return Object.entries(statistics).flatMap(([key, value]) =>
    typeof value === 'object' && value !== null
      ? linesOf(value as object, `${prefix}${key}.`)
      : [`${prefix}${key}: ${typeof value === 'number' ? Number(value.toFixed(3)) : value}`],
  );
}
