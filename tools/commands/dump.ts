/** `uvdo dump`: shows the structures of a volume as they lie on disk. Never writes. */
import { Inspection, recoveryNote } from '../../src/inspect/inspection.ts';
import { openStorage } from '../../src/nbd-client/open-storage.ts';
import { wrongUsage, type Arguments, type Command } from '../cli/args.ts';
import { printJson, printLines, remark } from '../cli/json.ts';
import { DUMPS, type Dump } from './dump-parts.ts';

const PARTS = Object.keys(DUMPS).join('|');

export const command: Command = {
  name: 'dump',
  summary: 'show structures of a volume as they lie on disk',
  usage: `FILE ${PARTS} [N]`,
  example: [
    'uvdo dump disk.vdo super-block',
    'uvdo dump disk.vdo block-map 0-1023       (logical blocks)',
    'uvdo dump disk.vdo slab-journal 3 --entries',
    'uvdo dump disk.vdo block 679189           (a physical block)',
  ].join('\n'),
  options: { entries: { help: 'with journals: all entries, too' } },
  arguments: [2, 3],

  async run(args) {
    const part = args.at(1);
    const dump = Object.hasOwn(DUMPS, part) ? DUMPS[part] : undefined;
    if (dump === undefined) throw wrongUsage(`'${part}': choose one of ${PARTS}`);
    const parameter = checkParameter(args, part, dump);
    const storage = await openStorage(args.at(0), { readOnly: true });
    try {
      const inspection = await Inspection.open(storage);
      return await show(inspection, dump, parameter, args);
    } finally {
      await storage.close();
    }
  },
};

function checkParameter(args: Arguments, part: string, dump: Dump): string {
  const given = args.positionals[2];
  if (dump.parameter === undefined) {
    if (given !== undefined) throw wrongUsage(`${part} takes no '${given}'`);
    return '';
  }
  if (given === undefined) throw wrongUsage(`${part} needs ${dump.parameter}`);
  return given;
}

async function show(
  inspection: Inspection,
  dump: Dump,
  parameter: string,
  args: Arguments,
): Promise<number> {
  const { json, lines } = await dump.run(inspection, parameter, args.flag('entries'));
  const note = dump.derived ? recoveryNote(inspection) : undefined;
  const { problems } = inspection;
  if (args.json) {
    printJson({ ...json, ...(note === undefined ? {} : { note }), problems });
  } else {
    printLines(lines());
    if (note !== undefined && !args.quiet) remark(`note: ${note}`);
    for (const problem of problems) remark(`wrong: ${problem}`);
  }
  return problems.length === 0 ? 0 : 3;
}
