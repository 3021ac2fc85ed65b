/**
 * `uvdo rebuild` beside the kernel's own read-only rebuild: of the same image both make the same
 * volume, block by block, and the kernel starts what uvdo rebuilt. docs/TESTING.md, "Interop".
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { rebuildVolumeOn } from '../../src/volume/rebuild-volume.ts';
import { STATE } from '../model/layout.ts';
import { Random } from '../sim/random.ts';
import { DAMAGE } from '../support/damage.ts';
import { Image, ImageStorage } from '../support/image.ts';
import {
  available,
  inKernel,
  makeFixtures,
  run,
  skipReason,
  unpackFixture,
  vdoaudit,
  withFolder,
} from './harness.ts';
import { makeVolume, TINY, TINY_TABLE, tiny } from './kernel-volume.ts';
import { built, uvdo } from './uvdo.ts';
import { shrinksTo } from './workload.ts';

const { skip, note } = skipReason(available().uml, available().tools, built());
const SEED = Number(process.env['SEED'] ?? Date.now() % 100_000);
const BLOCK = 4096;
/** Volumes that one kernel rebuilds. */
const PER_KERNEL = 8;

/**
 * Damage that dm-vdo's rebuild leaves as it is: the volume goes read-only when it next comes by. Ours
 * mends it, and nothing is lost.
 */
const LEFT_BY_THE_KERNEL = 'a tree page mapped as compressed';
/** Who keeps a page that two entries name depends on the order of a walk: in the kernel on chance. */
const LEFT_TO_CHANCE = 'a tree page named twice';

/** Blocks from `start` on in which two files differ. */
async function differences(a: string, b: string, start: number): Promise<number[]> {
  const { stdout } = await run('cmp', ['-l', '-i', String(start * BLOCK), a, b]);
  const blocks = new Set<number>();
  for (const line of stdout.split('\n')) {
    if (line !== '') blocks.add(start + Math.floor((Number.parseInt(line, 10) - 1) / BLOCK));
  }
  return [...blocks];
}

describe.skipIf(skip)(`reference volumes${note}`, () => {
  beforeAll(() => makeFixtures());

  it.each(['forced', 'readonly'] as const)('%s: as the kernel rebuilds it', (name) =>
    withFolder(async (folder) => {
      const { path, manifestPath } = await unpackFixture(name, folder);
      const kernel = await unpackFixture('rebuilt', folder);
      await uvdo(['rebuild', path, '--quiet']);
      const real = await vdoaudit(path);
      expect(real.clean, real.output).toBe(true);
      await uvdo(['audit', path]);
      // The kernel keeps the copies of the summary but one as the start left them, and turns the
      // order of partitions round.
      const { stdout } = await uvdo(['dump', kernel.path, 'layout', '--json']);
      const { areas } = JSON.parse(stdout) as { areas: { name: string; start: number }[] };
      const start = (area: string): number => areas.find((one) => one.name === area)!.start;
      const summary = start('slab summary');
      const differing = await differences(path, kernel.path, start('super block'));
      const unexpected = differing.filter(
        (block) => block !== start('super block') && block < summary + 4,
      );
      expect(unexpected).toEqual([]);
      for (const [one, other] of [[path, kernel.path]] as const) {
        const fields = async (file: string): Promise<Record<string, unknown>> => {
          const { stdout: text } = await uvdo(['dump', file, 'super-block', '--json']);
          const { superBlock } = JSON.parse(text) as { superBlock: Record<string, unknown> };
          return { ...superBlock, partitionOrder: null };
        };
        expect(await fields(one)).toEqual(await fields(other));
      }
      await copyFile(manifestPath, join(folder, 'manifest.json'));
      await inKernel({
        engine: 'uml',
        disks: [path],
        share: folder,
        script: `set -e
vdo_start \${DISKS[0]} v; [ "$(vdo_status v mode)" = normal ]
verify_manifest /dev/mapper/v /mnt/manifest.json; vdo_stop v`,
      });
      expect((await vdoaudit(path)).clean).toBe(true);
    }),
  );
});

