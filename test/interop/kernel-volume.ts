/**
 * Small volumes and the real kernel: make one by a workload and a crash, and see what the kernel
 * makes of one that was forged.
 */
import { join } from 'node:path';
import { readFileSync } from 'node:fs';
import { inKernel, runInKernel, vdoaudit, withFolder } from './harness.ts';
import { formatImage, type ImageOptions } from './format-image.ts';
import { VdoImage } from './vdo-image.ts';
import { sha256, Workload } from './workload.ts';

/** Two to five slabs, the smallest journals that the kernel takes. */
export const TINY: ImageOptions = {
  slabSize: 1024,
  slabJournal: 16,
  journal: 64,
  slabs: 4,
  logicalBlocks: 4096,
};

/** Table parameters that suit the tiny journals: cache and maximum age. */
export const TINY_TABLE = { VDO_CACHE: '4096', VDO_ERA: '32' };

/** A volume after a workload and then a crash or a clean stop; and what it must hold. */
export async function makeVolume(
  from: VdoImage,
  fill: (workload: Workload) => void,
  options: { end: 'crash' | 'stop'; table?: string; before?: Buffer; logicalBlocks?: number },
): Promise<{ image: VdoImage; expected: Buffer }> {
  return withFolder(async (folder) => {
    const path = join(folder, 'volume');
    from.save(path);
    const workload = new Workload(
      folder,
      options.logicalBlocks ?? TINY.logicalBlocks,
      options.before,
    );
    fill(workload);
    const end = options.end === 'crash' ? 'echo CRASH-NOW; sleep 5' : 'vdo_stop v';
    await inKernel({
      engine: 'uml',
      disks: [path],
      share: folder,
      env: TINY_TABLE,
      crash: options.end === 'crash',
      script: `set -e
vdo_start \${DISKS[0]} v ${options.table ?? ''}
vdo_wait_recovery v
${workload.script()}
${end}`,
    });
    return { image: VdoImage.load(path), expected: workload.expected };
  });
}

export function tiny(change: Partial<ImageOptions> = {}): VdoImage {
  return formatImage({ ...TINY, ...change });
}

export interface Verdict {
  /** Whether the table was accepted. */
  readonly started: boolean;
  /** normal, read-only … once recovered. */
  readonly mode: string;
  /** Whether the logical space read as expected. */
  readonly right: boolean;
  /** `vdoaudit` after the stop. */
  readonly auditClean: boolean;
  readonly audit: string;
  /** The volume after the stop. */
  readonly after: VdoImage;
  readonly messages: string;
}

/** Starts a forged volume in the kernel, lets it recover, compares all of it, stops, audits. */
export async function judge(
  image: VdoImage,
  expected: Buffer,
  table = '',
  extraWrites = true,
): Promise<Verdict> {
  return withFolder(async (folder) => {
    const path = join(folder, 'volume');
    image.save(path);
    const { stdout } = await runInKernel({
      engine: 'uml',
      disks: [path],
      share: folder,
      env: TINY_TABLE,
      script: `
if vdo_start \${DISKS[0]} v ${table}; then
  vdo_wait_recovery v 20
  vdo_status v mode > /mnt/mode
  sha256sum < /dev/mapper/v | cut -d' ' -f1 > /mnt/sum
  ${extraWrites ? 'dd if=/dev/urandom of=/run/more bs=4096 count=300 status=none; put /run/more /dev/mapper/v 0 && cmp -n $((300 * 4096)) /run/more /dev/mapper/v && echo ok > /mnt/more' : ''}
  vdo_stop v
fi
dmesg | grep -E 'vdo|device-mapper' > /mnt/messages`,
    });
    const file = (name: string): string => {
      try {
        return readFileSync(join(folder, name), 'utf8').trim();
      } catch {
        return '';
      }
    };
    const audit = await vdoaudit(path);
    return {
      started: file('mode') !== '',
      mode: file('mode'),
      right: file('sum') === sha256(expected) && (!extraWrites || file('more') === 'ok'),
      auditClean: audit.clean,
      audit: audit.output,
      after: VdoImage.load(path),
      messages: `${stdout}\n${file('messages')}`,
    };
  });
}
