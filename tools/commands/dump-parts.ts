/** The parts that `uvdo dump` knows, each as JSON and as text. */
import { BLOCK_SIZE, UNMAPPED } from '../../src/base/constants.ts';
import { stateName } from '../../src/format/super-block.ts';
import { dumpBlock, hexLines } from '../../src/inspect/dump-block.ts';
import { dumpBlockMap, type MappedRun } from '../../src/inspect/dump-block-map.ts';
import { dumpIndex } from '../../src/inspect/dump-index.ts';
import { dumpJournal, type RecoveryBlockDump } from '../../src/inspect/dump-journal.ts';
import { dumpLayout } from '../../src/inspect/dump-layout.ts';
import { dumpSlab, dumpSlabJournal, type SlabDump } from '../../src/inspect/dump-slab.ts';
import type { Inspection } from '../../src/inspect/inspection.ts';
import { wrongUsage } from '../cli/args.ts';
import { hexOf, uuidOf } from '../cli/json.ts';
import { formatSize, parseCount } from '../cli/sizes.ts';
import { pairs, table } from '../cli/table.ts';
import { indexLines } from './dump-index-lines.ts';

export interface Output {
  readonly json: Readonly<Record<string, unknown>>;
  lines(): string[];
}

export interface Dump {
  /** What must follow the part's name. */
  readonly parameter?: string;
  /** Whether an unfinished journal may hold newer values than it shows. */
  readonly derived: boolean;
  run(inspection: Inspection, parameter: string, entries: boolean): Promise<Output>;
}

type Fields = Readonly<Record<string, unknown>>;

/** Fields of any depth as lines `outer.inner  value`. */
function fieldLines(fields: Fields): string[] {
  const flatten = (value: unknown, name: string): [string, string][] => {
    if (value instanceof Uint8Array) {
      return [[name, value.length === 16 ? uuidOf(value) : hexOf(value)]];
    }
    if (Array.isArray(value)) return [[name, value.join(', ')]];
    if (typeof value === 'object' && value !== null) {
      return Object.entries(value).flatMap(([key, inner]) =>
        flatten(inner, name === '' ? key : `${name}.${key}`),
      );
    }
    return [[name, String(value)]];
  };
  return pairs(flatten(fields, ''));
}

async function geometry(inspection: Inspection): Promise<Output> {
  const label = inspection.geometry;
  const fields: Fields =
    label === undefined ? (inspection.rawGeometry ?? {}) : { ...label, uuid: uuidOf(label.uuid) };
  return { json: { geometry: fields }, lines: () => fieldLines(fields) };
}

async function superBlock(inspection: Inspection): Promise<Output> {
  const label: Fields = { ...(inspection.superBlock ?? inspection.rawSuperBlock) };
  const state = label['state'];
  const named = typeof state === 'number' ? { state, stateName: stateName(state) } : {};
  const fields = { ...label, ...named };
  return { json: { superBlock: fields }, lines: () => fieldLines(fields) };
}

async function layout(inspection: Inspection): Promise<Output> {
  const areas = dumpLayout(inspection);
  const rows = areas.map(
    ({ name, start, count }) =>
      [start, start + count - 1, count, formatSize(count * BLOCK_SIZE), name] as const,
  );
  const head = ['first', 'last', 'blocks', 'size', 'area'];
  return { json: { areas }, lines: () => table(head, rows) };
}

function lbnRange(text: string): [number, number] {
  const [first = '', last = first, more] = text.split('-');
  if (more !== undefined) throw wrongUsage(`logical blocks '${text}': give LBN or LBN-LBN`);
  return [parseCount(first, 'logical block'), parseCount(last, 'logical block')];
}

async function blockMap(inspection: Inspection, parameter: string): Promise<Output> {
  const runs: MappedRun[] = [];
  for await (const run of dumpBlockMap(inspection, ...lbnRange(parameter))) runs.push(run);
  const rows = runs.map(({ lbn, count, kind, pbn, slot, leaf }) => [
    count === 1 ? `${lbn}` : `${lbn}-${lbn + count - 1}`,
    slot === undefined ? kind : `${kind} slot ${slot}`,
    pbn === UNMAPPED ? '' : pbn,
    leaf ?? '',
  ]);
  const head = ['logical', 'mapping', 'physical', 'leaf page'];
  return { json: { mappings: runs }, lines: () => table(head, rows) };
}

function summaryLine(summary: SlabDump['summary']): string {
  if (summary === undefined) return 'unreadable';
  const { tailOffset, fullnessHint, loadCounts, dirty } = summary;
  const counts = loadCounts ? 'counts on disk' : 'never written';
  return `tail offset ${tailOffset}, hint ${fullnessHint}, ${counts}, ${dirty ? 'dirty' : 'clean'}`;
}

function range({ start, count }: { start: number; count: number }): string {
  return `${start} … ${start + count - 1} (${count} blocks)`;
}

