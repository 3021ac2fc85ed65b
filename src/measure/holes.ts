/**
 * Where a sparse file holds data. Node has no call that tells; perl, part of every Debian and of most
 * other systems, has: its `sysseek` passes SEEK_DATA and SEEK_HOLE on. Where there is no perl, or the
 * file system does not tell, the file is read whole: holes are zeros.
 */
import { execFile } from 'node:child_process';
import { BLOCK_SIZE, GiB, MiB } from '../base/constants.ts';
import { isSparse } from '../storage/sparse-storage.ts';
import type { Storage } from '../storage/storage.ts';

/** Holes of less than this together are read faster than they are asked for. */
const WORTHWHILE_BYTES = 16 * MiB;
/** Range whose kinds a server is asked for at once. */
const WINDOW_BYTES = GiB;
const TIMEOUT_MS = 30_000;
const MAX_OUTPUT_BYTES = 64 * MiB;

/** SEEK_DATA is 3, SEEK_HOLE 4 on Linux and FreeBSD. A seek beyond the last data fails. */
const SCRIPT = `
  open(my $file, '<', $ARGV[0]) or exit 1;
  my $at = 0;
  while (defined(my $data = sysseek($file, $at, 3))) {
    my $hole = sysseek($file, $data, 4);
    exit 1 unless defined $hole;
    print int($data), ' ', int($hole), "\\n";
    $at = $hole;
  }
  exit($!{ENXIO} ? 0 : 1);
`;

export interface Range {
  readonly start: number;
  readonly end: number;
}

/**
 * The ranges of a file of `size` bytes that may hold data, in whole blocks, in order; null where
 * asking is not worth it or not possible.
 */
export async function dataRanges(
  path: string,
  size: number,
  allocatedBytes: number,
): Promise<readonly Range[] | null> {
  if (size - allocatedBytes < WORTHWHILE_BYTES || process.platform === 'win32') return null;
  const text = await new Promise<string | null>((resolve) => {
    execFile(
      'perl',
      ['-MErrno', '-e', SCRIPT, path],
      { timeout: TIMEOUT_MS, maxBuffer: MAX_OUTPUT_BYTES },
      (error, stdout) => resolve(error === null ? stdout : null),
    );
  });
  return text === null ? null : parse(text, size);
}

/** The same for what a URI names: its server tells, or all of it may be data. */
export async function storageRanges(storage: Storage): Promise<readonly Range[]> {
  const { size } = storage;
  if (!isSparse(storage)) return [{ start: 0, end: size }];
  const lines: string[] = [];
  for (let at = 0; at < size; at += WINDOW_BYTES) {
    const extents = await storage.extents(at, Math.min(WINDOW_BYTES, size - at));
    for (const { offset, length, kind } of extents) {
      if (kind === 'data') lines.push(`${offset} ${offset + length}`);
    }
  }
  return parse(lines.join('\n'), size) ?? [{ start: 0, end: size }];
}

/** The ranges, widened to blocks and joined; null for anything that is not in order. */
function parse(text: string, size: number): Range[] | null {
  const ranges: { start: number; end: number }[] = [];
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const [data = NaN, hole = NaN] = line.split(' ').map(Number);
    if (!Number.isSafeInteger(data) || !Number.isSafeInteger(hole) || hole <= data) return null;
    const start = Math.floor(data / BLOCK_SIZE) * BLOCK_SIZE;
    const end = Math.min(size, Math.ceil(hole / BLOCK_SIZE) * BLOCK_SIZE);
    const last = ranges.at(-1);
    if (last !== undefined && start < last.start) return null;
    if (last !== undefined && start <= last.end) last.end = Math.max(last.end, end);
    else if (start < size) ranges.push({ start, end });
  }
  return ranges;
}
