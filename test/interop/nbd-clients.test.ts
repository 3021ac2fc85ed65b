/**
 * `uvdo serve` and the NBD clients of others: libnbd's tools, QEMU's and fio's, and a kernel with
 * real file systems on it. docs/TESTING.md, "Interop".
 *
 * `UVDO_NBD_FS="ext4 xfs btrfs"` chooses the file systems (default: ext4).
 */
import { randomBytes } from 'node:crypto';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { CA, CLIENT, SERVER } from '../support/certificates.ts';
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
const programs = ['nbdinfo', 'nbdcopy', 'nbdkit', 'qemu-img', 'fio'].filter(
  (name) => !hasProgram(name),
);
const clients = programs.length === 0 || `missing ${programs.join(', ')}`;

const fuse =
  ['nbdfuse', 'fusermount3', 'mkfs.ext4'].every(hasProgram) && existsSync('/dev/fuse')
    ? true
    : 'no nbdfuse or /dev/fuse';

async function ok(file: string, ...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await run(file, args);
  expect(status, `${file} ${args.join(' ')}\n${stdout}\n${stderr}`).toBe(0);
  return stdout;
}

/** A volume of `logical` bytes, served while `work` runs; stopped by SIGTERM and audited after. */
async function served(
  logical: string,
  work: (server: Server, folder: string) => Promise<void>,
  options: (folder: string) => readonly string[] = () => [],
): Promise<void> {
  await withFolder(async (folder) => {
    const path = join(folder, 'volume.vdo');
    await uvdo(['format', path, '--size', '2G', '--logical-size', logical, '--slab-size', '32M', '--no-index']); // prettier-ignore
    const server = await serve(path, folder, ['--index', 'memory', ...options(folder)]);
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

    it('qemu-io, every operation', () =>
      served('64M', async ({ uri }) => {
        const commands = [
          'write -P 1 0 64k', 'write -P 2 -f 100000 3333', 'write -z 1M 100k', 'write -z -u 2M 64k', 'write -z -n 4096 8192',
          'writev -P 3 3M 4k 12k 512', 'aio_write -P 4 5M 1M', 'aio_flush', 'discard 5M 64k', 'flush', 'read -P 1 0 4k',
          'read -P 2 100000 3333', 'read -P 0 4096 8192', 'read -P 0 1M 100k', 'readv -P 3 3M 4k 12k 512',
          'aio_read -P 4 5308416 100k', 'read -P 0 5M 64k', 'write -P 9 67108352 512', 'read -P 9 67108352 512', 'length', 'map', 'alloc 0 1M',
        ]; // prettier-ignore
        const out = await ok('qemu-io', '-f', 'raw', ...commands.flatMap((one) => ['-c', one]), uri); // prettier-ignore
        expect(out).not.toMatch(/fail|verification/i);
        for (const beyond of ['write 64M 512', 'read 64M 512', 'discard 64M 4k']) {
          const { status, stdout } = await run('qemu-io', ['-f', 'raw', '-c', beyond, uri]);
          expect([status, /wrote|read \d+\/|discard \d+\//.test(stdout)]).toEqual([1, false]);
        }
      }));

    it('qemu-img bench and convert, nbdcopy from server to server', () =>
      served('64M', ({ uri }, folder) =>
        served('64M', async (other) => {
          await ok('qemu-img', 'bench', '-w', '-f', 'raw', '-c', '500', '-d', '32', '-s', '8k', '--pattern=7', uri); // prettier-ignore
          await ok('qemu-img', 'bench', '-f', 'raw', '-c', '500', '-d', '32', uri);
          await ok('nbdcopy', '--flush', '--allocated', uri, other.uri);
          await ok('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', uri, other.uri);
          const copy = join(folder, 'copy.qcow2');
          await ok('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', uri, copy);
          await ok('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', uri, copy);
        }),
      ));

    it("nbdkit's nbd client with checkwrite", () =>
      served('64M', async ({ uri }, folder) => {
        const source = join(folder, 'source');
        const image = Buffer.alloc(SIZE);
        randomBytes(3 * MiB).copy(image, 7 * MiB);
        writeFileSync(source, image);
        await ok('nbdcopy', '--flush', source, uri);
        // checkwrite passes only what is there already, and so checks every byte that a copy writes.
        await ok('nbdkit', '-U', '-', '--filter=checkwrite', 'nbd', `uri=${uri}`, '--run', `nbdcopy --allocated ${source} "$uri"`); // prettier-ignore
      }));

    it.skipIf(fuse !== true)(
      `nbdfuse, as a plain file${fuse === true ? '' : ` (skipped: ${fuse})`}`,
      () =>
        served('64M', async ({ uri }, folder) => {
          const file = join(folder, 'mounted');
          writeFileSync(file, '');
          const child = spawn('nbdfuse', [file, uri], { stdio: 'inherit' });
          const ended = new Promise((resolve) => child.once('exit', resolve));
          try {
            for (let tries = 0; statSync(file).size !== SIZE && tries < 200; tries++) {
              await new Promise((resolve) => setTimeout(resolve, 25));
            }
            await ok('mkfs.ext4', '-q', '-F', '-d', '/usr/share/perl5/Debconf', file);
            await ok('e2fsck', '-fn', file);
            expect(await ok('debugfs', '-R', 'ls -p /', file)).toContain('Config.pm');
          } finally {
            await run('fusermount3', ['-u', file]);
            await ended;
          }
        }),
    );

    it('fio verifies over eight connections', () =>
      served('256M', async ({ uri }) => {
        const options = ['--name=eight', '--numjobs=8', '--size=8m', '--offset_increment=32m', '--rw=randrw', '--bsrange=4k-64k', '--iodepth=16']; // prettier-ignore
        await ok('fio', '--ioengine=nbd', `--uri=${uri}`, '--verify=crc32c', '--serialize_overlap=1', '--verify_fatal=1', '--verify_state_save=0', '--fsync=32', ...options); // prettier-ignore
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
  describe.skipIf(skip)(`file systems over QEMU's NBD client, TCP and TLS${note}`, () => {
    it.each((process.env['UVDO_NBD_FS'] ?? 'ext4').split(' '))('%s', (fs) =>
      served(
        '512M',
        async ({ uri }, folder) => {
          const guest = fileURLToPath(new URL('./lab/guest/fs-on-nbd', import.meta.url));
          const out = await inKernel({
            engine: 'qemu',
            disks: [uri],
            tls: join(folder, 'pki'),
            env: { FS: fs },
            timeoutSeconds: 500,
            script: readFileSync(guest, 'utf8'),
          });
          expect(out).toContain(`ok: ${fs}`);
        },
        tlsOptions,
      ),
    );
  });
}

/** Certificates for both sides in `folder`, and the options that make the server require them. */
function tlsOptions(folder: string): readonly string[] {
  const pki = join(folder, 'pki');
  mkdirSync(pki);
  const files = {
    'ca-cert.pem': CA,
    'client-cert.pem': CLIENT.cert,
    'client-key.pem': CLIENT.key,
    'server-cert.pem': SERVER.cert,
    'server-key.pem': SERVER.key,
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(pki, name), text);
  const at = (name: string): string => join(pki, name);
  return ['--port', '0', '--tls-cert', at('server-cert.pem'), '--tls-key', at('server-key.pem'), '--tls-ca', at('ca-cert.pem')]; // prettier-ignore
}
