/** Text in columns. */

/** Lines of a table: `head` above, columns of numbers to the right. */
export function table(
  head: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string[] {
  const cells = rows.map((row) => row.map(String));
  const width = head.map((title, i) =>
    Math.max(title.length, ...cells.map((row) => row[i]?.length ?? 0)),
  );
  const right = head.map((_, i) => rows.length > 0 && rows.every((row) => isNumeric(row[i])));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, i) => (right[i] === true ? cell.padStart(width[i]!) : cell.padEnd(width[i]!)))
      .join('  ')
      .trimEnd();
  return [line(head), ...cells.map(line)];
}

function isNumeric(cell: string | number | undefined): boolean {
  return typeof cell === 'number' || cell === '' || cell === undefined;
}

/** Lines `name  value`, names in one column. Values that are `undefined` are left out. */
export function pairs(
  entries: readonly (readonly [string, string | number | boolean | undefined])[],
): string[] {
  const width = Math.max(0, ...entries.map(([name]) => name.length));
  return entries
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name.padEnd(width)}  ${String(value)}`);
}
