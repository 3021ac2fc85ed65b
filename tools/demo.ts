/**
 * `npm run demo`: the main job on real data. Two images of this project's own `node_modules`, the
 * second one changed, become one volume; the savings are measured, the volume is served over NBD,
 * read back through a client connection, and compared. Nothing is left behind.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { BLOCK_SIZE, MiB } from '../src/base/constants.ts';
import { serve } from '../src/nbd/server.ts';
import { openVolume } from '../src/volume/open.ts';
import { NbdClient } from '../test/support/nbd-client.ts';
import { printLines } from './cli/json.ts';
import { runCommandLine } from './cli/main.ts';
import { formatSize } from './cli/sizes.ts';
import { table } from './cli/table.ts';

/** Bytes of one NBD read, and reads in flight. */
const READ_BYTES = 4 * MiB;
const READS = 4;
/** Every so many files of the second copy get changed, and removed. */
const CHANGE_EVERY = 10;
const REMOVE_EVERY = 23;

interface Image {
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** The folder with this package's `node_modules`, seen from the built program or its source. */
function projectFolder(): string {
  let folder = path.dirname(fileURLToPath(import.meta.url));
  while (!fs.existsSync(path.join(folder, 'node_modules'))) {
    if (folder === path.dirname(folder)) throw new Error('there is no node_modules: run npm ci');
    folder = path.dirname(folder);
  }
  return folder;
}

function run(program: string, args: readonly string[]): void {
  const { status, stderr, error } = spawnSync(program, args, { encoding: 'utf8' });
  if (status === 0) return;
  throw new Error(`${program}: ${error?.message ?? stderr.trim()}`);
}

/** Copies a tree and makes the copy a later version of it: files changed, removed, added. */
function copyChanged(from: string, to: string): void {
  fs.cpSync(from, to, { recursive: true, verbatimSymlinks: true });
  const files = fs
    .readdirSync(to, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name))
    .sort();
  files.forEach((file, i) => {
    if (i % REMOVE_EVERY === 0) fs.rmSync(file);
    else if (i % CHANGE_EVERY === 0) fs.appendFileSync(file, `\n// changed: ${i}\n`);
  });
  fs.writeFileSync(path.join(to, 'added.json'), JSON.stringify(files));
}

/** A folder as an ext4 image, or as a tar stream where `mke2fs` is missing. */
function makeImage(folder: string, image: string): void {
  const used = fs
    .readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => {
      const { size } = fs.statSync(path.join(entry.parentPath, entry.name));
      return sum + Math.ceil(size / BLOCK_SIZE) * BLOCK_SIZE;
    }, 0);
  const size = Math.ceil((used * 1.3) / MiB) + 32;
  const { error } = spawnSync('mke2fs', ['-V']);
  if (error !== undefined) run('tar', ['-cf', image, '-C', folder, '.']);
  else run('mke2fs', ['-q', '-F', '-t', 'ext4', '-b', '4096', '-d', folder, image, `${size}M`]);
}

async function describe(file: string): Promise<Image> {
  const hash = createHash('sha256');
  for await (const chunk of fs.createReadStream(file, { highWaterMark: MiB })) {
    hash.update(chunk as Buffer);
  }
  return { path: file, bytes: fs.statSync(file).size, sha256: hash.digest('hex') };
}

/** The sum of a range read through an NBD connection, several requests in flight. */
async function sumOverNbd(client: NbdClient, offset: number, bytes: number): Promise<string> {
  const hash = createHash('sha256');
  const reads: Promise<Buffer>[] = [];
  let at = 0;
  while (at < bytes || reads.length > 0) {
    while (at < bytes && reads.length < READS) {
      const length = Math.min(READ_BYTES, bytes - at);
      reads.push(client.read(offset + at, length));
      at += length;
    }
    hash.update(await reads.shift()!);
  }
  return hash.digest('hex');
}

/** Serves the volume, reads every image back, prints the comparison; whether all were equal. */
async function readBack(file: string, images: readonly Image[], socket: string): Promise<boolean> {
  const volume = await openVolume(file, { readOnly: true });
  const server = await serve([{ name: 'demo', volume }], { socket });
  let equal = true;
  try {
    printLines(['', `serving ${server.uri('demo')}`]);
    const client = await NbdClient.connect({ socket }, 'demo');
    let offset = 0;
    for (const image of images) {
      const began = performance.now();
      const sum = await sumOverNbd(client, offset, image.bytes);
      const rate = image.bytes / ((performance.now() - began) / 1000);
      const verdict = sum === image.sha256 ? 'equal' : `DIFFERENT: ${sum}`;
      equal &&= sum === image.sha256;
      printLines([
        `read back ${path.basename(image.path)}: ${formatSize(Math.round(rate))}/s, sha256 ` +
          `${image.sha256.slice(0, 16)}… ${verdict}`,
      ]);
      offset += Math.ceil(image.bytes / BLOCK_SIZE) * BLOCK_SIZE;
    }
    await client.disconnect();
  } finally {
    await server.close();
    await volume.close();
  }
  return equal;
}

async function main(folder: string): Promise<boolean> {
  // The real folder: a link to it would be copied as a link, and the changes hit the original.
  const source = fs.realpathSync(path.join(projectFolder(), 'node_modules'));
  const copy = path.join(folder, 'copy');
  printLines([`making two images of ${source}, the second one changed …`]);
  copyChanged(source, copy);
  const files = ['first.img', 'second.img'].map((name) => path.join(folder, name));
  makeImage(source, files[0]!);
  makeImage(copy, files[1]!);
  fs.rmSync(copy, { recursive: true });
  const images = [await describe(files[0]!), await describe(files[1]!)];
  const volume = path.join(folder, 'demo.vdo');
  printLines(['', `$ uvdo create demo.vdo first.img second.img`]);
  if ((await runCommandLine(['create', volume, ...files])) !== 0) return false;
  const opened = await openVolume(volume, { readOnly: true });
  const { dataBlocksUsed, logicalBlocksUsed } = opened.statistics() as Record<string, number>;
  await opened.close();
  const total = images[0]!.bytes + images[1]!.bytes;
  const stored = dataBlocksUsed! * BLOCK_SIZE;
  const percent = ((1 - stored / total) * 100).toFixed(1);
  printLines([
    '',
    ...table(
      ['', 'size', 'of the images'],
      [
        ['two images', formatSize(total), '100.0 %'],
        [
          'without zeros',
          formatSize(logicalBlocksUsed! * BLOCK_SIZE),
          `${((100 * logicalBlocksUsed! * BLOCK_SIZE) / total).toFixed(1)} %`,
        ],
        ['stored', formatSize(stored), `${((100 * stored) / total).toFixed(1)} %`],
      ],
    ),
    `saved: ${percent} %`,
  ]);
  return readBack(volume, images, path.join(folder, 'nbd.sock'));
}

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'uvdo-demo-'));
const cleanUp = (): void => fs.rmSync(folder, { recursive: true, force: true });
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    cleanUp();
    process.exit(1);
  });
}
try {
  process.exitCode = (await main(folder)) ? 0 : 1;
} finally {
  cleanUp();
}
