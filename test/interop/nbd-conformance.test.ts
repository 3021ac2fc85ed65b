/**
 * Every option and command by libnbd (nbd-conformance.py), in the clear, over TLS with certificates and
 * with a pre-shared key; what other tools list and map; sockets handed over as systemd does.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { CA, CLIENT, SERVER } from '../support/certificates.ts';
import { hasProgram, run, skipReason, withFolder } from './harness.ts';
import { built, DIST, endOf, uvdo } from './uvdo.ts';

const here = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
/** Debian's own: only that one finds python3-libnbd. */
const PYTHON = '/usr/bin/python3';
const KEY = '00112233445566778899aabbccddeeff';

const hasBinding = (await run(PYTHON, ['-c', 'import nbd'])).status === 0;
const missing = ['nbdinfo', 'qemu-nbd', 'nbd-client'].filter((name) => !hasProgram(name));
const clients = missing.length === 0 || `missing ${missing.join(', ')}`;

async function ok(file: string, ...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await run(file, args);
  expect(status, `${file} ${args.join(' ')}\n${stdout}\n${stderr}`).toBe(0);
  return stdout;
}

/** A volume of 8 MiB as `disk` and `frozen`, while `work` runs. */
async function served(
  options: object,
  work: (
    address: { host?: string; port?: number; socket?: string },
    folder: string,
  ) => Promise<void>,
): Promise<void> {
  await withFolder(async (folder) => {
    const path = join(folder, 'volume.vdo');
    await uvdo(['format', path, '--size', '256M', '--logical-size', '8M', '--slab-size', '32M', '--no-index']); // prettier-ignore
    const where = 'port' in options ? options : { ...options, socket: join(folder, 'socket') };
    const child = spawn(
      process.execPath,
      [here('./nbd-server.mjs'), join(DIST, 'src', 'index.js'), path, JSON.stringify(where)],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    const ended = endOf(child);
    const line = await new Promise<string>((resolve) => child.stdout.once('data', resolve));
    try {
      await work(JSON.parse(line.toString()), folder);
    } finally {
      child.kill('SIGTERM');
      expect(await ended).toBe(0);
    }
    const { stdout } = await uvdo(['audit', path, '--json']);
    expect((JSON.parse(stdout) as { clean: boolean }).clean).toBe(true);
  });
}

async function conform(address: string, env: Record<string, string> = {}): Promise<void> {
  const script = here('./nbd-conformance.py');
  const result = await run(PYTHON, [script, address, 'disk', 'frozen'], { env });
  expect(result.status, `${result.stdout}\n${result.stderr}`).toBe(0);
  expect(result.stdout).toMatch(/^ok 1\d\d checks/);
}

{
  const { skip, note } = skipReason(hasBinding || 'missing python3-libnbd', built());
  describe.skipIf(skip)(`uvdo's NBD server by libnbd, option by option${note}`, () => {
    it('in the clear', () => served({}, ({ socket }) => conform(socket!)));

    it('over TLS, both sides with certificates', () =>
      served(
        { host: '127.0.0.1', port: 0, tls: { ...SERVER, ca: CA } },
        async ({ port }, folder) => {
          const pki = join(folder, 'pki');
          mkdirSync(pki);
          writeFileSync(join(pki, 'ca-cert.pem'), CA);
          writeFileSync(join(pki, 'client-cert.pem'), CLIENT.cert);
          writeFileSync(join(pki, 'client-key.pem'), CLIENT.key);
          await conform(`localhost:${port}`, { TLS_CERTIFICATES: pki });
          const uri = `nbds://localhost:${port}/disk?tls-certificates=${pki}`;
          expect(await ok('nbdinfo', uri)).toContain('with TLS');
          const { status, stderr } = await run('nbdinfo', [`nbd://localhost:${port}/disk`]);
          expect(status, stderr).not.toBe(0);
        },
      ));

    it('over TLS with a pre-shared key', () =>
      served(
        { host: '127.0.0.1', port: 0, tls: { psk: [['alice', KEY]] } },
        async ({ port }, folder) => {
          const file = join(folder, 'keys.psk');
          writeFileSync(file, `alice:${KEY}\n`);
          await conform(`localhost:${port}`, { TLS_PSK: `alice:${file}` });
          writeFileSync(file, `alice:${KEY.replace('0', '1')}\n`);
          const uri = `nbds://alice@localhost:${port}/disk?tls-psk-file=${file}`;
          expect((await run('nbdinfo', [uri])).status).not.toBe(0);
        },
      ));
  });
}

{
  const { skip, note } = skipReason(clients, built());
  describe.skipIf(skip)(`what tools see of uvdo's NBD server${note}`, () => {
    it('nbdinfo, qemu-nbd and nbd-client list; nbdinfo and qemu-img map', () =>
      served({ host: '127.0.0.1', port: 0 }, async ({ port }) => {
        const uri = `nbd://127.0.0.1:${port}/disk`;
        const list = await ok('qemu-nbd', '--list', '-b', '127.0.0.1', '-p', String(port));
        for (const text of [
          'exports available: 2',
          "export: 'frozen'",
          'x-uvdo:mapping',
          'the same, read-only',
        ]) {
          // prettier-ignore
          expect(list).toContain(text);
        }
        expect(await ok('nbd-client', '-l', '127.0.0.1', String(port))).toContain('frozen');
        await ok('qemu-io', '-f', 'raw', '-c', 'write -P 1 1M 64k', uri);
        const map = JSON.parse(await ok('nbdinfo', '--map', '--json', uri)) as {
          offset: number;
          length: number;
          type: number;
        }[];
        const MiB = 1 << 20;
        const expected = [
          [0, MiB, 3],
          [MiB, 65_536, 0],
          [MiB + 65_536, 7 * MiB - 65_536, 3],
        ];
        expect(map.map(({ offset, length, type }) => [offset, length, type])).toEqual(expected);
        const own = JSON.parse(await ok('nbdinfo', '--map=x-uvdo:mapping', '--json', uri)) as {
          type: number;
        }[];
        // One content 16 times over: a block that all share (nothing else came to be packed with it).
        expect(own.map(({ type }) => type)).toEqual([0, 10, 0]);
        const image = JSON.parse(
          await ok('qemu-img', 'map', '--output=json', '-f', 'raw', uri),
        ) as {
          start: number;
          length: number;
          data: boolean;
          zero: boolean;
        }[];
        expect(image.map(({ start, length, data }) => [start, length, data ? 0 : 3])).toEqual(
          expected,
        );
      }));

    it('a socket handed over with LISTEN_FDS, --once', () =>
      withFolder(async (folder) => {
        const path = join(folder, 'v.vdo');
        await uvdo(['format', path, '--size', '256M', '--logical-size', '8M', '--slab-size', '32M', '--no-index']); // prettier-ignore
        const socket = join(folder, 'handed-over');
        const script = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(5)
os.dup2(s.fileno(), 3); os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')
os.execvp(sys.argv[2], sys.argv[2:])`;
        const command = [process.execPath, join(DIST, 'tools', 'vdo.js'), 'serve', path, '--once', '--quiet']; // prettier-ignore
        const child = spawn(PYTHON, ['-c', script, socket, ...command], { stdio: 'ignore' });
        const ended = endOf(child);
        // The socket listens before the server does: clients just wait.
        while (!existsSync(socket)) {
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        expect(await ok('nbdinfo', '--size', `nbd+unix:///?socket=${socket}`)).toBe('8388608\n');
        expect(await ended).toBe(0);
      }));
  });
}
