/**
 * A worker thread: sleeps until a job is open in the control words (protocol.ts), does its share,
 * sleeps again. Asleep it uses no processor and its event loop stands still: only a job or
 * `terminate` wakes it.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { Arena } from '../kernels/arena.ts';
import { createKernels } from '../kernels/kernels.ts';
import { busyOf, FAILED, STATE, doShare, type Share } from './protocol.ts';

export interface WorkerOptions {
  readonly rows: number;
  readonly bins: number;
  readonly memory: WebAssembly.Memory;
  readonly index: number;
}

async function serve(share: Share, index: number): Promise<never> {
  const { control } = share.arena;
  const busy = busyOf(index);
  let done = 0;
  for (;;) {
    const state = Atomics.load(control, STATE);
    if (state % 2 === 0 || state === done) {
      Atomics.wait(control, STATE, state);
      continue;
    }
    Atomics.store(control, busy, 1);
    // Looked at again now that the caller can see this thread: the job may be another by now.
    const open = Atomics.load(control, STATE);
    if (open % 2 !== 0) {
      try {
        await doShare(share);
      } catch {
        Atomics.store(control, FAILED, 1);
      }
      done = open;
    }
    Atomics.store(control, busy, 0);
    Atomics.notify(control, busy);
  }
}

const { rows, bins, memory, index } = workerData as WorkerOptions;
const arena = new Arena(rows, bins, memory);
const share = { arena, kernels: createKernels(arena, index + 1), thread: index + 1 };
parentPort!.postMessage('ready');
await serve(share, index);
