/** `uvdo measure`: what a VDO volume would save of given data. Writes nothing but its report. */
import { VdoError } from '../../src/base/errors.ts';
import { measure, type MeasureOptions } from '../../src/measure/measurement.ts';
import type { Arguments, Command } from '../cli/args.ts';
import { printJson, printLines, remark } from '../cli/json.ts';
import { measurementText } from '../cli/measure.ts';
import { Progress } from '../cli/progress.ts';

export const command: Command = {
  name: 'measure',
  summary: 'tell what a volume would save of files, folders, devices: exact, in one pass',
  usage: 'PATH…',
  example:
    'uvdo measure web.img db.img            each, and what they share\n' +
    'uvdo measure /srv/backup --sample 1/8  an estimate in an eighth of the memory\n' +
    'zcat disk.gz | uvdo measure - --json',
  options: {
    'index-memory': {
      value: 'N',
      help: 'index to look at, in GB: 0.25, 0.5, 0.75, 1 … 1024, or all (the default)',
    },
    'sparse-index': { help: 'look at sparse indexes, and recommend one' },
    'no-compression': { help: 'deduplication only' },
    alignment: { help: 'also look for content that lies shifted by sectors' },
    sample: { value: '1/N', help: 'look at one content in N: an estimate with its interval' },
  },
  arguments: [1, 100_000],

  async run(args) {
    const progress = new Progress({ label: 'measure', quiet: args.quiet });
    let result;
    try {
      result = await measure(args.positionals, {
        ...optionsOf(args),
        signal: args.signal,
        onProblem: (_path, error) => {
          progress.finish();
          remark(`uvdo measure: ${error.message}`);
        },
        onProgress: ({ bytes, totalBytes, blocks, storedBlocks }) => {
          const ratio = storedBlocks === 0 ? '' : `  ${(blocks / storedBlocks).toFixed(2)} : 1`;
          progress.update(bytes, { total: totalBytes ?? undefined, remark: ratio });
        },
      });
    } finally {
      progress.finish();
    }
    if (args.json) printJson(result);
    else printLines(measurementText(result));
    return result.errors > 0 ? 1 : 0;
  },
};

/** The options of a command line, for the library. Fails with `InvalidArgument`. */
function optionsOf(args: Arguments): MeasureOptions {
  const indexMemory = args.text('index-memory') === 'all' ? 'all' : args.number('index-memory');
  return {
    compression: !args.flag('no-compression'),
    sparseIndex: args.flag('sparse-index'),
    alignment: args.flag('alignment'),
    ...(indexMemory === undefined ? {} : { indexMemory }),
    sample: sampleOf(args.text('sample')),
  };
}

function sampleOf(text: string | undefined): number {
  if (text === undefined) return 1;
  const match = /^1\/([1-9]\d*)$/.exec(text);
  if (match === null) {
    throw new VdoError('InvalidArgument', `--sample '${text}': give 1/N, for example 1/16`);
  }
  return Number(match[1]);
}