async function slab(inspection: Inspection, parameter: string): Promise<Output> {
  const dump = await dumpSlab(inspection, parseCount(parameter, 'slab'));
  const { ranges, counts } = dump;
  const lines = (): string[] => [
    ...pairs([
      ['slab', `${dump.slab} of ${ranges.slabs}`],
      ['data', range(ranges.data)],
      ['reference counts', range(ranges.referenceCounts)],
      ['journal', range(ranges.journal)],
      ['summary', summaryLine(dump.summary)],
      ['free', counts?.free],
      ['one reference', counts?.single],
      ['shared', counts?.shared],
      ['254 references', counts?.maximum],
      ['provisional', counts?.provisional],
    ]),
    ...dump.referenceBlocks.map(
      ({ pbn, commitPoint, torn }) =>
        `reference block ${pbn}: counts up to entry ${commitPoint.index} of slab journal block ` +
        `${commitPoint.sequence}${torn ? ', torn' : ''}`,
    ),
    ...(counts?.runs ?? []).map(
      ([first, blocks, count]) => `  ${first} … ${first + blocks - 1}: ${count}`,
    ),
  ];
  const { slab: number, ...rest } = dump;
  return { json: { slab: number, ...rest }, lines };
}

async function slabJournal(
  inspection: Inspection,
  parameter: string,
  entries: boolean,
): Promise<Output> {
  const dump = await dumpSlabJournal(inspection, parseCount(parameter, 'slab'), entries);
  const head = ['block', 'sequence', 'head', 'entries', 'form', 'recovery point'];
  const lines = (): string[] => [
    `slab ${dump.slab}: ${summaryLine(dump.summary)}`,
    ...table(
      head,
      dump.blocks.map((b) => [
        b.pbn,
        b.sequence,
        b.head,
        b.entryCount,
        b.full ? 'full' : 'plain',
        `${b.recoverySequence}.${b.recoveryIndex >>> 1}${b.recoveryIndex % 2 === 0 ? '+' : '−'}`,
      ]),
    ),
    ...dump.blocks.flatMap(({ sequence, entries: list = [] }) =>
      list.map(
        ({ sbn, increment, blockMap: tree }, i) =>
          `  ${sequence}.${i}  ${increment ? '+' : '−'}${sbn}${tree ? '  block map' : ''}`,
      ),
    ),
  ];
  return { json: { ...dump }, lines };
}

function entryLines({ sequence, entries = [] }: RecoveryBlockDump): string[] {
  const location = (pbn: number, state: number): string =>
    state < 2 ? `${pbn}${state === 0 ? ' unmapped' : ''}` : `${pbn} slot ${state - 2}`;
  return entries.map((e, i) => {
    const what = e.operation === 0 ? 'data' : e.operation === 1 ? 'block map' : `op ${e.operation}`;
    const change = `${location(e.oldPbn, e.oldState)} → ${location(e.newPbn, e.newState)}`;
    return `  ${sequence}.${i}  ${what}  page ${e.pagePbn} slot ${e.slot}: ${change}`;
  });
}

async function journal(
  inspection: Inspection,
  _parameter: string,
  entries: boolean,
): Promise<Output> {
  const blocks = await dumpJournal(inspection, entries);
  const { journalStart } = inspection.needSuperBlock();
  const head = ['block', 'sequence', 'entries', 'map head', 'slab head', 'used', 'tree', 'run'];
  const lines = (): string[] => [
    `the journal starts with sequence ${journalStart}`,
    ...table(
      head,
      blocks.map((b) => [
        b.pbn,
        b.sequence,
        b.usableEntries === b.entryCount ? b.entryCount : `${b.usableEntries} of ${b.entryCount}`,
        b.blockMapHead,
        b.slabJournalHead,
        b.logicalBlocksUsed,
        b.blockMapDataBlocks,
        b.current ? 'current' : `outdated (${b.recoveryCount})`,
      ]),
    ),
    ...blocks.flatMap(entryLines),
  ];
  return { json: { journalStart, blocks }, lines };
}

async function index(inspection: Inspection): Promise<Output> {
  const dump = await dumpIndex(inspection);
  return { json: { ...dump }, lines: () => indexLines(dump) };
}

async function block(inspection: Inspection, parameter: string): Promise<Output> {
  const dump = await dumpBlock(inspection, parseCount(parameter, 'physical block'));
  const { area, slab: number, sbn, index: position } = dump.place;
  const lines = (): string[] => [
    ...pairs([
      ['block', dump.pbn],
      ['area', `${area}, number ${position} in it`],
      ['slab', number === undefined ? undefined : `${number}, offset ${sbn}`],
      ['references', dump.referenceCount],
      ['looks like', dump.looksLike],
      ['fragments', dump.fragments?.join(', ')],
    ]),
    ...hexLines(dump.bytes),
  ];
  return { json: { ...dump }, lines };
}

export const DUMPS: Readonly<Record<string, Dump>> = {
  geometry: { derived: false, run: geometry },
  'super-block': { derived: false, run: superBlock },
  layout: { derived: false, run: layout },
  'block-map': { parameter: 'LBN or LBN-LBN', derived: true, run: blockMap },
  slab: { parameter: 'the number of a slab', derived: true, run: slab },
  'slab-journal': { parameter: 'the number of a slab', derived: true, run: slabJournal },
  journal: { derived: false, run: journal },
  index: { derived: false, run: index },
  block: { parameter: 'a physical block number', derived: false, run: block },
};
