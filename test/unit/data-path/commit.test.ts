/** What reaches the device, in which order, and what an error there ends. */
import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { entryPbn, isInitialized } from '../../../src/format/block-map-page.ts';
import { readRecoveryHeader } from '../../../src/format/recovery-block.ts';
import { READ_ONLY } from '../../../src/format/super-block.ts';
import { readLabels } from '../../../src/volume/labels.ts';
import { openVolumeOn } from '../../../src/volume/open.ts';
import {
  Gate,
  joined,
  noise,
  noiseRun,
  QUIET,
  tinyVolume,
  type Call,
  type WatchedStorage,
} from '../../support/volumes.ts';
import { closeAndAudit, expectBlock, FIRST, statistic, turns } from './support.ts';

const PLAIN = { compression: false } as const;

/** Where blocks of a tiny volume lie: what a call writes, in words. */
function partOf(pbn: number): string {
  if (pbn === 0) return 'geometry';
  if (pbn === 1) return 'super block';
  if (pbn < FIRST) return 'root';
  if (pbn >= 2174) return 'summary';
  if (pbn >= 2110) return 'journal';
  const inSlab = (pbn - FIRST) % 1024;
  if (inSlab < 1007) return 'data';
  return inSlab === 1007 ? 'counts' : 'slab journal';
}

/** One word a call: `flush`, or the parts it writes. Reads are left out. */
function story(calls: readonly Call[]): string[] {
  return calls.flatMap(({ kind, extents }) => {
    if (kind === 'read') return [];
    if (kind === 'flush') return ['flush'];
    const parts = new Set(extents.map(({ offset }) => partOf(offset / BLOCK_SIZE)));
    return [[...parts].sort().join(' + ')];
  });
}

const isJournalWrite = ({ kind, extents }: Call): boolean =>
  kind === 'write' && extents.some(({ offset }) => partOf(offset / BLOCK_SIZE) === 'journal');

describe('the order on the device', () => {
  test('of a flush: data, flush, journal, flush', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    const calls = await storage.during(async () => {
      await volume.write(0, noise(1));
      await volume.flush();
    });
    // Empty images of the new tree pages are data of this epoch too.
    expect(story(calls)).toEqual(['data', 'data', 'flush', 'journal', 'flush']);
    await closeAndAudit(volume, storage);
  });

  test('of a close: checkpoint in two stages behind the commit, super block last', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, noise(1));
    const calls = await storage.during(() => volume.close());
    expect(story(calls)).toEqual([
      'data',
      'data',
      'flush',
      'journal',
      'flush',
      'counts + data + root + slab journal',
      'flush',
      'root + summary',
      'flush',
      'super block',
      'flush',
    ]);
  });

  test('of an open: all summary copies, flush, super block, flush', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.close();
    const calls = await storage.during(() => openVolumeOn(storage, QUIET).then((v) => v.close()));
    expect(story(calls)).toEqual([
      'summary',
      'flush',
      'super block',
      'flush',
      'super block',
      'flush',
    ]);
    expect(calls.find(({ kind }) => kind === 'write')!.extents[0]!.bytes.length).toBe(
      64 * BLOCK_SIZE,
    );
  });

  test('a flush without anything to commit costs nothing', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.flush();
    await volume.write(0, noise(1));
    await volume.flush();
    const calls = await storage.during(async () => {
      await volume.flush();
      await volume.write(0, noise(1), { fua: false });
      await volume.discard(5 * BLOCK_SIZE, 100 * BLOCK_SIZE);
      await volume.flush();
    });
    expect(story(calls)).toEqual([]);
    await closeAndAudit(volume, storage);
  });

  test('a fresh tree page is written empty before the journal names it', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    // What lies there before: a page of this volume that says it is another block.
    storage.scribble(FIRST + 3, noise(4));
    const calls = await storage.during(async () => {
      await volume.write(0, noise(1));
      await volume.flush();
    });
    const images = calls.find(({ kind }) => kind === 'write')!.extents;
    expect(images.map(({ offset }) => offset / BLOCK_SIZE)).toEqual([62, 63, 64, 65]);
    for (const { bytes } of images) {
      expect(isInitialized(bytes)).toBe(false);
      expect(entryPbn(bytes, 0)).toBe(0);
    }
    expect(calls.findIndex(isJournalWrite)).toBeGreaterThan(
      calls.findIndex((c) => c.kind === 'flush'),
    );
    await closeAndAudit(volume, storage);
  });
});

