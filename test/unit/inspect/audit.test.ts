import { describe, expect, it } from 'vitest';
import { GiB } from '../../../src/base/constants.ts';
import { VdoError } from '../../../src/base/errors.ts';
import { auditVolume, type AuditOptions } from '../../../src/inspect/audit.ts';
import { MemoryStorage } from '../../../src/storage/memory-storage.ts';
import type { Extent } from '../../../src/storage/storage.ts';
import { formatStorage } from '../../../src/volume/format.ts';
import { openVolumeOn } from '../../../src/volume/open.ts';
import { slabPlace } from '../../model/layout.ts';
import { setMapping, slotAt } from '../../model/records.ts';
import { Image, ImageStorage } from '../../support/image.ts';
import { joined, noise, QUIET, squashy, tinyVolume } from '../../support/volumes.ts';

const BLOCK = 4096;

/** Two slabs with plain and compressed blocks in both. */
async function volume(): Promise<Image> {
  const { volume, storage } = await tinyVolume({ packerBins: 4 });
  for (let at = 0; at < 1100; at += 20) {
    const plain = Array.from({ length: 20 }, (_, i) => noise(at + i));
    await volume.write(at * BLOCK, joined(...plain));
    const small = Array.from({ length: 20 }, (_, i) => squashy(at + i, 1500));
    await volume.write((1200 + at) * BLOCK, joined(...small));
  }
  await volume.close();
  const bytes = Buffer.alloc(storage.size);
  storage.below.readSync([{ offset: 0, bytes }]);
  return new Image(bytes);
}

const shared = volume();

async function audit(change: (image: Image) => void = () => undefined, options?: AuditOptions) {
  const image = (await shared).clone();
  change(image);
  return auditVolume(new ImageStorage(image.bytes, true), options);
}

describe('an audit', () => {
  it('says what there is', async () => {
    const report = await audit();
    expect(report).toMatchObject({ clean: true, state: 'clean', needs: null, errors: [] });
    expect(report).toMatchObject({ logicalBlocksUsed: 2200, compressedMappings: 1100, slabs: 2 });
    expect(report.dataBlocksUsed).toBe(1100 + report.compressedBlocks);
  });

  it('looks at leaves again where the masks of all slabs do not fit', async () => {
    const wreck = (image: Image): void => {
      const compressed = image
        .pages()
        .filter(({ height }) => height === 0)
        .flatMap(({ pbn }) => image.entries(pbn))
        .filter(({ mapping }) => mapping.state > 1)
        .map(({ mapping }) => mapping.pbn);
      image.block(Math.min(...compressed)).fill(7);
      image.block(Math.max(...compressed)).fill(7);
    };
    const [once, often] = [await audit(wreck), await audit(wreck, { slotMemory: 1 })];
    expect(once.errorCount).toBeGreaterThan(2);
    expect(new Set(once.errors.map(({ where }) => where['pbn'])).size).toBe(2);
    expect(often).toEqual(once);
  });

  it('goes on where blocks cannot be read', async () => {
    const image = await shared;
    const leaf = image.pages().find(({ height }) => height === 0)!.pbn;
    const counts = slabPlace(image.layout, 1).counts;
    class Failing extends ImageStorage {
      override async read(extents: readonly Extent[]): Promise<void> {
        for (const { offset, bytes } of extents) {
          for (const bad of [leaf, counts]) {
            if (offset <= bad * BLOCK && offset + bytes.length > bad * BLOCK) {
              throw new VdoError('Io', `read at block ${bad}: EIO`);
            }
          }
        }
        await super.read(extents);
      }
    }
    const report = await auditVolume(new Failing(image.bytes, true));
    const unreadable = report.errors.filter(({ kind }) => kind === 'unreadable');
    expect(unreadable.map(({ where }) => where['pbn']).sort()).toEqual([leaf, counts].sort());
    expect(report.errorsByKind['reference-count']).toBeGreaterThan(500);
    expect(report.clean).toBe(false);
  });

  it('counts mappings beyond what a count can say', async () => {
    const report = await audit((image) => {
      const leaf = image.pages().find(({ height }) => height === 0)!.pbn;
      const { mapping } = image.entries(leaf).find(({ mapping }) => mapping.state === 1)!;
      for (let slot = 0; slot < 300; slot++) setMapping(image.block(leaf), slotAt(slot), mapping);
    });
    const found = report.errors.find(({ kind }) => kind === 'too-many-references');
    expect(found).toMatchObject({ expected: 'at most 254 mappings', found: 300 });
  });

  it('tells mappings beyond the logical size', async () => {
    const report = await audit((image) => {
      const { layout } = image;
      const block = image.block(layout.superPbn);
      block.writeUInt32LE(900, 60);
      image.changeSuperBlock({});
    });
    expect(report.errorsByKind).toMatchObject({ 'beyond-end': expect.any(Number) });
    const lbns = report.errors.map(({ where }) => Number(where['lbn'] ?? Infinity));
    expect(Math.min(...lbns)).toBe(900);
  });

  it('scrubs slabs that a clean volume leaves dirty, in memory', async () => {
    const sound = await audit((image) => image.setSummary(0, { dirty: true }));
    // Here the journals on disk end in a tail block only; all counts are in already.
    expect(sound.errorCount + sound.slabsToScrub).toBeGreaterThan(0);
    const stored = await audit((image) => image.setSummary(0, { dirty: true }), { asStored: true });
    expect(stored).toMatchObject({ clean: true, slabsToScrub: 0 });
  });

  it('tells findings as they come, keeps count of progress, and stops on request', async () => {
    const told: string[] = [];
    const phases = new Set<string>();
    await audit((image) => image.setCount(slabPlace(image.layout, 0).base + 30, 99), {
      onFinding: ({ kind }) => told.push(kind),
      onProgress: (phase, done, total) => {
        phases.add(phase);
        expect(done).toBeLessThanOrEqual(total);
      },
    });
    expect(told).toEqual(['reference-count']);
    expect([...phases]).toEqual(['block map', 'recovery journal', 'slabs', 'compressed blocks']);
    const signal = AbortSignal.abort(new VdoError('Closed', 'stopped on request'));
    await expect(audit(undefined, { signal })).rejects.toThrow('stopped on request');
  });

  it('looks at the index, whose damage is no disagreement', async () => {
    expect((await audit()).index).toMatchObject({ state: 'none', problem: null });
    class Kept extends MemoryStorage {
      override async close(): Promise<void> {}
    }
    const storage = new Kept(3 * GiB);
    await formatStorage(storage, { slabSize: 32 * 1024 * 1024, logicalSize: GiB });
    expect((await auditVolume(storage)).index.state).toBe('empty');
    const volume = await openVolumeOn(storage, { ...QUIET, index: 'uds' });
    await volume.write(0, joined(noise(1), noise(2), noise(3)));
    await volume.flush();
    expect((await auditVolume(storage)).index.state).toBe('unsaved');
    await volume.close();
    const saved = {
      state: 'saved',
      problem: null,
      oldestChapter: 0,
      newestChapter: 0,
      openRecords: 3,
    };
    expect((await auditVolume(storage)).index).toEqual(saved);
    storage.writeSync([{ offset: 2 * BLOCK, bytes: noise(4) }]);
    const { clean, index } = await auditVolume(storage);
    expect({ clean, state: index.state }).toEqual({ clean: true, state: 'damaged' });
    expect(index.problem).toMatch(/belongs to another volume|damaged|index/);
  });
});
