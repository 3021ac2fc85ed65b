/**
 * A worker thread: sleeps until there is a task (protocol.ts), does tasks, sleeps again. Asleep it uses
 * no processor and its event loop stands still: only a task or `terminate` wakes it.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { Arena } from '../kernels/arena.ts';
import { createKernels } from '../kernels/kernels.ts';
import { BELL, busyOf, doTasks, hasTask, type Share } from './protocol.ts';

export interface WorkerOptions {
  readonly rows: number;
  readonly bins: number;
  readonly memory: WebAssembly.Memory;
  readonly index: number;
}

async function serve(share: Share, index: number): Promise<never> {
  const { control } = share.arena;
  const busy = busyOf(index);
  for (;;) {
    const heard = Atomics.load(control, BELL);
    if (!hasTask(control)) {
      Atomics.wait(control, BELL, heard);
      continue;
    }
    Atomics.store(control, busy, 1);
    await doTasks(share);
    Atomics.store(control, busy, 0);
  }
}

const { rows, bins, memory, index } = workerData as WorkerOptions;
const arena = new Arena(rows, bins, memory);
const kernels = createKernels(arena, index + 1);
parentPort!.postMessage('ready');
await serve({ arena, kernels, thread: index + 1, failure: null }, index);
