/**
 * Charts as SVG text, for a report without scripts: colours come from the page's style (classes `s1` …),
 * so that they follow light and dark; every mark also has its number in words, and each chart a title
 * that is read out.
 */

/** Text as it may stand in HTML. */
export function escapeHtml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}

export interface Slice {
  readonly label: string;
  readonly value: number;
  /** The value in words. */
  readonly text: string;
}

const WIDTH = 720;

function svg(height: number, title: string, content: readonly string[]): string {
  return [
    `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escapeHtml(title)}">`,
    ...content,
    '</svg>',
  ].join('\n');
}

function text(x: number, y: number, content: string, anchor = 'start', kind = ''): string {
  const attributes = `x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}"`;
  return `<text ${attributes}${kind === '' ? '' : ` class="${kind}"`}>${escapeHtml(content)}</text>`;
}

/** One bar of parts that add up, with a legend below. */
export function stackedBar(title: string, slices: readonly Slice[]): string {
  const total = slices.reduce((sum, { value }) => sum + value, 0);
  let x = 0;
  const bars = slices.map(({ value, label, text: words }, i) => {
    const width = total === 0 ? 0 : (value / total) * WIDTH;
    const bar =
      `<rect class="s${i + 1}" x="${x.toFixed(1)}" y="0" width="${width.toFixed(1)}" height="44">` +
      `<title>${escapeHtml(`${label}: ${words}`)}</title></rect>`;
    x += width;
    return bar;
  });
  const legend = slices.flatMap(({ label, text: words }, i) => {
    const y = 72 + 24 * i;
    return [
      `<rect class="s${i + 1}" x="0" y="${y - 12}" width="14" height="14"/>`,
      text(22, y, label),
      text(WIDTH, y, words, 'end'),
    ];
  });
  const spoken = slices.map(({ label, text: words }) => `${label} ${words}`).join(', ');
  return svg(60 + 24 * slices.length, `${title}: ${spoken}`, [...bars, ...legend]);
}

/** Bars side by side, each with its value on top. */
export function columns(title: string, slices: readonly Slice[]): string {
  const most = Math.max(1, ...slices.map(({ value }) => value));
  const step = Math.min(110, WIDTH / Math.max(1, slices.length));
  const [top, base] = [24, 220];
  const marks = slices.flatMap(({ label, value, text: words }, i) => {
    // A value that is there is seen, however small.
    const height = value === 0 ? 0 : Math.max(2, (value / most) * (base - top));
    const x = i * step;
    const middle = x + step / 2;
    const [width, y] = [step * 0.7, base - height];
    const place = `x="${(x + step * 0.15).toFixed(1)}" y="${y.toFixed(1)}"`;
    return [
      `<rect class="s1" ${place} width="${width.toFixed(1)}" height="${height.toFixed(1)}"/>`,
      text(middle, y - 6, words, 'middle', 'small'),
      text(middle, base + 18, label, 'middle', 'small'),
    ];
  });
  const spoken = slices.map(({ label, text: words }) => `${label}: ${words}`).join(', ');
  return svg(base + 28, `${title}: ${spoken}`, [
    ...marks,
    `<line class="axis" x1="0" y1="${base}" x2="${WIDTH}" y2="${base}"/>`,
  ]);
}

export interface Line {
  readonly label: string;
  /** One value for each place on the axis, or null where there is none. */
  readonly values: readonly (number | null)[];
}

/** Lines over labelled places; values are percentages from 0 to 100. */
export function lines(title: string, places: readonly string[], all: readonly Line[]): string {
  const [left, right, top, base] = [52, 150, 16, 240];
  const step = (WIDTH - left - right) / Math.max(1, places.length - 1);
  const xOf = (i: number): number => left + i * step;
  const yOf = (value: number): number => base - (value / 100) * (base - top);
  const grid = [0, 25, 50, 75, 100].flatMap((value) => [
    `<line class="grid" x1="${left}" y1="${yOf(value)}" x2="${WIDTH - right}" y2="${yOf(value)}"/>`,
    text(left - 8, yOf(value) + 4, `${value} %`, 'end', 'small'),
  ]);
  const ticks = places.map((place, i) => text(xOf(i), base + 20, place, 'middle', 'small'));
  const ends: number[] = [];
  const marks = all.flatMap(({ label, values }, line) => {
    const points = values.flatMap((value, i) =>
      value === null ? [] : [{ x: xOf(i), y: yOf(value), value, place: places[i]! }],
    );
    const last = points.at(-1);
    if (last === undefined) return [];
    const path = points.map(({ x, y }) => `${x.toFixed(1)},${y.toFixed(1)}`).join(' ');
    const dots = points.map(
      ({ x, y, value, place }) =>
        `<circle class="s${line + 1}" cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${6 - 2 * line}">` +
        `<title>${escapeHtml(`${label}, ${place}: ${value.toFixed(1)} %`)}</title></circle>`,
    );
    // Labels of lines that end together stand one above the other.
    let y = last.y + 4;
    while (ends.some((end) => Math.abs(end - y) < 18)) y += 18;
    ends.push(y);
    return [
      `<polyline class="l${line + 1}" points="${path}"/>`,
      ...dots,
      `<rect class="s${line + 1}" x="${WIDTH - right + 12}" y="${(y - 10).toFixed(1)}" width="12" height="12"/>`,
      text(WIDTH - right + 30, y, label),
    ];
  });
  const spoken = all
    .map(
      ({ label, values }) =>
        `${label} ${values.map((value) => value?.toFixed(1) ?? '').join(', ')}`,
    )
    .join('; ');
  return svg(base + 32, `${title}. ${places.join(', ')}: ${spoken} percent`, [
    ...grid,
    ...ticks,
    ...marks,
  ]);
}
