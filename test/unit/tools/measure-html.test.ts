/** The report of `uvdo measure --html`: complete, self-contained, told without colours, safe to open. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { columns, escapeHtml, lines, stackedBar } from '../../../tools/cli/charts.ts';
import { joined, noise, noiseRun, squashy } from '../../support/volumes.ts';
import { temporaryDirectory, uvdo } from './support.ts';

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
beforeEach(async () => (directory = await temporaryDirectory()));
afterEach(async () => {
  for (const signal of ['SIGINT', 'SIGTERM']) process.removeAllListeners(signal);
  await directory.remove();
});
const at = (name: string): string => join(directory.path, name);

describe('the report', () => {
  test('has every part, and nothing that a browser would fetch or run', async () => {
    const names = ['a <b> & "c".img', 'b.img'];
    await writeFile(at(names[0]!), joined(noiseRun(1, 30), squashy(1), squashy(2), squashy(1)));
    await writeFile(at(names[1]!), joined(noise(5), noiseRun(1, 20), new Uint8Array(8192)));
    const sources = names.map(at);
    const { status, out, err } = await uvdo(
      'measure',
      ...sources,
      '--alignment',
      '--html',
      at('report.html'),
    );
    expect(err).toBe('');
    expect(status).toBe(0);
    expect(out).toContain('stored by uvdo');
    const html = await readFile(at('report.html'), 'utf8');
    for (const title of [
      'Where the bytes go',
      'How much index is enough',
      'Sources',
      'What sources share',
      'Alignment',
      'How often contents occur',
      'How it was measured',
    ]) {
      expect(html).toContain(`<h2>${title}</h2>`);
    }
    expect(html).not.toMatch(/<script|<link|<img|@import|url\(|https?:|src=/i);
    expect(html).not.toContain('a <b>');
    expect(html).toContain('a &lt;b&gt; &amp; &quot;c&quot;.img');
    expect(html).toContain('prefers-color-scheme: dark');
    expect(html).toContain('lang="en"');
    expect(html.match(/<svg[^>]* role="img" aria-label="[^"]+"/g)).toHaveLength(3);
    const tables = html.match(/<table>/g)!.length;
    expect(html.match(/<caption>/g)).toHaveLength(tables);
    expect(html).not.toMatch(/NaN|undefined|Infinity/);
  });

  test('is refused in one line where it cannot be written', async () => {
    await writeFile(at('a'), noise(1));
    const { status, err } = await uvdo('measure', at('a'), '--html', at('none/report.html'));
    expect(status).toBe(1);
    expect(err).toContain(`cannot write ${at('none/report.html')}`);
  });
});

describe('charts', () => {
  test('say their numbers in words, even of nothing', () => {
    const slices = [
      { label: 'one', value: 3, text: '3 of 4' },
      { label: 'two', value: 1, text: '1 of 4' },
    ];
    expect(stackedBar('parts', slices)).toContain('aria-label="parts: one 3 of 4, two 1 of 4"');
    expect(columns('bars', slices)).toContain('aria-label="bars: one: 3 of 4, two: 1 of 4"');
    const curve = lines('curve', ['a', 'b'], [{ label: 'x', values: [0, 50] }]);
    expect(curve).toContain('aria-label="curve. a, b: x 0.0, 50.0 percent"');
    for (const empty of [stackedBar('', []), columns('', []), lines('', ['a'], [])]) {
      expect(empty).not.toContain('NaN');
    }
    expect(escapeHtml('<&">')).toBe('&lt;&amp;&quot;&gt;');
  });
});
