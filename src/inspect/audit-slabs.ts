/**
 * The slab depot's part of an audit: every stored reference count against the mappings that name its
 * block, every summary entry against its slab, every slab journal against its summary entry.
 *
 * A slab whose summary entry is dirty is scrubbed at the next start, also in a volume that was closed
 * cleanly (dm-vdo leaves such slabs now and then). So its counts are judged as scrubbing makes them;
 * `asStored` judges all counts as they lie on disk, which is how dm-vdo's own `vdoaudit` sees them.
 */
import {
  BLOCK_SIZE,
  COUNTS_PER_BLOCK,
  COUNTS_PER_SECTOR,
  MAXIMUM_REFERENCE_COUNT,
  MiB,
  PROVISIONAL_REFERENCE_COUNT,
  SECTOR_SIZE,
  SECTORS_PER_BLOCK,
  SLAB_SUMMARY_BLOCKS,
} from '../base/constants.ts';
import { bytesEqual } from '../base/bytes.ts';
import { VdoError } from '../base/errors.ts';
import { decodeReferenceBlock, readCommitPoint } from '../format/reference-block.ts';
import {
  readSlabJournalHeader,
  SLAB_JOURNAL_METADATA_TYPE,
  slabJournalCapacity,
  type SlabJournalHeader,
} from '../format/slab-journal-block.ts';
import { readSummaryEntry, SUMMARY_ZONE_SIZE, type SummaryEntry } from '../format/slab-summary.ts';
import type { SuperBlock } from '../format/super-block.ts';
import { scrubSlab } from '../slab-depot/scrub.ts';
import { slabsOf } from '../volume/labels.ts';
import type { BlockReader, Findings } from './audit-findings.ts';
import { TREE_PAGE, type References } from './audit-references.ts';

/** Reference blocks held at once. */
const READ_BYTES = 32 * MiB;

export interface SlabAuditInput {
  readonly superBlock: SuperBlock;
  readonly reader: BlockReader;
  readonly findings: Findings;
  readonly references: References;
  /** Whether slab journals are left aside. */
  readonly asStored: boolean;
  /** Whether the volume was saved: then each reference block agrees with its slab's journal. */
  readonly saved: boolean;
  /** Told how many blocks were read. */
  readonly onBlocks: (blocks: number) => void;
}

export class SlabAudit {
  readonly #input: SlabAuditInput;
  readonly #summary = new Uint8Array(SLAB_SUMMARY_BLOCKS * BLOCK_SIZE);
  /** Blocks with a count, tree pages left out. */
  dataBlocksUsed = 0;
  /** Slabs whose journals a start would apply. */
  slabsToScrub = 0;
  /** Counts that this would change. */
  countsChangedByScrubbing = 0;

  constructor(input: SlabAuditInput) {
    this.#input = input;
  }

  /** Compares all slabs. */
  async run(): Promise<void> {
    const { superBlock, reader } = this.#input;
    const { offset, count } = superBlock.partitions.slabSummary;
    this.#summary.set(await reader.range(offset, Math.min(count, SLAB_SUMMARY_BLOCKS)));
    const slabs = slabsOf(superBlock);
    const perSlab = superBlock.slab.referenceBlocks * BLOCK_SIZE;
    const batch = Math.max(1, Math.floor(READ_BYTES / perSlab));
    for (let first = 0; first < slabs; first += batch) {
      await this.#runSlabs(first, Math.min(slabs, first + batch));
    }
  }

