/**
 * The same files written through either engine, with what its index said to them.
 */
import { createCipheriv } from 'node:crypto';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import type { HashIndex } from '../../src/index/hash-index.ts';
import { inKernel } from './harness.ts';
import { library, uvdo } from './uvdo.ts';

const BLOCK = 4096;
const MiB = 2 ** 20;

/** A file of blocks that occur nowhere else. */
export function uniqueFile(path: string, blocks: number, seed: number): void {
  const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16, seed), Buffer.alloc(16));
  const zeros = Buffer.alloc(256 * BLOCK);
  const file = openSync(path, 'w');
  for (let left = blocks; left > 0; left -= 256) {
    writeSync(file, cipher.update(zeros.subarray(0, Math.min(256, left) * BLOCK)));
  }
  closeSync(file);
}

export function formatVolume(
  path: string,
  options: readonly string[] = [],
  size = '6G',
): Promise<unknown> {
  const sizes = ['--size', size, '--logical-size', '8G', '--slab-size', '128M'];
  return uvdo(['format', path, ...sizes, ...options]);
}

export interface Counts {
  readonly valid: number;
  readonly stale: number;
  readonly entries: number;
  /** Entries beside another one that looks the same; by uvdo only. */
  readonly collisions: number;
  readonly postsFound: number;
  /** Data blocks that were new. */
  readonly stored: number;
  readonly warning: string | null;
}

/** Opens the volume with its own index, writes files at offsets, closes. */
export async function uvdoWrites(
  path: string,
  files: readonly [string, number][],
  { index: own = 'uds' }: { index?: 'uds' | HashIndex } = {},
): Promise<Counts> {
  const { openVolume } = await library();
  const volume = await openVolume(path, { index: own, compression: false });
  // The kernel leaves slabs to be scrubbed now and then; until they are, advice into them is refused.
  await volume.scrubbed();
  const bytes = Buffer.alloc(2 * MiB);
  for (const [name, offset] of files) {
    const file = openSync(name, 'r');
    for (let at = 0, n = 0; (n = readSync(file, bytes, 0, bytes.length, at)) > 0; at += n) {
      await volume.write(offset + at, bytes.subarray(0, n));
    }
    closeSync(file);
  }
  await volume.flush();
  const { index, hashLock, blocks } = volume.statistics() as unknown as {
    index: { entriesIndexed: number; collisionEntries: number; postsFound: number };
    hashLock: { dedupeAdviceValid: number; dedupeAdviceStale: number };
    blocks: { stored: number };
  };
  await volume.close();
  return {
    valid: hashLock.dedupeAdviceValid,
    stale: hashLock.dedupeAdviceStale,
    entries: index.entriesIndexed,
    collisions: index.collisionEntries,
    postsFound: index.postsFound,
    stored: blocks.stored,
    warning: volume.indexWarning,
  };
}

/** The same by the kernel: files of `folder`. `end` is `vdo_stop v`, or how it crashes. */
export async function kernelWrites(
  path: string,
  folder: string,
  files: readonly [string, number][],
  { crash = false }: { crash?: boolean } = {},
): Promise<Counts> {
  const puts = files.map(
    ([name, offset]) =>
      `dd if=/mnt/${name} of=/dev/mapper/v bs=1M oflag=direct,seek_bytes seek=${offset} conv=notrunc status=none`,
  );
  const out = await inKernel({
    engine: 'uml',
    disks: [path],
    share: folder,
    timeoutSeconds: 400,
    crash,
    script: `set -e
vdo_start \${DISKS[0]} v
vdo_wait_index v 300
vdo_wait_recovery v
b=$(vdo_stats v dataBlocksUsed)
${puts.join('\n')}
sync /dev/mapper/v
vdo_stats v > /run/s
for k in hashLock.dedupeAdviceValid hashLock.dedupeAdviceStale index.entriesIndexed index.postsFound; do
  awk -v k=$k: '$1 == k { print "count", $2 }' /run/s
done
echo count $(($(awk '$1 == "dataBlocksUsed:" { print $2 }' /run/s) - b))
${crash ? 'echo CRASH-NOW; sleep 5' : 'vdo_stop v'}`,
  });
  const [valid = NaN, stale = NaN, entries = NaN, postsFound = NaN, stored = NaN] = Array.from(
    out.matchAll(/^count (\d+)/gm),
    ([, digits]) => Number(digits),
  );
  return { valid, stale, entries, collisions: 0, postsFound, stored, warning: null };
}
