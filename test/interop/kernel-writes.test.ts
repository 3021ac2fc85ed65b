/**
 * The order in which the kernel makes things durable, as dm-log-writes sees it below a volume (by
 * completion: writes that are under way together change places): the order that recovery relies on,
 * and when pages, slab journals and heads move.
 * docs/TESTING.md, "What we checked on the real kernel".
 */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { available, inKernel, run, skipReason, withFolder } from './harness.ts';
import { tiny, TINY, TINY_TABLE } from './kernel-volume.ts';
import { JOURNAL_ENTRIES, State, VdoImage, type JournalEntry } from './vdo-image.ts';
import { Workload } from './workload.ts';
import { readWriteLog, type LoggedWrite } from './write-log.ts';

const { skip, note } = skipReason(available().uml, available().tools);
/** Maximum age of TINY_TABLE in journal blocks: ceil(32 · 311 / 434). */
const AGE = 23;
const USABLE = TINY.journal - 11;

/** Runs a workload over dm-log-writes and stops. */
function logged(fill: (workload: Workload) => void): Promise<[VdoImage, LoggedWrite[]]> {
  return withFolder(async (folder) => {
    const path = join(folder, 'volume');
    const log = join(folder, 'log');
    tiny().save(path);
    await run('truncate', ['-s', '1G', log]);
    const workload = new Workload(folder, TINY.logicalBlocks);
    fill(workload);
    await inKernel({
      engine: 'uml',
      disks: [path, log],
      share: folder,
      env: TINY_TABLE,
      script: `set -e
dmsetup create logged --table "0 $(blockdev --getsz \${DISKS[0]}) log-writes \${DISKS[0]} \${DISKS[1]}"
VDO_ON=/dev/mapper/logged vdo_start \${DISKS[0]} v compression on
${workload.script()}
vdo_stop v
dmsetup remove --retry logged`,
    });
    const image = VdoImage.load(path);
    return [image, readWriteLog(log, image)] as [VdoImage, LoggedWrite[]];
  });
}

interface JournalWrite {
  /** Position in the log. */
  readonly at: number;
  readonly sequence: number;
  readonly blockMapHead: number;
  readonly slabJournalHead: number;
  readonly entries: readonly JournalEntry[];
}

