/**
 * `npm run bench`: measures the parts and the whole engine and prints one table.
 *
 *     npm run bench -- [--quick] [--kernels | --engine] [--size MIB] [--dir DIRECTORY] [--write]
 *     npm run bench -- --volume-index
 *     npm run bench -- --uds-index [--chapters N]
 *     npm run bench -- --profile [--check | --keep] [--size MIB]
 *     npm run bench -- --compare [--records N]
 *
 * `--write` puts the table, commit and machine into docs/PERFORMANCE.md; `--quick` is a smoke test.
 * `--profile` shows where the time goes, by phase, and checks or keeps the budget (profile.ts).
 * `--volume-index` fills the volume index of 0.25 GB, which takes a minute or two; `--uds-index` the whole index in a
 * file, half full (1024 chapters: full), with save, load and rebuild: two minutes, five when full; `--compare`
 * runs all indexes on one stream of names (10 million), which takes minutes. All three only print.
 */
import { parseArgs } from 'node:util';
import { MiB } from '../src/base/constants.ts';
import { compareIndexes } from './compare-indexes.ts';
import { engineRows, runsToProfile, WARM_UP_MIB, type EngineOptions } from './engine.ts';
import { kernelRows, type KernelOptions } from './kernels.ts';
import {
  budgetOf,
  keepBudget,
  overBudget,
  PROFILE_BYTES,
  profileRuns,
  profileTable,
  readBudget,
  unitMicroseconds,
} from './profile.ts';
import { udsIndexTable } from './uds-index.ts';
import { volumeIndexRows } from './volume-index.ts';
import { machine, tableOf, writeBetweenMarks, type Row } from './table.ts';

/** MiB of a run that is measured. */
const FULL_MIB = 2048;
const USAGE =
  'npm run bench -- [--quick] [--kernels | --engine | --volume-index | --uds-index | --compare] [--size MIB] [--dir DIR] [--write]';

function parse() {
  try {
    const { values } = parseArgs({
      options: {
        quick: { type: 'boolean', default: false },
        kernels: { type: 'boolean', default: false },
        engine: { type: 'boolean', default: false },
        profile: { type: 'boolean', default: false },
        check: { type: 'boolean', default: false },
        keep: { type: 'boolean', default: false },
        'volume-index': { type: 'boolean', default: false },
        'uds-index': { type: 'boolean', default: false },
        chapters: { type: 'string', default: '512' },
        compare: { type: 'boolean', default: false },
        records: { type: 'string', default: '10000000' },
        size: { type: 'string' },
        dir: { type: 'string' },
        write: { type: 'boolean', default: false },
      },
    });
    const usual = values.profile ? PROFILE_BYTES / MiB : FULL_MIB;
    const size = Number(values.size ?? (values.quick ? 8 : usual));
    if (!Number.isInteger(size) || size < 1) throw new Error('--size takes whole MiB');
    return { ...values, size };
  } catch (error) {
    console.error(`${(error as Error).message}\n${USAGE}`);
    process.exit(2);
  }
}

const options = parse();
const kernelOptions: KernelOptions = options.quick
  ? { milliseconds: 5, records: 10_000 }
  : { milliseconds: 400, records: 1_000_000 };
const engineOptions: EngineOptions = {
  bytes: options.size * MiB,
  operations: options.quick ? 200 : 20_000,
  ...(options.dir === undefined ? {} : { directory: options.dir }),
};

if (options.compare) {
  console.log([machine(), '', await compareIndexes(Number(options.records))].join('\n'));
  process.exit();
}
if (options['uds-index']) {
  console.log([machine(), '', await udsIndexTable(Number(options.chapters))].join('\n'));
  process.exit();
}
if (options['volume-index']) {
  const marks = options.quick ? [1] : [64, 256, 512, 1024, 1100];
  console.log([machine(), '', tableOf(await volumeIndexRows(marks))].join('\n'));
  process.exit();
}
if (options.profile) {
  const unit = unitMicroseconds();
  const results = await profileRuns(runsToProfile(engineOptions));
  const text = [machine(), `One unit of work: ${unit.toFixed(1)} µs.`, '', profileTable(results)];
  console.log(text.join('\n'));
  if (options.write) writeBetweenMarks('docs/PERFORMANCE.md', text.join('\n'), 'profile');
  const measured = budgetOf(results, unit);
  if (options.keep) keepBudget(measured);
  const over = options.check ? overBudget(readBudget(), measured) : [];
  for (const line of over) console.error(`over budget: ${line}`);
  process.exit(over.length === 0 ? 0 : 1);
}
const rows: Row[] = [];
if (!options.engine) rows.push(...(await kernelRows(kernelOptions)));
if (!options.kernels) rows.push(...(await engineRows(engineOptions)));
const text = [
  machine(),
  `Runs of ${options.size} MiB, each with one final flush, after ${Math.min(options.size, WARM_UP_MIB)} MiB of the same that do not count.`,
  'What unique blocks fill of the file is in the page cache. CPU is that of the whole process, for each 4 KiB or, where',
  'there are no MB/s, each operation.',
  '',
  tableOf(rows),
].join('\n');
console.log(text);
if (options.write) writeBetweenMarks('docs/PERFORMANCE.md', text);
