import { describe, expect, test } from 'vitest';
import { Arguments, helpOf, type Command } from '../../../tools/cli/args.ts';
import { Progress } from '../../../tools/cli/progress.ts';
import {
  formatDuration,
  formatExactSize,
  formatSize,
  parseCount,
  parseSize,
} from '../../../tools/cli/sizes.ts';
import { pairs, table } from '../../../tools/cli/table.ts';
import { uuidOf } from '../../../tools/cli/json.ts';
import { COMMANDS, RESERVED } from '../../../tools/commands/registry.ts';
import { codeOf, hex } from '../format/support.ts';
import { uvdo } from './support.ts';

describe('sizes', () => {
  test('are bytes, or carry a binary suffix', () => {
    const sizes = ['0', '4096', '8G', '8g', '1.5T', '4P', '32M', '3K', '8GiB', ' 7 M '];
    expect(sizes.map((size) => parseSize(size))).toEqual([
      0,
      4096,
      8 * 2 ** 30,
      8 * 2 ** 30,
      1.5 * 2 ** 40,
      2 ** 52,
      2 ** 25,
      3072,
      8 * 2 ** 30,
      7 * 2 ** 20,
    ]);
    for (const wrong of ['', 'G', '-1', '8X', '8GB', '1e9', '0x10', '8P8', '1.0001K', '9000P']) {
      expect(
        codeOf(() => parseSize(wrong)),
        wrong,
      ).toBe('InvalidArgument');
    }
    expect(() => parseSize('8Q', '--size')).toThrow("--size '8Q'");
    expect(parseCount('42', 'slab')).toBe(42);
    for (const wrong of ['', '-1', '1.5', 'x', '1e3', '99999999999999999999']) {
      expect(
        codeOf(() => parseCount(wrong, 'slab')),
        wrong,
      ).toBe('InvalidArgument');
    }
  });

  test('are printed short', () => {
    expect([0, 1023, 1024, 1536, 5 * 2 ** 30, 1e12, 2 ** 52, 2 ** 60].map(formatSize)).toEqual([
      '0 B',
      '1023 B',
      '1 KiB',
      '1.5 KiB',
      '5 GiB',
      '931 GiB',
      '4 PiB',
      '1024 PiB',
    ]);
    expect(formatExactSize(100)).toBe('100 bytes');
    expect(formatExactSize(4096)).toBe('4 KiB (4096 bytes)');
    expect([0, 42.4, 61, 3723].map(formatDuration)).toEqual(['0:00', '0:42', '1:01', '1:02:03']);
  });
});

