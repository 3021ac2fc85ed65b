/**
 * The simulation of index windows against a small index that really keeps its chapters: dense and
 * sparse, of several sizes at once.
 */
import { describe, expect, test } from 'vitest';
import {
  allWindowSettings,
  windowFloor,
  windowRecords,
  windowSetting,
  type WindowSetting,
} from '../../../src/measure/window-settings.ts';
import { WindowModel } from '../../../src/measure/windows.ts';
import { random } from '../../support/volumes.ts';

const isHook = (name: number): boolean => name % 4 === 0;

/** Words of the name of content `name`, one in four a hook. */
function wordsOf(name: number): [n0: number, n1: number, n3: number] {
  const n0 = Math.imul(name + 1, 0x9e3779b1) >>> 0;
  const mixed = Math.imul((name + 7) ^ (name >>> 5), 0x85ebca6b);
  const n1 = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35) >>> 7;
  const tag = isHook(name) ? 32 : 33;
  return [n0, n1, ((tag << 24) | (name & 0xff)) >>> 0];
}

/** An index that holds chapters as sets; returns how many requests found their name. */
function runIndex(setting: WindowSetting, names: readonly number[]): number {
  const chapters: Set<number>[] = [new Set()];
  const newest = new Map<number, number>();
  let cache: number[] = [];
  let found = 0;
  for (const name of names) {
    const open = chapters.length - 1;
    const oldest = Math.max(0, open - setting.chapters + 1);
    const last = newest.get(name) ?? -1;
    const isDense = last >= 0 && open - last < setting.denseChapters;
    const isKept = last >= oldest;
    if (isDense) found++;
    else if (isKept && isHook(name)) {
      found++;
      cache = [last, ...cache.filter((chapter) => chapter !== last)].slice(0, 7);
    } else if (isKept && !isHook(name) && cache.includes(last)) found++;
    if (chapters[open]!.has(name)) continue;
    chapters[open]!.add(name);
    newest.set(name, open);
    if (chapters[open]!.size === setting.chapterRecords) chapters.push(new Set());
  }
  return found;
}

function setting(
  chapterRecords: number,
  chapters: number,
  denseChapters = chapters,
): WindowSetting {
  return {
    indexMemory: 1,
    sparse: denseChapters !== chapters,
    chapterRecords,
    chapters,
    denseChapters,
  };
}

/** Requests of which many come again, soon or late, single or in runs. */
function requests(seed: number, count: number): number[] {
  const next = random(seed);
  const names: number[] = [];
  let fresh = 0;
  while (names.length < count) {
    const kind = next();
    if (kind < 0.5 || names.length < 10) names.push(fresh++);
    else if (kind < 0.9) names.push(names[Math.floor(next() * names.length)]!);
    else {
      const start = Math.floor(next() * names.length);
      names.push(...names.slice(start, start + 40));
    }
  }
  return names;
}

describe('windows', () => {
  test.each([1, 2, 3])('find what an index of chapters finds, seed %i', (seed) => {
    const settings = [
      setting(32, 4),
      setting(32, 20, 3),
      setting(64, 4),
      setting(64, 8),
      setting(64, 40, 4),
      setting(100, 1000),
    ];
    const names = requests(seed, 8000);
    const model = new WindowModel(settings, 1);
    for (const name of names) model.add(...wordsOf(name));
    const duplicates = names.length - new Set(names).size;
    const missed = settings.map((one) => duplicates - runIndex(one, names));
    expect(model.missed()).toEqual(missed);
    expect(missed[0]).toBeGreaterThan(missed[3]!);
    expect(missed[5]).toBe(0);
  });

  test('follow a part of the names for all of them', () => {
    const settings = [setting(4096, 4), setting(512, 1000, 2)];
    const names = requests(9, 200_000);
    const full = new WindowModel(settings, 1);
    const part = new WindowModel(settings, 8);
    for (const name of names) {
      full.add(...wordsOf(name));
      part.add(...wordsOf(name));
    }
    part.missed().forEach((missed, i) => {
      expect(Math.abs(missed / full.missed()[i]! - 1)).toBeLessThan(0.15);
    });
    expect(part.bytes).toBeLessThanOrEqual(full.bytes);
  });

  test('are those of dm-vdo', () => {
    expect(windowRecords(windowSetting(0.25, false))).toBe(64 * 1024 * 1024);
    expect(windowRecords(windowSetting(1, true))).toBe(10 * 1024 * 262144);
    expect(windowSetting(2, true).denseChapters).toBe(1024);
    const all = allWindowSettings();
    expect(all.slice(0, 4).map(({ indexMemory, sparse }) => [indexMemory, sparse])).toEqual([
      [0.25, false],
      [0.25, true],
      [0.5, false],
      [0.5, true],
    ]);
    expect(windowFloor(all)).toBe(65536 * 511);
  });
});
