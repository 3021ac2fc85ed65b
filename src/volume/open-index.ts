/**
 * Which deduplication index a volume is opened with, and the opening of it. A volume is never held up by
 * its index: where the one asked for cannot be had, another takes its place and says why.
 */
import { VdoError } from '../base/errors.ts';
import type { Health } from '../data-path/health.ts';
import { isNbdUri } from '../nbd-client/uri.ts';
import { NEW } from '../format/super-block.ts';
import type { HashIndex } from '../index/hash-index.ts';
import { openLevelIndex } from '../index/level-index.ts';
import { createMemoryIndex, DEFAULT_MEMORY_INDEX_CAPACITY } from '../index/memory-index.ts';
import { createNullIndex } from '../index/null-index.ts';
import { indexGeometry } from '../index/uds/index-geometry.ts';
import { openUdsIndex } from '../index/uds/open-uds-index.ts';
import type { Extent, Storage } from '../storage/storage.ts';
import type { Labels } from './labels.ts';

/** `uds`: in the volume; `level`: a directory `FILE.index`; `memory`: gone at close; `off`. */
export type IndexChoice = 'uds' | 'level' | 'memory' | 'off';

export interface IndexPlace {
  /** The device that the volume lies on, with its own offsets. */
  readonly device: Storage;
  readonly labels: Labels;
  /** File of the volume, or null. */
  readonly path: string | null;
  readonly health: Health;
  /** Records that a `memory` index holds at most. */
  readonly capacity: number | undefined;
}

/** Whether the volume has room for a `uds` index. */
export function hasIndexRegion({ geometry }: Labels): boolean {
  return geometry.indexMemory !== 0 && geometry.dataStart > geometry.indexStart;
}

/** The index for a writable open. */
export async function openIndex(choice: IndexChoice, place: IndexPlace): Promise<HashIndex> {
  const { labels, path, capacity = DEFAULT_MEMORY_INDEX_CAPACITY } = place;
  switch (choice) {
    case 'off':
      return createNullIndex();
    case 'memory':
      return createMemoryIndex({ capacity });
    case 'level':
      if (path === null || isNbdUri(path)) {
        const message = 'a level index needs a volume in a file or on a device';
        throw new VdoError('InvalidArgument', message);
      }
      return openLevelIndex(`${path}.index`, { nonce: labels.superBlock.nonce });
    case 'uds':
      return openOwnIndex(place).catch((error: unknown) => {
        if (!(error instanceof VdoError)) throw error;
        const message = `${error.message}; an index in memory takes its place until the volume is closed`;
        const warning = new VdoError(error.code, message, error.where, error);
        return createMemoryIndex({ capacity, warning });
      });
  }
}

/** The index in the volume. */
async function openOwnIndex({ device, labels, health }: IndexPlace): Promise<HashIndex> {
  const { geometry, superBlock } = labels;
  if (!hasIndexRegion(labels)) {
    throw new VdoError('InvalidArgument', 'the volume was formatted without room for an index');
  }
  return openUdsIndex({
    storage: new IndexStorage(device, health),
    // The index counts blocks as the device does.
    start: geometry.indexStart - geometry.bioOffset,
    blocks: geometry.dataStart - geometry.indexStart,
    geometry: indexGeometry(geometry.indexMemory, geometry.sparse),
    nonce: superBlock.nonce,
    isNew: superBlock.state === NEW,
  });
}

/**
 * The device as the index sees it. A flush that fails may have lost what the volume wrote: the volume
 * becomes read-only, as after a failed flush of its own, and nothing is written behind it
 * (docs/COMMIT.md, rule 11).
 */
class IndexStorage implements Storage {
  readonly #below: Storage;
  readonly #health: Health;

  constructor(below: Storage, health: Health) {
    this.#below = below;
    this.#health = health;
  }

  get size(): number {
    return this.#below.size;
  }

  get readOnly(): boolean {
    return this.#below.readOnly;
  }

  read(extents: readonly Extent[]): Promise<void> {
    return this.#below.read(extents);
  }

  async write(extents: readonly Extent[]): Promise<void> {
    this.#health.check();
    await this.#below.write(extents);
  }

  async flush(): Promise<void> {
    this.#health.check();
    try {
      await this.#below.flush();
    } catch (error) {
      throw this.#health.fail(error);
    }
    this.#health.check();
  }

  /** The device is the volume's. */
  close(): Promise<void> {
    return Promise.resolve();
  }
}
