import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { byteTable, DOCUMENT, renderFormatDocument, TEMPLATE } from '../../../tools/format-doc.ts';
import { STRUCTURES } from '../../../src/format/registry.ts';

const template = readFileSync(TEMPLATE, 'utf8');

test('docs/FORMAT.md is what the declarations and the template say', () => {
  // Stale? npm run build && node dist/tools/format-doc.js
  expect(readFileSync(DOCUMENT, 'utf8')).toBe(renderFormatDocument(template));
});

test('every structure has its place, none has two', () => {
  expect(() => renderFormatDocument(template.replace('{{SlabSummaryEntry}}', ''))).toThrow(
    'lacks SlabSummaryEntry',
  );
  expect(() => renderFormatDocument(`${template}\n{{SlabSummaryEntry}}\n`)).toThrow('or twice');
  expect(() => renderFormatDocument(`${template}\n{{Nonsense}}\n`)).toThrow(
    'no structure Nonsense',
  );
});

test('rows cover each structure without gap', () => {
  for (const { name, size, rows } of STRUCTURES) {
    let end = 0;
    for (const row of rows) {
      expect(row.offset, `${name}.${row.name}`).toBe(end);
      expect(row.doc, `${name}.${row.name}`).not.toBe('');
      end += row.size;
    }
    expect(end).toBe(size);
  }
});

test('offsets may count from elsewhere; bars are escaped', () => {
  const structure = (name: string) => STRUCTURES.find((candidate) => candidate.name === name)!;
  const rows = (text: string) => text.split('\n').map((line) => line.split(/ *(?<!\\)\| */));
  expect(rows(byteTable(structure('BlockMapEntry'), 36)).slice(2)).toEqual([
    ['', 'Off', 'Size', 'Type', 'Field', 'Meaning', ''],
    ['', '--:', '---:', '----', '--------------', expect.stringMatching(/^-+$/), ''],
    ['', '36', '1', 'u8', 'state and high', expect.stringContaining('bits 3 … 0'), ''],
    ['', '37', '4', 'u32', 'pbn low', 'pbn bits 31 … 0', ''],
  ]);
  expect(byteTable(structure('RecoveryBlockHeader'))).toContain('& 0x7f) \\| 0x80');
});
