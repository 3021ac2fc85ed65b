/** `uvdo import`: writes an image into a volume. */
import { checkDifferent, openImageSource } from '../../src/transfer/image-source.ts';
import { openVolume, WIDE_PACKER_BINS } from '../../src/volume/open.ts';
import type { Command } from '../cli/args.ts';
import { importAll, INDEX_OPTION, indexOptions, keptIndex, reportImport } from '../cli/transfer.ts';

export const command: Command = {
  name: 'import',
  summary: 'write an image into a volume, holes and zeros skipped',
  usage: 'FILE SOURCE',
  example:
    'uvdo import disk.vdo new.img --at 10G\n' +
    'uvdo import disk.vdo nbd://host/image                holes are not even asked for',
  options: {
    at: { value: 'OFFSET', help: 'where the image begins, a multiple of 4096; default 0' },
    index: INDEX_OPTION,
    'no-compression': { help: 'store blocks as they are' },
  },
  arguments: [2, 2],

  async run(args) {
    const path = args.at(0);
    const at = args.size('at') ?? 0;
    const index = indexOptions(args, keptIndex(path));
    checkDifferent(path, args.at(1));
    const source = await openImageSource(args.at(1));
    try {
      const volume = await openVolume(path, {
        ...index,
        compression: !args.flag('no-compression'),
        packerBins: WIDE_PACKER_BINS,
      });
      let done;
      try {
        const options = { at, isFresh: false, label: 'import' };
        done = await importAll(volume, [source], args, options);
      } finally {
        await volume.close();
      }
      reportImport(args, path, done);
    } finally {
      await source.close();
    }
  },
};
