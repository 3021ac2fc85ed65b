/**
 * One command line of `uvdo`: finds the command, parses its arguments, turns errors into one line on
 * standard error and an exit status.
 */
import { readFileSync } from 'node:fs';
import { exitStatusOf, VdoError } from '../../src/base/errors.ts';
import { COMMANDS, RESERVED } from '../commands/registry.ts';
import { Arguments, helpOf, wrongUsage } from './args.ts';

function version(): string {
  for (const path of ['../../package.json', '../../../package.json']) {
    try {
      const text = readFileSync(new URL(path, import.meta.url), 'utf8');
      const manifest = JSON.parse(text) as { name?: string; version?: string };
      if (manifest.name === 'uvdo' && manifest.version !== undefined) return manifest.version;
    } catch {
      // Not here: the built program lies one folder deeper than the source.
    }
  }
  return 'unknown';
}

async function help(): Promise<string> {
  const commands = await Promise.all(
    Object.values(COMMANDS).map(async (load) => (await load()).command),
  );
  const width = Math.max(...commands.map(({ name }) => name.length));
  return [
    `uvdo ${version()}: dm-vdo volumes in user space`,
    '',
    ...commands.map(({ name, summary }) => `  uvdo ${name.padEnd(width)}  ${summary}`),
    '',
    'FILE, SOURCE and DEST may be NBD exports: nbd://HOST[:PORT]/NAME, nbd+unix:///NAME?socket=PATH,',
    'or nbds:// for TLS.',
    'uvdo COMMAND --help shows options and an example.',
    'Exit status: 0 done, 1 failed, 2 wrong usage, 3 the volume needs attention.',
    '',
  ].join('\n');
}

async function dispatch(argv: readonly string[], seen: { file?: string }): Promise<number> {
  const [name = '', ...rest] = argv;
  if (name === '--help' || name === '-h' || name === 'help') {
    process.stdout.write(await help());
    return 0;
  }
  if (name === '--version') {
    process.stdout.write(`${version()}\n`);
    return 0;
  }
  if (name === '') {
    process.stderr.write(await help());
    return 2;
  }
  const load = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (load === undefined) {
    if (RESERVED.includes(name)) throw wrongUsage(`not available in this version`);
    throw wrongUsage('there is no such command; see uvdo --help');
  }
  const { command } = await load();
  const args = new Arguments(command, rest);
  if (args.flag('help')) {
    process.stdout.write(helpOf(command));
    return 0;
  }
  const [file] = args.positionals;
  if (file !== undefined) seen.file = file;
  return (await command.run(args)) ?? 0;
}

/** One line: what, where, what to do. */
function report(error: unknown, name: string | undefined, file: string | undefined): void {
  let where = name === undefined || name.startsWith('-') ? 'uvdo' : `uvdo ${name}`;
  const known = error instanceof VdoError;
  const message = error instanceof Error ? error.message : String(error);
  if (known && exitStatusOf(error) !== 2 && file !== undefined && !message.includes(file)) {
    where += `: ${file}`;
  }
  const line = (known ? message : `internal error: ${message}`).replaceAll('\n', ' ');
  process.stderr.write(`${where}: ${line}\n`);
  if (!known && process.env['UVDO_DEBUG'] !== undefined && error instanceof Error) {
    process.stderr.write(`${error.stack}\n`);
  }
}

/** Runs one command line, arguments without program; returns the exit status. Never throws. */
export async function runCommandLine(argv: readonly string[]): Promise<number> {
  const seen: { file?: string } = {};
  try {
    return await dispatch(argv, seen);
  } catch (error) {
    report(error, argv[0], seen.file);
    return exitStatusOf(error);
  }
}
