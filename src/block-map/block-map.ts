/**
 * The block map: where each logical block lies. Leaves through a bounded cache, interior nodes in
 * memory, new tree pages as writes need them, and copies of what changed for checkpoints.
 *
 * One step at a time works with the map: `load` pins the pages it was given until the next `load`,
 * so that the synchronous part of the step finds them by `find`.
 *
 * Invariants (docs/COMMIT.md, rules 2, 9 and 10):
 * - A new page's empty image (initialized = 0) is on the device before the entry that names it is
 *   appended; in memory it counts as initialized, since that was its first image.
 * - A page read as uninitialized is written twice: initialized = 0, then, behind a barrier, = 1.
 *
 * Implements docs/FORMAT.md §3.
 */
import { assert } from '../base/assert.ts';
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_SIZE,
  UNCOMPRESSED,
  UNMAPPED,
} from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import {
  formatPage,
  isInitialized,
  isLegalMapping,
  MAPPING_SIZE,
  mappingPbn,
  mappingState,
  PAGE_HEADER_SIZE,
  pageValidity,
  setEntry,
  setInitialized,
  setMapping,
} from '../format/block-map-page.ts';
import type { Extent, Storage } from '../storage/storage.ts';
import { Forest, slotAt, type Node } from './forest.ts';
import { LeafCache } from './leaf-cache.ts';

/** What creating tree pages needs of the rest of the engine. */
export interface TreeAllocator {
  /** A free block (reserved), or 0. */
  allocate(): number;
  unallocate(pbn: number): void;
  /** Waits until `pages` new tree pages can be journaled. */
  reserve(pages: number): Promise<void>;
  /** Journals that `slot` of the interior page `parent` names the new page `pbn`, and counts it. */
  record(parent: number, slot: number, pbn: number): void;
}

/** Copies that one checkpoint writes of the map. */
export interface MapCapture {
  /** Initialized pages, and first images of the others. */
  readonly first: readonly Extent[];
  /** Second images, behind the first barrier. */
  readonly second: readonly Extent[];
  /** Interior nodes whose second image makes them initialized. */
  readonly uninitialized: readonly Node[];
}

interface NewPage {
  readonly parent: Node;
  readonly slot: number;
  readonly pbn: number;
  /** The node, or null for a leaf. */
  readonly node: Node | null;
  readonly page: number;
}

/** Where a block lies; used again and again. */
export interface Place {
  pbn: number;
  state: number;
}

export class BlockMap {
  readonly #storage: Storage;
  readonly #nonce: Uint8Array;
  readonly #forest: Forest;
  readonly #cache: LeafCache;
  readonly #reserveFrames: (frames: number) => Promise<void>;
  readonly #isDataBlock: (pbn: number) => boolean;
  pagesLoaded = 0;
  pagesSaved = 0;
  foundInCache = 0;

  constructor(options: {
    storage: Storage;
    nonce: Uint8Array;
    cachePages: number;
    isDataBlock: (pbn: number) => boolean;
    /** Waits until that many frames of the cache hold no changes. */
    reserveFrames: (frames: number) => Promise<void>;
  }) {
    this.#storage = options.storage;
    this.#nonce = options.nonce;
    this.#cache = new LeafCache(options.cachePages);
    this.#isDataBlock = options.isDataBlock;
    this.#forest = new Forest(options.storage, options.nonce, options.isDataBlock);
    this.#reserveFrames = options.reserveFrames;
  }

  async open(rootOrigin: number): Promise<void> {
    await this.#forest.open(rootOrigin);
  }

  get cache(): LeafCache {
    return this.#cache;
  }

  get interiorPages(): number {
    return this.#forest.size;
  }

