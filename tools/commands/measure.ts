/** `uvdo measure`: what a VDO volume would save of given data. Writes nothing but its store and its report. */
import { writeFileSync } from 'node:fs';
import { VdoError } from '../../src/base/errors.ts';
import { measure, type MeasureOptions } from '../../src/measure/measurement.ts';
import type { Measurement } from '../../src/measure/figures.ts';
import { mergeMeasurements, type MergeOptions } from '../../src/measure/fleet.ts';
import { wrongUsage, type Arguments, type Command } from '../cli/args.ts';
import { printJson, printLines, remark } from '../cli/json.ts';
import { wrapError } from '../../src/storage/open-file.ts';
import { measurementText } from '../cli/measure.ts';
import { measurementHtml } from '../cli/measure-html.ts';
import { Progress } from '../cli/progress.ts';

export const command: Command = {
  name: 'measure',
  summary: 'tell what a volume would save of files, folders, devices: exact, in one pass',
  usage: 'PATH…',
  example:
    'uvdo measure web.img db.img            each, and what they share\n' +
    'uvdo measure /srv/backup --sample 1/8  an estimate in an eighth of the memory\n' +
    'zcat disk.gz | uvdo measure - --json\n' +
    'uvdo measure /data --store /var/m      goes on where it was interrupted, can be extended\n' +
    'uvdo measure --merge hostA hostB       stores of several hosts together',
  options: {
    'index-memory': {
      value: 'N',
      help: 'index to look at, in GB: 0.25, 0.5, 0.75, 1 … 1024, or all (the default)',
    },
    'sparse-index': { help: 'look at sparse indexes, and recommend one' },
    'no-compression': { help: 'deduplication only' },
    alignment: { help: 'also look for content that lies shifted by sectors' },
    store: { value: 'DIR', help: 'keep what is measured: resume, extend, merge' },
    memory: { value: 'SIZE', help: 'with --store: memory for contents, the rest goes to disk' },
    merge: { help: 'the PATHs are stores: their figures together' },
    html: {
      value: 'FILE',
      help: 'also write a report for the browser: one file, nothing from elsewhere',
    },
    sample: { value: '1/N', help: 'look at one content in N: an estimate with its interval' },
  },
  arguments: [1, 100_000],

  async run(args) {
    const result = args.flag('merge')
      ? await mergeMeasurements(args.positionals, mergeOptionsOf(args))
      : await measureWithProgress(args);
    const html = args.text('html');
    if (html !== undefined) writeReport(html, result, args);
    if (args.json) printJson(result);
    else printLines(measurementText(result));
    return result.errors > 0 ? 1 : 0;
  },
};

function writeReport(path: string, result: Measurement, args: Arguments): void {
  const title =
    args.positionals.length > 3
      ? `${args.positionals.length} sources`
      : args.positionals.join(', ');
  try {
    writeFileSync(path, measurementHtml(result, title, new Date()));
  } catch (error) {
    throw wrapError('write', path, error);
  }
}

async function measureWithProgress(args: Arguments): Promise<Measurement> {
  const progress = new Progress({ label: 'measure', quiet: args.quiet });
  const options = optionsOf(args);
  try {
    return await measure(args.positionals, {
      ...options,
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
  } catch (error) {
    if (args.signal.aborted && options.store !== undefined) {
      const message = `stopped on request; ${options.store} keeps what was measured: run it again to go on`;
      throw new VdoError('Closed', message, {}, error);
    }
    throw error;
  } finally {
    progress.finish();
  }
}

function mergeOptionsOf(args: Arguments): MergeOptions {
  for (const option of ['alignment', 'no-compression'] as const) {
    if (args.flag(option)) throw wrongUsage(`--merge and --${option} exclude each other`);
  }
  for (const option of ['sample', 'store', 'memory'] as const) {
    if (args.text(option) !== undefined) {
      throw wrongUsage(`--merge and --${option} exclude each other`);
    }
  }
  const indexMemory = args.text('index-memory') === 'all' ? undefined : args.number('index-memory');
  return {
    ...(indexMemory === undefined ? {} : { indexMemory }),
    sparseIndex: args.flag('sparse-index'),
  };
}

/** The options of a command line, for the library. Fails with `InvalidArgument`. */
function optionsOf(args: Arguments): MeasureOptions {
  const indexMemory = args.text('index-memory') === 'all' ? 'all' : args.number('index-memory');
  const store = args.text('store');
  const memory = args.size('memory');
  return {
    compression: !args.flag('no-compression'),
    sparseIndex: args.flag('sparse-index'),
    alignment: args.flag('alignment'),
    ...(indexMemory === undefined ? {} : { indexMemory }),
    ...(store === undefined ? {} : { store }),
    ...(memory === undefined ? {} : { memory }),
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