describe('commits in groups', () => {
  test('flushes that come during one share the next', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, noise(1));
    await volume.flush();
    const gate = new Gate();
    storage.before = (call) => (isJournalWrite(call) ? gate.passed : undefined);
    const calls = await storage.during(async () => {
      await volume.write(0, noise(2));
      const first = volume.flush();
      await turns(3);
      const others = [3, 4, 5].map(async (n) => {
        await volume.write(n * BLOCK_SIZE, noise(n));
        await volume.flush();
      });
      await turns(5);
      gate.open();
      await Promise.all([first, ...others]);
    });
    expect(calls.filter(isJournalWrite).length).toBe(2);
    await closeAndAudit(volume, storage);
  });

  test('a flush does not wait for a checkpoint that is being written', async () => {
    const { volume, storage } = await tinyVolume({ ...PLAIN, cachePages: 8 });
    const gate = new Gate();
    let held = 0;
    storage.before = ({ kind, extents }) => {
      const isCheckpoint = extents.some(({ offset }) => partOf(offset / BLOCK_SIZE) === 'counts');
      if (kind !== 'write' || !isCheckpoint) return undefined;
      held++;
      return gate.passed;
    };
    // Five dirty leaves of eight frames start a checkpoint.
    for (const page of [0, 1, 2, 3, 4])
      await volume.write(page * 812 * BLOCK_SIZE, noise(page + 1));
    await volume.flush();
    await volume.write(BLOCK_SIZE, noise(9));
    await turns(5);
    expect(held).toBe(1);
    await volume.flush();
    await volume.write(2 * BLOCK_SIZE, noise(10));
    await volume.flush();
    expect(held).toBe(1);
    gate.open();
    await closeAndAudit(volume, storage);
  });

  test('an import without flushes commits by itself, now and then', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    const calls = await storage.during(async () => {
      for (let i = 0; i < 15; i++) await volume.write(i * 100 * BLOCK_SIZE, noiseRun(i, 100));
      await volume.read(0, 1);
    });
    // 64 blocks of journal have room for 13 blocks of entries before an epoch is closed: none yet.
    expect(calls.filter(isJournalWrite).length).toBeLessThan(3);
    await closeAndAudit(volume, storage);
  });
});

describe('a checkpoint beside running writes', () => {
  test('writes pages as they were when its epoch was closed', async () => {
    const { volume, storage } = await tinyVolume({ ...PLAIN, cachePages: 8 });
    await volume.write(0, noise(1));
    await volume.close();
    const again = await openVolumeOn(storage, { ...QUIET, ...PLAIN, cachePages: 8 });
    const gate = new Gate();
    let leaf: Uint8Array | null = null;
    storage.before = ({ kind, extents }) => {
      if (kind !== 'write') return undefined;
      const found = extents.find(({ offset, bytes }) => {
        return offset === (FIRST + 3) * BLOCK_SIZE && isInitialized(bytes);
      });
      if (found === undefined) return undefined;
      leaf ??= found.bytes;
      return gate.passed;
    };
    await again.write(0, noise(2));
    for (const page of [1, 2, 3, 4]) await again.write(page * 812 * BLOCK_SIZE, noise(page + 10));
    await again.read(0, 1);
    await turns(5);
    const mapped = entryPbn(leaf!, 0);
    await again.write(0, noise(3));
    await again.write(BLOCK_SIZE, noise(4));
    await again.read(0, 1);
    gate.open();
    await again.flush();
    // The image on the device is the one that was captured, not what the page had become meanwhile.
    const onDisk = storage.block(FIRST + 3);
    expect(entryPbn(onDisk, 0)).toBe(mapped);
    expect(entryPbn(onDisk, 1)).toBe(0);
    await expectBlock(again, 0, noise(3));
    await closeAndAudit(again, storage);
  });

  test('never starts before its epoch is in the journal', async () => {
    const { volume, storage } = await tinyVolume({ ...PLAIN, cachePages: 8 });
    let committed = 0;
    let maxNamed = 0;
    storage.before = ({ kind, extents }) => {
      if (kind !== 'write') return;
      for (const { offset, bytes } of extents) {
        const part = partOf(offset / BLOCK_SIZE);
        if (part === 'journal') committed = Math.max(committed, readRecoveryHeader(bytes).sequence);
        if (part === 'slab journal') maxNamed = Math.max(maxNamed, committed);
        if (part === 'counts') expect(committed).toBeGreaterThan(0);
      }
    };
    for (let i = 0; i < 60; i++) {
      await volume.write(((i * 397) % 4000) * BLOCK_SIZE, noise(i));
    }
    await closeAndAudit(volume, storage);
    expect(maxNamed).toBeGreaterThan(0);
  });
});

