/** What the commands that move images have in common: index choice, sources, the report. */
import { BLOCK_SIZE } from '../../src/base/constants.ts';
import { isNbdUri } from '../../src/nbd-client/uri.ts';
import type { OpenOptions } from '../../src/volume/open.ts';
import type { Statistics } from '../../src/volume/statistics.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { importImage } from '../../src/transfer/import-image.ts';
import type { ImageSource } from '../../src/transfer/image-source.ts';
import type { Arguments } from './args.ts';
import { printJson, printLines, remark } from './json.ts';
import { Progress } from './progress.ts';
import { formatSize } from './sizes.ts';

export const INDEX_CHOICES = ['uds', 'level', 'memory', 'off'] as const;

export const INDEX_OPTION = {
  value: 'KIND',
  help:
    'where duplicates are looked up: uds (in the volume; the default where it has room), ' +
    'level (FILE.index), memory (gone afterwards), off',
} as const;

/**
 * The index that was asked for, and what takes the default's place in volumes without room for one. Fails
 * with `InvalidArgument`.
 */
export function indexOptions(
  args: Arguments,
  fallbackIndex: 'memory' | 'level',
): Pick<OpenOptions, 'index' | 'fallbackIndex'> {
  const index = args.choice('index', INDEX_CHOICES);
  return { ...(index === undefined ? {} : { index }), fallbackIndex };
}

/** Where the index lives by default that commands keep between runs: beside the volume, if it has a place. */
export function keptIndex(path: string): 'memory' | 'level' {
  return isNbdUri(path) ? 'memory' : 'level';
}

export interface Placed {
  readonly path: string;
  readonly offset: number;
  readonly bytes: number;
}

export interface Transferred {
  readonly sources: readonly Placed[];
  readonly bytes: number;
  readonly zeroBlocks: number;
  readonly seconds: number;
  /** Of the volume, when all was flushed. */
  readonly statistics: Statistics;
}

/**
 * Imports sources one after another from byte `at`, each on a multiple of 4096, with progress, and
 * flushes.
 */
export async function importAll(
  volume: Volume,
  sources: readonly ImageSource[],
  args: Arguments,
  options: { at: number; isFresh: boolean; label: string },
): Promise<Transferred> {
  const total = sources.reduce((sum, { size }) => sum + (size ?? NaN), 0);
  const progress = new Progress({
    label: options.label,
    total: Number.isNaN(total) ? undefined : total,
    quiet: args.quiet,
  });
  const placed: Placed[] = [];
  let bytes = 0;
  let zeroBlocks = 0;
  let at = options.at;
  try {
    for (const source of sources) {
      const done = bytes;
      const imported = await importImage(volume, source, {
        at,
        isFresh: options.isFresh,
        signal: args.signal,
        onProgress: (now) => progress.update(done + now),
      });
      placed.push({ path: source.path, offset: at, bytes: imported.bytes });
      bytes += imported.bytes;
      zeroBlocks += imported.zeroBlocks;
      at = Math.ceil((at + imported.bytes) / BLOCK_SIZE) * BLOCK_SIZE;
    }
    await volume.flush();
  } finally {
    progress.finish();
  }
  warnOfIndex(volume, args);
  const { seconds } = progress;
  return { sources: placed, bytes, zeroBlocks, seconds, statistics: volume.statistics() };
}

/** Tells what state the volume was found in, where that is worth a line. */
export function tellNotice(volume: Volume, command: string, path: string, args: Arguments): void {
  if (volume.notice !== null && !args.quiet) remark(`uvdo ${command}: ${path}: ${volume.notice}`);
}

/** Tells what is wrong with the volume's index, if anything is: it costs space, never data. */
export function warnOfIndex(volume: Volume, args: Arguments): void {
  if (volume.indexWarning !== null && !args.quiet) remark(`index: ${volume.indexWarning}`);
}

/** Prints what an import did, for people or as JSON. */
export function reportImport(args: Arguments, path: string, transferred: Transferred): void {
  const { statistics, ...done } = transferred;
  const blocks = statistics['blocks'] as Record<string, number>;
  const packer = statistics['packer'] as Record<string, number>;
  const report = {
    path,
    ...done,
    blocks: done.zeroBlocks + blocks['written']!,
    duplicateBlocks: blocks['duplicate']!,
    compressedBlocks: packer['compressedFragmentsWritten']!,
    packedBlocks: packer['compressedBlocksWritten']!,
    storedBlocks: blocks['stored']!,
  };
  if (args.json) {
    printJson(report);
    return;
  }
  const rate = formatSize(Math.round(report.bytes / Math.max(1e-3, report.seconds)));
  const stored = report.storedBlocks * BLOCK_SIZE;
  const ratio = stored === 0 ? '' : ` (${(report.bytes / stored).toFixed(2)} : 1)`;
  printLines([
    ...report.sources.map(
      ({ path: source, offset, bytes }) => `${source}: ${formatSize(bytes)} at byte ${offset}`,
    ),
    `${formatSize(report.bytes)} in ${report.seconds.toFixed(1)} s, ${rate}/s`,
    `${report.blocks} blocks: ${report.zeroBlocks} zero, ${report.duplicateBlocks} duplicate, ` +
      `${report.compressedBlocks} compressed into ${report.packedBlocks}`,
    `stored in ${report.storedBlocks} blocks, ${formatSize(stored)}${ratio}`,
  ]);
}
