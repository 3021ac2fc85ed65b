/** The page cache: what may be replaced, and the two lives of a page that changes while it is written. */
import { describe, expect, test } from 'vitest';
import { LeafCache } from '../../../src/block-map/leaf-cache.ts';
import { random } from '../../support/volumes.ts';

/** A full cache of pages 0 … frames − 1, nothing pinned. */
function fullCache(frames: number): LeafCache {
  const cache = new LeafCache(frames);
  for (let page = 0; page < frames; page++) {
    cache.bytes(cache.take(page, 1000 + page)).fill(page);
  }
  cache.unpinAll();
  return cache;
}

/** Pages in the cache, without pinning them. */
const resident = (cache: LeafCache, pages: number): number[] =>
  Array.from({ length: pages }, (_, page) => page).filter((page) => cache.has(page));

describe('a frame', () => {
  test('is found by its page, with its bytes and its block', () => {
    const cache = fullCache(4);
    const frame = cache.find(2);
    expect(cache.pbnOf(frame)).toBe(1002);
    expect(cache.bytes(frame)[4095]).toBe(2);
    expect(cache.memory[frame * 4096]).toBe(2);
    expect(cache.find(9)).toBe(-1);
    expect(cache.residentPages).toBe(4);
  });

  test('is replaced when no other is free, the longest unused first', () => {
    const cache = fullCache(4);
    cache.take(10, 1); // takes every mark away, and the first page's place
    cache.unpinAll();
    cache.find(1);
    cache.unpinAll();
    cache.take(11, 1);
    expect(resident(cache, 12)).toEqual([1, 3, 10, 11]);
  });

  test('pinned by this step, dirty, or being written, stays', () => {
    const cache = fullCache(4);
    cache.find(0);
    cache.markDirty(cache.find(1));
    cache.markDirty(cache.find(2));
    cache.unpinAll();
    cache.beginWriting(() => undefined);
    cache.find(0);
    cache.take(20, 1); // in the place of 3
    expect(resident(cache, 21)).toEqual([0, 1, 2, 20]);
    expect(() => cache.take(21, 1)).toThrow('reserved');
    cache.endWriting(() => undefined);
    cache.take(21, 1);
    expect(cache.has(0)).toBe(true);
    expect(cache.has(20)).toBe(true);
  });

  test('dropped is free again, in the next step', () => {
    const cache = fullCache(2);
    cache.drop(1);
    cache.drop(1);
    expect(resident(cache, 2)).toEqual([0]);
    cache.take(5, 1);
    expect(resident(cache, 6)).toEqual([0, 5]);
    cache.markDirty(cache.find(5));
    expect(() => cache.drop(5)).toThrow('never dropped');
  });
});

describe('a page that changes', () => {
  test('while it is being written is dirty again, and clean only after two checkpoints', () => {
    const cache = fullCache(4);
    const frame = cache.find(1);
    cache.markDirty(frame);
    cache.markDirty(frame);
    expect([cache.dirtyPages, cache.cleanFrames]).toEqual([1, 3]);
    const copied: number[] = [];
    cache.beginWriting((f) => copied.push(f));
    expect([cache.dirtyPages, cache.cleanFrames]).toEqual([0, 3]);
    cache.markDirty(frame);
    expect([cache.dirtyPages, cache.cleanFrames]).toEqual([1, 3]);
    const ended: number[] = [];
    cache.endWriting((f) => ended.push(f));
    expect([cache.dirtyPages, cache.cleanFrames]).toEqual([1, 3]);
    cache.beginWriting((f) => copied.push(f));
    cache.endWriting((f) => ended.push(f));
    expect([cache.dirtyPages, cache.cleanFrames]).toEqual([0, 4]);
    expect([copied, ended]).toEqual([
      [frame, frame],
      [frame, frame],
    ]);
  });

  test('is copied by one checkpoint at a time', () => {
    const cache = fullCache(4);
    cache.markDirty(cache.find(1));
    cache.beginWriting(() => undefined);
    expect(() => cache.beginWriting(() => undefined)).toThrow('one checkpoint');
  });
});

test('counts agree with the pages, whatever happens', () => {
  const next = random(5);
  const cache = new LeafCache(8);
  const dirty = new Set<number>();
  let writing = new Set<number>();
  for (let i = 0; i < 5000; i++) {
    cache.unpinAll();
    const page = Math.floor(next() * 30);
    const what = next();
    if (what < 0.02 && writing.size === 0) {
      writing = new Set(dirty);
      dirty.clear();
      cache.beginWriting(() => undefined);
    } else if (what < 0.1) {
      writing.clear();
      cache.endWriting(() => undefined);
    } else if (cache.cleanFrames > 0) {
      const frame = cache.has(page) ? cache.find(page) : cache.take(page, page);
      if (next() < 0.3) {
        cache.markDirty(frame);
        dirty.add(page);
      }
    }
    expect(cache.dirtyPages).toBe(dirty.size);
    expect(cache.cleanFrames).toBe(8 - new Set([...dirty, ...writing]).size);
    for (const kept of [...dirty, ...writing]) expect(cache.has(kept)).toBe(true);
  }
});
