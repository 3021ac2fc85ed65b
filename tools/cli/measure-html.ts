/**
 * The result of `uvdo measure` as one HTML file: no scripts, nothing from elsewhere, readable in light
 * and dark, on paper, and by a screen reader (headings, table headers, charts with their numbers).
 */
import { BLOCK_SIZE } from '../../src/base/constants.ts';
import type { Measurement } from '../../src/measure/figures.ts';
import { columns, escapeHtml, lines, stackedBar } from './charts.ts';
import { formatSize } from './sizes.ts';

const MAX_MATRIX = 24;

const STYLE = `
:root { color-scheme: light dark; --back: #ffffff; --card: #f3f5f8; --text: #1b1f24; --soft: #57606a;
  --line: #d0d7de; --s1: #1f5fbf; --s2: #b35c00; --s3: #1a7f4b; --s4: #8a4fbf; --heat: 31, 95, 191; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --card: #1f242a; --text: #e8eaed;
  --soft: #a8b1bb; --line: #3a424b; --s1: #7fb2ff; --s2: #ffb066; --s3: #6fd39b; --s4: #cfa8ff;
  --heat: 127, 178, 255; } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 60rem; background: var(--back);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif }
h1 { margin: 0; font-size: 1.7rem } h2 { margin: 2.5rem 0 .5rem; font-size: 1.25rem }
p { margin: .4rem 0; max-width: 48rem } .soft, caption { color: var(--soft) }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0 }
dl.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .75rem 1rem } dt { color: var(--soft) } dd { margin: 0; font-size: 1.5rem; font-weight: 600 }
svg { width: 100%; height: auto; margin: .5rem 0 } svg text { fill: var(--text); font-size: 14px }
svg .small { font-size: 12px } svg .axis, svg .grid { stroke: var(--line); stroke-width: 1 }
.s1 { fill: var(--s1) } .s2 { fill: var(--s2) } .s3 { fill: var(--s3) } .s4 { fill: var(--s4) }
.l1, .l2 { fill: none; stroke-width: 2.5 } .l1 { stroke: var(--s1) }
.l2 { stroke: var(--s2); stroke-dasharray: 7 4 }
.wide { overflow-x: auto } table { border-collapse: collapse; margin: .5rem 0; min-width: 100% }
caption { text-align: left; padding: .25rem 0 } th, td { padding: .3rem .6rem; text-align: right;
  border-bottom: 1px solid var(--line); white-space: nowrap; font-variant-numeric: tabular-nums }
th:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; font-weight: 500 }
thead th { font-weight: 600; vertical-align: bottom } code { font-size: .9em; overflow-wrap: anywhere }
@media print { body { max-width: none } }
`;

const size = (blocks: number): string => formatSize(blocks * BLOCK_SIZE);
const share = (part: number, whole: number): number => (whole === 0 ? 0 : (100 * part) / whole);
const percent = (part: number, whole: number): string => `${share(part, whole).toFixed(1)} %`;
const ratio = (value: number): string => `${value.toFixed(2)} : 1`;

/** The whole file. */
export function measurementHtml(m: Measurement, title: string, date: Date): string {
  const sections = [
    kinds(m),
    windows(m),
    m.sources.length > 1 ? sources(m) : '',
    matrix(m),
    alignment(m),
    references(m),
    topFiles(m),
    method(m),
  ];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}: what VDO would save</title>