describe.skipIf(skip)(`the order of the kernel's writes${note}`, () => {
  let image: VdoImage;
  let log: LoggedWrite[];
  let journal: JournalWrite[];
  const at = (region: LoggedWrite['region']) =>
    log.map((write, i) => ({ ...write, at: i })).filter((write) => write.region === region);

  beforeAll(async () => {
    [image, log] = await logged((workload) => {
      workload.random(0, 100).flush().random(812, 30).flush();
      for (let i = 0; i < 70; i++) workload.random(1000, 300);
      workload.discard(1000, 50).zeros(1100, 50).flush();
    });
    const copy = image.clone();
    journal = at('recovery journal')
      .filter((write) => write.bytes.readUInt8(32) === 3)
      .map((write) => {
        write.bytes.copy(copy.block(write.pbn));
        const block = copy.journalBlock(Number(write.bytes.readBigUInt64LE(16)));
        if (block === undefined) throw new Error('a journal block that is none');
        return { ...block, at: write.at };
      });
    expect(journal.at(-1)?.sequence).toBeGreaterThan(TINY.journal + AGE);
  });

  /** When an entry became durable, by page and slot and mapping. */
  function journaled(): Map<string, number> {
    const when = new Map<string, number>();
    for (const write of journal) {
      for (const { page, slot, mapping } of write.entries) {
        const key = `${page}/${slot}=${mapping.pbn}:${mapping.state}`;
        if (!when.has(key)) when.set(key, write.at);
      }
    }
    return when;
  }

  it('every journal write is FUA, and the data it names is durable before it', () => {
    const written = new Map<number, number>();
    log.forEach((write, i) => {
      if (write.region === 'data' && write.pbn >= 0 && !written.has(write.pbn)) {
        written.set(write.pbn, i);
      }
    });
    const late: string[] = [];
    for (const write of journal) {
      expect(log[write.at]?.fua).toBe(true);
      for (const { operation, mapping } of write.entries) {
        if (operation !== 0 || mapping.pbn === 0) continue;
        if ((written.get(mapping.pbn) ?? Infinity) > write.at) late.push(String(mapping.pbn));
      }
    }
    expect(late).toEqual([]);
  });

  it('journal blocks fill up before the next one begins, and only grow', () => {
    const counts = new Map<number, number>();
    let newest = 0;
    journal.forEach((write, i) => {
      const { sequence, entries } = write;
      expect(entries.length).toBeGreaterThanOrEqual(counts.get(sequence) ?? 0);
      counts.set(sequence, entries.length);
      if (sequence <= newest) return;
      expect(sequence).toBe(newest + 1);
      newest = sequence;
      if (sequence === 1) return;
      // Writes of two blocks overtake each other: what fills the one before may still be under way.
      const before =
        counts.get(sequence - 1) === JOURNAL_ENTRIES
          ? JOURNAL_ENTRIES
          : journal.slice(i).find((later) => later.sequence === sequence - 1)?.entries.length;
      expect(before).toBe(JOURNAL_ENTRIES);
    });
  });

  it('heads are published before slots are reused, and stay within the usable blocks', () => {
    let heads = { blockMap: 0, slabJournal: 0 };
    let sequence = 0;
    for (const write of journal) {
      expect(write.blockMapHead).toBeGreaterThanOrEqual(heads.blockMap);
      expect(write.slabJournalHead).toBeGreaterThanOrEqual(heads.slabJournal);
      expect(write.blockMapHead).toBeLessThanOrEqual(write.sequence);
      expect(write.slabJournalHead).toBeLessThanOrEqual(write.sequence);
      if (write.sequence !== sequence && write.sequence > TINY.journal) {
        expect(write.sequence - Math.min(heads.blockMap, heads.slabJournal)).toBeLessThan(
          TINY.journal,
        );
      }
      const oldest = Math.min(write.blockMapHead, write.slabJournalHead);
      expect(write.sequence - oldest).toBeLessThan(USABLE);
      heads = { blockMap: write.blockMapHead, slabJournal: write.slabJournalHead };
      sequence = write.sequence;
    }
  });

  const pages = (): (LoggedWrite & { at: number })[] =>
    [...at('root page'), ...at('data')]
      .filter((write) => write.pbn >= 0 && write.bytes.readUInt32LE(0) === 4)
      .filter((write) => write.bytes.readBigUInt64LE(8) === image.nonce)
      .sort((a, b) => a.at - b.at);

  it('a page is written with initialized 0 first, then with 1, then once each time', () => {
    const seen = new Map<number, number[]>();
    for (const { pbn, bytes } of pages()) {
      seen.set(pbn, [...(seen.get(pbn) ?? []), bytes.readUInt8(32)]);
    }
    expect(seen.size).toBeGreaterThan(8);
    for (const [first, ...others] of seen.values()) {
      expect(first).toBe(0);
      expect(others.length).toBeGreaterThan(0);
      expect(new Set(others)).toEqual(new Set([1]));
    }
  });

  it('a page on disk holds journaled entries only', () => {
    const when = journaled();
    const early: string[] = [];
    for (const { pbn, bytes, at: written } of pages()) {
      for (let slot = 0; slot < 812; slot++) {
        const state = bytes.readUInt8(36 + 5 * slot) & 15;
        const key = `${pbn}/${slot}=${bytes.readUInt32LE(37 + 5 * slot)}:${state}`;
        if (state !== 0 && (when.get(key) ?? Infinity) > written) early.push(key);
      }
    }
    expect(early).toEqual([]);
  });

  it('a page waits until the journal tail is its oldest change plus the maximum age', () => {
    // Pages changed by block 1: written once block AGE is open, so that the tail is 1 + AGE.
    const first = pages()[0]?.at ?? 0;
    const before = journal.filter((write) => write.at < first).at(-1);
    expect(before?.sequence).toBeGreaterThanOrEqual(AGE - 1);
    expect(before?.sequence).toBeLessThanOrEqual(AGE);
    // The page under constant change is written about every AGE blocks, not more often.
    const hot = image.leafPbn(1000);
    const writes = pages().filter(({ pbn, bytes }) => pbn === hot && bytes.readUInt8(32) === 1);
    const blocks = journal.at(-1)?.sequence ?? 0;
    expect(writes.length).toBeLessThanOrEqual(Math.ceil(blocks / (AGE - 1)) + 1);
  });

  it('slab journal blocks carry journaled entries, no flags, and come before their summary', () => {
    /** The point behind the last entry that has no gap before it. */
    const durable = (upTo: number): number => {
      const counts = new Map<number, number>();
      for (const { at, sequence, entries } of journal) {
        if (at < upTo) counts.set(sequence, entries.length);
      }
      let last = 1;
      while (counts.get(last) === JOURNAL_ENTRIES && counts.has(last + 1)) last++;
      return last * 65536 + 2 * (counts.get(last) ?? 0);
    };
    const offsets = new Map<number, Set<number>>();
    const slabOf = (pbn: number): number => Math.floor((pbn - image.firstBlock) / image.slabSize);
    let blocks = 0;
    for (const [i, write] of log.entries()) {
      if (write.region === 'slab journal') {
        expect(write.fua || write.flush).toBe(false);
        expect(Number(write.bytes.readBigUInt64LE(16))).toBeLessThan(durable(i));
        const next = (Number(write.bytes.readBigUInt64LE(8)) + 1) % image.slabJournalBlocks;
        const slab = slabOf(write.pbn);
        offsets.set(slab, (offsets.get(slab) ?? new Set()).add(next));
        blocks++;
      }
      const zoneZero = image.firstBlock + image.slabs * image.slabSize + image.journalSize;
      if (write.pbn !== zoneZero) continue;
      for (let slab = 0; slab < image.slabs; slab++) {
        const word = write.bytes.readUInt16LE(2 * slab);
        if ((word & 0xff) === 0 && (word & 0x4000) === 0) continue;
        expect(offsets.get(slab)?.has(word & 0xff)).toBe(true);
      }
    }
    expect(blocks).toBeGreaterThan(10);
  });

  it('a save: tails, reference blocks, clean summary, super block last', () => {
    const last = (writes: readonly { at: number }[]): number => writes.at(-1)?.at ?? -1;
    const inSlab = (slab: number) => (write: LoggedWrite) =>
      Math.floor((write.pbn - image.firstBlock) / image.slabSize) === slab;
    const summaries = at('slab summary');
    for (let slab = 0; slab < image.slabs; slab++) {
      const references = at('reference block').filter(inSlab(slab));
      if (references.length === 0) continue;
      const tail = last(at('slab journal').filter(inSlab(slab)));
      // Begun before the references, and under way with the last of them: neighbours may change places.
      expect(tail).toBeLessThanOrEqual(last(references) + 1);
      expect(tail).toBeLessThan(last(summaries));
      expect(last(references)).toBeLessThan(last(summaries));
    }
    expect(last(journal)).toBeLessThan(last(at('reference block')));
    const final = at('super block').at(-1);
    expect(final?.bytes.readUInt32LE(40)).toBe(State.clean);
    expect(final?.fua).toBe(true);
    expect(last(summaries)).toBeLessThan(final?.at ?? -1);
  });

  it('reference blocks are written from the flushing threshold on, not before', () => {
    const threshold = (3 * image.slabJournalBlocks) / 4;
    for (const write of at('reference block')) {
      if (write.at > (journal.at(-1)?.at ?? 0)) continue; // the save
      const slab = Math.floor((write.pbn - image.firstBlock) / image.slabSize);
      const tail = at('slab journal')
        .filter((block) => block.at < write.at)
        .filter(({ pbn }) => Math.floor((pbn - image.firstBlock) / image.slabSize) === slab)
        .map(({ bytes }) => Number(bytes.readBigUInt64LE(8)))
        .at(-1);
      expect(tail).toBeGreaterThanOrEqual(threshold - 1);
    }
  });
});
