/**
 * The block map in recovery: the mappings of a window of journal entries go into the pages on disk,
 * in order, the last one of each slot winning.
 *
 * Invariants:
 * - A page that was never initialized is written twice, with a barrier between, so that a torn write
 *   of it never looks like a page (docs/COMMIT.md, rule 10).
 * - Setting the same mappings again changes nothing: a recovery that was interrupted is repeated.
 *
 * Implements docs/FORMAT.md §7.3, step C.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import { NumberMap } from '../base/number-map.ts';
import {
  formatPage,
  isInitialized,
  pageValidity,
  setEntry,
  setInitialized,
} from '../format/block-map-page.ts';
import type { Extent, Storage } from '../storage/storage.ts';
import type { JournalEntries } from './journal-entries.ts';

/** Pages read and written at once. */
const BATCH_PAGES = 2048;

/** Entries `from` … of a window, ordered by the page they change; per page in journal order. */
interface Grouped {
  /** Pages, ascending. */
  readonly pages: Float64Array;
  /** Where the entries of page p begin in `order`; one more at the end. */
  readonly starts: Int32Array;
  readonly order: Int32Array;
}

function groupByPage(entries: JournalEntries, from: number): Grouped {
  const count = entries.count - from;
  const groupOf = new NumberMap(Math.max(1, count));
  const group = new Int32Array(count);
  const found: number[] = [];
  for (let i = 0; i < count; i++) {
    const page = entries.page[from + i]!;
    let number = groupOf.get(page);
    if (number < 0) {
      number = found.length;
      found.push(page);
      groupOf.set(page, number);
    }
    group[i] = number;
  }
  const pages = Float64Array.from(found).sort();
  const place = new Int32Array(pages.length);
  for (let p = 0; p < pages.length; p++) place[groupOf.get(pages[p]!)] = p;
  const starts = new Int32Array(pages.length + 1);
  for (let i = 0; i < count; i++) starts[place[group[i]!]! + 1]!++;
  for (let p = 0; p < pages.length; p++) starts[p + 1]! += starts[p]!;
  const next = starts.slice();
  const order = new Int32Array(count);
  for (let i = 0; i < count; i++) order[next[place[group[i]!]!]!++] = from + i;
  return { pages, starts, order };
}

/**
 * Writes the mappings of entries `from` … to their pages; durable only after a flush. Returns the
 * number of pages. `misplaced`: what becomes of a page that says it belongs elsewhere. Fails with
 * `Corrupt` where that is a failure, and with `Io`.
 */
export async function replayBlockMap(
  storage: Storage,
  nonce: Uint8Array,
  entries: JournalEntries,
  from: number,
  misplaced: 'fails' | 'is empty' = 'fails',
): Promise<number> {
  const grouped = groupByPage(entries, from);
  const { pages } = grouped;
  for (let first = 0; first < pages.length; first += BATCH_PAGES) {
    const end = Math.min(pages.length, first + BATCH_PAGES);
    await replayPages({ storage, nonce, entries, grouped, misplaced }, first, end);
  }
  return pages.length;
}

interface Replay {
  readonly storage: Storage;
  readonly nonce: Uint8Array;
  readonly entries: JournalEntries;
  readonly grouped: Grouped;
  readonly misplaced: 'fails' | 'is empty';
}

async function replayPages(replay: Replay, first: number, end: number): Promise<void> {
  const { storage, nonce, entries, grouped, misplaced } = replay;
  const images: Extent[] = [];
  for (let p = first; p < end; p++) {
    const offset = grouped.pages[p]! * BLOCK_SIZE;
    images.push({ offset, bytes: new Uint8Array(BLOCK_SIZE) });
  }
  await storage.read(images);
  const second: Extent[] = [];
  for (let p = first; p < end; p++) {
    const { offset, bytes } = images[p - first]!;
    adoptPage(bytes, nonce, grouped.pages[p]!, misplaced);
    for (let k = grouped.starts[p]!; k < grouped.starts[p + 1]!; k++) {
      const i = grouped.order[k]!;
      setEntry(bytes, entries.slot[i]!, entries.newPbn[i]!, entries.newState[i]!);
    }
    if (isInitialized(bytes)) continue;
    const again = Uint8Array.from(bytes);
    setInitialized(again, true);
    second.push({ offset, bytes: again });
  }
  await storage.write(images);
  if (second.length === 0) return;
  await storage.flush();
  await storage.write(second);
}

function adoptPage(
  bytes: Uint8Array,
  nonce: Uint8Array,
  pbn: number,
  misplaced: Replay['misplaced'],
): void {
  const validity = pageValidity(bytes, nonce, pbn);
  if (validity === 'bad' && misplaced === 'fails') {
    throw new VdoError('Corrupt', `block map page ${pbn} carries the number of another block`, {
      pbn,
    });
  }
  if (validity !== 'valid') formatPage(bytes, nonce, pbn, false);
}
