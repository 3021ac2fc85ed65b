/**
 * Where everything lies on a volume, and what a given block is (FORMAT §1).
 */
import { VdoError } from '../base/errors.ts';
import { slabsOf } from '../volume/labels.ts';
import type { Inspection } from './inspection.ts';

/** A run of physical blocks with one purpose. */
export interface Area {
  readonly name: string;
  readonly start: number;
  readonly count: number;
}

/** All areas from block 0 to the end, in order. Fails where the labels do not decode. */
export function dumpLayout(inspection: Inspection): Area[] {
  const { bioOffset, indexStart, dataStart } = inspection.needGeometry();
  const superBlock = inspection.needSuperBlock();
  const { blockMap, slabDepot, recoveryJournal, slabSummary } = superBlock.partitions;
  const slabBlocks = superBlock.lastBlock - superBlock.firstBlock;
  const areas: Area[] = [
    { name: 'geometry block', start: bioOffset, count: 1 },
    { name: 'index region', start: indexStart, count: dataStart - indexStart },
    { name: 'super block', start: dataStart, count: 1 },
    { name: 'block map roots', start: blockMap.offset, count: blockMap.count },
    { name: 'slabs', start: slabDepot.offset, count: slabBlocks },
    { name: 'unused', start: superBlock.lastBlock, count: slabDepot.count - slabBlocks },
    { name: 'recovery journal', start: recoveryJournal.offset, count: recoveryJournal.count },
    { name: 'slab summary', start: slabSummary.offset, count: slabSummary.count },
  ];
  return areas.filter(({ count }) => count > 0).sort((a, b) => a.start - b.start);
}

/** What a physical block is for; `slab` and `sbn` where it lies in a slab. */
export interface BlockPlace {
  readonly area: string;
  readonly slab?: number;
  readonly sbn?: number;
  /** Index of the block in its area, or in its part of the slab. */
  readonly index: number;
}

export function placeOf(inspection: Inspection, pbn: number): BlockPlace {
  const superBlock = inspection.needSuperBlock();
  const area = dumpLayout(inspection).find(
    ({ start, count }) => pbn >= start && pbn < start + count,
  );
  if (area === undefined) return { area: 'outside of the volume', index: 0 };
  if (area.name !== 'slabs') return { area: area.name, index: pbn - area.start };
  const { firstBlock, slabSize, slab } = superBlock;
  const number = Math.floor((pbn - firstBlock) / slabSize);
  const sbn = (pbn - firstBlock) % slabSize;
  const counts = slab.dataBlocks;
  const journal = counts + slab.referenceBlocks;
  const place = (name: string, start: number): BlockPlace => ({
    area: name,
    slab: number,
    sbn,
    index: sbn - start,
  });
  if (sbn < counts) return place('slab data', 0);
  if (sbn < journal) return place('reference counts', counts);
  if (sbn < journal + slab.journalBlocks) return place('slab journal', journal);
  return place('unused end of a slab', journal + slab.journalBlocks);
}

/**
 * Slab `number` as ranges of blocks. Fails with `Corrupt` where the parts of a slab do not fit into it:
 * numbers out of a damaged super block would be taken for sizes of what is to be read.
 */
export function slabRanges(inspection: Inspection, number: number) {
  const superBlock = inspection.needSuperBlock();
  const { slab, firstBlock, slabSize } = superBlock;
  if (slab.dataBlocks + slab.referenceBlocks + slab.journalBlocks > slabSize) {
    throw new VdoError('Corrupt', `the super block divides slabs of ${slabSize} blocks into more`);
  }
  const start = firstBlock + number * slabSize;
  const counts = start + slab.dataBlocks;
  const journal = counts + slab.referenceBlocks;
  return {
    slabs: slabsOf(superBlock),
    data: { start, count: slab.dataBlocks },
    referenceCounts: { start: counts, count: slab.referenceBlocks },
    journal: { start: journal, count: slab.journalBlocks },
  };
}
