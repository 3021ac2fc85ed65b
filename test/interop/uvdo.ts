/**
 * uvdo as its users run it: the built command line, the built library. `UVDO_DIST` names another
 * build than `dist/`.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { run, type CommandResult } from './harness.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
export const DIST = process.env['UVDO_DIST'] ?? join(REPOSITORY, 'dist');
const COMMAND = join(DIST, 'tools', 'vdo.js');
const START_MS = 20_000;

/** `true`, or why uvdo itself cannot run. */
export function built(): true | string {
  return existsSync(COMMAND) ? true : 'not built: npm run build';
}

/** Runs `uvdo ARGUMENTS…`; fails unless it ends with `status`. */
export async function uvdo(args: readonly string[], status = 0): Promise<CommandResult> {
  const result = await run(process.execPath, [COMMAND, ...args], { timeoutSeconds: 600 });
  if (result.status !== status) {
    const text = `${result.stdout}\n${result.stderr}`;
    throw new Error(`uvdo ${args.join(' ')}: exit status ${result.status}, not ${status}\n${text}`);
  }
  return result;
}

type Library = typeof import('../../src/index.ts');

/** The library as an importer of the package gets it. */
export async function library(): Promise<Library> {
  return (await import(pathToFileURL(join(DIST, 'src', 'index.js')).href)) as Library;
}

export interface Server {
  readonly uri: string;
  readonly socket: string;
  readonly pid: number;
  /** SIGTERM, and the exit status. */
  stop(): Promise<number | null>;
  /** SIGKILL. */
  kill(): Promise<void>;
}

/**
 * Starts `uvdo serve` on a Unix socket in `folder` (or with `--port` among the options, there), and
 * waits until it listens. One volume is the
 * export `disk`, several have their files' names.
 */
export async function serve(
  paths: string | readonly string[],
  folder: string,
  options: readonly string[] = [],
  socket = join(folder, `socket-${Date.now() % 1e6}`),
): Promise<Server> {
  // What a killed server left says nothing.
  rmSync(socket, { force: true });
  const files = typeof paths === 'string' ? [paths, '--export', 'disk'] : paths;
  const address = options.includes('--port') ? [] : ['--socket', socket];
  const child = spawn(
    process.execPath,
    [COMMAND, 'serve', ...files, ...address, ...options, '--json'],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let [said, complaints] = ['', ''];
  child.stdout.on('data', (text: Buffer) => (said += text.toString()));
  child.stderr.on('data', (text: Buffer) => (complaints += text.toString()));
  const ended = endOf(child);
  for (const end = Date.now() + START_MS; !said.endsWith('}\n');) {
    if (child.exitCode !== null || Date.now() > end) {
      child.kill('SIGKILL');
      throw new Error(`uvdo serve did not start: ${complaints}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const { exports } = JSON.parse(said) as { exports: { uri: string }[] };
  return {
    uri: exports[0]!.uri,
    socket,
    pid: child.pid!,
    stop: () => {
      child.kill('SIGTERM');
      return ended;
    },
    kill: async () => {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

export function endOf(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => child.once('exit', (status) => resolve(status)));
}
