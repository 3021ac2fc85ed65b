/**
 * Generates docs/FORMAT.md: the prose of docs/format.template.md, with the byte table of each structure
 * where the template says `{{Name}}`, or `{{Name @ 20}}` for offsets that count from another place.
 * `npm run build && node dist/tools/format-doc.js` rewrites the document; a test fails if it is stale.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { STRUCTURES, type Structure } from '../src/format/registry.ts';

export const TEMPLATE = 'docs/format.template.md';
export const DOCUMENT = 'docs/FORMAT.md';

const PLACEHOLDER = /^\{\{(\w+)(?: @ (\d+))?\}\}$/gm;

/** A Markdown table with its columns aligned. */
function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const width = head.map((title, i) =>
    Math.max(title.length, ...rows.map((row) => row[i]!.length)),
  );
  const numeric = (i: number): boolean => i < 2;
  const line = (row: readonly string[]): string => {
    const cells = row.map((cell, i) =>
      numeric(i) ? cell.padStart(width[i]!) : cell.padEnd(width[i]!),
    );
    return `| ${cells.join(' | ')} |`;
  };
  const rule = width.map((w, i) => (numeric(i) ? `${'-'.repeat(w - 1)}:` : '-'.repeat(w)));
  return [line(head), `| ${rule.join(' | ')} |`, ...rows.map(line)].join('\n');
}

/** `blockMapHead` as words. */
function words(name: string): string {
  return name.replace(/([a-z])([A-Z0-9])/g, '$1 $2').toLowerCase();
}

/** The byte table of a structure whose first byte is called `base`. */
export function byteTable({ name, size, rows }: Structure, base = 0): string {
  const body = rows.map((row) => [
    String(base + row.offset),
    String(row.size),
    row.type,
    row.role === 'value' ? words(row.name) : row.role === 'zero' ? '(reserved)' : '(unused)',
    row.doc.replaceAll('|', '\\|'),
  ]);
  const table = markdownTable(['Off', 'Size', 'Type', 'Field', 'Meaning'], body);
  return `\`${name}\`, ${size} bytes:\n\n${table}`;
}

/** The document for a template. Fails if a structure is missing, unknown or asked for twice. */
export function renderFormatDocument(template: string): string {
  const wanted = new Map(STRUCTURES.map((structure) => [structure.name, structure]));
  const text = template.replace(PLACEHOLDER, (_match, name: string, base: string | undefined) => {
    const structure = wanted.get(name);
    if (structure === undefined) throw new Error(`${TEMPLATE}: no structure ${name}, or twice`);
    wanted.delete(name);
    return byteTable(structure, Number(base ?? 0));
  });
  if (wanted.size > 0) throw new Error(`${TEMPLATE} lacks ${[...wanted.keys()].join(', ')}`);
  return text;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  writeFileSync(DOCUMENT, renderFormatDocument(readFileSync(TEMPLATE, 'utf8')));
}
