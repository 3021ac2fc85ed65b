/**
 * The files that sources consist of. A source is a file, a block device, `-` for standard input, the
 * NBD URI of an export, or a folder: every plain file below it, in order of name.
 *
 * - Symbolic links are followed where the user names them, never inside a folder; of several hard links
 *   inside folders the first is measured. So no content is counted twice by way of links.
 * - Sockets, pipes and devices inside folders hold no data of the folder: they are passed over.
 * - What cannot be read is reported and passed over.
 */
import fs from 'node:fs';
import { join } from 'node:path';
import { VdoError } from '../base/errors.ts';
import { isNbdUri } from '../nbd-client/uri.ts';
import { wrapError } from '../storage/open-file.ts';

export interface SourceFile {
  /** Index of the source it belongs to. */
  readonly source: number;
  readonly path: string;
  /** Bytes that the file system has allocated; `Infinity` where nobody knows. */
  readonly allocatedBytes: number;
  /** Whether `path` is a folder's file, of which there may be very many. */
  readonly isInFolder: boolean;
}

/** Told of each path that cannot be measured. */
export type ReportProblem = (path: string, error: VdoError) => void;

export interface Survey {
  /** Bytes of each source as far as they are known beforehand; null for streams and URIs. */
  readonly bytes: readonly (number | null)[];
}

/** The files of all sources, source by source. Unreadable ones are reported. */
export function* sourceFiles(
  sources: readonly string[],
  report: ReportProblem,
): Generator<SourceFile> {
  const links = new Set<string>();
  for (const [source, path] of sources.entries()) {
    if (path === '-' || isNbdUri(path)) {
      yield { source, path, allocatedBytes: Infinity, isInFolder: false };
      continue;
    }
    let stats;
    try {
      stats = fs.statSync(path);
    } catch (error) {
      report(path, wrapError('read', path, error));
      continue;
    }
    if (stats.isDirectory()) yield* folderFiles(path, source, links, report);
    else if (stats.isFile() || stats.isBlockDevice()) {
      const allocatedBytes = stats.isFile() ? stats.blocks * 512 : Infinity;
      yield { source, path, allocatedBytes, isInFolder: false };
    } else {
      const message = `${path} is neither a file, a folder nor a block device`;
      report(path, new VdoError('InvalidArgument', message, { path }));
    }
  }
}

function* folderFiles(
  folder: string,
  source: number,
  links: Set<string>,
  report: ReportProblem,
): Generator<SourceFile> {
  let entries;
  try {
    entries = fs.readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    report(folder, wrapError('read', folder, error));
    return;
  }
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const entry of entries) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* folderFiles(path, source, links, report);
    if (!entry.isFile()) continue;
    let stats;
    try {
      stats = fs.lstatSync(path);
    } catch (error) {
      report(path, wrapError('read', path, error));
      continue;
    }
    if (stats.nlink > 1) {
      const link = `${stats.dev}:${stats.ino}`;
      if (links.has(link)) continue;
      links.add(link);
    }
    yield { source, path, allocatedBytes: stats.blocks * 512, isInFolder: true };
  }
}

/** Bytes to come, for progress: a walk that reads no file. Problems are left to the real one. */
export function survey(sources: readonly string[]): Survey {
  const bytes: (number | null)[] = sources.map((path) =>
    path === '-' || isNbdUri(path) ? null : 0,
  );
  for (const { source, path } of sourceFiles(sources, () => undefined)) {
    if (bytes[source] === null) continue;
    const stats = fs.statSync(path, { throwIfNoEntry: false });
    if (stats?.isBlockDevice() === true) bytes[source] = null;
    else bytes[source]! += stats?.size ?? 0;
  }
  return { bytes };
}
