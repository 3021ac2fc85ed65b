/** Opening a volume that was not closed: what is found, what is written, what waits for scrubbing. */
import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import {
  CLEAN,
  DIRTY,
  encodeSuperBlock,
  READ_ONLY as READ_ONLY_STATE,
} from '../../../src/format/super-block.ts';
import { readLabels } from '../../../src/volume/labels.ts';
import { openVolumeOn, type OpenOptions } from '../../../src/volume/open.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { auditVolume } from '../../model/audit.ts';
import {
  Gate,
  noise,
  noiseRun,
  QUIET,
  squashy,
  tinyVolume,
  WatchedStorage,
  TINY_BLOCKS,
} from '../../support/volumes.ts';
import {
  closeAndAudit,
  expectBlock,
  FIRST,
  freeBlocks,
  ScriptedIndex,
  SLAB_DATA,
  statistic,
  turns,
} from '../data-path/support.ts';

const PLAIN: OpenOptions = { ...QUIET, compression: false };
const READ_ONLY: OpenOptions = { ...QUIET, readOnly: true };
const COUNTS_AT = FIRST + SLAB_DATA;
/** Journal and summary of a tiny volume. */
const JOURNAL_AT = TINY_BLOCKS - 64 - 64;

/** A copy of what is on a storage now, as a crash without any loss leaves it. */
function crashed(storage: WatchedStorage): WatchedStorage {
  return new WatchedStorage(storage.below.clone({ readOnly: false }));
}

/** A volume with flushed blocks that was never closed. */
async function killed(blocks = 40): Promise<WatchedStorage> {
  const { volume, storage } = await tinyVolume({ compression: false });
  await volume.write(0, noiseRun(1, blocks));
  await volume.write(2000 * BLOCK_SIZE, squashy(7));
  await volume.discard(0, 2 * BLOCK_SIZE);
  await volume.flush();
  const copy = crashed(storage);
  await volume.close();
  return copy;
}

const blockOf = (run: Uint8Array, i: number): Uint8Array =>
  run.subarray(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE);

describe('a volume that was killed', () => {
  test('is recovered by opening it: what was flushed is there, counts are right', async () => {
    const storage = await killed();
    const volume = await openVolumeOn(storage, PLAIN);
    const run = noiseRun(1, 40);
    await expectBlock(volume, 1, new Uint8Array(BLOCK_SIZE));
    await expectBlock(volume, 2, blockOf(run, 2));
    await expectBlock(volume, 39, blockOf(run, 39));
    await expectBlock(volume, 2000, squashy(7));
    expect(volume.recovery).toMatchObject({ entries: 51, slabs: 1 });
    expect(volume.notice).toMatch(/not closed.*51 journal entries/);
    expect(statistic(volume, 'completeRecoveries')).toBe(1);
    expect(statistic(volume, 'logicalBlocksUsed')).toBe(39);
    await volume.scrubbed();
    expect(statistic(volume, 'dataBlocksUsed')).toBe(39);
    await closeAndAudit(volume, storage);
  });

  test('goes on in the same run, and may be killed again at once', async () => {
    const storage = await killed();
    const volume = await openVolumeOn(storage, PLAIN);
    await volume.write(5 * BLOCK_SIZE, noiseRun(2, 3));
    await volume.flush();
    const again = crashed(storage);
    await volume.close();
    const second = await openVolumeOn(again, PLAIN);
    expect(statistic(second, 'completeRecoveries')).toBe(2);
    await expectBlock(second, 7, blockOf(noiseRun(2, 3), 2));
    await expectBlock(second, 8, blockOf(noiseRun(1, 40), 8));
    await closeAndAudit(second, again);
  });

  test('with nothing in its journal only gets its recovery counted', async () => {
    const { volume, storage } = await tinyVolume();
    const copy = crashed(storage);
    await volume.close();
    const { superBlock } = await readLabels(copy);
    const again = await openVolumeOn(copy, PLAIN);
    expect(again.recovery).toEqual({ entries: 0, pages: 0, slabs: 0 });
    await closeAndAudit(again, copy);
    expect((await readLabels(copy)).superBlock).toMatchObject({
      state: CLEAN,
      completeRecoveries: 1,
      journalStart: superBlock.journalStart + 1,
    });
  });

  test('flushes before it writes, and the super block comes last', async () => {
    const storage = await killed();
    const gate = new Gate();
    const calls = await storage.during(async () => {
      const volume = await openVolumeOn(storage, PLAIN);
      storage.before = () => gate.passed;
      storage.calls = null;
      gate.open();
      await volume.close();
    });
    const changes = calls.filter(({ kind }) => kind !== 'read');
    expect(changes[0]!.kind).toBe('flush');
    const supers = changes.flatMap(({ extents }, i) =>
      extents.some(({ offset }) => offset === BLOCK_SIZE) ? [i] : [],
    );
    expect(supers.length).toBe(1);
    expect(changes[supers[0]! - 1]!.kind).toBe('flush');
    expect(changes[supers[0]! + 1]!.kind).toBe('flush');
  });
});

