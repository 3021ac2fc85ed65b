/**
 * Audits a volume: reads all of its metadata and every compressed block, writes nothing, and reports
 * each disagreement between block map, reference counts, slab summary, journals, compressed blocks and
 * the counters in the super block.
 *
 * - One pass over the block map counts what every block's count should be; then stored counts are
 *   compared, a slab at a time.
 * - A volume that was not closed is audited as its recovery leaves it: the journal is replayed into a
 *   layer of memory over the volume, and slabs are scrubbed there. If that cannot be done, why is a
 *   finding, and what lies on disk is audited.
 * - Memory: about a byte a block of the slabs in use (`audit-references.ts`); pages and slab journal
 *   blocks that a recovery would write.
 * - Whatever the volume holds, an audit ends: no block is entered twice, and what is kept is bounded.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import {
  CLEAN,
  needsRebuild,
  needsReplay,
  NEW,
  RECOVERING,
  stateName,
  type SuperBlock,
  type VolumeState,
} from '../format/super-block.ts';
import { recoverInMemory, type RecoveryReport } from '../repair/recover.ts';
import { ShiftedStorage } from '../storage/shifted-storage.ts';
import type { Storage } from '../storage/storage.ts';
import { readLabels, slabsOf, type Labels } from '../volume/labels.ts';
import { auditCompressed } from './audit-compressed.ts';
import { BlockReader, Findings, type Finding, type FindingKind } from './audit-findings.ts';
import { auditIndex, type IndexAudit } from './audit-index.ts';
import { auditSavedJournal } from './audit-journal.ts';
import { MapAudit } from './audit-map.ts';
import { References } from './audit-references.ts';
import { SlabAudit } from './audit-slabs.ts';

export type AuditPhase = 'block map' | 'recovery journal' | 'slabs' | 'compressed blocks';

export interface AuditOptions {
  /** Leaves journals aside and judges what lies on disk, as `vdoaudit` does. */
  readonly asStored?: boolean;
  /** Bytes for slot masks of compressed blocks at a time; beyond, leaves are read again. */
  readonly slotMemory?: number;
  /** Told each finding as it comes up. */
  readonly onFinding?: (finding: Finding) => void;
  /** Told how far it is, in blocks. */
  readonly onProgress?: (phase: AuditPhase, done: number, total: number) => void;
  /** Ends the audit with its reason. */
  readonly signal?: AbortSignal;
}

/** What a volume wants before it takes writes again as it should. */
export type Need = 'recovery' | 'rebuild' | 'scrubbing';

export interface AuditReport {
  /** Nothing disagrees, and nothing is to be recovered. */
  readonly clean: boolean;
  readonly state: string;
  readonly needs: Need | null;
  /** What a recovery would do: journal entries replayed, map pages written, slabs whose journals grow. */
  readonly recovery: RecoveryReport | null;
  /** At most `MAX_KEPT_FINDINGS` of them. */
  readonly errors: readonly Finding[];
  readonly errorCount: number;
  readonly errorsByKind: Readonly<Partial<Record<FindingKind, number>>>;
  /** As counted from the block map. */
  readonly logicalBlocksUsed: number;
  readonly zeroMappings: number;
  readonly compressedMappings: number;
  readonly blockMapDataBlocks: number;
  /** As stored in the reference counts. */
  readonly dataBlocksUsed: number;
  readonly compressedBlocks: number;
  readonly slabs: number;
  readonly slabsToScrub: number;
  /** Advice only: damage here is no disagreement. */
  readonly index: IndexAudit;
}

/** Audits the volume on `storage`. Fails as `readLabels` does where there is nothing to go by. */
export async function auditVolume(
  storage: Storage,
  options: AuditOptions = {},
): Promise<AuditReport> {
  const labels = await readLabels(storage);
  const findings = new Findings(options.onFinding);
  const view = await viewOf(storage, labels, findings, options);
  const report = await new Auditor(labels, view, findings, options).run();
  return { ...report, index: await auditIndex(storage, labels) };
}

/** The volume as it is, or as a recovery would leave it. */
async function viewOf(
  storage: Storage,
  { geometry, superBlock }: Labels,
  findings: Findings,
  options: AuditOptions,
): Promise<View> {
  const device =
    geometry.bioOffset === 0
      ? storage
      : new ShiftedStorage(storage, -geometry.bioOffset * BLOCK_SIZE);
  const { state } = superBlock;
  const asStored = options.asStored === true || needsRebuild(state);
  const asItIs = { storage: device, superBlock, recovery: null, asStored };
  if (asStored || !needsReplay(state)) return asItIs;
  try {
    const at = geometry.dataStart * BLOCK_SIZE;
    const { report, ...seen } = await recoverInMemory(device, superBlock, at);
    return { ...seen, recovery: report, asStored };
  } catch (error) {
    if (!(error instanceof VdoError) || !UNRECOVERABLE.has(error.code)) throw error;
    const expected = 'a volume that can be recovered';
    findings.add('recovery-journal', error.where, expected, error.message);
    return { ...asItIs, asStored: true };
  }
}

/** Why a recovery cannot be made, whatever is tried. */
const UNRECOVERABLE: ReadonlySet<string> = new Set(['Corrupt', 'UnsupportedVersion']);

