/**
 * One batch of the model: reserve, locate leaves (making missing tree pages), find or allocate a place
 * for each content, write data and first images, then change everything in memory in one instant.
 */
import { ZEROS, isPageLike } from './contents.ts';
import type { Model } from './model.ts';
import type { Page } from './pages.ts';
import { pathOf } from './read.ts';
import type { JournalEntry, Mapping } from './records.ts';
import { formatPage } from './records.ts';
import type { Wait } from './scheduler.ts';

export interface Request {
  readonly lbn: number;
  /** A content, `ZEROS` for a write of zeros. */
  readonly content: number;
  readonly discard?: boolean;
  /** Whether to look for a duplicate, and whether to pack with others. */
  readonly share?: boolean;
  readonly pack?: boolean;
}

const NOWHERE: Mapping = { state: 0, pbn: 0 };
const ZERO_MAPPING: Mapping = { state: 1, pbn: 0 };
const PROVISIONAL = 255;
const MAX_REFERENCES = 254;
const MAX_PACKED = 14;

interface Link {
  readonly parent: Page;
  readonly slot: number;
  readonly child: Page;
}

interface Planned {
  readonly request: Request;
  readonly leaf: Page | undefined;
  mapping: Mapping;
}

/** What every block holds and where contents were last stored: the index and the bytes to verify. */
export class Stored {
  readonly contents = new Map<number, readonly number[]>();
  readonly index = new Map<number, Mapping>();
}

const storedOf = new WeakMap<Model, Stored>();

export class Batch {
  readonly #model: Model;
  readonly #requests: readonly Request[];
  readonly #applied: (request: Request) => void;
  readonly #stored: Stored;
  readonly #links: Link[] = [];
  readonly #planned: Planned[] = [];
  readonly #claims = new Map<number, number>();
  readonly #writes = new Map<number, Uint8Array>();
  #toPack: Planned[] = [];

  constructor(model: Model, requests: readonly Request[], applied: (request: Request) => void) {
    this.#model = model;
    this.#requests = requests;
    this.#applied = applied;
    let stored = storedOf.get(model);
    if (!stored) storedOf.set(model, (stored = new Stored()));
    this.#stored = stored;
  }

  *run(): Generator<Wait, void, void> {
    const model = this.#model;
    const { random } = model.options;
    yield* model.reserve(this.#requests.length, () => this.#pathPages());
    if (model.closed) return;
    if (random.chance(0.3)) model.pages.evict(() => random.chance(0.5));
    for (const request of this.#requests) {
      const leaf = yield* this.#leafOf(request);
      if (leaf === 'no space') continue;
      const planned = { request, leaf, mapping: NOWHERE };
      if (!(yield* this.#place(planned))) continue;
      this.#planned.push(planned);
    }
    yield* this.#pack();
    if (model.closed) return;
    const images = new Map<number, Uint8Array>();
    for (const { child } of this.#links) {
      images.set(child.pbn, formatPage(child.pbn, model.layout.nonce));
    }
    const late = model.sabotage === 'fresh-image-late';
    if (!late && model.sabotage !== 'no-fresh-image') {
      for (const [pbn, image] of images) this.#writes.set(pbn, image);
    }
    if (model.sabotage === 'entries-before-data') {
      const writing = model.write(this.#writes);
      const issued = writing.next();
      this.#apply();
      if (!issued.done) yield issued.value;
      return;
    }
    yield* model.write(this.#writes);
    if (model.closed) return;
    this.#apply();
    if (late) yield* model.write(images);
  }

  /** Distinct pages on the paths of all requests: what the batch may make dirty. */
  #pathPages(): number {
    const pages = new Set<string>();
    for (const { lbn } of this.#requests) {
      const { root, slots } = pathOf(lbn);
      for (let depth = 0; depth < slots.length; depth++) {
        pages.add(`${root} ${slots.slice(0, depth).join(' ')}`);
      }
    }
    return pages.size;
  }

  *#leafOf({ lbn, discard }: Request): Generator<Wait, Page | undefined | 'no space', void> {
    const model = this.#model;
    const { root, slots } = pathOf(lbn);
    let page = yield* this.#load(model.layout.rootOrigin + root);
    for (const slot of slots.slice(0, -1)) {
      const link = this.#links.find(({ parent, slot: at }) => parent === page && at === slot);
      const mapping = model.pages.mapping(page, slot);
      if (link) page = link.child;
      else if (mapping.state !== 0) page = yield* this.#load(mapping.pbn);
      else if (discard) return undefined;
      else {
        const pbn = yield* this.#allocate();
        if (pbn === undefined) return 'no space';
        this.#stored.contents.delete(pbn);
        const child = model.pages.create(pbn);
        this.#links.push({ parent: page, slot, child });
        page = child;
      }
    }
    return page;
  }

  *#load(pbn: number): Generator<Wait, Page, void> {
    const { pages } = this.#model;
    return pages.get(pbn) ?? pages.load(pbn, yield* this.#model.read(pbn));
  }

  /** Finds where the request's content is or shall be. False without space. */
  *#place(planned: Planned): Generator<Wait, boolean, void> {
    const { content, discard, share, pack } = planned.request;
    if (discard) return true;
    if (content === ZEROS) {
      planned.mapping = ZERO_MAPPING;
      return true;
    }
    const known = share ? this.#stored.index.get(content) : undefined;
    if (known && this.#claim(known, content)) {
      planned.mapping = known;
      return true;
    }
    if (pack && !isPageLike(content)) {
      this.#toPack.push(planned);
      return true;
    }
    return yield* this.#storePlain(planned);
  }

  *#storePlain(planned: Planned): Generator<Wait, boolean, void> {
    const { content } = planned.request;
    const pbn = yield* this.#allocate();
    if (pbn === undefined) return false;
    planned.mapping = this.#keep(pbn, [content], 1)[0]!;
    this.#writes.set(pbn, this.#model.contents.bytesOf(content));
    return true;
  }

  #keep(pbn: number, contents: readonly number[], firstState: number): Mapping[] {
    this.#stored.contents.set(pbn, contents);
    this.#claims.set(pbn, contents.length);
    return contents.map((content, k) => {
      const mapping = { state: firstState + k, pbn };
      this.#stored.index.set(content, mapping);
      return mapping;
    });
  }

