/** Deduplication: what is shared, what only looked like it, and where 254 references end. */
import { describe, expect, test } from 'vitest';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import type { OpenOptions } from '../../../src/volume/open.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { joined, noise, squashy, tinyVolume, type WatchedStorage } from '../../support/volumes.ts';
import {
  closeAndAudit,
  expectBlock,
  FIRST,
  readBlock,
  ScriptedIndex,
  SLAB_DATA,
  statistic,
} from './support.ts';

const PLAIN = { compression: false } as const;

async function openScripted(
  options: OpenOptions = PLAIN,
): Promise<{ volume: Volume; storage: WatchedStorage; index: ScriptedIndex }> {
  const index = new ScriptedIndex();
  return { ...(await tinyVolume({ ...options, index })), index };
}

const write = (volume: Volume, lbn: number, ...blocks: Uint8Array[]): Promise<void> =>
  volume.write(lbn * BLOCK_SIZE, joined(...blocks));

const used = (volume: Volume): number => statistic(volume, 'dataBlocksUsed');

describe('equal blocks of one batch', () => {
  test('are stored once, zeros not at all', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    const [a, b, zero] = [noise(1), noise(2), new Uint8Array(BLOCK_SIZE)];
    await write(volume, 0, a, b, a, zero, b, a, zero);
    await volume.flush();
    expect(used(volume)).toBe(2);
    expect(statistic(volume, 'hashLock.concurrentDataMatches')).toBe(3);
    expect(statistic(volume, 'blocks.zero')).toBe(2);
    for (const [lbn, block] of [a, b, a, zero, b, a, zero].entries()) {
      await expectBlock(volume, lbn, block);
    }
    await closeAndAudit(volume, storage);
  });

  test('survive the overwriting of all but one of them', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await write(volume, 0, noise(1), noise(1), noise(1));
    await write(volume, 0, noise(2), noise(2));
    await volume.flush();
    await expectBlock(volume, 2, noise(1));
    await volume.discard(2 * BLOCK_SIZE, BLOCK_SIZE);
    await volume.flush();
    expect(used(volume)).toBe(1);
    await closeAndAudit(volume, storage);
  });

  test.for([
    ['uncompressed', PLAIN, (n: number) => noise(n)],
    ['compressed', { compression: true }, (n: number) => squashy(n)],
  ] as const)(
    'fill a block with 254 references and begin another, %s',
    async ([, options, make]) => {
      const { volume, storage } = await tinyVolume(options);
      const copies = 254 * 2 + 40;
      await volume.write(0, joined(...Array.from({ length: copies }, () => make(1))));
      await volume.flush();
      expect(used(volume)).toBe(3);
      for (const lbn of [0, 253, 254, 507, 508, copies - 1])
        await expectBlock(volume, lbn, make(1));
      await closeAndAudit(volume, storage);
    },
  );

  test.for([
    ['uncompressed', PLAIN, (n: number) => noise(n)],
    ['compressed', { compression: true, packerBins: 4 }, (n: number) => squashy(n)],
  ] as const)('and over many batches too, %s', async ([, options, make]) => {
    const { volume, storage } = await tinyVolume({ ...options, batchBlocks: 32 });
    const copies = 254 * 2 + 40;
    for (let lbn = 0; lbn < copies; lbn++) {
      await write(volume, lbn, make(1));
      if (lbn % 100 === 50) await volume.flush();
    }
    await volume.flush();
    expect(used(volume)).toBe(3);
    for (const lbn of [0, 253, 254, 507, 508, copies - 1]) await expectBlock(volume, lbn, make(1));
    await closeAndAudit(volume, storage);
  });

  test('are not looked for without an index', async () => {
    const { volume, storage } = await tinyVolume({ ...PLAIN, index: 'off' });
    await write(volume, 0, noise(1), noise(1));
    await write(volume, 2, noise(1));
    await volume.flush();
    expect(used(volume)).toBe(3);
    await closeAndAudit(volume, storage);
  });
});

