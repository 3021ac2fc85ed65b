/**
 * Child processes for tests that need a second process. Node 20 runs no TypeScript: the script is
 * bundled with what it imports first.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'vite';

/** Bundles TypeScript source into `directory`. Returns the script that Node runs. */
export async function bundle(directory: string, source: string): Promise<string> {
  const entry = join(directory, 'child.ts');
  await writeFile(entry, source);
  await build({
    configFile: false,
    root: directory,
    logLevel: 'error',
    build: {
      ssr: entry,
      outDir: directory,
      emptyOutDir: false,
      rolldownOptions: { output: { entryFileNames: 'child.mjs' } },
    },
  });
  return join(directory, 'child.mjs');
}

/** Starts a script with its standard output readable. */
export function start(script: string, args: readonly string[]): ChildProcess {
  return spawn(process.execPath, [script, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
}