  /** Verifies the advice and takes one of the 254 references. */
  #claim({ state, pbn }: Mapping, content: number): boolean {
    const model = this.#model;
    const contents = this.#stored.contents.get(pbn);
    const slot = state === 1 ? 0 : state - 2;
    const packed = state !== 1;
    if (!contents || contents[slot] !== content || packed !== contents.length > 1) return false;
    const count = model.countOf(pbn);
    const claims = this.#claims.get(pbn) ?? 0;
    const taken = (count === PROVISIONAL ? 0 : count) + claims;
    if (taken >= MAX_REFERENCES && model.sabotage !== 'beyond-254') return false;
    this.#claims.set(pbn, claims + 1);
    if (count === 0) model.setCount(pbn, PROVISIONAL);
    return true;
  }

  *#pack(): Generator<Wait, void, void> {
    const waiting = this.#toPack;
    while (waiting.length > 0) {
      const bin = waiting.splice(0, MAX_PACKED);
      const pbn = bin.length > 1 ? yield* this.#allocate() : undefined;
      if (pbn === undefined) {
        for (const planned of bin) {
          if (yield* this.#storePlain(planned)) continue;
          this.#planned.splice(this.#planned.indexOf(planned), 1);
        }
        continue;
      }
      const contents = bin.map(({ request }) => request.content);
      this.#keep(pbn, contents, 2).forEach((mapping, k) => (bin[k]!.mapping = mapping));
      this.#writes.set(pbn, this.#model.contents.packed(contents));
    }
  }

  /** A free block, provisional from now on. Commits first if only held ones are left. */
  *#allocate(): Generator<Wait, number | undefined, void> {
    const pbn = this.#findFree();
    if (pbn !== undefined) return pbn;
    if (!(yield* this.#model.releaseHeld())) return undefined;
    return this.#findFree();
  }

  #findFree(): number | undefined {
    const model = this.#model;
    const { random } = model.options;
    const { dataBlocks, firstBlock, slabBlocks } = model.layout;
    const firstSlab = random.below(model.slabs.length);
    const start = random.below(random.chance(0.9) ? Math.min(64, dataBlocks) : dataBlocks);
    for (let i = 0; i < model.slabs.length; i++) {
      const slab = model.slabs[(firstSlab + i) % model.slabs.length]!;
      for (let k = 0; k < dataBlocks; k++) {
        const offset = (start + k) % dataBlocks;
        if (slab.counts[offset] !== 0) continue;
        const pbn = firstBlock + slab.number * slabBlocks + offset;
        if (model.held.has(pbn) && model.sabotage !== 'reuse-freed') continue;
        slab.counts[offset] = PROVISIONAL;
        return pbn;
      }
    }
    return undefined;
  }

  #apply(): void {
    const model = this.#model;
    for (const { parent, slot, child } of this.#links) {
      const mapping = { state: 1, pbn: child.pbn };
      const entry = { operation: 1, page: parent.pbn, slot, mapping, unmapping: NOWHERE };
      this.#change(parent, entry, true);
    }
    for (const { request, leaf, mapping } of this.#planned) {
      if (leaf) {
        const slot = request.lbn % 812;
        const unmapping = model.pages.mapping(leaf, slot);
        if (unmapping.state !== mapping.state || unmapping.pbn !== mapping.pbn) {
          const entry = { operation: 0, page: leaf.pbn, slot, mapping, unmapping };
          this.#change(leaf, entry, false);
        }
      }
      this.#applied(request);
    }
    for (const pbn of this.#claims.keys()) {
      if (model.countOf(pbn) === PROVISIONAL) model.setCount(pbn, 0);
    }
    model.appended(this.#links.length + this.#planned.length);
  }

  #change(page: Page, entry: JournalEntry, blockMap: boolean): void {
    const model = this.#model;
    const { mapping, unmapping } = entry;
    const point = model.journal.append(entry);
    if (mapping.pbn !== 0) {
      const { slab, offset } = model.slabFor(mapping.pbn);
      slab.apply({ offset, increment: true, blockMap }, point);
    }
    if (unmapping.pbn !== 0) {
      const { slab, offset } = model.slabFor(unmapping.pbn);
      const count = slab.apply({ offset, increment: false, blockMap: false }, point + 1);
      if (count === 0) model.hold(unmapping.pbn);
    }
    model.pages.store(page, entry.slot, mapping);
  }
}
