import { describe, expect, it } from 'vitest';
import { VdoError } from '../../../src/base/errors.ts';
import { setU64 } from '../../../src/base/bytes.ts';
import { setMapping } from '../../../src/format/block-map-page.ts';
import {
  beginRecoveryBlock,
  recoveryBlockHeader,
  setRecoveryEntry,
} from '../../../src/format/recovery-block.ts';
import { auditVolume } from '../../../src/inspect/audit.ts';
import type { Removal } from '../../../src/repair/rebuild-map.ts';
import { rebuildVolumeOn } from '../../../src/volume/rebuild-volume.ts';
import { STATE } from '../../model/layout.ts';
import { setMapping as forgeMapping, slotAt } from '../../model/records.ts';
import { Image, imageOf, ImageStorage } from '../../support/image.ts';
import { joined, noise, tinyStorage, tinyVolume } from '../../support/volumes.ts';

const LAYOUT = recoveryBlockHeader.offset;

/** A volume with logical blocks 0 … 39, read-only. */
async function readOnlyVolume(): Promise<Image> {
  const { volume, storage } = await tinyVolume();
  await volume.write(0, joined(...Array.from({ length: 40 }, (_, i) => noise(i))));
  await volume.close();
  const image = imageOf(storage.below);
  image.changeSuperBlock({ state: STATE.READ_ONLY });
  return new Image(image.bytes);
}

const shared = readOnlyVolume();

/** An empty block of the present run, `ahead` blocks behind the journal's end. */
function journalBlock(image: Image, ahead = 0): Buffer {
  const { layout } = image;
  const sequence = layout.journalStart + ahead;
  const block = image.block(layout.journalOrigin + (sequence % layout.journalBlocks));
  beginRecoveryBlock(block, {
    sequence,
    nonce: layout.nonce,
    journalBlocks: layout.journalBlocks,
    recoveryCount: layout.completeRecoveries,
    blockMapHead: layout.journalStart,
    slabJournalHead: layout.journalStart,
    logicalBlocksUsed: layout.logicalBlocksUsed,
    blockMapDataBlocks: layout.treePages,
  });
  return block;
}

interface Setting {
  readonly image: Image;
  readonly leaf: number;
  /** Block of logical block 0. */
  readonly data: number;
}

async function setting(): Promise<Setting> {
  const image = (await shared).clone();
  const leaf = image.pages().find(({ height }) => height === 0)!.pbn;
  return { image, leaf, data: image.entries(leaf)[0]!.mapping.pbn };
}

async function rebuild(image: Image) {
  const removals: Removal[] = [];
  const storage = new ImageStorage(image.bytes);
  const onRemoval = (removal: Removal): number => removals.push(removal);
  const report = await rebuildVolumeOn(storage, { onRemoval });
  const audit = await auditVolume(storage);
  expect(audit.errors).toEqual([]);
  return { report, removals, after: new Image(image.bytes) };
}

