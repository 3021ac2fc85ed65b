/**
 * Storage work as generators: recovery, audit and reader yield what they want to read or write, and
 * one driver runs them at once over memory (thousands of crashes a second), the other over any
 * `Storage` (a plain file of many gigabytes).
 */
import type { Extent, Storage } from '../../src/storage/storage.ts';

export type Step =
  | { readonly kind: 'read' | 'write'; readonly extents: readonly Extent[] }
  | { readonly kind: 'flush' };

export type Steps<T> = Generator<Step, T, void>;

/** What `runNow` needs: a `MemoryStorage` or a `FaultyDisk`. */
export interface SyncStorage {
  readSync(extents: readonly Extent[]): void;
  writeSync(extents: readonly Extent[]): void;
  flushSync?(): void;
}

export const BLOCK = 4096;

export function runNow<T>(steps: Steps<T>, storage: SyncStorage): T {
  for (;;) {
    const next = steps.next();
    if (next.done) return next.value;
    const step = next.value;
    if (step.kind === 'read') storage.readSync(step.extents);
    else if (step.kind === 'write') storage.writeSync(step.extents);
    else storage.flushSync?.();
  }
}

export async function runOn<T>(steps: Steps<T>, storage: Storage): Promise<T> {
  for (;;) {
    const next = steps.next();
    if (next.done) return next.value;
    const step = next.value;
    if (step.kind === 'read') await storage.read(step.extents);
    else if (step.kind === 'write') await storage.write(step.extents);
    else await storage.flush();
  }
}

/** Reads whole blocks by device block number; neighbours become one extent. */
export function* readBlocks(blocks: readonly number[]): Steps<Buffer[]> {
  if (blocks.length === 0) return [];
  const all = Buffer.allocUnsafe(blocks.length * BLOCK);
  const extents: Extent[] = [];
  for (let i = 0; i < blocks.length;) {
    let end = i + 1;
    while (end < blocks.length && blocks[end] === blocks[end - 1]! + 1) end++;
    extents.push({ offset: blocks[i]! * BLOCK, bytes: all.subarray(i * BLOCK, end * BLOCK) });
    i = end;
  }
  yield { kind: 'read', extents };
  return blocks.map((_, i) => all.subarray(i * BLOCK, (i + 1) * BLOCK));
}

export function* writeBlocks(blocks: ReadonlyMap<number, Uint8Array>): Steps<void> {
  if (blocks.size === 0) return;
  yield {
    kind: 'write',
    extents: [...blocks].map(([block, bytes]) => ({ offset: block * BLOCK, bytes })),
  };
}

export const range = (start: number, count: number): number[] =>
  Array.from({ length: count }, (_, i) => start + i);