  /** The entry that counts: from the copy of the physical zone that last had the slab. */
  summaryOf(slab: number): SummaryEntry {
    const zone = slab % Math.max(1, this.#input.superBlock.zoneCount);
    return readSummaryEntry(this.#summary.subarray(zone * SUMMARY_ZONE_SIZE), slab);
  }

  async #runSlabs(first: number, end: number): Promise<void> {
    const { superBlock, reader, onBlocks } = this.#input;
    const { referenceBlocks, journalBlocks, dataBlocks } = superBlock.slab;
    const pbns: number[] = [];
    for (let slab = first; slab < end; slab++) {
      const counts = this.#startOf(slab) + dataBlocks;
      const { loadCounts, tailOffset } = this.summaryOf(slab);
      for (let i = 0; loadCounts && i < referenceBlocks; i++) pbns.push(counts + i);
      if (isFresh(this.summaryOf(slab))) continue;
      pbns.push(counts + referenceBlocks + ((tailOffset + journalBlocks - 1) % journalBlocks));
    }
    const images = await reader.blocks(pbns);
    let at = 0;
    for (let slab = first; slab < end; slab++) {
      const entry = this.summaryOf(slab);
      const blocks = entry.loadCounts ? referenceBlocks : 0;
      const stored = images.slice(at, at + blocks);
      at += blocks;
      const tail = isFresh(entry) ? undefined : images[at++];
      await this.#runSlab(slab, entry, stored, tail);
    }
    onBlocks((end - first) * (referenceBlocks + 1));
  }

  async #runSlab(
    slab: number,
    entry: SummaryEntry,
    stored: readonly (Uint8Array | undefined)[],
    tailBlock: Uint8Array | undefined,
  ): Promise<void> {
    const { superBlock, asStored, saved } = this.#input;
    const { dataBlocks } = superBlock.slab;
    const tail = this.#checkTail(slab, entry, tailBlock);
    let counts: Uint8Array = new Uint8Array(dataBlocks);
    stored.forEach((bytes, i) => {
      if (bytes === undefined) return;
      decodeReferenceBlock(bytes, counts, i * COUNTS_PER_BLOCK);
      if (saved && !entry.dirty) this.#checkReferenceBlock(slab, i, bytes, tail);
    });
    const isScrubbed = entry.dirty && tail !== undefined && !asStored;
    if (isScrubbed) counts = await this.#scrub(slab, counts, stored, tail.sequence);
    const free = this.#compare(slab, counts);
    if (asStored || saved) this.#checkHint(slab, entry, free);
  }

