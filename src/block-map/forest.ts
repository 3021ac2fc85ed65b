/**
 * The interior of the block map: 60 trees whose pages of heights 4 (roots) to 1 stay in memory once
 * they were needed. Leaves (height 0) live in the leaf cache.
 *
 * Page p (= lbn / 812) hangs under root p mod 60; with i = p / 60 its slots from the root down are
 * i / 812³, i / 812², i / 812 and i, each mod 812.
 *
 * Invariants:
 * - A node's bytes are the page as recovery would build it, ahead of the disk by uncommitted entries.
 * - Interior entries are unallocated or name a data block, uncompressed; anything else is damage.
 *
 * Implements docs/FORMAT.md §3.
 */
import { assert } from '../base/assert.ts';
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_MAP_ROOT_COUNT,
  BLOCK_SIZE,
  UNCOMPRESSED,
  UNMAPPED,
} from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import { entryPbn, entryState, formatPage, pageValidity } from '../format/block-map-page.ts';
import type { Storage } from '../storage/storage.ts';

/** An interior page in memory. */
export interface Node {
  readonly pbn: number;
  readonly bytes: Uint8Array;
  /** Changed since the last checkpoint's copy. */
  dirty: boolean;
}

/** Heights of interior pages, from the root down. */
const ROOT_HEIGHT = 4;
const ENTRIES = BLOCK_MAP_ENTRIES_PER_PAGE;
const SPANS = [1, ENTRIES, ENTRIES ** 2, ENTRIES ** 3];
/** Leaf pages below one set of 60 height-1 nodes. */
const GROUP_PAGES = BLOCK_MAP_ROOT_COUNT * ENTRIES;

/** Slot in the node of `height` on the way to `page`. */
export function slotAt(page: number, height: number): number {
  const index = Math.floor(page / BLOCK_MAP_ROOT_COUNT);
  return Math.floor(index / SPANS[height - 1]!) % ENTRIES;
}

/** Result of a walk that did not end at the parent of a leaf. */
export interface Missing {
  /** Height of the deepest node found. */
  readonly height: number;
  readonly node: Node;
  /** Block of its child that is not in memory, or 0 where the child does not exist. */
  readonly child: number;
}

/** Pages `first` … `next` − 1: their parents, one a root, or null where no leaf is. */
interface Group {
  readonly first: number;
  readonly next: number;
  readonly parents: (Node | null)[] | null;
}

export class Forest {
  readonly #storage: Storage;
  readonly #nonce: Uint8Array;
  readonly #isDataBlock: (pbn: number) => boolean;
  readonly #roots: Node[] = [];
  readonly #nodes = new Map<number, Node>();
  /** What `nextLeaf` found last; void once a node is attached. */
  #group: Group | null = null;

  constructor(storage: Storage, nonce: Uint8Array, isDataBlock: (pbn: number) => boolean) {
    this.#storage = storage;
    this.#nonce = nonce;
    this.#isDataBlock = isDataBlock;
  }

  /** Reads the 60 roots. */
  async open(rootOrigin: number): Promise<void> {
    const bytes = new Uint8Array(BLOCK_MAP_ROOT_COUNT * BLOCK_SIZE);
    await this.#storage.read([{ offset: rootOrigin * BLOCK_SIZE, bytes }]);
    for (let root = 0; root < BLOCK_MAP_ROOT_COUNT; root++) {
      const page = bytes.subarray(root * BLOCK_SIZE, (root + 1) * BLOCK_SIZE);
      this.#roots.push(this.#adopt(rootOrigin + root, page));
    }
  }

  /** Interior pages in memory. */
  get size(): number {
    return this.#nodes.size;
  }

  /** The height-1 node above `page`, or where the way to it ends in memory. */
  walk(page: number): Node | Missing {
    let node = this.#roots[page % BLOCK_MAP_ROOT_COUNT]!;
    for (let height = ROOT_HEIGHT; height > 1; height--) {
      const child = this.childOf(node, slotAt(page, height));
      const below = child === 0 ? undefined : this.#nodes.get(child);
      if (below === undefined) return { height, node, child };
      node = below;
    }
    return node;
  }

