/**
 * What a store remembers of a measurement beside its records: what was counted, which sources are done,
 * and where an interrupted run goes on.
 */
import { resolve } from 'node:path';
import { VdoError } from '../base/errors.ts';
import { isNbdUri } from '../nbd-client/uri.ts';
import { newTally, type Tally } from './counter.ts';
import type { ReportProblem, SourceFile } from './source-files.ts';
import type { StoredState } from './stored-model.ts';

/** How far an interrupted run came. */
export interface Position {
  readonly source: number;
  readonly path: string;
  /** Byte of the file that is next; with `isLast` the file is done. */
  readonly offset: number;
  readonly isLast: boolean;
}

export interface FinalFigures {
  readonly compressedBlocks: number;
  readonly packedBlocks: number;
  readonly storedBlocks: number;
  readonly kernelStoredBlocks: number;
}

export interface KeptState {
  readonly compression: boolean;
  readonly sample: number;
  readonly sources: readonly Tally[];
  /** Of each source whether it was measured to its end. */
  readonly done: readonly boolean[];
  readonly position: Position | null;
  /** Sets of sources by number; null where there are too many sources to tell. */
  readonly sets: readonly (readonly number[])[] | null;
  readonly topFiles: readonly Tally[];
  readonly uniqueBlocks: number;
  readonly copies: number;
  /** From what a later run goes on, with compression. */
  readonly stored: StoredState | null;
  /** With compression: the figures when all is written. */
  readonly final: FinalFigures | null;
  readonly errors: number;
  readonly seconds: number;
}

/** The sources of a run: all that are counted, and which of them are still to be read. */
export interface Plan {
  readonly tallies: readonly Tally[];
  readonly pending: readonly { readonly path: string; readonly index: number }[];
  readonly done: readonly boolean[];
  readonly kept: KeptState | null;
}

/** The plan of a run without a store, or with a new one. */
export function newPlan(paths: readonly string[], isKept = false): Plan {
  return planFor(paths, null, isKept);
}

/**
 * The plan of a run over a store: a source that it knows to its end is not read again, one that was
 * interrupted comes first. Fails with `InvalidArgument` where that one is not among the paths, or the
 * store was made with other options.
 */
export function planOver(
  paths: readonly string[],
  state: unknown,
  options: { readonly compression: boolean; readonly sample: number; readonly directory: string },
): Plan {
  if (state === null) return newPlan(paths, true);
  const kept = state as KeptState;
  const { compression, sample, directory } = options;
  if (kept.compression !== compression || kept.sample !== sample) {
    const made = `${kept.compression ? 'with' : 'without'} compression, sample 1/${kept.sample}`;
    throw new VdoError('InvalidArgument', `${directory} was made ${made}: use the same options`);
  }
  const plan = planFor(paths, kept, true);
  if (kept.position === null) return plan;
  const { source } = kept.position;
  const interrupted = plan.pending.filter(({ index }) => index === source);
  if (interrupted.length === 0) {
    const path = kept.sources[source]!.path;
    throw new VdoError(
      'InvalidArgument',
      `${directory} waits for the rest of ${path}: name it too`,
    );
  }
  const others = plan.pending.filter(({ index }) => index !== source);
  return { ...plan, pending: [...interrupted, ...others] };
}

function planFor(paths: readonly string[], kept: KeptState | null, isKept: boolean): Plan {
  const tallies = kept?.sources.map((tally) => ({ ...tally })) ?? [];
  const done = [...(kept?.done ?? [])];
  const pending: { path: string; index: number }[] = [];
  for (const path of paths) {
    const name = isKept && path !== '-' && !isNbdUri(path) ? resolve(path) : path;
    let index = isKept ? tallies.findIndex((tally) => tally.path === name) : -1;
    if (index >= 0 && (done[index] === true || pending.some((one) => one.index === index)))
      continue;
    if (index < 0) {
      index = tallies.push(newTally(name)) - 1;
      done.push(false);
    }
    pending.push({ path: name, index });
  }
  return { tallies, pending, done, kept };
}

/** The files that are still to be read: those behind the position where an earlier run ended. */
export function* filesFrom(
  files: Iterable<SourceFile>,
  position: Position | null,
  report: ReportProblem,
): Generator<SourceFile> {
  let isBehind = position === null;
  for (const file of files) {
    if (!isBehind && position !== null && file.source === position.source) {
      if (file.path !== position.path) continue;
      isBehind = true;
      if (position.isLast) continue;
    }
    yield file;
  }
  if (isBehind || position === null) return;
  const message = `${position.path}, where the measurement was interrupted, is not there any more`;
  report(position.path, new VdoError('Io', message, { path: position.path }));
}
