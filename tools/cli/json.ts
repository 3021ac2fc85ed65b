/** Output: text lines or JSON on standard output, remarks on standard error. */

/** Bytes become hex; `undefined` vanishes as JSON has it. */
function plain(_key: string, value: unknown): unknown {
  return value instanceof Uint8Array ? hexOf(value) : value;
}

export function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
}

/** A UUID as text. */
export function uuidOf(bytes: Uint8Array): string {
  return hexOf(bytes).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, plain, 2)}\n`);
}

export function printLines(lines: readonly string[]): void {
  if (lines.length > 0) process.stdout.write(`${lines.join('\n')}\n`);
}

/** A line for people, beside the result. */
export function remark(text: string): void {
  process.stderr.write(`${text}\n`);
}
