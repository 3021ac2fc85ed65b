/**
 * The house rules, as far as a program can check them. Prettier has laid the files out, which is what
 * makes telling functions apart by indentation safe.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, expect, test } from 'vitest';

const MAX_FILE_LINES = 400;
const MAX_FUNCTION_LINES = 70;

/** A file imports only from its own folder and those before it. */
const LAYERS = [
  'base',
  'format',
  'storage',
  'device',
  'nbd',
  'nbd-client',
  'kernels',
  'workers',
  'index',
  'block-map',
  'slab-depot',
  'recovery-journal',
  'data-path',
  'repair',
  'volume',
  'inspect',
  'transfer',
  'measure',
];
/** What everything may be seen as: a contract without code. */
const CONTRACTS = ['src/device/block-device.ts'];
/** Started by other means than an import, or by users. */
const ENTRIES = ['src/index.ts'];
/** The code of a thread, which is started by its name. */
const THREADS = ['src/workers/worker.ts'];

interface Source {
  readonly path: string;
  readonly text: string;
  readonly lines: readonly string[];
  /** Without comments. */
  readonly code: string;
  /** Paths of the files it imports. */
  readonly imports: readonly string[];
}

function filesIn(folder: string): string[] {
  let entries;
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch {
    return [];
  }
  return entries.flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return filesIn(path);
    return entry.name.endsWith('.ts') ? [path] : [];
  });
}

function withoutComments(text: string): string {
  return text
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ''))
    .replace(/(^|\s)\/\/.*$/gm, '$1');
}

