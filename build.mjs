// Builds dist/: the WebAssembly kernels with AssemblyScript, then the TypeScript with tsc.
// Run by `npm run build`, and by `npm ci` through the `prepare` script.
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';

const run = (file, ...args) =>
  execFileSync(process.execPath, [file, ...args], { stdio: 'inherit' });

rmSync('dist', { recursive: true, force: true });
mkdirSync('dist', { recursive: true });
for (const config of ['kernels', 'delta']) {
  const path = `src/kernels/wasm/${config}.asconfig.json`;
  run('node_modules/assemblyscript/bin/asc.js', '--config', path);
}
run('node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json');