/** The volume as it is audited. */
interface View {
  readonly storage: Storage;
  readonly superBlock: SuperBlock;
  readonly recovery: RecoveryReport | null;
  /** Whether slab journals are left aside. */
  readonly asStored: boolean;
}

class Auditor {
  readonly #labels: Labels;
  readonly #view: View;
  readonly #superBlock: SuperBlock;
  readonly #options: AuditOptions;
  readonly #findings: Findings;
  readonly #reader: BlockReader;
  readonly #references: References;

  constructor(labels: Labels, view: View, findings: Findings, options: AuditOptions) {
    const { superBlock } = view;
    this.#labels = labels;
    this.#view = view;
    this.#superBlock = superBlock;
    this.#options = options;
    this.#findings = findings;
    this.#reader = new BlockReader(view.storage, findings);
    const range = {
      firstBlock: superBlock.firstBlock,
      slabBlocks: superBlock.slabSize,
      dataBlocks: superBlock.slab.dataBlocks,
      slabs: slabsOf(superBlock),
    };
    this.#references = new References(range, options.slotMemory);
  }

  async run(): Promise<Omit<AuditReport, 'index'>> {
    const superBlock = this.#superBlock;
    const { state } = this.#labels.superBlock;
    const map = await this.#auditMap();
    if (state === CLEAN) await this.#auditJournal();
    const slabs = await this.#auditSlabs();
    const compressedBlocks = await this.#auditCompressed(map);
    this.#compareCounters(map);
    const findings = this.#findings;
    const needs = needOf(state) ?? (slabs.countsChangedByScrubbing > 0 ? 'scrubbing' : null);
    const isToBeRecovered = needs === 'recovery' || needs === 'scrubbing';
    return {
      clean: findings.count === 0 && !isToBeRecovered,
      state: stateName(state),
      needs,
      recovery: this.#view.recovery,
      errors: findings.kept,
      errorCount: findings.count,
      errorsByKind: findings.byKind,
      logicalBlocksUsed: map.logicalBlocksUsed,
      zeroMappings: map.zeroMappings,
      compressedMappings: map.compressedMappings,
      blockMapDataBlocks: map.treePages,
      dataBlocksUsed: slabs.dataBlocksUsed,
      compressedBlocks,
      slabs: slabsOf(superBlock),
      slabsToScrub: slabs.slabsToScrub,
    };
  }

  /** Counts what is done in a phase; stops where the caller wants that. */
  #counter(phase: AuditPhase, total: number): (blocks: number) => void {
    const { onProgress, signal } = this.#options;
    let done = 0;
    onProgress?.(phase, 0, total);
    return (blocks) => {
      if (signal?.aborted === true) throw signal.reason as Error;
      done += blocks;
      onProgress?.(phase, done, Math.max(done, total));
    };
  }

  async #auditMap(): Promise<MapAudit> {
    const superBlock = this.#superBlock;
    const total = superBlock.rootCount + superBlock.blockMapDataBlocks;
    const map = new MapAudit({
      superBlock,
      reader: this.#reader,
      findings: this.#findings,
      references: this.#references,
      onPages: this.#counter('block map', total),
    });
    await map.run();
    for (const [pbn, more] of this.#references.excess) {
      this.#findings.add('too-many-references', { pbn }, 'at most 254 mappings', 254 + more);
    }
    return map;
  }

  #auditJournal(): Promise<void> {
    const total = this.#superBlock.partitions.recoveryJournal.count;
    const count = this.#counter('recovery journal', total);
    return auditSavedJournal(this.#superBlock, this.#reader, this.#findings, count);
  }

  async #auditSlabs(): Promise<SlabAudit> {
    const superBlock = this.#superBlock;
    const slabs = new SlabAudit({
      superBlock,
      reader: this.#reader,
      findings: this.#findings,
      references: this.#references,
      asStored: this.#view.asStored,
      saved: this.#labels.superBlock.state === CLEAN,
      onBlocks: this.#counter('slabs', slabsOf(superBlock) * (superBlock.slab.referenceBlocks + 1)),
    });
    // The formatter leaves the summary of a new volume as it was: nothing of a slab counts yet.
    if (this.#labels.superBlock.state !== NEW) await slabs.run();
    return slabs;
  }

  async #auditCompressed(map: MapAudit): Promise<number> {
    const references = this.#references;
    const count = this.#counter('compressed blocks', Math.ceil(map.compressedMappings / 2));
    let blocks = 0;
    for (;;) {
      blocks += await auditCompressed(references, this.#reader, this.#findings, count);
      const deferred = references.takeDeferred();
      if (deferred.size === 0) return blocks;
      await map.takeSlots(deferred);
    }
  }

  #compareCounters({ logicalBlocksUsed, treePages }: MapAudit): void {
    const superBlock = this.#superBlock;
    const compare = (counter: string, expected: number, found: number): void => {
      if (expected === found) return;
      this.#findings.add('counter', { counter }, expected, found);
    };
    compare('logicalBlocksUsed', logicalBlocksUsed, superBlock.logicalBlocksUsed);
    compare('blockMapDataBlocks', treePages, superBlock.blockMapDataBlocks);
  }
}

function needOf(state: VolumeState): Need | undefined {
  if (needsReplay(state)) return 'recovery';
  if (needsRebuild(state)) return 'rebuild';
  return state === RECOVERING ? 'scrubbing' : undefined;
}
