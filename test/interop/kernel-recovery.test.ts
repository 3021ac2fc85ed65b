/**
 * What the kernel recovers: crash states that dm-vdo itself hardly ever leaves, and that uvdo's
 * commit protocol does. Each is forged from a real crash, started by the real kernel, read in full,
 * stopped and audited. docs/TESTING.md, "What we checked on the real kernel".
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { available, skipReason } from './harness.ts';
import {
  countsAfter,
  forgeCheckpoint,
  forgeUntouched,
  pack,
  scrambleSlabJournal,
  summaryEntry,
} from './forge.ts';
import { judge, makeVolume, tiny, TINY } from './kernel-volume.ts';
import { JOURNAL_ENTRIES, State, type SlabUpdate, type VdoImage } from './vdo-image.ts';
import type { Workload } from './workload.ts';

const { skip, note } = skipReason(available().uml, available().tools);

/** Unique blocks, overwritten again and again, some zeroed, some discarded: 17 journal blocks. */
function churn(workload: Workload): void {
  for (let pass = 0; pass < 6; pass++) workload.random(0, 600);
  workload.random(1700, 20).zeros(100, 50).discard(200, 40).random(90, 20).flush();
}

async function expectRecovery(image: VdoImage, expected: Buffer): Promise<VdoImage> {
  const verdict = await judge(image, expected);
  expect(verdict, verdict.messages + verdict.audit).toMatchObject({
    started: true,
    mode: 'normal',
    right: true,
    auditClean: true,
  });
  return verdict.after;
}