function load(path: string): Source {
  const text = readFileSync(path, 'utf8');
  const code = withoutComments(text);
  const specifiers = code.matchAll(/(?:\bfrom\s|\bimport\s?\(?|\bnew URL\()\s*'(\.[^']+)'/g);
  const imports = Array.from(specifiers, ([, specifier = '']) =>
    relative('.', join(dirname(path), specifier)).replace(/\.js$/, '.ts'),
  );
  return { path, text, code, imports, lines: text.trimEnd().split('\n') };
}

const [src = [], tools = [], bench = [], tests = []] = ['src', 'tools', 'bench', 'test'].map(
  (folder) => filesIn(folder).map(load),
);
/** AssemblyScript: another language, which only looks like ours. */
const isWasm = ({ path }: Source): boolean => path.startsWith('src/kernels/wasm/');
/** Says what exists elsewhere: nobody imports it, and there is nothing to erase. */
const isDeclaration = ({ path }: Source): boolean => path.endsWith('.d.ts');
const isCode = (file: Source): boolean => !isWasm(file) && !isDeclaration(file);
const typescript = [...src, ...tools, ...bench].filter(isCode);

/** Names of the files that break a rule, each with what `broken` says. */
function offenders(files: readonly Source[], broken: (file: Source) => string | undefined) {
  return files.flatMap((file) => {
    const what = broken(file);
    return what === undefined ? [] : [`${file.path}: ${what}`];
  });
}

/** The first line of code that matches, with its number. */
function lineOf({ code }: Source, pattern: RegExp): string | undefined {
  const lines = code.split('\n');
  const at = lines.findIndex((line) => pattern.test(line));
  return at < 0 ? undefined : `line ${at + 1}: ${lines[at]!.trim()}`;
}

const CONTROL = /^(?:if|for|while|switch|catch|return|await|else|do|try|new|throw|typeof|yield)$/;
const METHOD = /^(?:(?:static|async|get|set|override)\s+)*\*?(#?\w+|\[[\w.]+\])(?:<.*>)?\(/;

/** Whether the line at `at` begins a function with a body of several lines. */
function beginsFunction(lines: readonly string[], at: number, indent: string): boolean {
  const line = lines[at]!.trim();
  if (/^(?:export )?(?:async )?function\b/.test(line)) return true;
  if (line.endsWith('=> {')) return true;
  const name = METHOD.exec(line)?.[1];
  if (name === undefined || CONTROL.test(name) || indent === '') return false;
  if (/\)(?:: .+)? \{$/.test(line)) return true;
  if (!line.endsWith('(')) return false;
  const close = lines.slice(at + 1).find((next) => next.startsWith(`${indent})`));
  return close !== undefined && /^\)(?:: .+)? \{$/.test(close.trim());
}

/** First line and length of every function that spans several lines. */
function functionsOf(lines: readonly string[]): { at: number; length: number }[] {
  return lines.flatMap((line, at) => {
    const indent = /^ */.exec(line)![0];
    if (!beginsFunction(lines, at, indent)) return [];
    for (let end = at + 1; end < lines.length; end++) {
      const closing = lines[end]!;
      if (!closing.startsWith(`${indent}}`) || closing.endsWith('{')) continue;
      return [{ at, length: end - at + 1 }];
    }
    return [];
  });
}

describe('files', () => {
  test('there are some', () => {
    expect(src.length).toBeGreaterThan(20);
    expect(tests.length).toBeGreaterThan(10);
    expect(src.flatMap(({ imports }) => imports).length).toBeGreaterThan(100);
  });

  test(`have at most ${MAX_FILE_LINES} lines in src/ and tools/`, () => {
    const long = ({ lines }: Source) =>
      lines.length > MAX_FILE_LINES ? `${lines.length} lines` : undefined;
    expect(offenders([...src, ...tools], long)).toEqual([]);
  });

  test('open with a comment that says what they are', () => {
    const headless = ({ text }: Source) =>
      /^(?:#!.*\n)?(?:\/\*\*?\s*\S|\/\/ \S)/.test(text) ? undefined : 'no comment at its head';
    const support = tests.filter(({ path }) => !path.endsWith('.test.ts'));
    expect(offenders([...src, ...tools, ...bench, ...support], headless)).toEqual([]);
  });

  test('are all used', () => {
    const used = new Set([...typescript.flatMap(({ imports }) => imports), ...ENTRIES, ...THREADS]);
    const dead = ({ path }: Source) => (used.has(path) ? undefined : 'nothing imports it');
    expect(offenders(src.filter(isCode), dead)).toEqual([]);
  });
});

describe('functions', () => {
  test(`have at most ${MAX_FUNCTION_LINES} lines`, () => {
    const long = ({ lines }: Source) => {
      const worst = functionsOf(lines).find(({ length }) => length > MAX_FUNCTION_LINES);
      return worst && `line ${worst.at + 1}: ${worst.length} lines`;
    };
    expect(offenders([...src, ...tools], long)).toEqual([]);
  });

  test('are found and measured', () => {
    const sample = [
      'export function a(',
      '  x: number,',
      '): void {',
      '  if (x) {',
      '  }',
      '}',
      'class C {',
      '  async #m(',
      '    y: string,',
      '  ): Promise<void> {',
      '    call(',
      '      y,',
      '    );',
      '  }',
      '  get n(): number {',
      '    return list.map((z) => {',
      '      return z;',
      '    });',
      '  }',
      '}',
      'function b({',
      '  x,',
      '}: {',
      '  x: number;',
      '}): void {',
      '}',
    ];
    expect(functionsOf(sample)).toEqual([
      { at: 0, length: 6 },
      { at: 7, length: 7 },
      { at: 14, length: 5 },
      { at: 15, length: 3 },
      { at: 20, length: 6 },
    ]);
  });
});

describe('code', () => {
  test('leaves no work behind in comments', () => {
    const marks = new RegExp(
      `\\b(?:${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX', 'HA' + 'CK'].join('|')})\\b`,
    );
    const marked = ({ lines }: Source) => {
      const at = lines.findIndex((line) => marks.test(line));
      return at < 0 ? undefined : `line ${at + 1}`;
    };
    expect(offenders([...src, ...tools, ...bench, ...tests], marked)).toEqual([]);
  });

  test('does not print from src/', () => {
    expect(offenders(src, (file) => lineOf(file, /\bconsole\b/))).toEqual([]);
  });

  test('has named exports only', () => {
    const named = (file: Source) => lineOf(file, /\bexport\s+default\b|\bas default\b/);
    expect(offenders(typescript, named)).toEqual([]);
  });

  test('knows its types', () => {
    const untyped = /(?::|\bas|<|,|\|)\s*any\b(?!['"\w ])|@ts-(?:ignore|nocheck|expect-error)/;
    expect(offenders(typescript, (file) => lineOf(file, untyped))).toEqual([]);
  });

  test('erases to JavaScript: no enums, namespaces or parameter properties', () => {
    const unerasable = /^\s*(?:export )?(?:declare )?(?:const )?(?:enum|namespace) \w/;
    expect(offenders(typescript, (file) => lineOf(file, unerasable))).toEqual([]);
  });
});

describe('layers', () => {
  const layerOf = (path: string): number => LAYERS.indexOf(path.split('/')[1] ?? '');

  test('every folder of src/ is one', () => {
    const unknown = ({ path }: Source) =>
      ENTRIES.includes(path) || layerOf(path) >= 0 ? undefined : 'in no known folder';
    expect(offenders(src, unknown)).toEqual([]);
  });

  test('are imported downwards only', () => {
    const upward = ({ path, imports }: Source) => {
      if (ENTRIES.includes(path)) return undefined;
      const wrong = imports.find(
        (target) =>
          !CONTRACTS.includes(target) &&
          (!target.startsWith('src/') || layerOf(target) > layerOf(path) || layerOf(target) < 0),
      );
      return wrong && `imports ${wrong}`;
    };
    expect(offenders(src.filter(isCode), upward)).toEqual([]);
  });

  test('count in plain numbers below volume/', () => {
    const below = src.filter((file) => layerOf(file.path) < LAYERS.indexOf('volume'));
    const big = /\bbigint\b|\bBigU?[Ii]nt(?:64(?:Array)?)?\b|\b\d[\d_]*n\b/;
    const ours = below.filter((file) => !isWasm(file) && !ENTRIES.includes(file.path));
    expect(offenders(ours, (file) => lineOf(file, big))).toEqual([]);
  });
});
