/**
 * The commands of `uvdo`. A command is a file in this folder and a line here; it is loaded when it is
 * used.
 */
import type { Command } from '../cli/args.ts';

export type Loader = () => Promise<{ readonly command: Command }>;

export const COMMANDS: Readonly<Record<string, Loader>> = {
  format: () => import('./format.ts'),
  info: () => import('./info.ts'),
  dump: () => import('./dump.ts'),
  create: () => import('./create.ts'),
  import: () => import('./import.ts'),
  export: () => import('./export.ts'),
  serve: () => import('./serve.ts'),
  stats: () => import('./stats.ts'),
  audit: () => import('./audit.ts'),
  measure: () => import('./measure.ts'),
  recover: () => import('./recover.ts'),
  rebuild: () => import('./rebuild.ts'),
};

/** Names that later versions give a meaning. */
export const RESERVED: readonly string[] = ['grow'];