describe('an error of the device', () => {
  /** Fails every call of one kind from now on that `which` accepts; counts them. */
  function failing(
    storage: WatchedStorage,
    which: (call: Call) => boolean,
  ): { readonly count: number } {
    const seen = { count: 0 };
    storage.before = (call) => {
      if (!which(call)) return;
      seen.count++;
      throw new Error('the disk is gone');
    };
    return seen;
  }

  test.for([
    // One more flush, behind the super block that says READ_ONLY: what else it covers, nobody believes.
    ['flush', (call: Call) => call.kind === 'flush', 2],
    ['journal write', isJournalWrite, 1],
  ] as const)(
    'in a %s makes the volume read-only, and is never tried again',
    async ([, which, tries]) => {
      const { volume, storage } = await tinyVolume(PLAIN);
      await volume.write(0, noise(1));
      await volume.flush();
      const seen = failing(storage, which);
      await volume.write(BLOCK_SIZE, noise(2));
      await expect(volume.flush()).rejects.toMatchObject({ code: 'Io' });
      expect(volume.failure).toMatchObject({ code: 'Io' });
      await expect(volume.write(0, noise(3))).rejects.toMatchObject({ code: 'Io' });
      await expect(volume.discard(0, BLOCK_SIZE)).rejects.toMatchObject({ code: 'Io' });
      await expect(volume.flush()).rejects.toMatchObject({ code: 'Io' });
      expect(statistic(volume, 'errors.readOnlyErrorCount')).toBeGreaterThanOrEqual(1);
      expect(volume.statistics()['mode']).toBe('read-only');
      // Reads go on.
      await expectBlock(volume, 0, noise(1));
      storage.calls = [];
      await expect(volume.close()).rejects.toMatchObject({ code: 'Io' });
      expect(storage.calls.filter(({ kind }) => kind !== 'read')).toEqual([]);
      expect(storage.closes).toBe(1);
      storage.before = () => undefined;
      expect(seen.count).toBe(tries);
      expect((await readLabels(storage)).superBlock.state).toBe(READ_ONLY);
      await expect(openVolumeOn(storage, QUIET)).rejects.toMatchObject({ code: 'ReadOnly' });
      const again = await openVolumeOn(storage, { ...QUIET, readOnly: true });
      expect(again.asItStands).toBe(true);
      await again.close();
    },
  );

  test('in a data write after its acknowledgement is final, too', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, noise(1));
    await volume.flush();
    failing(storage, ({ kind }) => kind === 'write');
    await volume.write(BLOCK_SIZE, noise(2));
    await expect(volume.flush()).rejects.toMatchObject({ code: 'Io' });
    await expectBlock(volume, 0, noise(1));
    await expect(volume.close()).rejects.toMatchObject({ code: 'Io' });
  });

  test('in a checkpoint ends in read-only mode as well', async () => {
    const { volume, storage } = await tinyVolume({ ...PLAIN, cachePages: 8 });
    failing(storage, ({ kind, extents }) => {
      return (
        kind === 'write' && extents.some(({ offset }) => partOf(offset / BLOCK_SIZE) === 'counts')
      );
    });
    for (const page of [0, 1, 2, 3, 4])
      await volume.write(page * 812 * BLOCK_SIZE, noise(page + 1));
    await volume.flush().catch(() => undefined);
    await turns(5);
    expect(volume.failure).toMatchObject({ code: 'Io' });
    await expect(volume.write(0, noise(1))).rejects.toMatchObject({ code: 'Io' });
    await expect(volume.close()).rejects.toMatchObject({ code: 'Io' });
  });

  test('in a read is that read alone, its neighbours of the same moment succeed', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, joined(noise(1), noise(2), noise(3)));
    await volume.flush();
    failing(storage, ({ kind, extents }) => {
      return (
        kind === 'read' &&
        extents.some((e) => {
          const [first, last] = [e.offset / BLOCK_SIZE, (e.offset + e.bytes.length) / BLOCK_SIZE];
          return first <= FIRST + 5 && FIRST + 5 < last;
        })
      );
    });
    const reads = [0, 1, 2].map((lbn) => volume.read(lbn * BLOCK_SIZE, BLOCK_SIZE));
    const outcomes = await Promise.allSettled(reads);
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect(volume.failure).toBeNull();
    storage.before = () => undefined;
    await expectBlock(volume, 1, noise(2));
    await closeAndAudit(volume, storage);
  });

  test('at the super block of the close leaves the volume DIRTY', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, noise(1));
    failing(storage, ({ kind, extents }) => kind === 'write' && extents[0]!.offset === BLOCK_SIZE);
    await expect(volume.close()).rejects.toThrow('the disk is gone');
    expect(storage.closes).toBe(1);
    storage.before = () => undefined;
    const again = await openVolumeOn(storage, QUIET);
    expect(again.recovery).not.toBeNull();
    await expectBlock(again, 0, noise(1));
    await closeAndAudit(again, storage);
  });
});
