/** The result of `uvdo measure` as text for people. */
import { BLOCK_SIZE } from '../../src/base/constants.ts';
import type { Measurement } from '../../src/measure/figures.ts';
import { formatExactSize, formatSize } from './sizes.ts';
import { pairs, table } from './table.ts';

/** Sources shown with what they share: more make no table that fits a terminal. */
const MAX_MATRIX = 8;
const MAX_TOP_FILES = 5;

const size = (blocks: number): string => formatSize(blocks * BLOCK_SIZE);
const ratio = (value: number): string => `${value.toFixed(2)} : 1`;
const percent = (part: number, whole: number): string =>
  `${(whole === 0 ? 0 : (100 * part) / whole).toFixed(1)} %`;

/** Lines: the figures, then one table each for windows, sources, shifts and files, where they tell something. */
export function measurementText(m: Measurement): string[] {
  return [
    ...figures(m),
    ...windows(m),
    ...(m.sources.length > 1 ? sources(m) : []),
    ...alignment(m),
    ...topFiles(m),
  ];
}

function figures(m: Measurement): string[] {
  const count = (blocks: number): string =>
    `${blocks} blocks, ${size(blocks)}, ${percent(blocks, m.blocks)}`;
  const rate = formatSize(Math.round(m.bytes / Math.max(1e-3, m.seconds)));
  const interval = m.sample?.totalRatio;
  return pairs([
    [
      'measured',
      `${formatSize(m.bytes)} in ${m.files} files, ${m.seconds.toFixed(1)} s, ${rate}/s`,
    ],
    ['not readable', m.errors === 0 ? undefined : `${m.errors} paths`],
    ['sample', m.sample && `one content in ${m.sample.oneIn}: figures are estimates`],
    ['zero', count(m.zeroBlocks)],
    ['duplicate', count(m.duplicateBlocks)],
    ['unique', `${count(m.uniqueBlocks)}: deduplication ${ratio(m.dedupRatio)}`],
    [
      'compressed',
      m.compression ? `${m.compressedBlocks} of them into ${m.packedBlocks} blocks` : undefined,
    ],
    ['stored by uvdo', `${count(m.storedBlocks)}: ${ratio(m.totalRatio)} in all`],
    ['  with 95 % certainty', interval && `${ratio(interval[0])} to ${ratio(interval[1])}`],
    [
      'stored by dm-vdo',
      `${count(m.kernelStoredBlocks)}: ${ratio(m.blocks / Math.max(1, m.kernelStoredBlocks))}`,
    ],
    ['saved', `${m.savingPercent.toFixed(1)} %`],
    ['volume to hold it', formatExactSize(m.recommended.physicalSize)],
    [
      '  made with',
      `--logical-size ${m.recommended.logicalSize} --slab-size ${m.recommended.slabSize / 2 ** 20}M ` +
        `--index-memory ${m.recommended.indexMemory}${m.recommended.sparseIndex ? ' --sparse-index' : ''}`,
    ],
  ]);
}

function windows(m: Measurement): string[] {
  if (m.windows.length === 0) return [];
  const best = m.uniqueBlocks;
  const isSame = m.windows.every(({ uniqueBlocks }) => uniqueBlocks === best);
  if (isSame && m.windows.length > 1) {
    const { indexMemory } = m.windows[0]!;
    return ['', `every index finds all duplicates, ${indexMemory} GB of memory is enough`];
  }
  return [
    '',
    ...table(
      ['index memory', 'kind', 'remembers', 'left unique', 'deduplication'],
      m.windows.map((window) => [
        `${window.indexMemory} GB`,
        window.sparse ? 'sparse' : 'dense',
        size(window.records),
        window.uniqueBlocks,
        ratio(window.dedupRatio),
      ]),
    ),
  ];
}

function sources(m: Measurement): string[] {
  const { shared } = m;
  const isShown = shared !== null && m.sources.length <= MAX_MATRIX;
  const head = ['source', 'size', 'zero', 'seen before'];
  return [
    '',
    ...table(
      [...head, ...(isShown ? m.sources.map((_, i) => `shares with ${i + 1}`) : [])],
      m.sources.map((source, i) => [
        `${i + 1} ${source.path}`,
        formatSize(source.bytes),
        percent(source.zeroBlocks, source.blocks),
        percent(source.duplicateBlocks, source.blocks - source.zeroBlocks),
        ...(isShown ? shared[i]!.map((blocks) => size(blocks)) : []),
      ]),
    ),
  ];
}

function alignment(m: Measurement): string[] {
  if (m.alignment === undefined) return [];
  const shifts = m.alignment.sources[0]!.shifts.map(({ bytes }) => `+${bytes}`);
  const rows = m.alignment.sources.map(({ path, shifts: found }) => [
    path,
    ...found.map(({ blocks }) => size(blocks)),
  ]);
  const worse = m.alignment.sources.filter(({ best }) => best !== 0);
  return [
    '',
    `found elsewhere if a source lay so many bytes later (one block in ${m.alignment.oneIn} looked at)`,
    ...table(['source', ...shifts], rows),
    ...worse.map(
      ({ path, best }) => `${path}: not aligned with the others, try it moved by ${best} bytes`,
    ),
  ];
}

function topFiles(m: Measurement): string[] {
  if (m.files <= m.sources.length || m.topFiles.length === 0) return [];
  return [
    '',
    ...table(
      ['files with most content seen before', 'size', 'seen before'],
      m.topFiles
        .slice(0, MAX_TOP_FILES)
        .map(({ path, bytes, duplicateBlocks }) => [
          path,
          formatSize(bytes),
          size(duplicateBlocks),
        ]),
    ),
  ];
}
