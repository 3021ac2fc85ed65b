/**
 * Every structure of the format, for the byte tables of docs/FORMAT.md, by the names under which its
 * template asks for them.
 */
import { blockMapEntry, blockMapPageHeader } from './block-map-page.ts';
import { chapterIndexHeader } from './chapter-page.ts';
import { componentHeader } from './component.ts';
import { compressedBlockHeader } from './compressed-block.ts';
import { geometryBody4, geometryBody5, geometryMagic } from './geometry-block.ts';
import {
  indexConfig,
  indexRegion,
  indexRegionTable,
  indexRemapping,
  indexSave,
  indexSuperBlock,
  indexSuperBlockOffsets,
} from './index-layout.ts';
import { openChapterHeader, pageMapHeader } from './index-save.ts';
import { recoveryBlockHeader, recoveryEntry, recoverySector } from './recovery-block.ts';
import { referenceSector } from './reference-block.ts';
import { slabJournalEntry, slabJournalHeader } from './slab-journal-block.ts';
import { slabSummaryEntry } from './slab-summary.ts';
import type { FieldRow } from './struct.ts';
import {
  blockMapComponent,
  layoutComponent,
  layoutPartition,
  recoveryJournalComponent,
  slabDepotComponent,
  vdoComponent,
} from './super-block.ts';

/** What a byte table shows of a structure. */
export interface Structure {
  readonly name: string;
  readonly size: number;
  readonly rows: readonly FieldRow[];
}

export const STRUCTURES: readonly Structure[] = [
  componentHeader,
  geometryMagic,
  geometryBody5,
  geometryBody4,
  vdoComponent,
  layoutComponent,
  layoutPartition,
  recoveryJournalComponent,
  slabDepotComponent,
  blockMapComponent,
  blockMapPageHeader,
  blockMapEntry,
  compressedBlockHeader,
  recoveryBlockHeader,
  recoverySector,
  recoveryEntry,
  slabJournalHeader,
  slabJournalEntry,
  referenceSector,
  slabSummaryEntry,
  indexRegionTable,
  indexRegion,
  indexSuperBlock,
  indexSuperBlockOffsets,
  indexConfig,
  indexRemapping,
  indexSave,
  openChapterHeader,
  pageMapHeader,
  chapterIndexHeader,
];
