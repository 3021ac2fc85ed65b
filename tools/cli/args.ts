/**
 * What a command is, and its arguments once parsed. A command declares its options; help text,
 * parsing and complaints about wrong usage follow from the declaration.
 */
import { parseArgs } from 'node:util';
import { VdoError } from '../../src/base/errors.ts';
import { parseSize } from './sizes.ts';

export interface Option {
  /** Placeholder of its value in the help, e.g. `SIZE`; absent for a flag. */
  readonly value?: string;
  readonly help: string;
}

export interface Command {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  /** Arguments as the help shows them, without program, name and options: `FILE SOURCE…`. */
  readonly usage: string;
  /** One or more complete command lines with a word about each. */
  readonly example: string;
  readonly options: Readonly<Record<string, Option>>;
  /** How many arguments beside options it takes. */
  readonly arguments: readonly [least: number, most: number];
  /** Does it; returns the exit status if that is not 0. */
  run(args: Arguments): Promise<number | void>;
}

/** Options that every command has. */
const COMMON: Readonly<Record<string, Option>> = {
  json: { help: 'print the result as JSON' },
  quiet: { help: 'no progress, no remarks' },
  help: { help: 'this text' },
};

export function wrongUsage(message: string): VdoError {
  return new VdoError('InvalidArgument', message);
}

/** The arguments of one command. Fails with `InvalidArgument` for what the command does not know. */
export class Arguments {
  readonly positionals: readonly string[];
  readonly #values: Readonly<Record<string, string | boolean | undefined>>;
  #abort: AbortController | undefined;

  constructor(command: Command, argv: readonly string[]) {
    const options: Record<string, { type: 'string' | 'boolean'; short?: string }> = {};
    for (const [name, option] of Object.entries({ ...COMMON, ...command.options })) {
      options[name] = { type: option.value === undefined ? 'boolean' : 'string' };
    }
    options['help'] = { type: 'boolean', short: 'h' };
    options['quiet'] = { type: 'boolean', short: 'q' };
    try {
      const parsed = parseArgs({ args: [...argv], options, allowPositionals: true, strict: true });
      this.#values = parsed.values as Record<string, string | boolean | undefined>;
      this.positionals = parsed.positionals;
    } catch (error) {
      const [message] = (error as Error).message.split(/\. To specify|\n/);
      throw wrongUsage(`${message}; see uvdo ${command.name} --help`);
    }
    const [least, most] = command.arguments;
    const count = this.positionals.length;
    if (this.flag('help')) return;
    if (count < least || count > most) {
      const what = count < least ? 'too few arguments' : `too many: '${this.positionals[most]}'`;
      throw wrongUsage(`${what}; usage: uvdo ${command.name} ${command.usage}`);
    }
  }

  /** Argument `index`, which the command's declaration guarantees. */
  at(index: number): string {
    return this.positionals[index]!;
  }

  flag(name: string): boolean {
    return this.#values[name] === true;
  }

  text(name: string): string | undefined {
    const value = this.#values[name];
    return typeof value === 'string' ? value : undefined;
  }

  /** Bytes. */
  size(name: string): number | undefined {
    const text = this.text(name);
    return text === undefined ? undefined : parseSize(text, `--${name}`);
  }

  number(name: string): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value)) {
      throw wrongUsage(`--${name} '${text}': give a number`);
    }
    return value;
  }

  /** One of `choices`. */
  choice<T extends string>(name: string, choices: readonly T[]): T | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const found = choices.find((choice) => choice === text);
    if (found === undefined) throw wrongUsage(`--${name} '${text}': choose ${choices.join(', ')}`);
    return found;
  }

  get json(): boolean {
    return this.flag('json');
  }

  get quiet(): boolean {
    return this.flag('quiet');
  }

  /**
   * Aborted by Ctrl-C or SIGTERM, from the first use on; a second Ctrl-C ends the process at once.
   * A command that never asks for it is ended by the first.
   */
  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      const abort = new AbortController();
      this.#abort = abort;
      const stop = (): void => {
        if (abort.signal.aborted) process.exit(1);
        abort.abort(new VdoError('Closed', 'stopped on request'));
      };
      process.on('SIGINT', stop);
      process.on('SIGTERM', stop);
    }
    return this.#abort.signal;
  }
}

/** The help text of a command. */
export function helpOf(command: Command): string {
  const spelled = Object.entries({ ...command.options, ...COMMON }).map(
    ([name, { value, help }]) =>
      [value === undefined ? `--${name}` : `--${name} ${value}`, help] as const,
  );
  const width = Math.max(...spelled.map(([option]) => option.length));
  const lines = spelled.map(([option, help]) => `  ${option.padEnd(width)}  ${help}`);
  return [
    `uvdo ${command.name} ${command.usage} [options]`,
    `  ${command.summary}`,
    '',
    ...lines,
    '',
    'Example:',
    ...command.example.split('\n').map((line) => `  ${line}`),
    '',
  ].join('\n');
}
