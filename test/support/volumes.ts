/**
 * Tiny volumes in memory for tests: small enough that every wait and wrap-around happens all the
 * time; blocks of known content; and a storage that tells what reached it, holds it up, or fails.
 */
import { BLOCK_SIZE } from '../../src/base/constants.ts';
import { MemoryStorage } from '../../src/storage/memory-storage.ts';
import type { Extent, Storage } from '../../src/storage/storage.ts';
import { formatStorage } from '../../src/volume/format.ts';
import type { FormatOptions } from '../../src/volume/format-plan.ts';
import { openVolumeOn, type OpenOptions } from '../../src/volume/open.ts';
import type { Volume } from '../../src/volume/volume.ts';

/** Two slabs of 1007 data blocks; slab journals of 16 blocks, a recovery journal of 64. */
export const TINY_BLOCKS = 2238;
export const TINY_FORMAT = {
  noIndex: true,
  slabSize: 1024 * BLOCK_SIZE,
  slabJournalBlocks: 16,
  recoveryJournalBlocks: 64,
  logicalSize: 4000 * BLOCK_SIZE,
} as const satisfies FormatOptions;

/** Nothing happens that a test did not ask for: no threads, no timer; small buffers open fast. */
export const QUIET = {
  index: 'memory',
  workers: 0,
  commitIntervalMs: 0,
  batchBlocks: 256,
  cachePages: 64,
} as const satisfies OpenOptions;

/** One call that reached the storage, with a copy of what was written. */
export interface Call {
  readonly kind: 'read' | 'write' | 'flush';
  readonly extents: readonly Extent[];
}

/**
 * A storage over another one. `close` does nothing, so that the same bytes can be opened again;
 * calls are recorded while `calls` is an array; `before` runs before each call and may throw or wait.
 */
export class WatchedStorage implements Storage {
  readonly below: MemoryStorage;
  calls: Call[] | null = null;
  before: (call: Call) => Promise<void> | void = () => undefined;
  closes = 0;

  constructor(below: MemoryStorage) {
    this.below = below;
  }

  get size(): number {
    return this.below.size;
  }

  get readOnly(): boolean {
    return this.below.readOnly;
  }

  async read(extents: readonly Extent[]): Promise<void> {
    await this.#see({ kind: 'read', extents });
    await this.below.read(extents);
  }

  async write(extents: readonly Extent[]): Promise<void> {
    const copies = extents.map(({ offset, bytes }) => ({ offset, bytes: Uint8Array.from(bytes) }));
    await this.#see({ kind: 'write', extents: copies });
    await this.below.write(extents);
  }

  async flush(): Promise<void> {
    await this.#see({ kind: 'flush', extents: [] });
    await this.below.flush();
  }

  close(): Promise<void> {
    this.closes++;
    return Promise.resolve();
  }

  /** Records calls while `step` runs, and returns them. */
  async during(step: () => Promise<unknown>): Promise<Call[]> {
    const calls: Call[] = [];
    this.calls = calls;
    await step();
    this.calls = null;
    return calls;
  }

  /** The block at `pbn` as it is now. */
  block(pbn: number): Uint8Array {
    const bytes = new Uint8Array(BLOCK_SIZE);
    this.below.readSync([{ offset: pbn * BLOCK_SIZE, bytes }]);
    return bytes;
  }

  /** Overwrites the block at `pbn` behind everybody's back. */
  scribble(pbn: number, bytes: Uint8Array): void {
    this.below.writeSync([{ offset: pbn * BLOCK_SIZE, bytes }]);
  }

  async #see(call: Call): Promise<void> {
    this.calls?.push(call);
    await this.before(call);
  }
}

/** A gate that calls wait at until it is opened. */
export class Gate {
  readonly passed: Promise<void>;
  open!: () => void;

  constructor() {
    this.passed = new Promise((resolve) => (this.open = resolve));
  }
}

/** A freshly formatted tiny volume. */
export async function tinyStorage(
  format: FormatOptions = {},
  blocks = TINY_BLOCKS,
): Promise<WatchedStorage> {
  const storage = new WatchedStorage(new MemoryStorage(blocks * BLOCK_SIZE));
  await formatStorage(storage, { ...TINY_FORMAT, ...format });
  return storage;
}

/** A freshly formatted tiny volume, open. */
export async function tinyVolume(
  options: OpenOptions = {},
  format: FormatOptions = {},
  blocks = TINY_BLOCKS,
): Promise<{ volume: Volume; storage: WatchedStorage }> {
  const storage = await tinyStorage(format, blocks);
  return { storage, volume: await openVolumeOn(storage, { ...QUIET, ...options }) };
}

/** Numbers from 0 to 1, the same for the same seed. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return ((word ^ (word >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A block that cannot be compressed; another one for every `seed`. */
export function noise(seed: number, size = BLOCK_SIZE): Uint8Array {
  const words = new Uint32Array(size / 4);
  const next = random(seed + 1);
  for (let i = 0; i < words.length; i++) words[i] = next() * 2 ** 32;
  return new Uint8Array(words.buffer);
}

/** A block that compresses to little more than `size` bytes; another one for every `seed`. */
export function squashy(seed: number, size = 1000): Uint8Array {
  const block = new Uint8Array(BLOCK_SIZE);
  block.set(noise(seed, Math.ceil(size / 4) * 4).subarray(0, size));
  return block;
}

/** Blocks one after another. */
export function joined(...blocks: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(Buffer.concat(blocks));
}

/** `count` different incompressible blocks one after another. */
export function noiseRun(seed: number, count: number): Uint8Array {
  return joined(...Array.from({ length: count }, (_, i) => noise(seed * 100_000 + i)));
}