<style>${STYLE}</style>
</head>
<body>
<main>
<h1>What VDO would save</h1>
<p class="soft">${escapeHtml(title)} · measured by uvdo on ${date.toISOString().slice(0, 16).replace('T', ' ')} UTC</p>
${tiles(m)}
${sections.filter((section) => section !== '').join('\n')}
</main>
</body>
</html>
`;
}

function tiles(m: Measurement): string {
  const interval = m.sample?.totalRatio;
  const entries: [string, string][] = [
    ['measured', formatSize(m.bytes)],
    ['stored', size(m.storedBlocks)],
    ['ratio', ratio(m.totalRatio)],
    ['saved', `${m.savingPercent.toFixed(1)} %`],
    ['volume to hold it', formatSize(m.recommended.physicalSize)],
    [
      'index memory',
      `${m.recommended.indexMemory} GB${m.recommended.sparseIndex ? ', sparse' : ''}`,
    ],
  ];
  if (interval !== undefined) {
    entries.push(['95 % certain', `${interval[0].toFixed(2)} – ${interval[1].toFixed(2)} : 1`]);
  }
  const cells = entries.map(([name, value]) => `<div><dt>${name}</dt><dd>${value}</dd></div>`);
  return `<dl class="tiles">\n${cells.join('\n')}\n</dl>`;
}

function section(title: string, ...content: string[]): string {
  return [`<section>`, `<h2>${escapeHtml(title)}</h2>`, ...content, '</section>'].join('\n');
}

function table(
  caption: string,
  head: readonly string[],
  rows: readonly (readonly string[])[],
  styleOf: (row: number, column: number) => string = () => '',
): string {
  const line = (row: readonly string[], i: number): string => {
    const [name = '', ...values] = row;
    const cells = values.map((value, j) => `<td${styleOf(i, j)}>${escapeHtml(value)}</td>`);
    return `<tr><th scope="row">${escapeHtml(name)}</th>${cells.join('')}</tr>`;
  };
  const titles = head.map((name) => `<th scope="col">${escapeHtml(name)}</th>`);
  return [
    '<div class="wide"><table>',
    `<caption>${escapeHtml(caption)}</caption>`,
    `<thead><tr>${titles.join('')}</tr></thead>`,
    `<tbody>${rows.map(line).join('\n')}</tbody>`,
    '</table></div>',
  ].join('\n');
}

function kinds(m: Measurement): string {
  const slice = (label: string, blocks: number) => ({
    label,
    value: Math.max(0, blocks),
    text: `${size(blocks)}, ${percent(blocks, m.blocks)}`,
  });
  const extra = Math.max(0, m.uniqueBlocks - m.storedBlocks);
  const duplicates = m.blocks - m.zeroBlocks - extra - m.storedBlocks;
  const slices = [
    slice('stored', m.storedBlocks),
    slice('saved by compression', extra),
    slice('saved as duplicates', duplicates),
    slice('saved as zeros', m.zeroBlocks),
  ];
  const kernel = `The kernel's dm-vdo, with fewer bins in its packer, would store ${size(m.kernelStoredBlocks)}.`;
  return section(
    'Where the bytes go',
    stackedBar('Blocks by kind', slices),
    m.compression ? `<p class="soft">${kernel}</p>` : '<p class="soft">Without compression.</p>',
  );
}

function windows(m: Measurement): string {
  if (m.windows.length < 2) return '';
  const sizes = [...new Set(m.windows.map(({ indexMemory }) => indexMemory))];
  const nonZero = m.blocks - m.zeroBlocks;
  const valueOf = (indexMemory: number, sparse: boolean): number | null => {
    const found = m.windows.find((w) => w.indexMemory === indexMemory && w.sparse === sparse);
    return found === undefined ? null : share(nonZero - found.uniqueBlocks, nonZero);
  };
  const title = 'Blocks found to be duplicates, by index memory';
  return section(
    'How much index is enough',
    lines(
      title,
      sizes.map((gigabytes) => `${gigabytes} GB`),
      [
        { label: 'dense', values: sizes.map((one) => valueOf(one, false)) },
        { label: 'sparse', values: sizes.map((one) => valueOf(one, true)) },
      ],
    ),
    `<p>An index without end finds ${percent(m.duplicateBlocks, nonZero)} of the blocks that are not zeros; ` +
      `${m.recommended.indexMemory} GB of memory find nearly all of that.</p>`,
    table(
      title,
      ['index', 'remembers', 'blocks left unique', 'deduplication'],
      m.windows.map((w) => [
        `${w.indexMemory} GB ${w.sparse ? 'sparse' : 'dense'}`,
        size(w.records),
        String(w.uniqueBlocks),
        ratio(w.dedupRatio),
      ]),
    ),
  );
}