/** The first entry's slot becomes one that no page has. */
function spoilJournal(storage: WatchedStorage): void {
  const block = storage.block(JOURNAL_AT + 1);
  block[512 + 3] = 0xfd;
  block[512 + 4] = 0x0f;
  storage.scribble(JOURNAL_AT + 1, block);
}

test('a journal that cannot be replayed ends in read-only mode, which is stored', async () => {
  const storage = await killed();
  spoilJournal(storage);
  const calls = await storage.during(async () => {
    const volume = await openVolumeOn(storage, PLAIN);
    expect(volume.readOnly).toBe(true);
    expect(volume.failure).toMatchObject({ code: 'Corrupt' });
    expect(volume.notice).toMatch(/journal cannot be replayed.*uvdo rebuild/);
    expect(volume.statistics()['mode']).toBe('read-only');
    await expect(volume.write(0, noise(1))).rejects.toMatchObject({ code: 'Corrupt' });
    await volume.read(0, volume.size);
    await volume.close();
  });
  // Only the super block was written.
  const written = calls.flatMap(({ kind, extents }) => (kind === 'write' ? extents : []));
  expect(written.map(({ offset }) => offset)).toEqual([BLOCK_SIZE]);
  expect((await readLabels(storage)).superBlock.state).toBe(READ_ONLY_STATE);
});

describe('read-only', () => {
  test('the journal is replayed in memory, nothing is written', async () => {
    const storage = await killed();
    storage.before = ({ kind }) => {
      if (kind !== 'read') throw new Error('written');
    };
    const volume = await openVolumeOn(storage, READ_ONLY);
    await expectBlock(volume, 39, blockOf(noiseRun(1, 40), 39));
    await expectBlock(volume, 2000, squashy(7));
    await volume.scrubbed();
    expect(statistic(volume, 'dataBlocksUsed')).toBe(39);
    expect(volume.notice).toMatch(/in memory, nothing written/);
    await volume.close();
    expect((await readLabels(storage)).superBlock.state).toBe(DIRTY);
  });

  test('with a journal that cannot be replayed it is read as it stands', async () => {
    const storage = await killed();
    spoilJournal(storage);
    const volume = await openVolumeOn(storage, READ_ONLY);
    expect(volume.notice).toMatch(/journal cannot be replayed.*as it stands/);
    await expectBlock(volume, 39, new Uint8Array(BLOCK_SIZE));
    await volume.close();
  });
});