  /**
   * Makes the leaves of `pages` (distinct) resident and pins them. Pages without a leaf stay absent,
   * or, with `allocator`, are created as far as space allows. Fails with `Corrupt`, `BadMapping`, `Io`.
   */
  async load(pages: readonly number[], allocator?: TreeAllocator): Promise<void> {
    assert(pages.length <= this.#cache.frames);
    const cache = this.#cache;
    let absent = this.#pin(pages);
    if (absent.length === 0) return;
    await this.#reserveFrames(pages.length);
    absent = this.#pin(pages);
    await this.#forest.loadPaths(absent);
    const extents: Extent[] = [];
    const loading: number[] = [];
    const missing: number[] = [];
    for (const page of absent) {
      const parent = this.#forest.walk(page);
      const pbn = 'child' in parent ? 0 : this.#forest.childOf(parent, slotAt(page, 1));
      if (pbn === 0) missing.push(page);
      else {
        const frame = cache.take(page, pbn);
        loading.push(page);
        extents.push({ offset: pbn * BLOCK_SIZE, bytes: cache.bytes(frame) });
      }
    }
    if (extents.length > 0) await this.#readLeaves(extents, loading);
    if (allocator !== undefined && missing.length > 0) await this.#create(missing, allocator);
  }

  /** The pinned frame of `page`, or −1 where it has no leaf (or was not loaded). */
  find(page: number): number {
    return this.#cache.find(page);
  }

  /** Whether `page` has a leaf that is in memory. */
  isResident(page: number): boolean {
    return this.#cache.has(page);
  }

  /** Upper bound of the tree pages that a write to `page` creates, without reading anything. */
  missingPages(page: number): number {
    if (this.#cache.has(page)) return 0;
    const found = this.#forest.walk(page);
    if ('child' in found) return found.height;
    return this.#forest.childOf(found, slotAt(page, 1)) === 0 ? 1 : 0;
  }

  /** First page from `page` to `end` − 1 that has a leaf, or `end`. */
  nextLeaf(page: number, end: number): Promise<number> {
    return this.#forest.nextLeaf(page, end);
  }

  /** Changes an entry of a pinned page in memory; the caller has journaled it. */
  setEntry(frame: number, slot: number, pbn: number, state: number): void {
    setMapping(this.#cache.memory, entryOffset(frame, slot), pbn, state);
    this.#cache.markDirty(frame);
  }

  /** Copies every page that differs from the disk. */
  capture(): MapCapture {
    const first: Extent[] = [];
    const second: Extent[] = [];
    const uninitialized: Node[] = [];
    const copy = (pbn: number, bytes: Uint8Array): boolean => {
      const offset = pbn * BLOCK_SIZE;
      // Not `slice`: of a Buffer, as the cache's pages are, that is a view (rule 2: copies).
      const image = new Uint8Array(bytes);
      first.push({ offset, bytes: image });
      if (isInitialized(image)) return true;
      const again = new Uint8Array(image);
      setInitialized(again, true);
      second.push({ offset, bytes: again });
      return false;
    };
    for (const node of this.#forest.dirtyNodes()) {
      if (!copy(node.pbn, node.bytes)) uninitialized.push(node);
      node.dirty = false;
    }
    this.#cache.beginWriting((frame) => {
      copy(this.#cache.pbnOf(frame), this.#cache.bytes(frame));
    });
    this.pagesSaved += first.length + second.length;
    return { first, second, uninitialized };
  }

  /** Everything in `capture` is durable. */
  settle(capture: MapCapture): void {
    for (const node of capture.uninitialized) setInitialized(node.bytes, true);
    this.#cache.endWriting((frame) => setInitialized(this.#cache.bytes(frame), true));
  }

  #pin(pages: readonly number[]): number[] {
    this.#cache.unpinAll();
    const absent = pages.filter((page) => this.#cache.find(page) < 0);
    this.foundInCache += pages.length - absent.length;
    return absent;
  }

  async #readLeaves(extents: readonly Extent[], pages: readonly number[]): Promise<void> {
    try {
      await this.#storage.read(extents);
      pages.forEach((page, i) => this.#adoptLeaf(extents[i]!, page));
    } catch (error) {
      for (const page of pages) this.#cache.drop(page);
      throw error;
    }
    this.pagesLoaded += pages.length;
  }

  #adoptLeaf({ offset, bytes }: Extent, page: number): void {
    const pbn = offset / BLOCK_SIZE;
    const validity = pageValidity(bytes, this.#nonce, pbn);
    if (validity === 'bad') {
      throw new VdoError(
        'Corrupt',
        `block map page ${pbn} (logical blocks from ${page * BLOCK_MAP_ENTRIES_PER_PAGE}) carries ` +
          'the number of another block: run uvdo audit',
        { pbn },
      );
    }
    if (validity === 'empty') formatPage(bytes, this.#nonce, pbn, false);
  }

  /** Creates the leaves of `pages` with the nodes above them, as far as space allows. */
  async #create(pages: readonly number[], allocator: TreeAllocator): Promise<void> {
    await allocator.reserve(4 * pages.length);
    const created: NewPage[] = [];
    const children = new Map<string, Node>();
    for (const page of pages) if (!this.#plan(page, created, children, allocator)) break;
    if (created.length === 0) return;
    // Rule 10: the empty images go to the device as data, before any entry names their blocks.
    const images = created.map(({ pbn }) => {
      const bytes = new Uint8Array(BLOCK_SIZE);
      formatPage(bytes, this.#nonce, pbn, false);
      return { offset: pbn * BLOCK_SIZE, bytes };
    });
    await this.#storage.write(images);
    for (const { parent, slot, pbn, node, page } of created) {
      allocator.record(parent.pbn, slot, pbn);
      setEntry(parent.bytes, slot, pbn, UNCOMPRESSED);
      parent.dirty = true;
      if (node !== null) this.#forest.attach(node);
      else formatPage(this.#cache.bytes(this.#cache.take(page, pbn)), this.#nonce, pbn, true);
    }
  }

  /** Allocates what is missing on the way to `page`; returns false, and takes nothing, without space. */
  #plan(
    page: number,
    created: NewPage[],
    children: Map<string, Node>,
    allocator: TreeAllocator,
  ): boolean {
    const found = this.#forest.walk(page);
    const start = 'child' in found ? found.height : 1;
    let node = 'child' in found ? found.node : found;
    const fresh: NewPage[] = [];
    for (let height = start; height >= 1; height--) {
      const slot = slotAt(page, height);
      const planned = children.get(`${node.pbn}/${slot}`);
      if (planned !== undefined) {
        node = planned;
        continue;
      }
      const pbn = allocator.allocate();
      if (pbn === 0) {
        for (const { pbn: taken } of fresh) allocator.unallocate(taken);
        return false;
      }
      const child = height > 1 ? this.#forest.create(pbn) : null;
      fresh.push({ parent: node, slot, pbn, node: child, page });
      if (child !== null) node = child;
    }
    for (const entry of fresh) {
      created.push(entry);
      if (entry.node !== null) children.set(`${entry.parent.pbn}/${entry.slot}`, entry.node);
    }
    return true;
  }

  /** Physical block that `slot` of a pinned page names. */
  pbnAt(frame: number, slot: number): number {
    return mappingPbn(this.#cache.memory, entryOffset(frame, slot));
  }

  stateAt(frame: number, slot: number): number {
    return mappingState(this.#cache.memory, entryOffset(frame, slot));
  }

  /**
   * Fills `place` with the mapping of `lbn`: unmapped where its page has no leaf (or was not loaded). False where
   * it makes no sense.
   */
  locate(lbn: number, place: Place): boolean {
    const page = Math.floor(lbn / BLOCK_MAP_ENTRIES_PER_PAGE);
    const frame = this.find(page);
    const slot = lbn - page * BLOCK_MAP_ENTRIES_PER_PAGE;
    place.pbn = frame < 0 ? 0 : this.pbnAt(frame, slot);
    place.state = frame < 0 ? UNMAPPED : this.stateAt(frame, slot);
    return this.isValid(place.pbn, place.state);
  }

  /** Whether a mapping can be followed: zeros, or a data block in a fitting state. */
  isValid(pbn: number, state: number): boolean {
    return isLegalMapping(pbn, state) && (pbn === 0 || this.#isDataBlock(pbn));
  }
}

/** Offset in the cache's memory of entry `slot` of `frame`. */
function entryOffset(frame: number, slot: number): number {
  return frame * BLOCK_SIZE + PAGE_HEADER_SIZE + slot * MAPPING_SIZE;
}
