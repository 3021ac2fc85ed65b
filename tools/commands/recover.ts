/** `uvdo recover`: replays the journal of a volume that was not closed, rebuilds counts, closes it. */
import { CLEAN, NEW, stateName, type VolumeState } from '../../src/format/super-block.ts';
import { openStorage } from '../../src/nbd-client/open-storage.ts';
import { readLabels } from '../../src/volume/labels.ts';
import { openVolume } from '../../src/volume/open.ts';
import type { Volume } from '../../src/volume/volume.ts';
import type { Arguments, Command } from '../cli/args.ts';
import { printJson, printLines } from '../cli/json.ts';
import { Progress } from '../cli/progress.ts';

/** Time between two looks at how far scrubbing is. */
const LOOK_MS = 200;

export const command: Command = {
  name: 'recover',
  summary: 'replay the journal after a crash, rebuild reference counts, close the volume clean',
  usage: 'FILE',
  example: 'uvdo recover disk.vdo            (opening for writing, as serve does, recovers too)',
  options: {},
  arguments: [1, 1],

  async run(args) {
    const path = args.at(0);
    const state = await stateOf(path);
    if (state === CLEAN || state === NEW) {
      if (args.json) printJson({ path, recovered: false, state: stateName(state) });
      else printLines([`${path}: ${stateName(state)}, nothing to recover`]);
      return;
    }
    const startMs = performance.now();
    const volume = await openVolume(path, { index: 'off', compression: false, workers: 0 });
    const readyMs = performance.now();
    let failed = true;
    try {
      if (volume.failure !== null) throw volume.failure;
      await scrub(volume, args);
      failed = false;
    } finally {
      const closing = volume.close();
      await (failed ? closing.catch(() => undefined) : closing);
    }
    const { entries, pages, slabs } = volume.recovery ?? { entries: 0, pages: 0, slabs: 0 };
    const seconds = (performance.now() - startMs) / 1000;
    const secondsToReady = (readyMs - startMs) / 1000;
    const report = { path, recovered: true, entries, pages, slabs, secondsToReady, seconds };
    if (args.json) printJson({ ...report, state: stateName(CLEAN) });
    else {
      printLines([
        `${path}: recovered in ${seconds.toFixed(1)} s: ${entries} journal entries replayed into ` +
          `${pages} block map pages, counts of ${slabs} slabs rebuilt; the volume is ${stateName(CLEAN)}`,
      ]);
    }
  },
};

/** State of the volume, as its super block has it. */
async function stateOf(path: string): Promise<VolumeState> {
  const storage = await openStorage(path, { readOnly: true });
  try {
    return (await readLabels(storage)).superBlock.state;
  } finally {
    await storage.close();
  }
}

/** Waits until every slab is scrubbed, with progress. */
async function scrub(volume: Volume, args: Arguments): Promise<void> {
  const { totalBytes } = volume.scrubProgress();
  const progress = new Progress({ label: 'scrub', total: totalBytes, quiet: args.quiet });
  const timer = setInterval(() => progress.update(volume.scrubProgress().bytes), LOOK_MS);
  try {
    await volume.scrubbed();
  } finally {
    clearInterval(timer);
    progress.finish();
  }
}