describe('arguments', () => {
  const command: Command = {
    name: 'try',
    summary: 'tries',
    usage: 'FILE [N]',
    example: 'uvdo try x',
    options: {
      size: { value: 'SIZE', help: 'how large' },
      index: { value: 'I', help: 'which' },
      force: { help: 'at any rate' },
    },
    arguments: [1, 2],
    run: () => Promise.resolve(),
  };
  const parse = (...argv: string[]) => new Arguments(command, argv);

  test('options before, between and after', () => {
    const args = parse('--force', 'a', '--size', '8K', 'b', '--index=uds', '-q');
    expect(args.positionals).toEqual(['a', 'b']);
    expect([args.at(0), args.flag('force'), args.size('size'), args.text('index')]).toEqual([
      'a',
      true,
      8192,
      'uds',
    ]);
    expect([args.quiet, args.json, args.size('other')]).toEqual([true, false, undefined]);
    expect(args.choice('index', ['uds', 'off'])).toBe('uds');
    expect(codeOf(() => args.choice('index', ['level', 'off']))).toBe('InvalidArgument');
    expect(parse('a', '--size=0.25').number('size')).toBe(0.25);
    expect(codeOf(() => parse('a', '--size=one').number('size'))).toBe('InvalidArgument');
    expect(parse('--', '-x').positionals).toEqual(['-x']);
  });

  test('wrong usage says what and where to look', () => {
    expect(() => parse()).toThrow('too few arguments; usage: uvdo try FILE [N]');
    expect(() => parse('a', 'b', 'c')).toThrow("too many: 'c'");
    expect(() => parse('a', '--sise', '1')).toThrow('--sise');
    expect(() => parse('a', '--size')).toThrow('see uvdo try --help');
    expect(() => parse('a', '--force=1')).toThrow('--force');
    for (const argv of [[], ['a', '--sise'], ['a', '--size']]) {
      expect(codeOf(() => parse(...argv))).toBe('InvalidArgument');
    }
  });

  test('help shows every option and the example', () => {
    const help = helpOf(command);
    for (const part of ['uvdo try FILE [N]', '--size SIZE', '--force', '--json', '--quiet']) {
      expect(help).toContain(part);
    }
    expect(help).toContain('Example:\n  uvdo try x');
  });

  test('every command has help with an example; reserved names are not commands', async () => {
    for (const name of Object.keys(COMMANDS)) {
      const { status, out, err } = await uvdo(name, '--help');
      expect([status, err]).toEqual([0, '']);
      expect(out).toContain(`uvdo ${name} `);
      expect(out).toMatch(/Example:\n {2}.*uvdo /);
    }
    const missing = RESERVED.filter((name) => !Object.hasOwn(COMMANDS, name));
    for (const name of missing) {
      expect(await uvdo(name, 'x')).toEqual({
        status: 2,
        out: '',
        err: `uvdo ${name}: not available in this version\n`,
      });
    }
    const { out } = await uvdo('--help');
    for (const name of Object.keys(COMMANDS)) expect(out).toContain(`uvdo ${name}`);
    for (const name of missing) expect(out).not.toContain(`uvdo ${name} `);
  });

  test('the program without a command, with a wrong one, its version', async () => {
    expect((await uvdo()).status).toBe(2);
    expect(await uvdo('frobnicate')).toMatchObject({ status: 2, out: '' });
    expect((await uvdo('toString')).err).toContain('no such command');
    expect((await uvdo('--version')).out).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});

describe('progress', () => {
  function screen(isTTY: boolean) {
    const written: string[] = [];
    let nowMs = 0;
    return {
      written,
      tick: (ms: number) => {
        nowMs += ms;
      },
      options: {
        label: 'import',
        now: () => nowMs,
        stream: { isTTY, columns: 100, write: (text: string) => written.push(text) },
      },
    };
  }

  test('bar, rate and time left, drawn at most ten times a second, wiped at the end', () => {
    const { written, tick, options } = screen(true);
    const progress = new Progress({ ...options, total: 100 * 2 ** 20 });
    tick(1000);
    progress.update(25 * 2 ** 20);
    expect(written.at(-1)).toBe(
      '\rimport  25% [######..................]  25 MiB of 100 MiB  25 MiB/s  0:03 left',
    );
    tick(50);
    progress.update(30 * 2 ** 20);
    expect(written.length).toBe(1);
    tick(950);
    progress.update(50 * 2 ** 20);
    expect(written.at(-1)).toContain('50%');
    expect(written.at(-1)).toContain('0:02 left');
    expect(progress.seconds).toBe(2);
    progress.finish();
    expect(written.at(-1)).toMatch(/^\r +\r$/);
  });

  test('without a total there is no bar; lines fit the terminal', () => {
    const { written, tick, options } = screen(true);
    options.stream.columns = 20;
    const progress = new Progress(options);
    tick(200);
    progress.update(2 ** 20);
    expect(written.at(-1)).toBe('\rimport  1 MiB  5 Mi');
  });

  test('nothing where nobody looks', () => {
    for (const [isTTY, quiet] of [
      [false, false],
      [true, true],
    ] as const) {
      const { written, tick, options } = screen(isTTY);
      const progress = new Progress({ ...options, quiet, total: 10 });
      tick(500);
      progress.update(5);
      progress.finish();
      expect(written).toEqual([]);
    }
  });
});

test('tables and pairs line up', () => {
  expect(
    table(
      ['name', 'n'],
      [
        ['a', 5],
        ['long name', 100],
      ],
    ),
  ).toEqual(['name         n', 'a            5', 'long name  100']);
  expect(
    pairs([
      ['a', 1],
      ['bcd', 'x'],
      ['gone', undefined],
    ]),
  ).toEqual(['a     1', 'bcd   x']);
  expect(uuidOf(hex('56ba439aba1d43678cb11a0d44d5476a'))).toBe(
    '56ba439a-ba1d-4367-8cb1-1a0d44d5476a',
  );
});