describe.skipIf(skip)(`recovery by the kernel${note}`, () => {
  let crashed: VdoImage;
  let expected: Buffer;
  let updates: Map<number, SlabUpdate[]>;

  beforeAll(async () => {
    const made = await makeVolume(tiny(), churn, { end: 'crash' });
    crashed = made.image;
    expected = made.expected;
    // All entries since the volume was made are still in the journal: forge from the beginning.
    const journal = crashed.journal();
    expect(journal[0]?.sequence).toBe(1);
    for (const { sequence } of journal) crashed.setJournalHeads(sequence, 1, 1);
    updates = crashed.slabUpdates();
    expect(updates.get(0)?.length).toBeGreaterThan(SLAB_ENTRIES_WANTED);
  });

  const SLAB_ENTRIES_WANTED = 1500;
  const of = (slab: number): SlabUpdate[] => updates.get(slab) ?? [];
  const each = (forge: (slab: number, entries: SlabUpdate[]) => void): void => {
    for (let slab = 0; slab < TINY.slabs; slab++) if (of(slab).length > 0) forge(slab, of(slab));
  };

  it('an ordinary crash, everything from the recovery journal', async () => {
    const image = crashed.clone();
    each((slab) => forgeUntouched(image, slab));
    const after = await expectRecovery(image, expected);
    expect(after.state).toBe(State.clean);
    expect(after.completeRecoveries).toBe(1);
  });

  it.each([
    { name: 'tail block 1', tail: 1, head: 1 },
    { name: 'blocks 1 to 8 never written', tail: 9, head: 9 },
    { name: 'head beyond the tail block', tail: 9, head: 10 },
    { name: 'head of long ago', tail: 9, head: 1 },
    { name: 'wrapped', tail: 45, head: 45 },
  ])('only the sealed tail of each slab journal on disk: $name', async ({ tail, head }) => {
    const image = crashed.clone();
    each((slab, entries) => {
      const cut = Math.max(1, Math.floor(entries.length * 0.6));
      forgeCheckpoint(image, slab, entries, { cut, tail, head, tailEntries: Math.min(cut, 300) });
    });
    await expectRecovery(image, expected);
  });

  it('a checkpoint with nothing behind it but the same journal', async () => {
    const image = crashed.clone();
    each((slab, entries) => {
      const cut = entries.length;
      forgeCheckpoint(image, slab, entries, { cut, tail: 3, head: 3, tailEntries: 1 });
    });
    await expectRecovery(image, expected);
  });

  it('reference blocks ahead of the summary: a point that only replay makes', async () => {
    const image = crashed.clone();
    each((slab, entries) => {
      const cut = Math.floor(entries.length / 2);
      const ahead = Math.min(entries.length, cut + 200);
      scrambleSlabJournal(image, slab);
      if (cut === 0) return forgeUntouched(image, slab);
      image.writeSlabJournal(slab, 2, 2, entries.slice(Math.max(0, cut - 50), cut));
      // Replay puts entry `cut` at (3, 0), and so on.
      const point = { sequence: 3, index: ahead - cut - 1 };
      image.writeReferences(slab, countsAfter(image, entries, ahead), point);
      image.setSummary(slab, summaryEntry(image, 3, { load: true, dirty: false }));
    });
    await expectRecovery(image, expected);
  });

  it('a partial tail block, then replay from (next block, 0), summary dirty', async () => {
    const image = crashed.clone();
    each((slab, entries) => {
      const cut = Math.floor(entries.length / 2);
      if (cut < 2) return forgeUntouched(image, slab);
      scrambleSlabJournal(image, slab);
      const blocks = pack(entries.slice(0, cut), 1, Math.ceil(cut / 3));
      for (const block of blocks) image.writeSlabJournal(slab, block.sequence, 1, block.updates);
      const ahead = Math.min(entries.length, cut + 10);
      const point = { sequence: blocks.length + 1, index: ahead - cut - 1 };
      image.writeReferences(slab, countsAfter(image, entries, ahead), point);
      image.setSummary(slab, summaryEntry(image, blocks.length + 1, { load: true, dirty: true }));
    });
    await expectRecovery(image, expected);
  });

  /** Slab journal in blocks of 100 on disk, half of the sectors at a later point than the rest. */
  function tear(image: VdoImage, lie: boolean): void {
    each((slab, entries) => {
      scrambleSlabJournal(image, slab);
      const blocks = pack(entries, 1, Math.ceil(entries.length / 10));
      for (const block of blocks) image.writeSlabJournal(slab, block.sequence, 1, block.updates);
      const middle = blocks[Math.floor(blocks.length / 2)];
      if (middle === undefined) throw new Error('no slab journal block');
      const done = blocks
        .filter((block) => block.sequence < middle.sequence)
        .reduce((sum, block) => sum + block.updates.length, 0);
      const cut = done + Math.ceil(middle.updates.length / 2);
      const point = { sequence: middle.sequence, index: cut - done - 1 };
      const nothing = new Uint8Array(image.dataBlocks);
      image.writeReferences(slab, nothing, { sequence: 0, index: 0 });
      for (const sector of [0, 3, 5]) {
        const counts = lie ? nothing : countsAfter(image, entries, cut);
        image.writeReferenceSector(slab, 0, sector, counts, point);
      }
      image.setSummary(slab, summaryEntry(image, blocks.length + 1, { load: true, dirty: true }));
    });
  }

  it('a torn reference block: each sector by its own commit point', async () => {
    const image = crashed.clone();
    tear(image, false);
    await expectRecovery(image, expected);
  });

  it('the control of that: a point ahead of the counts loses references', async () => {
    const image = crashed.clone();
    tear(image, true);
    const verdict = await judge(image, expected, '', false);
    expect(verdict.auditClean, verdict.messages).toBe(false);
  });

  /**
   * Slab 0 with `blocks` slab journal blocks of few entries, all of them still needed (counts on
   * disk are those before block 1), then the rest of its entries, `behind` blocks, by replay.
   */
  function crowd(image: VdoImage, blocks: number): number {
    each((slab) => slab !== 0 && forgeUntouched(image, slab));
    const entries = of(0);
    scrambleSlabJournal(image, 0);
    for (let i = 0; i < blocks; i++) {
      image.writeSlabJournal(0, i + 1, 1, entries.slice(i * 3, i * 3 + 3));
    }
    image.writeReferences(0, new Uint8Array(image.dataBlocks), { sequence: 0, index: 0 });
    image.setSummary(0, summaryEntry(image, blocks + 1, { load: true, dirty: true }));
    return Math.ceil((entries.length - blocks * 3) / 1353);
  }

  it('replay needs room in the slab journal: exactly J blocks are enough', async () => {
    const probe = crashed.clone();
    const behind = crowd(probe, 1);
    const image = crashed.clone();
    expect(crowd(image, image.slabJournalBlocks - behind)).toBe(behind);
    await expectRecovery(image, expected);
  });

  it('and one more breaks the counts', async () => {
    const behind = crowd(crashed.clone(), 1);
    const image = crashed.clone();
    crowd(image, image.slabJournalBlocks - behind + 1);
    const verdict = await judge(image, expected, '', false);
    expect(verdict.mode === 'normal' && verdict.auditClean, verdict.messages).toBe(false);
  });

  it.each([1, 2, 3])('summary copies count by the old zone count: %i zones', async (zones) => {
    const image = crashed.clone();
    each((slab, entries) => {
      const cut = Math.max(1, Math.floor(entries.length / 2));
      forgeCheckpoint(image, slab, entries, { cut, tail: 4, head: 4, tailEntries: 1 });
      const good = image.summary(slab);
      const wrong = { offset: 11, hint: 0, load: false, dirty: false };
      image.setSummary(slab, wrong);
      image.setSummary(slab, good, slab % zones);
    });
    image.setSuper({ zoneCount: zones });
    await expectRecovery(image, expected);
  });
});