describe('a waiting fragment', () => {
  test('takes later writes of its content, and all are mapped when it is stored', async () => {
    const { volume, storage } = await tinyVolume({ compression: true });
    await write(volume, 0, squashy(1));
    await volume.read(0, 1);
    expect(statistic(volume, 'packer.compressedFragmentsInPacker')).toBe(1);
    await write(volume, 7, squashy(1), squashy(2), squashy(1));
    for (const lbn of [0, 7, 9]) await expectBlock(volume, lbn, squashy(1));
    expect(statistic(volume, 'packer.compressedFragmentsInPacker')).toBe(2);
    await volume.flush();
    expect(used(volume)).toBe(1);
    for (const lbn of [0, 7, 9]) await expectBlock(volume, lbn, squashy(1));
    await expectBlock(volume, 8, squashy(2));
    await closeAndAudit(volume, storage);
  });

  test('whose only block is overwritten or discarded is never stored', async () => {
    const { volume, storage } = await tinyVolume({ compression: true });
    await write(volume, 0, squashy(1), squashy(2));
    await write(volume, 0, noise(3));
    await volume.discard(BLOCK_SIZE, BLOCK_SIZE);
    await volume.flush();
    expect(used(volume)).toBe(1);
    expect(statistic(volume, 'packer.compressedBlocksWritten')).toBe(0);
    await expectBlock(volume, 0, noise(3));
    await expectBlock(volume, 1, new Uint8Array(BLOCK_SIZE));
    await closeAndAudit(volume, storage);
  });

  test('alone in its bin becomes an uncompressed block', async () => {
    const { volume, storage, index } = await openScripted({ compression: true });
    await write(volume, 0, squashy(1));
    await volume.flush();
    expect(index.placeOf(squashy(1))).toEqual({ pbn: FIRST + 4, state: 1 });
    await expectBlock(volume, 0, squashy(1));
    await closeAndAudit(volume, storage);
  });

  test('in company gets a slot, and the index hears of it', async () => {
    const { volume, storage, index } = await openScripted({ compression: true });
    await write(volume, 0, squashy(1), squashy(2), squashy(3));
    await volume.flush();
    const states = [1, 2, 3].map((n) => index.placeOf(squashy(n))!.state).sort();
    expect(states).toEqual([2, 3, 4]);
    await closeAndAudit(volume, storage);
  });
});

