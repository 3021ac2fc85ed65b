/**
 * Writes images into a volume. Zeros, holes among them, are not written: where something was mapped
 * they are discarded instead, after the data, so that data that was there before can still be shared.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { isZero } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import type { BlockDevice } from '../device/block-device.ts';
import { isKnownZero, type ImageSource } from './image-source.ts';

/** Zero runs remembered before they are discarded. */
const MAX_ZERO_RUNS = 4096;

export interface ImportOptions {
  /** Byte of the volume where the image begins, a multiple of 4096. */
  readonly at: number;
  /** Whether nothing is mapped there yet: then zeros cost nothing at all. */
  readonly isFresh: boolean;
  /** Called with the bytes of the source done so far. */
  readonly onProgress?: (bytes: number) => void;
  /** Ends the import early; what was written stays. */
  readonly signal?: AbortSignal;
}

export interface Imported {
  readonly bytes: number;
  readonly zeroBlocks: number;
}

/**
 * Writes `source` to `device`; a last partial block is filled up with what was there. Does not flush.
 * Fails with `OutOfRange` where it does not fit, and as reading and writing do.
 */
export async function importImage(
  device: BlockDevice,
  source: ImageSource,
  options: ImportOptions,
): Promise<Imported> {
  const { at, signal } = options;
  if (at % BLOCK_SIZE !== 0) {
    throw new VdoError('InvalidArgument', `an image begins on a multiple of 4096, not at ${at}`);
  }
  checkFits(device, source.path, at, source.size ?? 0);
  const zeros = new ZeroRuns(device, options.isFresh);
  let { bytes, zeroBlocks } = await importFile(device, source, options, zeros);
  if (bytes === 0 || bytes !== source.size) {
    for await (const chunk of untilAborted(source.chunks(bytes), signal)) {
      checkFits(device, source.path, at, bytes + chunk.length);
      zeroBlocks += await importChunk(device, chunk, at + bytes, zeros);
      bytes += chunk.length;
      options.onProgress?.(bytes);
    }
  }
  await zeros.discard();
  return { bytes, zeroBlocks };
}

/** Lets the device read the whole blocks of a file by itself, where it can. The rest is left. */
async function importFile(
  device: BlockDevice,
  { fd, size }: ImageSource,
  { at, onProgress, signal }: ImportOptions,
  zeros: ZeroRuns,
): Promise<Imported> {
  let zeroBlocks = 0;
  if (fd === null || size === null || device.ingest === undefined) return { bytes: 0, zeroBlocks };
  const length = size - (size % BLOCK_SIZE);
  const onBlocks = async (offset: number, isZero: Uint8Array): Promise<void> => {
    for (let i = 0; i < isZero.length; i++) {
      if (isZero[i] === 0) continue;
      zeroBlocks++;
      await zeros.add(offset + i * BLOCK_SIZE, BLOCK_SIZE);
    }
    onProgress?.(offset + isZero.length * BLOCK_SIZE - at);
  };
  const range = { fd, from: 0, length, offset: at, onBlocks, signal };
  return { bytes: await device.ingest(range), zeroBlocks };
}

/** The same chunks, up to the abort: that ends even the wait for one that never comes. */
async function* untilAborted(
  chunks: AsyncGenerator<Uint8Array>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  for (;;) {
    signal?.throwIfAborted();
    const next = chunks.next();
    const result = await new Promise<Awaited<typeof next>>((resolve, reject) => {
      const stop = (): void => reject(signal!.reason);
      signal?.addEventListener('abort', stop, { once: true });
      next.then(resolve, reject).finally(() => signal?.removeEventListener('abort', stop));
    });
    if (result.done === true) return;
    yield result.value;
  }
}

function checkFits(device: BlockDevice, path: string, at: number, size: number): void {
  if (at + size <= device.size) return;
  throw new VdoError(
    'OutOfRange',
    `${path} (${size} bytes so far) does not fit at byte ${at} of a volume of ${device.size} bytes`,
  );
}

/** Writes the runs of a chunk that are not zero; returns how many blocks were. */
async function importChunk(
  device: BlockDevice,
  chunk: Uint8Array,
  offset: number,
  zeros: ZeroRuns,
): Promise<number> {
  if (isKnownZero(chunk)) {
    await zeros.add(offset, chunk.length);
    return Math.ceil(chunk.length / BLOCK_SIZE);
  }
  let zeroBlocks = 0;
  let start = 0;
  for (let at = 0; at < chunk.length; at += BLOCK_SIZE) {
    const end = Math.min(chunk.length, at + BLOCK_SIZE);
    if (!isZero(chunk.subarray(at, end))) continue;
    if (start < at) await device.write(offset + start, chunk.subarray(start, at));
    await zeros.add(offset + at, end - at);
    zeroBlocks++;
    start = end;
  }
  if (start < chunk.length) await device.write(offset + start, chunk.subarray(start));
  return zeroBlocks;
}

/** Ranges to be discarded in the end, neighbours joined. */
class ZeroRuns {
  readonly #device: BlockDevice;
  readonly #isFresh: boolean;
  #runs: { offset: number; length: number }[] = [];

  constructor(device: BlockDevice, isFresh: boolean) {
    this.#device = device;
    this.#isFresh = isFresh;
  }

  async add(offset: number, length: number): Promise<void> {
    if (this.#isFresh) return;
    const last = this.#runs.at(-1);
    if (last !== undefined && last.offset + last.length === offset) last.length += length;
    else this.#runs.push({ offset, length });
    if (this.#runs.length >= MAX_ZERO_RUNS) await this.discard();
  }

  async discard(): Promise<void> {
    const runs = this.#runs;
    this.#runs = [];
    for (const { offset, length } of runs) await this.#device.discard(offset, length);
  }
}
