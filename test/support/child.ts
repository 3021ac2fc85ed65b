/**
 * Child processes for tests that need a second process. Node 20 runs no TypeScript: the script is
 * bundled first with what it imports of this project. Packages stay outside (a `.node` binary
 * cannot be bundled) and are found at run time, since the script lies inside `node_modules`: two
 * folders below the root, as the sources do, so that it also finds the built kernels and worker.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { build } from 'vite';

const MODULES = join(import.meta.dirname, '../../node_modules');

export interface Bundle extends AsyncDisposable {
  /** The script that Node runs; gone when the bundle is disposed of. */
  readonly script: string;
}

/** Bundles TypeScript source, whose imports name files by their absolute paths. */
export async function bundle(source: string): Promise<Bundle> {
  const directory = await mkdtemp(join(MODULES, '.uvdo-child-'));
  const remove = (): Promise<void> => rm(directory, { recursive: true, force: true });
  try {
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
        rolldownOptions: {
          external: (id) => !id.startsWith('.') && !isAbsolute(id),
          output: { entryFileNames: 'child.mjs', codeSplitting: false },
        },
      },
    });
    return { script: join(directory, 'child.mjs'), [Symbol.asyncDispose]: remove };
  } catch (error) {
    await remove();
    throw error;
  }
}

/** Starts a script with its standard output readable. */
export function start(script: string, args: readonly string[]): ChildProcess {
  return spawn(process.execPath, [script, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
}