function sources(m: Measurement): string {
  return section(
    'Sources',
    table(
      'Each source, in the order in which they were read',
      ['source', 'size', 'files', 'zeros', 'seen before'],
      m.sources.map((s, i) => [
        `${i + 1}. ${s.path}`,
        formatSize(s.bytes),
        String(s.files),
        percent(s.zeroBlocks, s.blocks),
        percent(s.duplicateBlocks, s.blocks - s.zeroBlocks),
      ]),
    ),
  );
}

function matrix(m: Measurement): string {
  const { shared } = m;
  if (shared === null || m.sources.length < 2 || m.sources.length > MAX_MATRIX) return '';
  const part = (row: number, column: number): number => {
    const own = shared[row]![row]!;
    return own === 0 ? 0 : shared[row]![column]! / own;
  };
  return section(
    'What sources share',
    table(
      'Different contents of the source in the row that the source in the column has too',
      ['source', ...m.sources.map((_, i) => String(i + 1))],
      m.sources.map((source, row) => [
        `${row + 1}. ${source.path}`,
        ...m.sources.map(
          (_, column) =>
            `${size(shared[row]![column]!)} · ${(100 * part(row, column)).toFixed(0)} %`,
        ),
      ]),
      (row, column) =>
        ` style="background: rgba(var(--heat), ${(0.45 * part(row, column)).toFixed(2)})"`,
    ),
  );
}

function alignment(m: Measurement): string {
  if (m.alignment === undefined) return '';
  const { sources: found, oneIn } = m.alignment;
  return section(
    'Alignment',
    `<p>What would be found elsewhere if a source lay some sectors later; one block in ${oneIn} was looked at.</p>`,
    table(
      'Found elsewhere, by shift in bytes',
      ['source', ...found[0]!.shifts.map(({ bytes }) => `+${bytes}`)],
      found.map(({ path, shifts }) => [path, ...shifts.map(({ blocks }) => size(blocks))]),
    ),
  );
}

function references(m: Measurement): string {
  if (m.references.length === 0) return '';
  const slices = m.references.map(({ from, to, contents }) => ({
    label: from === to ? `${from}×` : `≤ ${to}×`,
    value: contents,
    text: compact(contents),
  }));
  return section(
    'How often contents occur',
    columns('Different contents by number of times they occur', slices),
  );
}

/** A count in three digits: `712 k`. */
function compact(count: number): string {
  if (count < 10_000) return String(count);
  if (count < 10_000_000) return `${(count / 1000).toFixed(0)} k`;
  return `${(count / 1_000_000).toFixed(0)} M`;
}

function topFiles(m: Measurement): string {
  if (m.topFiles.length === 0 || m.files <= m.sources.length) return '';
  return section(
    'Files with most content seen before',
    table(
      'Content that came earlier, in the same file or another',
      ['file', 'size', 'seen before', 'part'],
      m.topFiles.map((file) => [
        file.path,
        formatSize(file.bytes),
        size(file.duplicateBlocks),
        percent(file.duplicateBlocks, file.blocks - file.zeroBlocks),
      ]),
    ),
  );
}

function method(m: Measurement): string {
  const { logicalSize, slabSize, indexMemory, sparseIndex, physicalSize } = m.recommended;
  const command =
    `uvdo format FILE --size ${physicalSize} --logical-size ${logicalSize} ` +
    `--slab-size ${slabSize / 2 ** 20}M --index-memory ${indexMemory}${sparseIndex ? ' --sparse-index' : ''}`;
  const sample = m.sample;
  const parts = [
    `${m.blocks} blocks of 4 KiB in ${m.files} files were read in ${m.seconds.toFixed(1)} seconds.`,
    sample === undefined
      ? `Every block was counted; contents are told apart by ${m.fingerprintBits} bits.`
      : `One content in ${sample.oneIn} was looked at: unique and stored blocks are estimates.`,
    m.errors === 0 ? '' : `${m.errors} paths could not be read and are not counted.`,
  ];
  return section(
    'How it was measured',
    `<p>${parts.join(' ')}</p>`,
    `<p>A volume that just holds it: <code>${escapeHtml(command)}</code></p>`,
  );
}
