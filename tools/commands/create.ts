/** `uvdo create`: makes a volume that holds images, in sizes chosen to fit. */
import fs from 'node:fs';
import { BLOCK_SIZE } from '../../src/base/constants.ts';
import { VdoError } from '../../src/base/errors.ts';
import { sizesToFit } from '../../src/transfer/fit.ts';
import {
  checkDifferent,
  openImageSource,
  type ImageSource,
} from '../../src/transfer/image-source.ts';
import { isNbdUri } from '../../src/nbd-client/uri.ts';
import { formatVolume } from '../../src/volume/format.ts';
import { indexMemorySetting, indexRegionBlocks } from '../../src/index/uds/index-geometry.ts';
import { openVolume, WIDE_PACKER_BINS } from '../../src/volume/open.ts';
import type { Arguments, Command } from '../cli/args.ts';
import { importAll, INDEX_OPTION, indexOptions, reportImport } from '../cli/transfer.ts';
import { FORMAT_OPTIONS, formatOptionsOf } from './format.ts';

export const command: Command = {
  name: 'create',
  summary: 'make a volume of disk images, deduplicated and compressed',
  usage: 'FILE SOURCE…',
  example:
    'uvdo create all.vdo web.img db.img     two images, one after the other\n' +
    "uvdo create all.vdo nbd://host/disk   of another server's image\n" +
    'zcat disk.gz | uvdo create d.vdo - --logical-size 20G',
  options: {
    ...FORMAT_OPTIONS,
    size: { value: 'SIZE', help: 'physical size; default: enough if nothing can be saved' },
    'logical-size': { value: 'SIZE', help: 'size that clients see; default: that of the sources' },
    index: INDEX_OPTION,
    'no-compression': { help: 'store blocks as they are' },
    force: { help: 'overwrite whatever is in FILE' },
  },
  arguments: [2, 1000],

  async run(args) {
    const path = args.at(0);
    const index = indexOptions(args, 'memory');
    const sources: ImageSource[] = [];
    try {
      for (const source of args.positionals.slice(1)) {
        checkDifferent(path, source);
        sources.push(await openImageSource(source));
      }
      await formatVolume(path, { ...sizesFor(path, args, sources), force: args.flag('force') });
      const volume = await openVolume(path, {
        ...index,
        compression: !args.flag('no-compression'),
        packerBins: WIDE_PACKER_BINS,
      });
      let done;
      try {
        const options = { at: 0, isFresh: true, label: 'create' };
        done = await importAll(volume, sources, args, options);
      } finally {
        await volume.close();
      }
      reportImport(args, path, done);
    } finally {
      await Promise.all(sources.map((source) => source.close()));
    }
  },
};

function hasOwnSize(path: string): boolean {
  return isNbdUri(path) || (fs.existsSync(path) && fs.statSync(path).isBlockDevice());
}

/** The sizes that were asked for, completed so that the sources fit. */
function sizesFor(path: string, args: Arguments, sources: readonly ImageSource[]) {
  const asked = formatOptionsOf(args);
  let bytes = 0;
  for (const { path, size } of sources) {
    if (size === null && asked.logicalSize === undefined) {
      throw new VdoError(
        'InvalidArgument',
        `the size of ${path} is not known beforehand: give --logical-size`,
      );
    }
    bytes += Math.ceil((size ?? 0) / BLOCK_SIZE) * BLOCK_SIZE;
  }
  const logicalSize = asked.logicalSize ?? Math.max(BLOCK_SIZE, bytes);
  if (logicalSize < bytes) {
    throw new VdoError(
      'InvalidArgument',
      `--logical-size ${logicalSize} is less than the sources need: ${bytes} bytes`,
    );
  }
  // A device or an export is as large as it is.
  if (asked.size !== undefined || hasOwnSize(path)) return { ...asked, logicalSize };
  const indexBlocks = asked.noIndex
    ? 0
    : indexRegionBlocks(indexMemorySetting(asked.indexMemory ?? 0.25), asked.sparseIndex);
  const held = sources.some(({ size }) => size === null) ? logicalSize : bytes;
  return {
    ...asked,
    logicalSize,
    ...sizesToFit(Math.max(1, held / BLOCK_SIZE), indexBlocks, asked.slabSize),
  };
}
