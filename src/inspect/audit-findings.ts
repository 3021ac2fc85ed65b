/**
 * What an audit finds: each disagreement with its kind, its place, what was expected there and what
 * was found; and a reader that turns what cannot be read into such findings.
 *
 * Findings are told one by one as they come up. Of those kept for the report there is a limit, so
 * that a volume that is wrong everywhere costs no more memory than a sound one; all are counted.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { VdoError, type Where } from '../base/errors.ts';
import type { Storage } from '../storage/storage.ts';

export type FindingKind =
  /** A block could not be read. */
  | 'unreadable'
  /** A tree page says that it belongs elsewhere. */
  | 'tree-page'
  /** An interior entry names no block that can hold a page, or one that another entry names too. */
  | 'tree-entry'
  /** A leaf entry has a state and a block that do not go together, or no data block. */
  | 'mapping'
  /** A logical block beyond the logical size is mapped. */
  | 'beyond-end'
  /** More mappings name a block than a count can say. */
  | 'too-many-references'
  /** A stored count differs from the number of mappings that name the block. */
  | 'reference-count'
  /** A reference count block contradicts itself: torn, counts past the slab's end, later than its journal. */
  | 'reference-block'
  /** The summary entry of a slab differs from the slab. */
  | 'slab-summary'
  /** A slab journal is not what its summary entry says, or cannot be replayed. */
  | 'slab-journal'
  /** The recovery journal is not what the super block says, or cannot be replayed. */
  | 'recovery-journal'
  /** A number in the super block differs from what was counted. */
  | 'counter'
  /** A compressed block does not hold the fragments that mappings name. */
  | 'compressed-block';

export interface Finding {
  readonly kind: FindingKind;
  /** Whatever names the place: pbn, slab, page, slot, lbn … */
  readonly where: Where;
  readonly expected: string | number;
  readonly found: string | number;
}

/** Findings that a report keeps. */
export const MAX_KEPT_FINDINGS = 100_000;

export class Findings {
  readonly kept: Finding[] = [];
  readonly byKind: Partial<Record<FindingKind, number>> = {};
  count = 0;
  readonly #tell: ((finding: Finding) => void) | undefined;

  constructor(tell?: (finding: Finding) => void) {
    this.#tell = tell;
  }

  add(kind: FindingKind, where: Where, expected: string | number, found: string | number): void {
    const finding = { kind, where, expected, found };
    this.count++;
    this.byKind[kind] = (this.byKind[kind] ?? 0) + 1;
    if (this.kept.length < MAX_KEPT_FINDINGS) this.kept.push(finding);
    this.#tell?.(finding);
  }
}

/** Blocks of a buffer that is used again and again. */
const REUSED_BLOCKS = 256;

/** Reads blocks by number; block n lies at n · 4096. What cannot be read is a finding and comes back as `undefined`. */
export class BlockReader {
  readonly #storage: Storage;
  readonly #findings: Findings;
  /** Whatever fits is read into this. */
  readonly #buffer = new Uint8Array(REUSED_BLOCKS * BLOCK_SIZE);

  constructor(storage: Storage, findings: Findings) {
    this.#storage = storage;
    this.#findings = findings;
  }

  /**
   * The blocks at `pbns[start]` … `pbns[end − 1]`, with one vector of reads where all goes well; good until
   * the next call. They are read into `into`, if that is given.
   */
  async blocks(
    pbns: readonly number[],
    start = 0,
    end = pbns.length,
    into?: Uint8Array,
  ): Promise<(Uint8Array | undefined)[]> {
    const size = (end - start) * BLOCK_SIZE;
    const own = size <= this.#buffer.length ? this.#buffer : new Uint8Array(size);
    const bytes = into ?? own;
    const images: Uint8Array[] = [];
    for (let at = 0; at < size; at += BLOCK_SIZE) {
      images.push(bytes.subarray(at, at + BLOCK_SIZE));
    }
    const extents = images.map((image, i) => ({
      offset: pbns[start + i]! * BLOCK_SIZE,
      bytes: image,
    }));
    try {
      await this.#storage.read(extents);
      return images;
    } catch (error) {
      if (!(error instanceof VdoError)) throw error;
    }
    const found: (Uint8Array | undefined)[] = [];
    for (const [i, extent] of extents.entries()) {
      found.push((await this.#readAlone(pbns[start + i]!, extent)) ? extent.bytes : undefined);
    }
    return found;
  }

  /** `count` blocks from `pbn` on as one array, zeros where they cannot be read. */
  async range(pbn: number, count: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(count * BLOCK_SIZE);
    const offset = pbn * BLOCK_SIZE;
    try {
      await this.#storage.read([{ offset, bytes }]);
      return bytes;
    } catch (error) {
      if (!(error instanceof VdoError)) throw error;
    }
    for (let i = 0; i < count; i++) {
      const block = bytes.subarray(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE);
      const extent = { offset: offset + i * BLOCK_SIZE, bytes: block };
      if (!(await this.#readAlone(pbn + i, extent))) block.fill(0);
    }
    return bytes;
  }

  async #readAlone(pbn: number, extent: { offset: number; bytes: Uint8Array }): Promise<boolean> {
    try {
      await this.#storage.read([extent]);
      return true;
    } catch (error) {
      if (!(error instanceof VdoError)) throw error;
      this.#findings.add('unreadable', { pbn }, 'a readable block', error.message);
      return false;
    }
  }
}
