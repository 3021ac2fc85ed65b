/**
 * A progress bar with rate and time left, on standard error. Silent where that is no terminal, and
 * with `--quiet`.
 */
import { BLOCK_SIZE } from '../../src/base/constants.ts';
import { formatDuration, formatSize } from './sizes.ts';

const BAR_WIDTH = 24;
const REDRAW_MS = 100;
/** Weight of the newest interval in the rate. */
const SMOOTHING = 0.2;

/** What progress is drawn on: `process.stderr`, or a test's stand-in. */
export interface ProgressStream {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): unknown;
}

export interface ProgressOptions {
  readonly label: string;
  /** Bytes in all; absent when nobody knows. */
  readonly total?: number | undefined;
  readonly quiet?: boolean;
  readonly stream?: ProgressStream;
  /** Milliseconds; for tests. */
  readonly now?: () => number;
}

/** What may come to be known on the way. */
export interface ProgressNews {
  /** Bytes in all. */
  readonly total?: number | undefined;
  /** Shown at the end of the line. */
  readonly remark?: string;
}

export class Progress {
  readonly #label: string;
  #total: number | undefined;
  #remark = '';
  readonly #stream: ProgressStream;
  readonly #now: () => number;
  readonly #shown: boolean;
  readonly #startMs: number;
  #drawnMs = -Infinity;
  #drawnBytes = 0;
  #rate = 0;
  #width = 0;

  constructor(options: ProgressOptions) {
    this.#label = options.label;
    this.#total = options.total;
    this.#stream = options.stream ?? process.stderr;
    this.#now = options.now ?? (() => performance.now());
    this.#shown = this.#stream.isTTY === true && options.quiet !== true;
    this.#startMs = this.#now();
  }

  /** Seconds since it began. */
  get seconds(): number {
    return (this.#now() - this.#startMs) / 1000;
  }

  /** Tells how many bytes are done. Cheap: draws ten times a second at most. */
  update(bytes: number, news: ProgressNews = {}): void {
    if (!this.#shown) return;
    if (news.total !== undefined) this.#total = news.total;
    if (news.remark !== undefined) this.#remark = news.remark;
    const now = this.#now();
    if (now - this.#drawnMs < REDRAW_MS) return;
    const since = Number.isFinite(this.#drawnMs) ? this.#drawnMs : this.#startMs;
    const elapsed = (now - since) / 1000;
    if (elapsed > 0) {
      const rate = (bytes - this.#drawnBytes) / elapsed;
      this.#rate = this.#rate === 0 ? rate : this.#rate + SMOOTHING * (rate - this.#rate);
    }
    this.#drawnMs = now;
    this.#drawnBytes = bytes;
    this.#draw(this.#line(bytes));
  }

  /** Wipes the bar, so that what is printed next stands alone. */
  finish(): void {
    if (this.#width > 0) this.#draw('');
    this.#width = 0;
  }

  #line(bytes: number): string {
    const rate = `${formatSize(Math.round(this.#rate))}/s`;
    if (this.#total === undefined || this.#total === 0) {
      return `${this.#label}  ${formatSize(bytes)}  ${rate}  ${formatDuration(this.seconds)}${this.#remark}`;
    }
    const part = Math.min(1, bytes / this.#total);
    const filled = Math.round(part * BAR_WIDTH);
    const bar = '#'.repeat(filled) + '.'.repeat(BAR_WIDTH - filled);
    const left = this.#rate > 0 ? formatDuration((this.#total - bytes) / this.#rate) : '-:--';
    const percent = `${Math.floor(part * 100)}%`.padStart(4);
    const done = `${formatSize(bytes)} of ${formatSize(this.#total)}`;
    return `${this.#label} ${percent} [${bar}]  ${done}  ${rate}  ${left} left${this.#remark}`;
  }

  #draw(line: string): void {
    const columns = this.#stream.columns ?? 80;
    const text = line.slice(0, Math.max(0, columns - 1));
    this.#stream.write(`\r${text.padEnd(this.#width)}${text === '' ? '\r' : ''}`);
    this.#width = text.length;
  }
}

/** One bar after another: a new one with each phase of a long job, which counts in blocks. */
export class PhaseProgress {
  readonly #quiet: boolean;
  #phase: string | undefined;
  #bar: Progress | undefined;

  constructor(quiet: boolean) {
    this.#quiet = quiet;
  }

  /** `done` of `total` blocks of `phase`. */
  update(phase: string, done: number, total: number): void {
    if (this.#bar === undefined || phase !== this.#phase) {
      this.finish();
      this.#phase = phase;
      this.#bar = new Progress({ label: phase, total: total * BLOCK_SIZE, quiet: this.#quiet });
    }
    this.#bar.update(done * BLOCK_SIZE);
  }

  /** Leaves the bar's line, also so that something else can be printed. */
  finish(): void {
    this.#bar?.finish();
  }
}