/** Rebuilds all images in the kernel. */
async function rebuildInKernel(images: readonly Image[], folder: string): Promise<Image[]> {
  const paths = images.map((image, i) => {
    const path = join(folder, `kernel-${i}`);
    writeFileSync(path, image.bytes);
    return path;
  });
  for (let first = 0; first < paths.length; first += PER_KERNEL) {
    await inKernel({
      engine: 'uml',
      disks: paths.slice(first, first + PER_KERNEL),
      env: TINY_TABLE,
      script: `for d in "\${DISKS[@]}"; do vdo_start $d v; vdo_wait_recovery v; vdo_stop v; done; true`,
    });
  }
  return paths.map((path) => new Image(readFileSync(path)));
}

function counters({ layout }: Image): Record<string, number> {
  const { state, completeRecoveries, journalStart, logicalBlocksUsed, treePages } = layout;
  return { state, completeRecoveries, journalStart, logicalBlocksUsed, treePages };
}

/** Every count of the slabs in use, and what the summary says of all. */
function depot(image: Image): unknown[] {
  const { layout } = image;
  return Array.from({ length: layout.slabCount }, (_, slab) => {
    const base = layout.firstBlock + slab * layout.slabBlocks;
    const summary = image.summary(slab);
    const counts = Array.from({ length: layout.dataBlocks }, (_, i) => image.count(base + i));
    return summary.load ? { summary, counts } : { summary };
  });
}

async function compareAll(
  sound: Image,
  images: ReadonlyMap<string, Image>,
  folder: string,
): Promise<void> {
  for (const image of images.values()) image.changeSuperBlock({ state: STATE.FORCE_REBUILD });
  const kernels = await rebuildInKernel([...images.values()], folder);
  const differing: string[] = [];
  for (const [i, [name, image]] of [...images].entries()) {
    await rebuildVolumeOn(new ImageStorage(image.bytes));
    const [ours, theirs] = [new Image(image.bytes), kernels[i]!];
    const path = join(folder, 'ours');
    writeFileSync(path, image.bytes);
    const audit = await vdoaudit(path);
    expect(audit.clean, `${name}: ${audit.output}`).toBe(true);
    try {
      if (name === LEFT_BY_THE_KERNEL) {
        expect(ours.mappings()).toEqual(sound.mappings());
        continue;
      }
      if (name === LEFT_TO_CHANCE) continue;
      expect(counters(ours)).toEqual(counters(theirs));
      expect(ours.mappings()).toEqual(theirs.mappings());
      expect(depot(ours)).toEqual(depot(theirs));
    } catch (error) {
      differing.push(`${name}: ${String(error).slice(0, 600)}`);
    }
  }
  expect(differing, `seed ${SEED}`).toEqual([]);
}

describe.skipIf(skip)(`the kernel's rebuild${note}`, () => {
  it('of damaged volumes, and of one that crashed, comes to the same', () =>
    withFolder(async (folder) => {
      const fill = { table: 'compression on', logicalBlocks: TINY.logicalBlocks };
      const { image: stopped } = await makeVolume(
        tiny(),
        (workload) => {
          workload.random(0, 500).flush().zeros(100, 20).discard(300, 40);
          for (let i = 0; i < 140; i++) workload.write(1000 + i, shrinksTo(200 + 7 * i));
          workload.flush().random(3000, 80).random(3010, 20).flush();
        },
        { ...fill, end: 'stop' },
      );
      const { image: crashed } = await makeVolume(
        tiny(),
        (workload) => workload.random(0, 300).flush().random(200, 200).discard(50, 9).flush(),
        { ...fill, end: 'crash' },
      );
      const images = new Map<string, Image>([['a crash', new Image(crashed.bytes)]]);
      const random = new Random(SEED);
      for (const [name, damage] of Object.entries(DAMAGE)) {
        const image = new Image(Buffer.from(stopped.bytes));
        if (damage.forge(image, random)) images.set(name, image);
      }
      await compareAll(new Image(stopped.bytes), images, folder);
    }));
});
