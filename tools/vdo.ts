#!/usr/bin/env node
/** The program `uvdo`. */
import { runCommandLine } from './cli/main.ts';

// Whoever reads our output may stop reading: `uvdo dump … | head`.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});

process.exitCode = await runCommandLine(process.argv.slice(2));
