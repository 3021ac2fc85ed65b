/**
 * Writes the logical image of a volume out: sparse to a file or an NBD export, whole to a device or a
 * stream.
 */
import * as fs from 'node:fs';
import { BLOCK_SIZE, GiB, KiB, MiB } from '../base/constants.ts';
import { isZero } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import type { BlockDevice, ByteRange } from '../device/block-device.ts';
import { openStorage } from '../nbd-client/open-storage.ts';
import { isNbdUri } from '../nbd-client/uri.ts';
import { wrapError } from '../storage/open-file.ts';
import { isSparse, type SparseStorage } from '../storage/sparse-storage.ts';
import type { Extent } from '../storage/storage.ts';

/** Bytes read at once; one step is read while the one before is written. */
const STEP_BYTES = 2 * MiB;
/** Range whose holes are looked up at once. */
const WINDOW_BYTES = GiB;
/** Shorter gaps are read along: zeros are found again behind. */
const SHORT_GAP_BYTES = 256 * KiB;

export interface ExportOptions {
  readonly from: number;
  readonly length: number;
  readonly onProgress?: (bytes: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * Writes the range to the file, block device or (by its NBD URI) export `path`, holes as holes. Durable
 * when it resolves. A device or export may be larger: what lies behind the image is left alone.
 */
export async function exportToFile(
  device: BlockDevice,
  path: string,
  options: ExportOptions,
): Promise<void> {
  const isExport = isNbdUri(path);
  const isDevice = !isExport && fs.existsSync(path) && fs.statSync(path).isBlockDevice();
  try {
    if (!isDevice && !isExport) fs.writeFileSync(path, '');
  } catch (error) {
    throw wrapError('write', path, error);
  }
  const storage = await openStorage(path, { create: true, size: options.length });
  try {
    if (storage.size < options.length) {
      const message = `${path} has ${storage.size} bytes, fewer than the ${options.length} of the image`;
      throw new VdoError('NoSpace', message, { path });
    }
    if (isSparse(storage)) return await exportToSparse(device, storage, options);
    for await (const { offset, bytes } of rangeChunks(device, options, !isDevice)) {
      const extents = isDevice ? [{ offset, bytes }] : nonZeroExtents(offset, bytes);
      await storage.write(extents);
    }
    await storage.flush();
  } finally {
    await storage.close();
  }
}

/** As `exportToFile`: the other side zeroes the gaps, where it does not say that they are empty. */
async function exportToSparse(
  device: BlockDevice,
  storage: SparseStorage,
  options: ExportOptions,
): Promise<void> {
  let done = 0;
  for await (const extent of rangeChunks(device, options, true)) {
    await clear(storage, done, extent.offset);
    await storage.write([extent]);
    done = extent.offset + extent.bytes.length;
  }
  await clear(storage, done, options.length);
  await storage.flush();
}

/** Makes [start, end) read as zeros. */
async function clear(storage: SparseStorage, start: number, end: number): Promise<void> {
  for (let window = start; window < end; window += WINDOW_BYTES) {
    const length = Math.min(WINDOW_BYTES, end - window);
    for (const extent of await storage.extents(window, length)) {
      if (extent.kind === 'data') await storage.writeZeroes(extent.offset, extent.length);
    }
  }
}

/** Writes the range to a stream, zeros included. */
export async function exportToStream(
  device: BlockDevice,
  stream: NodeJS.WritableStream,
  options: ExportOptions,
): Promise<void> {
  for await (const { bytes } of rangeChunks(device, options, false)) {
    await written(stream, bytes);
  }
}

/** Resolves when the stream has no more need of the bytes; fails where it has failed. */
function written(stream: NodeJS.WritableStream, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(bytes, (error) => (error == null ? resolve() : reject(error)));
  });
}

/** The range in order, each chunk good until the next is asked for; with `skipHoles` only where something is mapped. */
async function* rangeChunks(
  device: BlockDevice,
  options: ExportOptions,
  skipHoles: boolean,
): AsyncGenerator<Extent> {
  const { from, onProgress, signal } = options;
  const ranges = steps(device, options, skipHoles);
  for await (const { offset, bytes } of device.readAhead?.(ranges) ?? readInTurn(device, ranges)) {
    signal?.throwIfAborted();
    onProgress?.(offset - from);
    yield { offset: offset - from, bytes };
  }
  onProgress?.(options.length);
}

/** The bytes of each range, good until the next is asked for. The next is read ahead. */
async function* readInTurn(
  device: BlockDevice,
  ranges: AsyncIterable<ByteRange>,
): AsyncGenerator<Extent> {
  const buffers = [new Uint8Array(STEP_BYTES), new Uint8Array(STEP_BYTES)];
  let turn = 0;
  let before: { offset: number; bytes: Promise<Uint8Array> } | null = null;
  for await (const { offset, length } of ranges) {
    const bytes = device.read(offset, length, buffers[turn++ % 2]!);
    bytes.catch(() => undefined);
    if (before !== null) yield { offset: before.offset, bytes: await before.bytes };
    before = { offset, bytes };
  }
  if (before !== null) yield { offset: before.offset, bytes: await before.bytes };
}

/** The ranges to be read, none longer than a step. */
async function* steps(
  device: BlockDevice,
  { from, length }: ExportOptions,
  skipHoles: boolean,
): AsyncGenerator<ByteRange> {
  const end = from + length;
  for (let window = from; window < end; window += WINDOW_BYTES) {
    const size = Math.min(WINDOW_BYTES, end - window);
    const ranges = skipHoles
      ? await mappedRanges(device, window, size)
      : [{ offset: window, size }];
    for (const range of ranges) {
      for (let at = 0; at < range.size; at += STEP_BYTES) {
        yield { offset: range.offset + at, length: Math.min(STEP_BYTES, range.size - at) };
      }
    }
  }
}

/** The parts of a window that are mapped; what lies between two of them is short or a hole. */
async function mappedRanges(
  device: BlockDevice,
  offset: number,
  length: number,
): Promise<{ offset: number; size: number }[]> {
  const ranges: { offset: number; size: number }[] = [];
  for (const extent of await device.extents(offset, length)) {
    if (extent.kind !== 'data') continue;
    const last = ranges.at(-1);
    const end = extent.offset + extent.length;
    if (last !== undefined && extent.offset - (last.offset + last.size) < SHORT_GAP_BYTES) {
      last.size = end - last.offset;
    } else ranges.push({ offset: extent.offset, size: extent.length });
  }
  return ranges;
}

/** The parts of `bytes` that are not zeros, as extents from `offset` on. */
function nonZeroExtents(offset: number, bytes: Uint8Array): Extent[] {
  const extents: Extent[] = [];
  let start = 0;
  const endRun = (end: number): void => {
    if (start < end) extents.push({ offset: offset + start, bytes: bytes.subarray(start, end) });
  };
  for (let at = 0; at < bytes.length; at += BLOCK_SIZE) {
    const end = Math.min(bytes.length, at + BLOCK_SIZE);
    if (!isZero(bytes.subarray(at, end))) continue;
    endRun(at);
    start = end;
  }
  endRun(bytes.length);
  return extents;
}
