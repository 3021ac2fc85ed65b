/** `uvdo export`: writes the logical image of a volume out. */
import { VdoError } from '../../src/base/errors.ts';
import { exportToFile, exportToStream } from '../../src/transfer/export-image.ts';
import { checkDifferent } from '../../src/transfer/image-source.ts';
import { openVolume } from '../../src/volume/open.ts';
import { defaultWorkers } from '../../src/workers/pool.ts';
import type { Command } from '../cli/args.ts';
import { printJson, printLines } from '../cli/json.ts';
import { Progress } from '../cli/progress.ts';
import { formatSize } from '../cli/sizes.ts';
import { tellNotice } from '../cli/transfer.ts';

export const command: Command = {
  name: 'export',
  summary:
    'write the logical image of a volume to a file, a device, an NBD export or standard output',
  usage: 'FILE DEST',
  example:
    'uvdo export disk.vdo disk.img                       sparse\n' +
    'uvdo export disk.vdo nbd://host/image               holes are zeroed by the server\n' +
    'uvdo export all.vdo - --from 0 --length 4G | sha256sum',
  options: {
    from: { value: 'OFFSET', help: 'first byte; default 0' },
    length: { value: 'SIZE', help: 'bytes; default: to the end' },
  },
  arguments: [2, 2],

  async run(args) {
    const [path, dest] = [args.at(0), args.at(1)];
    checkDifferent(path, dest);
    if (dest === '-' && args.json) {
      throw new VdoError('InvalidArgument', '--json and an image cannot share standard output');
    }
    const volume = await openVolume(path, { readOnly: true, workers: defaultWorkers() });
    try {
      tellNotice(volume, 'export', path, args);
      const from = args.size('from') ?? 0;
      const length = args.size('length') ?? Math.max(0, volume.size - from);
      if (from + length > volume.size) {
        throw new VdoError(
          'OutOfRange',
          `bytes ${from} to ${from + length} of a volume of ${volume.size} bytes`,
        );
      }
      const progress = new Progress({ label: 'export', total: length, quiet: args.quiet });
      const options = {
        from,
        length,
        signal: args.signal,
        onProgress: (bytes: number) => progress.update(bytes),
      };
      try {
        if (dest === '-') await exportToStream(volume, process.stdout, options);
        else await exportToFile(volume, dest, options);
      } finally {
        progress.finish();
      }
      if (dest === '-') return;
      const { seconds } = progress;
      if (args.json) printJson({ path, dest, from, bytes: length, seconds });
      else {
        const rate = formatSize(Math.round(length / Math.max(1e-3, seconds)));
        printLines([`${dest}: ${formatSize(length)} in ${seconds.toFixed(1)} s, ${rate}/s`]);
      }
    } finally {
      await volume.close();
    }
  },
};