describe.skipIf(skip)(`a clean volume whose summary says dirty${note}`, () => {
  // The kernel's own save can leave this: the summary update of a slab journal's tail may come after
  // the one of the slab's reference blocks.
  async function stopped(): Promise<{ image: VdoImage; expected: Buffer }> {
    return makeVolume(tiny(), (workload) => churn(workload), { end: 'stop' });
  }

  it('is in order', async () => {
    const { image, expected } = await stopped();
    for (let slab = 0; slab < image.slabs; slab++) {
      const entry = image.summary(slab);
      if (entry.load) image.setSummary(slab, { ...entry, dirty: true });
    }
    await expectRecovery(image, expected);
  });

  it('and its slab journal counts: entries beyond the commit points are applied', async () => {
    const { image, expected } = await stopped();
    const counts = image.counts(0);
    const sbn = counts.findIndex((count) => count === 1);
    const { offset } = image.summary(0);
    const tail = image.block(image.slabJournalPbn(0, offset - 1 + image.slabJournalBlocks));
    const sequence = Number(tail.readBigUInt64LE(8));
    // One more block in the journal, with the increment that the reference block lacks.
    const last = image.journalStart - 1; // later points than any other of this slab, older than the next run
    const update = { sbn, increment: true, blockMap: false, sequence: last, index: 433 };
    image.writeSlabJournal(0, sequence + 1, sequence + 1, [update]);
    image.setSummary(0, summaryEntry(image, sequence + 2, { load: true, dirty: true }));
    counts[sbn] = 0;
    image.writeReferences(0, counts, { sequence, index: tail.readUInt16LE(34) - 1 });
    await expectRecovery(image, expected);
  });
});

describe.skipIf(skip)(`journal heads and a full journal${note}`, () => {
  it.each([
    { name: 'full', entries: 4 * JOURNAL_ENTRIES },
    { name: 'partial', entries: 3 * JOURNAL_ENTRIES + 50 },
  ])('both heads at the last block, $name, all of it checkpointed', async ({ entries }) => {
    const writes = entries - 4; // the tree under one root takes four
    const { image, expected } = await makeVolume(
      tiny(),
      (workload) => {
        for (let left = writes; left > 0; left -= 400) workload.random(0, Math.min(left, 400));
        workload.flush();
      },
      { end: 'stop' },
    );
    const last = image.journal().at(-1);
    expect(last?.entryCount).toBe(entries % JOURNAL_ENTRIES || JOURNAL_ENTRIES);
    const sequence = last?.sequence ?? 0;
    image.setJournalHeads(sequence, sequence, sequence);
    image.setSuper({ state: State.dirty, journalStart: 1 });
    await expectRecovery(image, expected);

    const beyond = image.clone();
    beyond.setJournalHeads(sequence, sequence + 1, sequence + 1);
    const verdict = await judge(beyond, expected, '', false);
    expect(verdict.mode, verdict.messages).not.toBe('normal');
  });

  it.each([53, 63, 64])('a journal of 64 blocks of which %i are needed', async (needed) => {
    // 64 blocks of slab journal: 28,000 updates of one slab are 21 blocks, more than 16.
    const first = await makeVolume(
      tiny({ slabJournal: 64 }),
      (workload) => workload.random(0, 400).flush(),
      {
        end: 'stop',
      },
    );
    const before = first.image;
    const second = await makeVolume(
      before,
      (workload) => {
        let left = needed * JOURNAL_ENTRIES - 7; // the last block is not quite full
        for (; left > 400; left -= 400) workload.random(0, 400);
        workload.random(0, left);
        workload.flush();
      },
      { end: 'crash', before: first.expected },
    );
    const image = second.image;
    const journal = image.journal().filter((block) => block.sequence >= before.journalStart);
    expect(journal.length).toBe(needed);
    // Take all write-back away again: heads, slabs and summaries as they were at the start.
    for (const { sequence } of journal) {
      image.setJournalHeads(sequence, before.journalStart, before.journalStart);
    }
    for (let slab = 0; slab < image.slabs; slab++) {
      for (let i = 0; i < image.referenceBlocks + image.slabJournalBlocks; i++) {
        const pbn = image.referencePbn(slab) + i;
        before.block(pbn).copy(image.block(pbn));
      }
      image.setSummary(slab, before.summary(slab));
    }
    await expectRecovery(image, second.expected);
  });
});
