/**
 * Finds the compiled WebAssembly modules, each looked for and compiled once.
 */
import { readFileSync } from 'node:fs';

/** Beside this file when built; in dist/ when this file runs from its TypeScript source. */
const FOLDERS = ['./', '../../dist/src/kernels/'];

const compiled = new Map<string, WebAssembly.Module | null>();

/** The module in `name`.wasm, or null where nothing was built. */
export function wasmModule(name: string): WebAssembly.Module | null {
  let module = compiled.get(name);
  if (module === undefined) {
    const places = FOLDERS.map((folder) => new URL(`${folder}${name}.wasm`, import.meta.url));
    const bytes = places.map(readIfThere).find((found) => found !== null);
    module = bytes === undefined ? null : new WebAssembly.Module(bytes);
    compiled.set(name, module);
  }
  return module;
}

function readIfThere(url: URL): Uint8Array<ArrayBuffer> | null {
  try {
    return new Uint8Array(readFileSync(url));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}
