/**
 * What `uvdo measure` says of an image, against what dm-vdo and `uvdo create` then store of it. docs/MEASURE.md.
 */
import { closeSync, openSync, readdirSync, readFileSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { available, inKernel, skipReason, withFolder } from './harness.ts';
import { built, uvdo } from './uvdo.ts';

const BLOCK = 4096;
const MiB = 2 ** 20;
const IMAGE_BYTES = 160 * MiB;

/** Programs and libraries of this machine, each on a block of its own; some of it again; zeros. */
function realImage(path: string): void {
  const file = openSync(path, 'w');
  let at = 0;
  const put = (bytes: Uint8Array): void => {
    writeSync(file, bytes, 0, bytes.length, at);
    at = Math.ceil((at + bytes.length) / BLOCK) * BLOCK;
  };
  for (const folder of [
    '/usr/bin',
    '/usr/lib/x86_64-linux-gnu',
    '/usr/share/perl/5.36.0',
    '/usr/sbin',
  ]) {
    let names: string[] = [];
    try {
      names = readdirSync(folder).sort();
    } catch {
      continue;
    }
    for (const [i, name] of names.entries()) {
      const from = join(folder, name);
      const stats = statSync(from, { throwIfNoEntry: false });
      if (stats?.isFile() !== true || stats.size > 8 * MiB) continue;
      if (at + stats.size > IMAGE_BYTES) continue;
      const bytes = readFileSync(from);
      put(bytes);
      if (i % 9 === 0 && at + bytes.length < IMAGE_BYTES) put(bytes);
      if (i % 13 === 0) at += 4 * BLOCK;
    }
  }
  closeSync(file);
}

interface Figures {
  readonly blocks: number;
  readonly uniqueBlocks: number;
  readonly storedBlocks: number;
  readonly kernelStoredBlocks: number;
}

const here = available();
const { skip, note } = skipReason(here.uml, here.tools, built());

// The guest was seen to hang once in some ten runs, before anything was compared.
describe.skipIf(skip)(`measure${note}`, { retry: 2 }, () => {
  it('says what dm-vdo stores, within 4 %, and what uvdo stores, within 0.5 %', async () => {
    await withFolder(async (folder) => {
      const image = join(folder, 'image');
      realImage(image);
      const figures = JSON.parse((await uvdo(['measure', image, '--json'])).stdout) as Figures;
      expect(figures.blocks * BLOCK).toBeGreaterThan(60 * MiB);

      const volume = join(folder, 'kernel.vdo');
      const logical = String(Math.ceil(figures.blocks / 256) * MiB);
      await uvdo(['format', volume, '--size', '4G', '--logical-size', logical]);
      const out = await inKernel({
        engine: 'uml',
        disks: [volume],
        share: folder,
        timeoutSeconds: 120,
        script: `set -e
vdo_start \${DISKS[0]} v compression on
vdo_wait_index v
dd if=/mnt/image of=/dev/mapper/v bs=1M oflag=direct status=none
sync /dev/mapper/v
vdo_stats v dataBlocksUsed
vdo_stop v`,
      });
      const kernel = Number(out.trim());
      // The order in which the kernel's threads fill its bins differs from run to run: 0.6 to 2.4 % was seen.
      expect(Math.abs(figures.kernelStoredBlocks / kernel - 1), `${kernel}`).toBeLessThan(0.04);

      const made = await uvdo(['create', join(folder, 'uvdo.vdo'), image, '--json']);
      const { storedBlocks } = JSON.parse(made.stdout) as { storedBlocks: number };
      expect(Math.abs(figures.storedBlocks / storedBlocks - 1), `${storedBlocks}`).toBeLessThan(
        0.005,
      );
    });
  });
});