  /** The counts once scrubbed; the stored ones where that is impossible. */
  async #scrub(
    slab: number,
    counts: Uint8Array,
    stored: readonly (Uint8Array | undefined)[],
    last: number,
  ): Promise<Uint8Array> {
    const { superBlock, reader, findings } = this.#input;
    const { dataBlocks, journalBlocks } = superBlock.slab;
    const references = new Uint8Array(stored.length * BLOCK_SIZE);
    stored.forEach((bytes, i) => bytes && references.set(bytes, i * BLOCK_SIZE));
    const journal = await reader.range(this.#journalStart(slab), journalBlocks);
    this.slabsToScrub++;
    try {
      const scrubbed = scrubSlab({
        slab,
        dataBlocks,
        nonce: superBlock.nonce,
        references: stored.length > 0 ? references : null,
        journal,
        last,
      });
      for (let sbn = 0; sbn < dataBlocks; sbn++) {
        const before = counts[sbn] === PROVISIONAL_REFERENCE_COUNT ? 0 : counts[sbn];
        if (scrubbed.counts[sbn] !== before) this.countsChangedByScrubbing++;
      }
      return scrubbed.counts;
    } catch (error) {
      if (!(error instanceof VdoError)) throw error;
      const expected = 'a slab journal that can be applied';
      findings.add('slab-journal', { slab }, expected, error.message);
      return counts;
    }
  }

  /** The tail block's header, where there is one; and whether it belongs where it lies. */
  #checkTail(
    slab: number,
    entry: SummaryEntry,
    block: Uint8Array | undefined,
  ): SlabJournalHeader | undefined {
    const { superBlock, findings } = this.#input;
    if (block === undefined) return undefined;
    const { journalBlocks } = superBlock.slab;
    const slot = (entry.tailOffset + journalBlocks - 1) % journalBlocks;
    const header = readSlabJournalHeader(block);
    const isOurs =
      header.metadataType === SLAB_JOURNAL_METADATA_TYPE &&
      bytesEqual(header.nonce, superBlock.nonce);
    // A rebuild leaves journals of zeros behind an offset of 0.
    if (!isOurs && entry.tailOffset === 0) return undefined;
    const { sequence, entryCount, hasBlockMapIncrements } = header;
    const found = !isOurs
      ? 'no slab journal block'
      : sequence % journalBlocks !== slot || sequence < 1
        ? `block with sequence ${sequence}`
        : entryCount > slabJournalCapacity(hasBlockMapIncrements)
          ? `block of ${entryCount} entries`
          : undefined;
    if (found === undefined) return header;
    const expected = `the last journal block at offset ${slot}, as the summary says`;
    findings.add('slab-journal', { slab, pbn: this.#journalStart(slab) + slot }, expected, found);
    return undefined;
  }

  /** A saved block: one commit point, not after the journal's end; no counts past the slab's. */
  #checkReferenceBlock(
    slab: number,
    index: number,
    bytes: Uint8Array,
    tail: SlabJournalHeader | undefined,
  ): void {
    const { superBlock, findings } = this.#input;
    const where = { slab, pbn: this.#startOf(slab) + superBlock.slab.dataBlocks + index };
    const first = readCommitPoint(bytes, 0);
    for (let sector = 1; sector < SECTORS_PER_BLOCK; sector++) {
      const { sequence, index: entry } = readCommitPoint(bytes, sector);
      if (sequence === first.sequence && entry === first.index) continue;
      const expected = `commit point ${first.sequence}.${first.index}`;
      findings.add('reference-block', { ...where, sector }, expected, `${sequence}.${entry}`);
    }
    const isLate =
      tail !== undefined &&
      (first.sequence > tail.sequence ||
        (first.sequence === tail.sequence && first.index >= tail.entryCount));
    if (isLate) {
      const expected = `a commit point up to ${tail.sequence}.${tail.entryCount - 1}`;
      findings.add('reference-block', where, expected, `${first.sequence}.${first.index}`);
    }
    const used = superBlock.slab.dataBlocks - index * COUNTS_PER_BLOCK;
    for (let i = Math.max(0, used); i < COUNTS_PER_BLOCK; i++) {
      const at = Math.floor(i / COUNTS_PER_SECTOR) * SECTOR_SIZE + 8 + (i % COUNTS_PER_SECTOR);
      if (bytes[at] === 0) continue;
      findings.add('reference-block', where, 'no counts past the last data block', bytes[at]!);
      return;
    }
  }

  /** Compares counts; returns how many blocks are free. */
  #compare(slab: number, counts: Uint8Array): number {
    const { references, findings } = this.#input;
    const wanted = references.countsOf(slab);
    const start = this.#startOf(slab);
    let free = 0;
    for (let sbn = 0; sbn < counts.length; sbn++) {
      const found = counts[sbn]!;
      const expected = wanted === undefined ? 0 : wanted[sbn]!;
      if (found === 0 || found === PROVISIONAL_REFERENCE_COUNT) free++;
      else if (expected !== TREE_PAGE) this.dataBlocksUsed++;
      if (found === expected && found !== TREE_PAGE) continue;
      const pbn = start + sbn;
      if (isRight(found, expected)) continue;
      const where = { pbn, slab };
      if (expected === TREE_PAGE) {
        findings.add('reference-count', where, `${MAXIMUM_REFERENCE_COUNT} (a tree page)`, found);
      } else findings.add('reference-count', where, expected, found);
    }
    return free;
  }

  #checkHint(slab: number, { fullnessHint }: SummaryEntry, free: number): void {
    const { superBlock, findings } = this.#input;
    const unit = 2 ** Math.max(0, Math.log2(superBlock.slab.blocks) - 6);
    // The lowest free count that dm-vdo accepts with a hint is a unit below it.
    const least = Math.max(0, fullnessHint - 1) * unit;
    if (free >= least && free < (fullnessHint + 1) * unit) return;
    const found = `fullness hint ${fullnessHint}`;
    findings.add('slab-summary', { slab }, `the hint for ${free} free blocks`, found);
  }

  #startOf(slab: number): number {
    return this.#input.superBlock.firstBlock + slab * this.#input.superBlock.slabSize;
  }

  #journalStart(slab: number): number {
    const { dataBlocks, referenceBlocks } = this.#input.superBlock.slab;
    return this.#startOf(slab) + dataBlocks + referenceBlocks;
  }
}

function isFresh({ tailOffset, loadCounts }: SummaryEntry): boolean {
  return tailOffset === 0 && !loadCounts;
}

/** A tree page may also carry count 1, as older versions left it; provisional counts mean free. */
function isRight(found: number, expected: number): boolean {
  if (expected === TREE_PAGE) return found === MAXIMUM_REFERENCE_COUNT || found === 1;
  return found === expected || (found === PROVISIONAL_REFERENCE_COUNT && expected === 0);
}
