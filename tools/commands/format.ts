/** `uvdo format`: makes an empty volume. */
import { BLOCK_SIZE } from '../../src/base/constants.ts';
import { stateName } from '../../src/format/super-block.ts';
import { formatVolume } from '../../src/volume/format.ts';
import { indexGigabytes } from '../../src/index/uds/index-geometry.ts';
import type { Arguments, Command } from '../cli/args.ts';
import { printJson, printLines, remark, uuidOf } from '../cli/json.ts';
import { formatSize } from '../cli/sizes.ts';

/** Options that choose the sizes of a new volume; `create` has them, too. */
export const FORMAT_OPTIONS = {
  size: {
    value: 'SIZE',
    help: 'physical size, e.g. 8G; default: that of the file, device or export',
  },
  'logical-size': {
    value: 'SIZE',
    help: 'size that clients see; default: what fits undeduplicated',
  },
  'slab-size': {
    value: 'SIZE',
    help: 'a power of two from 32M to 32G; default: 2G, or what suits',
  },
  'index-memory': { value: 'GB', help: 'index size: 0.25 (default), 0.5, 0.75, or 1 … 1024' },
  'sparse-index': { help: 'a sparse index: remembers ten times as much' },
  'no-index': { help: 'no room for a deduplication index in the volume' },
} as const;

/** The same, read; absent where not given. */
export function formatOptionsOf(args: Arguments) {
  const size = args.size('size');
  const logicalSize = args.size('logical-size');
  const slabSize = args.size('slab-size');
  const indexMemory = args.number('index-memory');
  return {
    ...(size === undefined ? {} : { size }),
    ...(logicalSize === undefined ? {} : { logicalSize }),
    ...(slabSize === undefined ? {} : { slabSize }),
    ...(indexMemory === undefined ? {} : { indexMemory }),
    sparseIndex: args.flag('sparse-index'),
    noIndex: args.flag('no-index'),
  };
}

export const command: Command = {
  name: 'format',
  summary: 'make an empty volume in a file, on a block device or on an NBD export',
  usage: 'FILE --size SIZE',
  example:
    'uvdo format disk.vdo --size 8G --logical-size 100G\n' +
    'uvdo format nbd://host/disk --logical-size 100G     the export is as large as it is',
  options: { ...FORMAT_OPTIONS, force: { help: 'overwrite whatever is there' } },
  arguments: [1, 1],

  async run(args) {
    const path = args.at(0);
    const options = { ...formatOptionsOf(args), force: args.flag('force') };
    const { geometry, superBlock, slabs, slabSizeAdjusted } = await formatVolume(path, options);
    const slabSize = superBlock.slabSize * BLOCK_SIZE;
    if (slabSizeAdjusted && !args.quiet) {
      remark(`slabs of ${formatSize(slabSize)} suit this size better than the usual 2 GiB`);
    }
    const physicalSize = superBlock.physicalBlocks * BLOCK_SIZE;
    const logicalSize = superBlock.logicalBlocks * BLOCK_SIZE;
    const indexMemory = indexGigabytes(geometry.indexMemory) ?? null;
    if (args.json) {
      printJson({
        path,
        uuid: uuidOf(geometry.uuid),
        state: stateName(superBlock.state),
        physicalSize,
        logicalSize,
        slabSize,
        slabs,
        indexMemory,
        sparseIndex: geometry.sparse,
        formatVersion: geometry.formatVersion,
      });
      return;
    }
    const index = indexMemory === null ? 'no index' : `index memory ${indexMemory} GB`;
    printLines([
      `${path}: ${formatSize(physicalSize)} physical, ${formatSize(logicalSize)} logical, ` +
        `${slabs} ${slabs === 1 ? 'slab' : 'slabs'} of ${formatSize(slabSize)}, ${index}${geometry.sparse ? ', sparse' : ''}`,
    ]);
  },
};
