/**
 * `npm run bench:peers`: the main job beside others of the kind, in turn in one run, medians.
 *
 *     npm run bench:peers -- [--runs N] [--dir DIRECTORY] [--write] [IMAGE…]
 *
 * Ingest of all images into a new store (`uvdo create`, `borg create --compression lz4`, `restic backup`),
 * durable at the end (`sync -f` behind everyone, timed), then the images read back (`uvdo export`,
 * `borg extract --stdout`, `restic dump`). Wall clock and user + system time, images in the page cache. Who is
 * not installed is left out, with a word. Without images two related ones of 96 MiB are made up.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { MiB } from '../src/base/constants.ts';
import { compressibleFill, programFill, Random, randomFill, textFill } from './data.ts';
import { machine, median, plainTable, writeBetweenMarks } from './table.ts';

const STAND_IN_BYTES = 96 * MiB;
const PIECE = 256 * 1024;

interface Peer {
  readonly name: string;
  readonly command: string;
  /** Makes an empty store, not timed. */
  readonly prepare: string;
  readonly ingest: string;
  /** Bytes that the store takes on disk. */
  readonly store: string;
  readonly restore: string;
}

interface Taken {
  readonly seconds: number;
  readonly cpu: number;
}

const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

function peersOf(work: string, images: readonly string[]): Peer[] {
  const uvdo = `node ${quote(fileURLToPath(new URL('../tools/vdo.js', import.meta.url)))}`;
  const files = images.map(quote).join(' ');
  const store = (name: string): string => quote(join(work, name));
  const each = (line: (image: string) => string): string => images.map(line).join(' && ');
  return [
    {
      name: 'uvdo',
      command: 'node',
      prepare: `rm -rf ${store('v.vdo')}*`,
      ingest: `${uvdo} create ${store('v.vdo')} ${files} --quiet >/dev/null`,
      store: store('v.vdo'),
      restore: `${uvdo} export ${store('v.vdo')} - --quiet >/dev/null`,
    },
    {
      name: 'borg, lz4',
      command: 'borg',
      prepare: `rm -rf ${store('borg')} && borg init -e none ${store('borg')} 2>/dev/null`,
      ingest: `borg create --compression lz4 ${store('borg')}::a ${files}`,
      store: store('borg'),
      restore: `borg extract --stdout ${store('borg')}::a >/dev/null`,
    },
    {
      name: 'restic',
      command: 'restic',
      prepare: `rm -rf ${store('restic')} && restic -q -r ${store('restic')} init >/dev/null`,
      ingest: `restic -q -r ${store('restic')} backup ${files}`,
      store: store('restic'),
      restore: each(
        (image) => `restic -q -r ${store('restic')} dump latest ${quote(image)} >/dev/null`,
      ),
    },
  ];
}

function shell(line: string, work: string): string {
  const env = {
    ...process.env,
    BORG_BASE_DIR: work,
    BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK: 'yes',
    RESTIC_PASSWORD: 'bench',
    RESTIC_CACHE_DIR: join(work, 'cache'),
    RESTIC_PROGRESS_FPS: '0',
  };
  const { status, stderr } = spawnSync('bash', ['-c', line], { env, encoding: 'utf8' });
  if (status !== 0) throw new Error(`failed: ${line}\n${stderr}`);
  return stderr;
}

/** Wall and processor seconds of a shell line. */
function timed(line: string, work: string): Taken {
  const stderr = shell(`TIMEFORMAT='taken %R %U %S'; time { ${line}; }`, work);
  const [, real, user, system] = /taken (\S+) (\S+) (\S+)\s*$/.exec(stderr)!;
  return { seconds: Number(real), cpu: Number(user) + Number(system) };
}

const medianOf = (taken: readonly Taken[]): Taken => ({
  seconds: median(taken.map(({ seconds }) => seconds)),
  cpu: median(taken.map(({ cpu }) => cpu)),
});