describe('a rebuild', () => {
  it('passes over what makes no sense in the journal, and uses all else', async () => {
    const { image, leaf, data } = await setting();
    const block = journalBlock(image);
    setRecoveryEntry(block, 0, 0, leaf, 100, data, 1, 0, 0);
    setRecoveryEntry(block, 1, 0, leaf, 900, data, 1, 0, 0);
    setRecoveryEntry(block, 2, 0, 0, 3, data, 1, 0, 0);
    setRecoveryEntry(block, 3, 0, leaf, 101, 3, 1, 0, 0);
    setRecoveryEntry(block, 4, 1, leaf, 102, 0, 0, 0, 0);
    for (let i = 5; i < 93; i++) setRecoveryEntry(block, i, 0, leaf, 200 + i, data, 1, 0, 0);
    // Its second sector is from another write; the third counts.
    block[1024] = 0x80 ^ 5;
    // The block after it is missing, the one after that is there.
    setRecoveryEntry(journalBlock(image, 2), 0, 0, leaf, 103, 0, 1, 0, 0);
    const { report, after } = await rebuild(image);
    const { entries, skippedEntries, skippedBlocks } = report.journal;
    expect({ entries, skippedEntries, skippedBlocks }).toEqual({
      entries: 1 + 26 + 31 + 1,
      skippedEntries: 4,
      skippedBlocks: 1,
    });
    const mappings = after.mappings();
    expect(mappings.get(100)).toBe(`1:${data}`);
    expect(mappings.get(103)).toBe('1:0');
    expect([230, 231, 261, 262].map((lbn) => mappings.has(lbn))).toEqual([
      true,
      false,
      false,
      true,
    ]);
    expect(mappings.size).toBe(40 + 59);
    expect(after.layout).toMatchObject({ state: STATE.CLEAN, completeRecoveries: 1 });
    expect(after.layout.journalStart).toBe(image.layout.journalStart + 3);
  });

  it('reads journals of dm-vdo 6: increments say where things are', async () => {
    const { image, leaf, data } = await setting();
    const block = journalBlock(image);
    block[LAYOUT.metadataType] = 1;
    const entry = (index: number, operation: number, slot: number, pbn: number): void => {
      const sector = 1 + Math.floor(index / 46);
      block.copy(block, sector * 512, LAYOUT.checkByte, LAYOUT.checkByte + 2);
      block[sector * 512 + 2] = (index % 46) + 1;
      const at = sector * 512 + 3 + (index % 46) * 11;
      block.writeUInt16LE(operation | (slot << 2), at);
      block.writeUInt32LE(leaf, at + 2);
      setMapping(block, at + 6, pbn, 1);
      block.writeUInt16LE(index + 1, LAYOUT.entryCount);
    };
    for (let i = 0; i < 50; i++) entry(i, i % 2, 100 + i, data);
    const { report, after } = await rebuild(image);
    expect(report.journal).toMatchObject({ entries: 25, skippedEntries: 0 });
    const mappings = after.mappings();
    expect([100, 101, 148, 149].map((lbn) => mappings.has(lbn))).toEqual([
      false,
      true,
      false,
      true,
    ]);
  });

  it('removes what cannot stand, and says so', async () => {
    const { image, leaf, data } = await setting();
    const page = image.block(leaf);
    for (let slot = 100; slot < 400; slot++)
      forgeMapping(page, slotAt(slot), { state: 1, pbn: data });
    forgeMapping(page, slotAt(1), { state: 0, pbn: data });
    forgeMapping(page, slotAt(2), { state: 1, pbn: 1 });
    forgeMapping(page, slotAt(3), { state: 1, pbn: leaf });
    const { report, removals } = await rebuild(image);
    expect(report.removed).toBe(3 + 300 + 1 - 254);
    expect(removals.slice(0, 3)).toEqual([
      { what: 'mapping', why: 'block and state do not go together', page: leaf, slot: 1, lbn: 1, pbn: data, state: 0 },
      { what: 'mapping', why: 'no data block', page: leaf, slot: 2, lbn: 2, pbn: 1, state: 1 },
      { what: 'mapping', why: 'the block takes no more references', page: leaf, slot: 3, lbn: 3, pbn: leaf, state: 1 },
    ]); // prettier-ignore
    expect(removals.at(-1)).toMatchObject({ lbn: 399, why: 'the block takes no more references' });
  });

  it('ends soon whatever sequences the journal claims', async () => {
    const { image } = await setting();
    const block = journalBlock(image);
    const far = 2 ** 47 + image.layout.journalStart;
    setU64(block, LAYOUT.sequence, far - (far % 64) + (image.layout.journalStart % 64));
    setU64(block, LAYOUT.blockMapHead, 1);
    const { report } = await rebuild(image);
    expect(report.journal.skippedBlocks).toBe(63);
  });

  it('refuses volumes that want none, and writes nothing to them', async () => {
    const { image } = await setting();
    const clean = image.clone();
    clean.changeSuperBlock({ state: STATE.CLEAN });
    const storage = new ImageStorage(clean.bytes);
    const wantsNone = {
      code: 'InvalidArgument',
      message: expect.stringContaining('wants no rebuild'),
    };
    await expect(rebuildVolumeOn(storage)).rejects.toMatchObject(wantsNone);
    const fresh = new ImageStorage(imageOf((await tinyStorage()).below).bytes);
    const nothing = { message: 'a new volume has nothing to rebuild' };
    await expect(rebuildVolumeOn(fresh, { force: true })).rejects.toMatchObject(nothing);
    const locked = new ImageStorage(image.bytes, true);
    await expect(rebuildVolumeOn(locked)).rejects.toMatchObject({ code: 'ReadOnly' });
    expect([storage.writes, fresh.writes, locked.writes]).toEqual([0, 0, 0]);
  });

  it('stopped on request, leaves a volume to be rebuilt', async () => {
    const { image } = await setting();
    const storage = new ImageStorage(image.bytes);
    const signal = AbortSignal.abort(new VdoError('Closed', 'stopped on request'));
    await expect(rebuildVolumeOn(storage, { signal })).rejects.toThrow('stopped on request');
    expect(new Image(image.bytes).layout.state).toBe(STATE.FORCE_REBUILD);
    await rebuild(image);
  });
});