describe('while slabs wait for scrubbing', () => {
  /** Opens with scrubbing held up at its first read: only it reads whole slab journals. */
  async function heldUp(
    storage: WatchedStorage,
    options: OpenOptions = PLAIN,
  ): Promise<{ volume: Volume; gate: Gate }> {
    const gate = new Gate();
    storage.before = ({ kind, extents }) => {
      const isScrub = extents.some(({ bytes }) => bytes.length === 16 * BLOCK_SIZE);
      return kind === 'read' && isScrub ? gate.passed : undefined;
    };
    return { volume: await openVolumeOn(storage, options), gate };
  }

  test('reads and writes elsewhere go on; an overwrite of an old block waits', async () => {
    const storage = await killed();
    const { volume, gate } = await heldUp(storage);
    expect(volume.statistics()).toMatchObject({
      mode: 'recovering',
      inRecoveryMode: 1,
      recoveryPercentage: 50,
    });
    await expectBlock(volume, 9, blockOf(noiseRun(1, 40), 9));
    await volume.write(100 * BLOCK_SIZE, noise(55));
    await volume.flush();
    await expectBlock(volume, 100, noise(55));
    await volume.write(9 * BLOCK_SIZE, noise(56));
    let flushed = false;
    const flush = volume.flush().then(() => (flushed = true));
    await turns(10);
    expect(flushed).toBe(false);
    gate.open();
    await flush;
    await expectBlock(volume, 9, noise(56));
    expect(volume.statistics()).toMatchObject({ mode: 'normal', recoveryPercentage: 100 });
    await closeAndAudit(volume, storage);
  });

  test('no block of them is shared by deduplication', async () => {
    const storage = await killed();
    const index = new ScriptedIndex();
    // Four tree pages, then the run.
    index.advise(blockOf(noiseRun(1, 40), 9), FIRST + 4 + 9);
    const { volume, gate } = await heldUp(storage, { ...PLAIN, index });
    await volume.write(100 * BLOCK_SIZE, blockOf(noiseRun(1, 40), 9));
    await volume.flush();
    expect(statistic(volume, 'hashLock.dedupeAdviceStale')).toBe(1);
    expect(statistic(volume, 'hashLock.dedupeAdviceValid')).toBe(0);
    gate.open();
    await closeAndAudit(volume, storage);
  });

  test('a write that finds no free block waits for more, and then gets one', async () => {
    const storage = await killed();
    const { volume, gate } = await heldUp(storage);
    // Slab 1 alone is not enough.
    const writing = volume.write(100 * BLOCK_SIZE, noiseRun(3, SLAB_DATA + 20));
    let written = false;
    void writing.then(() => (written = true));
    await turns(30);
    expect(written).toBe(false);
    gate.open();
    await writing;
    await volume.flush();
    await expectBlock(volume, 100 + SLAB_DATA, blockOf(noiseRun(3, SLAB_DATA + 20), SLAB_DATA));
    const free = freeBlocks(volume);
    await closeAndAudit(volume, storage);
    expect(free).toBeGreaterThan(0);
  });

  test('closing scrubs what is left', async () => {
    const storage = await killed();
    const { volume, gate } = await heldUp(storage);
    const closing = volume.close();
    await turns(5);
    expect((await readLabels(storage)).superBlock.state).toBe(DIRTY);
    gate.open();
    await closing;
    expect((await readLabels(storage)).superBlock.state).toBe(CLEAN);
    expect((await auditVolume(storage)).errors).toEqual([]);
  });

  test('a slab that cannot be scrubbed ends in read-only mode; reads go on', async () => {
    const storage = await killed();
    storage.before = ({ kind, extents }) => {
      // Between recovery and scrubbing the slab's journal is lost.
      if (kind === 'read' && extents.some(({ bytes }) => bytes.length === 16 * BLOCK_SIZE)) {
        storage.scribble(COUNTS_AT + 1 + 1, new Uint8Array(BLOCK_SIZE));
      }
    };
    const volume = await openVolumeOn(storage, PLAIN);
    await expect(volume.scrubbed()).rejects.toMatchObject({ code: 'Corrupt' });
    expect(volume.failure?.message).toMatch(/slab 0 cannot be scrubbed/);
    await expectBlock(volume, 39, blockOf(noiseRun(1, 40), 39));
    await expect(volume.write(0, noise(1))).rejects.toMatchObject({ code: 'Corrupt' });
    await expect(volume.close()).rejects.toMatchObject({ code: 'Corrupt' });
    expect((await readLabels(storage)).superBlock.state).toBe(READ_ONLY_STATE);
  });
});

test('state REPLAYING is recovered like DIRTY', async () => {
  const storage = await killed();
  const { superBlock } = await readLabels(storage);
  storage.scribble(1, encodeSuperBlock({ ...superBlock, state: 6 }));
  const volume = await openVolumeOn(storage, PLAIN);
  await expectBlock(volume, 39, blockOf(noiseRun(1, 40), 39));
  await closeAndAudit(volume, storage);
});
