/** Rows of measurements, the table they are printed as, and the machine they were taken on. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, totalmem } from 'node:os';

export interface Row {
  readonly name: string;
  /** Millions of bytes a second; absent where no blocks are moved. */
  readonly megabytesPerSecond?: number;
  /** CPU of the whole process, user and system: for each 4 KiB, or for each operation. */
  readonly cpuMicroseconds: number;
  /** Of one operation as the name says it: a block, a lookup, a write of 1 MiB. */
  readonly p50Microseconds: number;
  readonly p99Microseconds: number;
  readonly remark?: string;
}

const HEADINGS = ['', 'MB/s', 'CPU µs', 'p50 µs', 'p99 µs', ''];

function number(value: number | undefined): string {
  if (value === undefined || Number.isNaN(value)) return '';
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  return value.toFixed(digits);
}

/** A Markdown table, numbers to the right. */
export function tableOf(rows: readonly Row[]): string {
  const cells = rows.map((row) => [
    row.name,
    number(row.megabytesPerSecond),
    number(row.cpuMicroseconds),
    number(row.p50Microseconds),
    number(row.p99Microseconds),
    row.remark ?? '',
  ]);
  const widths = HEADINGS.map((heading, column) =>
    Math.max(3, heading.length, ...cells.map((line) => line[column]!.length)),
  );
  const isText = (column: number): boolean => column === 0 || column === HEADINGS.length - 1;
  const line = (texts: readonly string[]): string =>
    `| ${texts
      .map((text, i) => (isText(i) ? text.padEnd(widths[i]!) : text.padStart(widths[i]!)))
      .join(' | ')} |`;
  const rule = widths.map((width, i) =>
    isText(i) ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`,
  );
  return [line(HEADINGS), line(rule), ...cells.map(line)].join('\n');
}

/** A Markdown table of cells as they are: the first column to the left, the others to the right. */
export function plainTable(
  heads: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string {
  const rule = heads.map((_, i) => (i === 0 ? '---' : '---:'));
  return [heads, rule, ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** The value below which `share` of the sorted values lie. */
export function percentile(sorted: Float64Array, share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
}

export const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN;

/** One line: commit, processor, cores, memory, Node. */
export function machine(): string {
  const memory = Math.round(totalmem() / 2 ** 30);
  const model = cpus()[0]?.model.trim() ?? 'unknown processor';
  const date = new Date().toISOString().slice(0, 10);
  return `Commit ${commit()}, ${date}: ${model}, ${availableParallelism()} cores, ${memory} GiB, Node ${process.versions.node}.`;
}

function commit(): string {
  try {
    const git = (...args: string[]): string =>
      execFileSync('git', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    const changed = git('status', '--porcelain', '--', 'src', 'bench') !== '';
    return git('rev-parse', '--short', 'HEAD') + (changed ? ' with changes' : '');
  } catch {
    return 'unknown';
  }
}

/** What writes the sections of docs/PERFORMANCE.md. */
const SCRIPTS = {
  bench: 'bench --',
  growth: 'bench:growth --',
  kernel: 'bench:kernel --',
  peers: 'bench:peers --',
  profile: 'bench -- --profile',
  recovery: 'bench:recovery --',
  soak: 'bench:soak --',
} as const;

/** Puts `text` between the marks of `name` in `path`, or at its end; begins the file if need be. */
export function writeBetweenMarks(
  path: string,
  text: string,
  name: keyof typeof SCRIPTS = 'bench',
): void {
  const first = `<!-- ${name}: begin, written by \`npm run ${SCRIPTS[name]} --write\` -->`;
  const last = `<!-- ${name}: end -->`;
  const old = existsSync(path) ? readFileSync(path, 'utf8') : '# Performance\n';
  const section = `${first}\n\n${text}\n\n${last}`;
  const begin = old.indexOf(first);
  const end = old.indexOf(last);
  const next =
    begin >= 0 && end > begin
      ? old.slice(0, begin) + section + old.slice(end + last.length)
      : `${old.trimEnd()}\n\n${section}\n`;
  writeFileSync(path, next);
}
