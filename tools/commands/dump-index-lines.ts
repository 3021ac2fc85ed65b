/** `uvdo dump FILE index` as text. */
import { REGION_KIND } from '../../src/format/index-layout.ts';
import type { DumpedChapter, DumpedIndex, DumpedSave } from '../../src/inspect/dump-index.ts';
import { hexOf } from '../cli/json.ts';
import { BLOCK_SIZE } from '../../src/base/constants.ts';
import { formatSize } from '../cli/sizes.ts';
import { pairs, table } from '../cli/table.ts';

const REGION_NAMES: Readonly<Record<number, string>> = {
  [REGION_KIND.free]: 'free',
  [REGION_KIND.header]: 'super block',
  [REGION_KIND.config]: 'configuration',
  [REGION_KIND.index]: 'chapters and saves',
  [REGION_KIND.seal]: 'seal',
  [REGION_KIND.volume]: 'chapters',
  [REGION_KIND.save]: 'save',
};

export function indexLines(dump: DumpedIndex): string[] {
  if (dump.kind === 'none') return ['the volume has no index region'];
  const { start, blocks } = dump;
  return [
    ...pairs([
      ['index region', dump.kind === 'empty' ? 'empty: never used' : 'in use'],
      ['blocks', `${start} … ${start + blocks - 1} (${blocks} blocks)`],
      ['size', formatSize(dump.bytes)],
      ['index memory', dump.indexMemory === null ? 'unknown' : `${dump.indexMemory} GB`],
      ['sparse', dump.sparseIndex ? 'yes' : 'no'],
      ...shapePairs(dump),
      ['super block', dump.superVersion === null ? undefined : `version ${dump.superVersion}`],
      ...convertedPairs(dump),
      ['nonce info', hex(dump.nonceInfo)],
      ['primary nonce', hex(dump.primaryNonce)],
      ['volume nonce', hex(dump.volumeNonce)],
      ['wrong', dump.problem ?? undefined],
      ['chapters on disk', chaptersOnDisk(dump)],
      ['next start', dump.nextStart],
    ]),
    ...regionLines(dump),
    ...dump.saves.flatMap(saveLines),
  ];
}

const hex = (bytes: Uint8Array | null): string | undefined =>
  bytes === null ? undefined : hexOf(bytes);

function shapePairs({ geometry }: DumpedIndex): [string, string][] {
  if (geometry === null) return [];
  const { chapters, sparseChapters, reduced, recordsPerChapter, subIndexes } = geometry;
  const lists = subIndexes.map((sub) => `${sub.lists}`).join(' and, of hooks, ');
  const { indexPagesPerChapter, recordPagesPerChapter, chapterLists } = geometry;
  const some = sparseChapters > 0 ? `, ${sparseChapters} of them sparse` : '';
  return [
    ['ring', `${chapters} chapters${some}${reduced ? ' (reduced)' : ''}`],
    [
      'a chapter',
      `${recordsPerChapter} records: ${indexPagesPerChapter} index pages of ${chapterLists} lists, ` +
        `${recordPagesPerChapter} record pages`,
    ],
    ['volume index', `${lists} lists`],
  ];
}

function convertedPairs({ converted }: DumpedIndex): [string, string][] {
  if (converted === null) return [];
  const { volumeOffset, startOffset, moved } = converted;
  return [
    [
      'converted',
      `super block and chapters lie ${volumeOffset - startOffset} blocks behind their numbers, ` +
        `saves ${startOffset} before`,
    ],
    ['moved', moved === null ? 'no chapter' : `chapter ${chapter(moved)}`],
  ];
}

const chapter = (at: DumpedChapter | null): string =>
  at === null ? 'unknown' : `${at.chapter} in slot ${at.slot}`;

function chaptersOnDisk({ kind, onDisk, volumeNonce }: DumpedIndex): string | undefined {
  if (kind === 'empty' || volumeNonce === null) return undefined;
  if (onDisk === null) return 'none';
  return `oldest ${chapter(onDisk.oldest)}, newest ${chapter(onDisk.newest)}`;
}

function regionLines({ regions }: DumpedIndex): string[] {
  if (regions.length === 0) return [];
  const rows = regions.map((region) => {
    const name = REGION_NAMES[region.kind] ?? `kind ${region.kind}`;
    const instance = region.kind === REGION_KIND.save ? ` ${region.instance}` : '';
    const last = region.start + region.blocks - 1;
    const size = formatSize(region.blocks * BLOCK_SIZE);
    return [region.start, last, region.blocks, size, name + instance];
  });
  return ['', ...table(['first', 'last', 'blocks', 'size', 'part'], rows)];
}

const NO_SAVE = {
  unsaved: 'none: the index was in use, or never saved here',
  invalid: 'a save, but not of this index',
  none: 'no header of a save',
} as const;

function saveLines(save: DumpedSave): string[] {
  const head = ['', `save ${save.slot}, header in block ${save.start}`];
  if (save.state !== 'valid') return [...head, ...pairs([['  state', NO_SAVE[save.state]]])];
  const { openRecords, pageMapUpdated, zones } = save;
  return [
    ...head,
    ...pairs([
      ['  state', save.counts ? 'valid, the one that counts' : 'valid, older than the other'],
      ['  saved', `${save.saved ?? 'never'} (${save.timestamp})`],
      ['  nonce', hex(save.nonce)],
      ['  oldest chapter', chapter(save.oldest)],
      ['  open chapter', chapter(save.newest)],
      ['  open records', openRecords ?? 'none that can be read: a chapter was closed since'],
      ['  page map', pageMapUpdated === null ? 'unreadable' : `of chapter ${pageMapUpdated}`],
      ['  zones', zones.length],
      ['  wrong', save.problem ?? undefined],
    ]),
    ...zoneLines(save),
  ];
}

function zoneLines({ zones }: DumpedSave): string[] {
  const rows = zones.flatMap((parts, zone) =>
    parts.map(({ low, high, firstList, lists, records, collisions }, part) => [
      `  ${zone}`,
      parts.length === 1 ? 'all' : part === 0 ? 'others' : 'hooks',
      low,
      high,
      firstList,
      lists,
      records,
      collisions,
    ]),
  );
  if (rows.length === 0) return [];
  const head = ['  zone', 'names', 'low', 'high', 'first list', 'lists', 'entries', 'collisions'];
  return table(head, rows);
}
