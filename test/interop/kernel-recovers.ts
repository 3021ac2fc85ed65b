/** What the kernel makes of a volume that was not closed: it must come up whole, and pass the audit. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { runInKernel, vdoaudit } from './harness.ts';

/**
 * Has the kernel recover the volume in `path`, read all of it, and stop it; returns what it read. `where`
 * is for messages, `env` for tables that say where things lie (kernel-volume.ts).
 */
export async function kernelRecovers(
  path: string,
  folder: string,
  where: string,
  env: Readonly<Record<string, string>> = {},
): Promise<Buffer> {
  const { status, stdout, stderr } = await runInKernel({
    engine: 'uml',
    disks: [path],
    share: folder,
    env,
    script: `set -e
vdo_start \${DISKS[0]} v compression on
vdo_wait_recovery v
vdo_status v mode
dd if=/dev/mapper/v of=/mnt/dump bs=1M status=none
vdo_stop v
vdo_config \${DISKS[0]} state`,
  });
  expect(status, `${where}: ${stdout}${stderr}`).toBe(0);
  expect(stdout.trim().split('\n'), where).toEqual(['normal', 'clean']);
  const audit = await vdoaudit(path);
  expect(audit.clean, `${where}: ${audit.output}`).toBe(true);
  return readFileSync(join(folder, 'dump'));
}