  /** Block that `slot` of an interior node names, 0 for none. Fails with `BadMapping`. */
  childOf(node: Node, slot: number): number {
    const pbn = entryPbn(node.bytes, slot);
    const state = entryState(node.bytes, slot);
    if (state === UNMAPPED && pbn === 0) return 0;
    if (state !== UNCOMPRESSED || !this.#isDataBlock(pbn)) {
      throw new VdoError(
        'BadMapping',
        `block map page ${node.pbn} names block ${pbn} (state ${state}) as a page: run uvdo audit`,
        { pbn: node.pbn, slot },
      );
    }
    return pbn;
  }

  /** Walks to the parent of every page in `pages`, reading the nodes that exist and are not in memory. */
  async loadPaths(pages: readonly number[]): Promise<void> {
    for (let waiting = pages; waiting.length > 0;) {
      const wanted = new Set<number>();
      const next: number[] = [];
      for (const page of waiting) {
        const found = this.walk(page);
        if (!('child' in found) || found.child === 0) continue;
        wanted.add(found.child);
        next.push(page);
      }
      if (wanted.size > 0) await this.#load([...wanted].sort((a, b) => a - b));
      waiting = next;
    }
  }

  /** Makes an empty node for a page just allocated at `pbn`. */
  create(pbn: number): Node {
    const bytes = new Uint8Array(BLOCK_SIZE);
    formatPage(bytes, this.#nonce, pbn, true);
    return { pbn, bytes, dirty: false };
  }

  /** Makes a created node part of the forest. */
  attach(node: Node): void {
    this.#group = null;
    this.#nodes.set(node.pbn, node);
  }

  /** Every node with changes. */
  *dirtyNodes(): Generator<Node> {
    for (const node of this.#roots) if (node.dirty) yield node;
    for (const node of this.#nodes.values()) if (node.dirty) yield node;
  }

  /**
   * The first page from `page` to `end` − 1 that has a leaf, or `end`. What is not allocated is skipped
   * by whole subtrees: of the 48,720 pages below one set of nodes, or 812 and 812² times as many.
   */
  async nextLeaf(page: number, end: number): Promise<number> {
    let at = page;
    while (at < end) {
      const { first, next, parents } = await this.#groupAt(at);
      const limit = Math.min(end, next);
      if (parents !== null) {
        for (; at < limit; at++) {
          const parent = parents[at % BLOCK_MAP_ROOT_COUNT]!;
          if (parent !== null && this.childOf(parent, slotAt(at, 1)) !== 0) return at;
        }
      }
      assert(at >= first && limit > page);
      at = limit;
    }
    return end;
  }

  /** The height-1 nodes above `page` and its neighbours, or how far none exist. */
  async #groupAt(page: number): Promise<Group> {
    const first = Math.floor(page / GROUP_PAGES) * GROUP_PAGES;
    if (this.#group !== null && first >= this.#group.first && first < this.#group.next) {
      return this.#group;
    }
    const pages = Array.from({ length: BLOCK_MAP_ROOT_COUNT }, (_, root) => first + root);
    await this.loadPaths(pages);
    let height = ROOT_HEIGHT;
    const parents = pages.map((one) => {
      const found = this.walk(one);
      if ('child' in found) height = Math.min(height, found.height);
      return 'child' in found ? null : found;
    });
    const isEmpty = parents.every((parent) => parent === null);
    const span = BLOCK_MAP_ROOT_COUNT * (isEmpty ? SPANS[height - 1]! : ENTRIES);
    const next = (Math.floor(first / span) + 1) * span;
    this.#group = { first, next, parents: isEmpty ? null : parents };
    return this.#group;
  }

  async #load(pbns: readonly number[]): Promise<void> {
    const extents = pbns.map((pbn) => ({
      offset: pbn * BLOCK_SIZE,
      bytes: new Uint8Array(BLOCK_SIZE),
    }));
    await this.#storage.read(extents);
    pbns.forEach((pbn, i) => this.attach(this.#adopt(pbn, extents[i]!.bytes)));
  }

  #adopt(pbn: number, bytes: Uint8Array): Node {
    const validity = pageValidity(bytes, this.#nonce, pbn);
    if (validity === 'bad') {
      throw new VdoError(
        'Corrupt',
        `block map page ${pbn} carries the number of another block: run uvdo audit`,
        { pbn },
      );
    }
    if (validity === 'empty') formatPage(bytes, this.#nonce, pbn, false);
    return { pbn, bytes, dirty: false };
  }
}
