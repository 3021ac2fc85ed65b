/**
 * A storage that breaks one rule of the commit protocol behind the engine's back: it answers a flush
 * without flushing, leaves a write out, or changes what is written. The engine above is the real one, so
 * each of these lies says: without this barrier, or with this byte, a crash loses something.
 */
import type { MemoryStorage } from '../../src/storage/memory-storage.ts';
import type { Extent, Storage } from '../../src/storage/storage.ts';
import {
  changedSuperBlock,
  getU64,
  readLayout,
  setU64,
  slabPlace,
  STATE,
  type VolumeLayout,
} from '../model/layout.ts';
import { BLOCK, runNow } from '../model/steps.ts';

/** Parts of a volume, as far as lies differ. */
type Part = 'super block' | 'journal' | 'summary' | 'counts' | 'slab journal' | 'data';

export const LIES = {
  'data-not-flushed': 'the journal is written without the data before it being durable',
  'journal-not-flushed':
    'flushes are answered, and map pages written, before the journal is durable',
  'counts-not-flushed': 'the summary is written together with the counts and tails it describes',
  'hints-not-flushed': 'counts are written together with the hints that say how full they are',
  'summary-not-flushed': 'journal heads move before the summary and second images are durable',
  'page-written-once': 'the first image of an uninitialized tree page is left out',
  'heads-ahead': 'journal blocks carry heads as if everything before them were written back',
  'point-ahead': 'reference blocks carry a commit point one entry ahead',
  'replay-not-flushed': 'recovery writes the summary before pages and slab journals are durable',
  'super-not-behind-summary': 'recovery writes the super block before the summary is durable',
  'recovery-not-counted':
    'recovery leaves the number of recoveries as it was: old blocks stay valid',
} as const;
export type Lie = keyof typeof LIES;

/** Summary blocks that only an open or a recovery writes: all copies at once. */
const ALL_COPIES_BYTES = 64 * BLOCK;

export class LyingStorage implements Storage {
  readonly #below: Storage;
  readonly #layout: VolumeLayout;
  readonly #lie: Lie;
  /** Parts written since the last flush, and whether the summary was written in all copies. */
  #written = new Set<Part | 'all copies'>();
  /** Whether the super block of this run is written: before that it is opened or recovered. */
  #isRunning = false;
  /** Whether the summary's next flush is that of whole entries; before the counts' it is that of hints. */
  #countsFlushed = false;

  /** `image`: what the volume is before it is opened. */
  constructor(below: Storage, image: MemoryStorage, lie: Lie) {
    this.#below = below;
    this.#lie = lie;
    this.#layout = runNow(readLayout(), image);
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

  write(extents: readonly Extent[]): Promise<void> {
    const told = extents.flatMap((extent) => this.#tell(extent));
    return told.length === 0 ? Promise.resolve() : this.#below.write(told);
  }

  flush(): Promise<void> {
    const written = this.#written;
    this.#written = new Set();
    const skipped = this.#isSkipped(written);
    if (written.has('slab journal')) this.#countsFlushed = true;
    else if (written.has('summary')) this.#countsFlushed = false;
    return skipped ? Promise.resolve() : this.#below.flush();
  }

  close(): Promise<void> {
    return this.#below.close();
  }

  /** Whether a flush behind these writes is only answered. */
  #isSkipped(written: ReadonlySet<Part | 'all copies'>): boolean {
    switch (this.#lie) {
      case 'data-not-flushed':
        return this.#isRunning && [...written].every((part) => part === 'data');
      case 'journal-not-flushed':
        return written.has('journal');
      case 'counts-not-flushed':
        return this.#isRunning && written.has('slab journal');
      case 'hints-not-flushed':
        return this.#isRunning && !this.#countsFlushed && isSummary(written);
      case 'summary-not-flushed':
        return this.#isRunning && this.#countsFlushed && isSummary(written);
      case 'replay-not-flushed':
        return !this.#isRunning && !written.has('all copies') && !written.has('super block');
      case 'super-not-behind-summary':
        return !this.#isRunning && written.has('all copies');
      default:
        return false;
    }
  }

  #tell(extent: Extent): Extent[] {
    const part = this.#partOf(extent.offset / BLOCK);
    this.#written.add(part);
    if (part === 'summary' && extent.bytes.length === ALL_COPIES_BYTES) {
      this.#written.add('all copies');
    }
    if (part === 'super block') this.#isRunning = true;
    const lie = this.#lie;
    if (lie === 'page-written-once' && part === 'data' && isUninitializedPage(extent)) return [];
    if (lie === 'heads-ahead' && part === 'journal') return [this.#withHeads(extent)];
    if (lie === 'point-ahead' && part === 'counts') return [withPointAhead(extent)];
    if (lie === 'recovery-not-counted' && part === 'super block') return [this.#uncounted(extent)];
    return [extent];
  }

  #partOf(pbn: number): Part {
    const layout = this.#layout;
    if (pbn === layout.superPbn) return 'super block';
    if (pbn >= layout.summaryOrigin) return 'summary';
    if (pbn >= layout.journalOrigin) return 'journal';
    const slab = Math.floor((pbn - layout.firstBlock) / layout.slabBlocks);
    if (slab < 0 || slab >= layout.slabCount) return 'data';
    const { counts, journal } = slabPlace(layout, slab);
    return pbn < counts ? 'data' : pbn < journal ? 'counts' : 'slab journal';
  }

  #withHeads({ offset, bytes }: Extent): Extent {
    const copy = Buffer.from(bytes);
    for (const at of [0, 8]) setU64(copy, at, getU64(copy, 16));
    return { offset, bytes: copy };
  }

  #uncounted({ offset, bytes }: Extent): Extent {
    const { completeRecoveries } = this.#layout;
    const change = { state: STATE.DIRTY, completeRecoveries };
    if (bytes[40] !== STATE.DIRTY) return { offset, bytes };
    return { offset, bytes: changedSuperBlock(Buffer.from(bytes), change) };
  }
}

/** A block map page in its first image. */
function isUninitializedPage({ offset, bytes }: Extent): boolean {
  const page = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const isPage = page.readUInt32LE(0) === 4 && page.readUInt32LE(4) === 1;
  return isPage && bytes.length === BLOCK && getU64(page, 16) === offset / BLOCK && page[32] === 0;
}

const isSummary = (written: ReadonlySet<Part | 'all copies'>): boolean =>
  written.has('summary') && !written.has('slab journal');

function withPointAhead({ offset, bytes }: Extent): Extent {
  const copy = Buffer.from(bytes);
  for (let at = 0; at < copy.length; at += 512) setU64(copy, at, getU64(copy, at) + 1);
  return { offset, bytes: copy };
}
