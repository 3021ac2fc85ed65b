/**
 * Volumes and images on other people's NBD servers: nbdkit with its filters, QEMU with a qcow2 image,
 * servers that are killed under load. docs/TESTING.md, "Interop".
 */
import { randomBytes } from 'node:crypto';
import { readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
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
import { ForeignServer } from './nbd-servers.ts';
import { built, library, serve, uvdo } from './uvdo.ts';
import { makeImage, sha256 } from './workload.ts';

const MiB = 2 ** 20;
const DISK = 400 * MiB;
/** More than formatting such a disk writes, which is 264 KiB. */
const FORMATTED = 512 * 1024;
const KILLS = Number(process.env['UVDO_NBD_KILLS'] ?? 8);
const here = available();
const programs = ['nbdkit', 'qemu-nbd', 'qemu-img', 'nbdcopy'].filter((name) => !hasProgram(name));
const servers = programs.length === 0 || `missing ${programs.join(', ')}`;
const { skip, note } = skipReason(servers, here.tools, built());

const create = (target: string, source: string): Promise<unknown> =>
  uvdo(['create', target, source, '--no-index', '--quiet']);

/** A plain file of that many zeros. */
function emptyFile(path: string, size: number): string {
  writeFileSync(path, '');
  truncateSync(path, size);
  return path;
}

/** Runs `work` with a server, and stops it. */
async function withServer(
  starting: Promise<ForeignServer>,
  work: (server: ForeignServer) => Promise<void>,
): Promise<void> {
  const server = await starting;
  try {
    await work(server);
  } finally {
    await server.stop('SIGKILL');
  }
}

describe.skipIf(skip)(`exports of others${note}`, () => {
  it.each([
    ['memory, late answers', ['--filter=delay', 'memory', `${DISK}`, 'rdelay=2ms', 'wdelay=2ms']],
    ['blocks of 4096 bytes, 64 KiB at most', ['--filter=blocksize-policy', 'memory', `${DISK}`, 'blocksize-minimum=4096', 'blocksize-preferred=4096', 'blocksize-maximum=64K', 'blocksize-error-policy=error']],
    ['no structured replies, no zeroing', ['--no-sr', '--filter=nozero', '--filter=noextents', 'memory', `${DISK}`]],
    ['FUA by emulation, one request at a time', ['--filter=fua', '--filter=noparallel', 'memory', `${DISK}`, 'fuamode=emulate']],
  ] as const)('nbdkit: %s', async (_name, args) =>
    withFolder((folder) =>
      withServer(ForeignServer.nbdkit(folder, ...args), async ({ uri }) => {
        const image = makeImage(16 * MiB);
        const [source, back] = [join(folder, 'source'), join(folder, 'back')];
        writeFileSync(source, image);
        await create(uri, source);
        await uvdo(['import', uri, source, '--quiet', '--index', 'memory']);
        await uvdo(['export', uri, back, '--quiet']);
        expect(sha256(readFileSync(back))).toBe(sha256(image));
        const info = JSON.parse((await uvdo(['info', uri, '--json'])).stdout) as { state: string };
        expect(info.state).toBe('clean');
        await uvdo(['audit', uri]);
      }),
    ),
  ); // prettier-ignore

  it('nbdkit: errors are told as they are, and the volume survives them', async () =>
    withFolder(async (folder) => {
      const trigger = join(folder, 'trigger');
      const disk = emptyFile(join(folder, 'disk'), DISK);
      const args = ['--filter=error', 'file', disk, 'error=ENOSPC', 'error-pwrite-rate=100%', `error-file=${trigger}`]; // prettier-ignore
      await withServer(ForeignServer.nbdkit(folder, ...args), async ({ uri }) => {
        const source = join(folder, 'source');
        writeFileSync(source, makeImage(16 * MiB));
        await create(uri, source);
        writeFileSync(trigger, '');
        const failed = await uvdo(['import', uri, source, '--quiet', '--index', 'off'], 1);
        expect(failed.stderr).toMatch(/no space is left on the server/);
        expect(failed.stderr.trim().split('\n')).toHaveLength(1);
        rmSync(trigger);
        await uvdo(['recover', uri, '--quiet']).catch(() => undefined);
        await uvdo(['audit', uri]);
      });
    }));

  it("nbdkit's retry filter between: its server restarts, and nobody notices", async () =>
    withFolder(async (folder) => {
      const disk = emptyFile(join(folder, 'disk'), DISK);
      await withServer(ForeignServer.qemu(folder, '-f', 'raw', disk), async (behind) => {
        const args = ['--filter=retry', 'nbd', `uri=${behind.uri}`, 'retries=20', 'retry-delay=1', 'retry-exponential=no']; // prettier-ignore
        await withServer(ForeignServer.nbdkit(folder, ...args), async ({ uri }) => {
          const image = makeImage(16 * MiB);
          const [source, back] = [join(folder, 'source'), join(folder, 'back')];
          writeFileSync(source, image);
          const creating = create(uri, source);
          // Formatting has connections of its own, and one that is refused its first time is told so at
          // once: the kill is for a connection that stands, when blocks of the image arrive.
          let ended = false;
          const end = (): void => void (ended = true);
          creating.then(end, end);
          while (!ended && statSync(disk).blocks * 512 < FORMATTED) await pause(1);
          expect(ended, 'the image was in before the kill').toBe(false);
          await behind.stop('SIGKILL');
          await behind.start();
          await creating;
          await uvdo(['export', uri, back, '--quiet']);
          expect(sha256(readFileSync(back))).toBe(sha256(image));
        });
      });
      const audit = await vdoaudit(disk);
      expect(audit.clean, audit.output).toBe(true);
    }));

  it('images from server to server, holes as holes', async () =>
    withFolder(async (folder) => {
      const image = makeImage(16 * MiB);
      const source = join(folder, 'source');
      writeFileSync(source, image);
      const qcow2 = join(folder, 'source.qcow2');
      expect((await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', source, qcow2])).status).toBe(0); // prettier-ignore
      const target = emptyFile(join(folder, 'target'), 20 * MiB);
      writeFileSync(target, randomBytes(20 * MiB));
      const volume = join(folder, 'volume');
      await withServer(ForeignServer.qemu(folder, '-f', 'qcow2', '-r', qcow2), ({ uri }) =>
        create(volume, uri).then(() => undefined),
      );
      await withServer(ForeignServer.nbdkit(folder, 'file', target), ({ uri }) =>
        uvdo(['export', volume, uri, '--quiet']).then(() => undefined),
      );
      expect(sha256(readFileSync(target).subarray(0, image.length))).toBe(sha256(image));
    }));
});

describe.skipIf(skip)(`servers that are killed under load${note}`, () => {
  /**
   * Writes and flushes for ever while the server is killed; whoever flushed expects it to be there.
   * With `volatile`, what was not flushed is lost at every kill: nbdkit's cache is a file of its own.
   */
  it.each([
    ['qemu-nbd', false],
    ['nbdkit with a cache that a kill loses', true],
  ] as const)('%s: nothing flushed is lost, and nothing else either', async (_name, volatile) =>
    withFolder(async (folder) => {
      const { openVolume, formatVolume } = await library();
      const disk = emptyFile(join(folder, 'disk'), DISK);
      const starting = volatile
        ? ForeignServer.nbdkit(folder, '--filter=cache', 'file', disk, 'cache=writeback')
        : ForeignServer.qemu(folder, '-f', 'raw', '--cache=writeback', disk);
      await withServer(starting, async (server) => {
        await formatVolume(server.uri, { logicalSize: 64 * MiB, noIndex: true });
        const volume = await openVolume(server.uri, { index: 'memory' });
        const expected = Buffer.alloc(64 * MiB);
        let over = false;
        const writing = (async () => {
          for (let round = 0; !over; round++) {
            const at = ((round * 7919) % 250) * 256 * 1024;
            const bytes = randomBytes(256 * 1024);
            bytes.fill(round, 0, 100_000);
            await volume.write(at, bytes);
            bytes.copy(expected, at);
            if (round % 5 === 0) await volume.flush();
          }
        })();
        writing.catch(() => undefined);
        for (let kill = 0; kill < KILLS; kill++) {
          await pause(300 + (kill % 3) * 150);
          await server.stop('SIGKILL');
          await pause(kill % 2 === 0 ? 0 : 300);
          await server.start();
        }
        over = true;
        await writing;
        await volume.flush();
        expect(sha256(await volume.read(0, 64 * MiB))).toBe(sha256(expected));
        await volume.close();
        await server.stop(volatile ? 'SIGKILL' : 'SIGTERM');
        const back = join(folder, 'back');
        await uvdo(['export', disk, back, '--quiet']);
        expect(sha256(readFileSync(back))).toBe(sha256(expected));
      });
      const audit = await vdoaudit(disk);
      expect(audit.clean, audit.output).toBe(true);
    }),
  );
});

{
  const kernel = skipReason(here.uml, servers, built());
  describe.skipIf(kernel.skip)(`a volume written over NBD${kernel.note}`, () => {
    it("into QEMU's qcow2, and served on from there: the kernel reads it", async () =>
      withFolder(async (folder) => {
        const image = makeImage(16 * MiB);
        const source = join(folder, 'source');
        writeFileSync(source, image);
        const qcow2 = join(folder, 'disk.qcow2');
        expect((await run('qemu-img', ['create', '-f', 'qcow2', qcow2, `${DISK}`])).status).toBe(0);
        await withServer(ForeignServer.qemu(folder, '-f', 'qcow2', qcow2), async ({ uri }) => {
          await create(uri, source);
          const served = await serve(uri, folder, ['--index', 'memory']);
          expect((await run('nbdcopy', ['--flush', source, served.uri])).status).toBe(0);
          expect(await served.stop()).toBe(0);
        });
        const raw = join(folder, 'disk.raw');
        expect((await run('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', qcow2, raw])).status).toBe(0); // prettier-ignore
        const audit = await vdoaudit(raw);
        expect(audit.clean, audit.output).toBe(true);
        const out = await inKernel({
          engine: 'uml',
          disks: [raw],
          script: `set -e
vdo_start \${DISKS[0]} v
vdo_status v mode
dd if=/dev/mapper/v bs=1M status=none | sha256sum
vdo_stop v`,
        });
        expect(out.trim().split('\n')).toEqual(['normal', `${sha256(image)}  -`]);
      }));
  });
}