/** Two images that share much, in pieces of programs, text, half noise, noise and zeros. */
function standIns(work: string): string[] {
  const program = new Uint8Array(32 * MiB);
  programFill(program);
  return [1, 2].map((image) => {
    const bytes = new Uint8Array(STAND_IN_BYTES);
    const random = new Random(7);
    for (let at = 0; at < bytes.length; at += PIECE) {
      const piece = bytes.subarray(at, at + PIECE);
      const own = random.below(3) === 0 ? image * 1_000_000 : 0;
      const kind = random.below(10);
      if (kind < 4)
        piece.set(
          program.subarray(
            ((at + own) / 4) % (program.length - PIECE),
            (((at + own) / 4) % (program.length - PIECE)) + PIECE,
          ),
        );
      else if (kind < 6) textFill(piece, own + at);
      else if (kind < 8) compressibleFill(piece, own + at);
      else if (kind < 9) randomFill(piece, own + at);
    }
    const path = join(work, `image${image}.img`);
    writeFileSync(path, bytes);
    return path;
  });
}

function isInstalled(command: string): boolean {
  return spawnSync('bash', ['-c', `command -v ${command}`]).status === 0;
}

function measure(images: readonly string[], runs: number, work: string): string {
  const bytes = images.reduce((sum, image) => sum + statSync(image).size, 0);
  const peers = peersOf(work, images).filter(({ name, command }) => {
    const there = isInstalled(command);
    if (!there) console.error(`${name}: ${command} is not installed, left out`);
    return there;
  });
  const ingests = peers.map((): Taken[] => []);
  const restores = peers.map((): Taken[] => []);
  for (const image of images) readFileSync(image).fill(0);
  for (let run = 0; run < runs; run++) {
    peers.forEach((peer, i) => {
      shell(`${peer.prepare}; sync -f ${quote(work)}`, work);
      ingests[i]!.push(timed(`${peer.ingest} && sync -f ${quote(work)}`, work));
      restores[i]!.push(timed(peer.restore, work));
    });
  }
  const gigabytes = bytes / 1e9;
  const each = ['MB/s', 'CPU s/GB', 'uvdo : it'];
  const rows = peers.map(({ name, store }, i) => {
    const size = Number(
      execFileSync('bash', ['-c', `du -sB1 ${store} | cut -f1`], { encoding: 'utf8' }),
    );
    const [ingest, restore] = [medianOf(ingests[i]!), medianOf(restores[i]!)];
    const [first, back] = [medianOf(ingests[0]!), medianOf(restores[0]!)];
    return [
      name,
      ingest.seconds.toFixed(2),
      (bytes / 1e6 / ingest.seconds).toFixed(0),
      (ingest.cpu / gigabytes).toFixed(2),
      (first.seconds / ingest.seconds).toFixed(2),
      (size / 1e9).toFixed(3),
      restore.seconds.toFixed(2),
      (bytes / 1e6 / restore.seconds).toFixed(0),
      (restore.cpu / gigabytes).toFixed(2),
      (back.seconds / restore.seconds).toFixed(2),
    ];
  });
  return [
    `${machine()} ${images.map((image) => basename(image)).join(', ')}: ${gigabytes.toFixed(2)} GB, medians of ${runs}.`,
    '',
    plainTable(['', 'ingest s', ...each, 'stored GB', 'restore s', ...each], rows),
  ].join('\n');
}

const { values, positionals } = parseArgs({
  options: { runs: { type: 'string' }, dir: { type: 'string' }, write: { type: 'boolean' } },
  allowPositionals: true,
});
const work = mkdtempSync(join(values.dir ?? tmpdir(), 'uvdo-peers-'));
try {
  const images = positionals.length > 0 ? positionals.map((path) => resolve(path)) : standIns(work);
  const text = measure(images, Number(values.runs ?? (positionals.length > 0 ? 5 : 1)), work);
  console.log(text);
  if (values.write === true) writeBetweenMarks('docs/PERFORMANCE.md', text, 'peers');
} finally {
  rmSync(work, { recursive: true, force: true });
}
