/**
 * `uvdo serve` and the NBD clients of others: libnbd's tools, QEMU's and fio's, and a kernel with
 * real file systems on it. docs/TESTING.md, "Interop".
 *
 * `UVDO_NBD_FS="ext4 xfs btrfs"` chooses the file systems (default: ext4).
 */
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import {
  available,
  hasProgram,
  inKernel,
  run,
  skipReason,
  vdoaudit,
  withFolder,
} from './harness.ts';
import { built, serve, uvdo, type Server } from './uvdo.ts';
import { sha256 } from './workload.ts';

const MiB = 2 ** 20;
const SIZE = 64 * MiB;
const programs = ['nbdinfo', 'nbdcopy', 'qemu-img', 'fio'].filter((name) => !hasProgram(name));
const clients = programs.length === 0 || `missing ${programs.join(', ')}`;

async function ok(file: string, ...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await run(file, args);
  expect(status, `${file} ${args.join(' ')}\n${stdout}\n${stderr}`).toBe(0);
  return stdout;
}

/** A volume of `logical` bytes, served while `work` runs; stopped by SIGTERM and audited after. */
async function served(
  logical: string,
  work: (server: Server, folder: string) => Promise<void>,
): Promise<void> {
  await withFolder(async (folder) => {
    const path = join(folder, 'volume.vdo');
    await uvdo(['format', path, '--size', '2G', '--logical-size', logical, '--slab-size', '32M', '--no-index']); // prettier-ignore
    const server = await serve(path, folder, ['--index', 'memory']);
    try {
      await work(server, folder);
      expect(await server.stop()).toBe(0);
    } finally {
      await server.kill();
    }
    const { state } = JSON.parse((await uvdo(['info', path, '--json'])).stdout) as {
      state: string;
    };
    expect(state).toBe('clean');
    const audit = await vdoaudit(path);
    expect(audit.clean, audit.output).toBe(true);
  });
}

{
  const { skip, note } = skipReason(clients, available().tools, built());
  describe.skipIf(skip)(`uvdo serve and other people's clients${note}`, () => {
    it('nbdinfo --list', () =>
      served('64M', async ({ uri, socket }) => {
        const list = JSON.parse(
          await ok('nbdinfo', '--list', '--json', `nbd+unix:///?socket=${socket}`),
        ) as { exports: { 'export-name': string; 'export-size': number }[] };
        expect(list.exports).toHaveLength(1);
        expect(list.exports[0]).toMatchObject({ 'export-name': 'disk', 'export-size': SIZE });
        for (const can of ['connect', 'read', 'flush', 'fua', 'trim', 'zero']) {
          await ok('nbdinfo', '--can', can, uri);
        }
      }));

    it('nbdcopy both ways, qemu-img compare', () =>
      served('64M', async ({ uri }, folder) => {
        const image = Buffer.alloc(SIZE);
        randomBytes(8 * MiB).copy(image, MiB);
        image.copy(image, 20 * MiB, MiB, 9 * MiB);
        image.fill('text ', 40 * MiB, 44 * MiB + 100);
        const source = join(folder, 'source');
        const back = join(folder, 'back');
        writeFileSync(source, image);
        await ok('nbdcopy', '--flush', source, uri);
        await ok('nbdcopy', uri, back);
        expect(sha256(readFileSync(back))).toBe(sha256(image));
        await ok('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', source, uri);
        await ok('qemu-io', '-f', 'raw', '-c', 'write -P 7 12345 54321', '-c', 'discard 8M 4M', '-c', 'write -z 30M 1M', '-c', 'flush', uri); // prettier-ignore
        image.fill(7, 12345, 12345 + 54321);
        image.fill(0, 8 * MiB, 12 * MiB);
        image.fill(0, 30 * MiB, 31 * MiB);
        writeFileSync(source, image);
        await ok('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', source, uri);
      }));

    it('fio writes and verifies, several jobs at once', () =>
      served('256M', async ({ uri }) => {
        const jobs = [
          ['--name=small', '--rw=randwrite', '--bs=4k', '--offset=0', '--size=32m', '--iodepth=32'],
          ['--name=odd', '--rw=randwrite', '--bsrange=512-64k', '--blockalign=512', '--offset=64m', '--size=32m', '--iodepth=16'], // prettier-ignore
          ['--name=large', '--rw=write', '--bs=1m', '--offset=128m', '--size=64m', '--iodepth=4'],
        ];
        const common = ['--ioengine=nbd', `--uri=${uri}`, '--verify=crc32c', '--serialize_overlap=1', '--verify_fatal=1', '--fsync=64']; // prettier-ignore
        await Promise.all(jobs.map((job) => ok('fio', ...common, ...job)));
      }));
  });
}

{
  const { skip, note } = skipReason(available().qemu, clients, built());
  describe.skipIf(skip)(`file systems over QEMU's NBD client${note}`, () => {
    it.each((process.env['UVDO_NBD_FS'] ?? 'ext4').split(' '))('%s', (fs) =>
      served('512M', async ({ uri }) => {
        const guest = fileURLToPath(new URL('./lab/guest/fs-on-nbd', import.meta.url));
        const out = await inKernel({
          engine: 'qemu',
          disks: [uri],
          env: { FS: fs },
          timeoutSeconds: 500,
          script: readFileSync(guest, 'utf8'),
        });
        expect(out).toContain(`ok: ${fs}`);
      }),
    );
  });
}
