/**
 * What a command that runs for long tells about itself: lines on standard error, up to a level. A
 * flood of equal importance is cut: a client that hits a broken device ever again must not fill a disk.
 */
import type { Arguments } from './args.ts';
import { remark } from './json.ts';

export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export const LOG_OPTION = {
  value: 'LEVEL',
  help: `what to tell on standard error: ${LOG_LEVELS.join(', ')}; default info, with --quiet error`,
} as const;

/** Lines of one level that are printed in a second. */
const LINES_PER_SECOND = 20;

export class Log {
  readonly #prefix: string;
  readonly #level: number;
  readonly #counts: number[] = LOG_LEVELS.map(() => 0);
  #secondEndsMs = 0;

  constructor(prefix: string, level: LogLevel) {
    this.#prefix = prefix;
    this.#level = LOG_LEVELS.indexOf(level);
  }

  static of(args: Arguments, prefix: string): Log {
    return new Log(prefix, args.choice('log', LOG_LEVELS) ?? (args.quiet ? 'error' : 'info'));
  }

  print(level: LogLevel, message: string): void {
    const number = LOG_LEVELS.indexOf(level);
    if (number > this.#level) return;
    const nowMs = performance.now();
    if (nowMs > this.#secondEndsMs) {
      this.#secondEndsMs = nowMs + 1000;
      this.#counts.fill(0);
    }
    if (this.#counts[number]!++ < LINES_PER_SECOND) remark(`${this.#prefix}: ${message}`);
  }
}