describe('advice of the index', () => {
  test('that is true shares the block, compressed ones too', async () => {
    const { volume, storage, index } = await openScripted({ compression: true });
    await write(volume, 0, noise(1), squashy(2), squashy(3));
    await volume.flush();
    for (const block of [noise(1), squashy(2), squashy(3)]) {
      const { pbn, state } = index.placeOf(block)!;
      index.advise(block, pbn, state);
    }
    const before = used(volume);
    await write(volume, 10, squashy(3), noise(1), squashy(2));
    await volume.flush();
    expect(used(volume)).toBe(before);
    expect(statistic(volume, 'hashLock.dedupeAdviceValid')).toBe(3);
    await expectBlock(volume, 10, squashy(3));
    await expectBlock(volume, 11, noise(1));
    await closeAndAudit(volume, storage);
  });

  test('that names a block of other content is not believed', async () => {
    const { volume, storage, index } = await openScripted();
    await write(volume, 0, noise(1));
    index.advise(noise(2), index.placeOf(noise(1))?.pbn ?? FIRST + 4);
    await write(volume, 1, noise(2));
    await volume.flush();
    await expectBlock(volume, 1, noise(2));
    await expectBlock(volume, 0, noise(1));
    expect(statistic(volume, 'hashLock.dedupeAdviceStale')).toBe(1);
    // It is told where the content lies really.
    expect(index.placeOf(noise(2))!.pbn).toBe(FIRST + 5);
    await closeAndAudit(volume, storage);
  });

  test.for([
    ['the zero block', 0, 1],
    ['the geometry region', 1, 1],
    ['a block behind the slabs', FIRST + 2 * 1024, 1],
    ['a reference count block', FIRST + SLAB_DATA, 1],
    ['a slab journal block', FIRST + SLAB_DATA + 3, 1],
    ['an absurd block', 2 ** 36 - 1, 1],
    ['an unmapped state', FIRST + 4, 0],
  ] as const)('that names %s is not followed', async ([what, pbn, state]) => {
    const { volume, storage, index } = await openScripted();
    index.advise(noise(5), pbn, state);
    await write(volume, 1, noise(5));
    await volume.flush();
    expect(volume.failure).toBeNull();
    await expectBlock(volume, 1, noise(5));
    const invalid = statistic(volume, 'errors.invalidAdvicePBNCount');
    expect(invalid, what).toBe(pbn === 0 ? 0 : 1);
    await closeAndAudit(volume, storage);
  });

  test('that names a tree page is stale, though it might hold the same bytes', async () => {
    const { volume, storage, index } = await openScripted();
    await write(volume, 0, noise(1));
    await volume.flush();
    const page = storage.block(FIRST + 3);
    index.advise(page, FIRST + 3);
    await write(volume, 5, page);
    await volume.flush();
    await expectBlock(volume, 5, page);
    expect(index.placeOf(page)!.pbn).not.toBe(FIRST + 3);
    await closeAndAudit(volume, storage);
  });

  test.for([
    ['a slot of an uncompressed block', 2],
    ['a slot that is not used', 15],
  ] as const)('that names %s is stale', async ([, state]) => {
    const { volume, storage, index } = await openScripted({ compression: true });
    await write(volume, 0, noise(1), squashy(2), squashy(3));
    await volume.flush();
    const place = state === 2 ? index.placeOf(noise(1))! : index.placeOf(squashy(2))!;
    index.advise(noise(9), place.pbn, state);
    await write(volume, 1, noise(9));
    await volume.flush();
    await expectBlock(volume, 1, noise(9));
    expect(statistic(volume, 'hashLock.dedupeAdviceStale')).toBe(1);
    await closeAndAudit(volume, storage);
  });

  test('whose block cannot be read costs space, not the write', async () => {
    const { volume, storage, index } = await openScripted();
    await write(volume, 0, noise(1));
    await volume.flush();
    index.advise(noise(1), index.placeOf(noise(1))!.pbn);
    storage.before = ({ kind }) => {
      if (kind === 'read') throw new Error('bad sector');
    };
    await write(volume, 1, noise(1));
    await volume.flush();
    storage.before = () => undefined;
    expect(volume.failure).toBeNull();
    await expectBlock(volume, 1, noise(1));
    expect(used(volume)).toBe(2);
    await closeAndAudit(volume, storage);
  });

  test('that names a full block leads to a new copy, and the index learns that one', async () => {
    const { volume, storage, index } = await openScripted();
    await volume.write(0, joined(...Array.from({ length: 254 }, () => noise(1))));
    await volume.flush();
    const first = index.placeOf(noise(1))!.pbn;
    index.advise(noise(1), first);
    await write(volume, 300, noise(1));
    await volume.flush();
    expect(index.placeOf(noise(1))!.pbn).not.toBe(first);
    expect(used(volume)).toBe(2);
    await closeAndAudit(volume, storage);
  });

  test('fills what a block has left, the rest of the batch takes over the name', async () => {
    const { volume, storage, index } = await openScripted();
    await volume.write(0, joined(...Array.from({ length: 250 }, () => noise(1))));
    await volume.flush();
    const first = index.placeOf(noise(1))!.pbn;
    index.advise(noise(1), first);
    await volume.write(300 * BLOCK_SIZE, joined(...Array.from({ length: 10 }, () => noise(1))));
    await volume.flush();
    expect(used(volume)).toBe(2);
    for (let lbn = 300; lbn < 310; lbn++) await expectBlock(volume, lbn, noise(1));
    await closeAndAudit(volume, storage);
  });

  test('on a block that this batch frees revives it, whichever comes first', async () => {
    const { volume, storage, index } = await openScripted();
    await write(volume, 0, noise(1), noise(2));
    await volume.flush();
    for (const n of [1, 2]) index.advise(noise(n), index.placeOf(noise(n))!.pbn);
    // 0 and 1 change places: each block loses its only reference and gets a new one.
    await write(volume, 0, noise(2), noise(1));
    await expectBlock(volume, 0, noise(2));
    await expectBlock(volume, 1, noise(1));
    await volume.flush();
    expect(used(volume)).toBe(2);
    await write(volume, 0, noise(3), noise(2));
    await volume.flush();
    await expectBlock(volume, 0, noise(3));
    await expectBlock(volume, 1, noise(2));
    await closeAndAudit(volume, storage);
  });

  test('on a block freed and not yet committed shares it again', async () => {
    const { volume, storage, index } = await openScripted();
    await write(volume, 0, noise(1));
    await volume.flush();
    const { pbn } = index.placeOf(noise(1))!;
    index.advise(noise(1), pbn);
    await volume.discard(0, BLOCK_SIZE);
    await write(volume, 3, noise(1));
    await volume.flush();
    await expectBlock(volume, 3, noise(1));
    expect(used(volume)).toBe(1);
    expect(statistic(volume, 'hashLock.dedupeAdviceValid')).toBe(1);
    await closeAndAudit(volume, storage);
  });

  test('for the bytes already there changes nothing and journals nothing', async () => {
    const { volume, storage, index } = await openScripted();
    await write(volume, 0, noise(1));
    await volume.flush();
    index.advise(noise(1), index.placeOf(noise(1))!.pbn);
    const entries = statistic(volume, 'journal.entries.started');
    await write(volume, 0, noise(1));
    await volume.flush();
    expect(statistic(volume, 'journal.entries.started')).toBe(entries);
    expect((await readBlock(volume, 0)).equals(noise(1))).toBe(true);
    await closeAndAudit(volume, storage);
  });
});
