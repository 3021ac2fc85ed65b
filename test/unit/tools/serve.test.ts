import {
  existsSync,
  readdirSync,
  readFileSync,
  writeFileSync,
  statSync,
  truncateSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { VdoError } from '../../../src/base/errors.ts';
import { openVolume } from '../../../src/volume/open.ts';
import { formatVolume } from '../../../src/volume/format.ts';
import { Arguments } from '../../../tools/cli/args.ts';
import { command } from '../../../tools/commands/serve.ts';
import { command as stats } from '../../../tools/commands/stats.ts';
import { codeOf } from '../../contract/storage.ts';
import { CA, CLIENT, SERVER } from '../../support/certificates.ts';
import { ask, greet, NBD, NbdClient, NbdSocket } from '../../support/nbd-client.ts';
import { temporaryDirectory } from './support.ts';

const MiB = 1 << 20;

describe('serve', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let out = '';
  let err = '';

  beforeEach(async () => {
    directory = await temporaryDirectory();
    out = '';
    err = '';
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      out += String(text);
      return true;
    });
    vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
      err += String(text);
      return true;
    });
  });
  afterEach(async () => {
    vi.restoreAllMocks();
    await directory.remove();
  });

  const run = async (...argv: string[]): Promise<number | void> =>
    command.run(new Arguments(command, argv));
  const announced = async (): Promise<void> => {
    while (!out.endsWith('\n')) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  const volumeAt = async (name: string): Promise<string> => {
    const path = join(directory.path, name);
    await formatVolume(path, {
      size: 200 * MiB,
      logicalSize: 256 * MiB,
      slabSize: 32 * MiB,
      noIndex: true,
    });
    return path;
  };

  test('serves volumes until SIGTERM, and leaves them clean with every byte', async () => {
    const first = await volumeAt('first.vdo');
    const second = await volumeAt('second.vdo');
    const socket = join(directory.path, 'socket');
    const running = run(first, second, '--socket', socket, '--index', 'memory', '--json');
    await announced();
    const { exports } = JSON.parse(out) as {
      exports: { name: string; uri: string; size: number }[];
    };
    expect(exports.map(({ name, size }) => [name, size])).toEqual([
      ['first.vdo', 256 * MiB],
      ['second.vdo', 256 * MiB],
    ]);
    expect(exports[1]!.uri).toBe(`nbd+unix:///second.vdo?socket=${socket}`);
    expect(await codeOf(openVolume(first))).toBe('Busy');

    const one = await NbdClient.connect({ socket }, '');
    const two = await NbdClient.connect({ socket }, 'second.vdo');
    const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, i) => (i * 7919) >>> 5));
    await one.write(12_345, bytes);
    await two.write(200 * MiB + 1, bytes, { fua: true });
    await one.zero(20_000, 5000);
    expect((await two.read(200 * MiB, 100_001)).subarray(1).equals(bytes)).toBe(true);

    process.emit('SIGTERM');
    process.emit('SIGINT');
    expect(await running).toBeUndefined();
    expect(err).toContain('still saving');
    expect(err).toContain('uvdo serve: saved');
    one.destroy();
    two.destroy();

    const volume = await openVolume(first, { readOnly: true });
    const expected = Buffer.from(bytes);
    expected.fill(0, 20_000 - 12_345, 25_000 - 12_345);
    expect(expected.equals(await volume.read(12_345, bytes.length))).toBe(true);
    await volume.close();
    expect(process.listenerCount('SIGHUP')).toBe(0);
  });

  test('says so when a volume turns read-only, and goes on reading', async () => {
    const path = await volumeAt('cut.vdo');
    const socket = join(directory.path, 'socket');
    const running = run(path, '--socket', socket, '--index', 'memory');
    await announced();
    const client = await NbdClient.connect({ socket }, '');
    await client.write(0, Buffer.alloc(4096, 7));
    await client.flush();
    truncateSync(path, statSync(path).size - 4096);
    await client.write(4096, Buffer.alloc(4096, 8));
    await expect(client.flush()).rejects.toMatchObject({ errno: 5 });
    expect(err).toContain(`uvdo serve: ${path}: the volume is read-only since an error`);
    expect(err).toContain(`uvdo rebuild ${path}`);
    expect((await client.read(0, 4096)).every((byte) => byte === 7)).toBe(true);
    client.destroy();
    process.emit('SIGTERM');
    await running.catch(() => undefined);
  });

  test('with --read-only writes nothing', async () => {
    const path = await volumeAt('frozen.vdo');
    const socket = join(directory.path, 'socket');
    const running = run(path, '--socket', socket, '--read-only', '--export', 'x y', '--quiet');
    await announced();
    expect(out).toBe(`${path}: 256 MiB, read-only, nbd+unix:///x%20y?socket=${socket}\n`);
    const client = await NbdClient.connect({ socket }, 'x y');
    expect(client.flags & 2).toBe(2);
    await expect(client.write(0, Buffer.alloc(4096))).rejects.toMatchObject({ errno: 1 });
    expect((await client.read(0, 4096)).every((byte) => byte === 0)).toBe(true);
    process.emit('SIGINT');
    await running;
    client.destroy();
    expect(err).toBe('');
  });

  test('answers `stats` while it has the volume, and stops with the last client if told so', async () => {
    const path = await volumeAt('asked.vdo');
    const [socket, pidFile] = [join(directory.path, 'socket'), join(directory.path, 'pid')];
    const running = run(
      path,
      '--socket',
      socket,
      '--once',
      '--pid-file',
      pidFile,
      '--log',
      'debug',
    );
    await announced();
    expect(readFileSync(pidFile, 'utf8')).toBe(`${process.pid}\n`);
    const probe = await NbdSocket.connect({ socket });
    await greet(probe);
    await ask(probe, NBD.ABORT);
    await probe.untilClosed();
    const client = await NbdClient.connect({ socket });
    // Acknowledged is not counted yet.
    await client.write(0, Buffer.alloc(8192, 'some text '));
    await client.flush();
    out = '';
    await stats.run(new Arguments(stats, [path, '--json']));
    const answer = JSON.parse(out) as {
      blocks: { written: number };
      server: { pid: number; clients: number };
    };
    expect(answer.blocks.written).toBe(2);
    expect(answer.server.pid).toBe(process.pid);
    // The probe may not be gone yet.
    expect(answer.server.clients).toBeGreaterThanOrEqual(1);
    await client.disconnect();
    await running;
    expect(err).toContain('a client of "asked.vdo" left');
    expect(existsSync(pidFile)).toBe(false);
    out = '';
    await stats.run(new Arguments(stats, [path, '--json']));
    expect(JSON.parse(out)).not.toHaveProperty('server');
  });

  test('serves over TLS what its files allow', async () => {
    const path = await volumeAt('secret.vdo');
    const file = (name: string, text: string): string => {
      writeFileSync(join(directory.path, name), text);
      return join(directory.path, name);
    };
    const [cert, key] = [file('cert', SERVER.cert), file('key', SERVER.key)];
    expect(await codeOf(run(path, '--host', '0.0.0.0', '--port', '0'))).toBe('InvalidArgument');
    expect(await codeOf(run(path, '--tls-cert', cert))).toBe('InvalidArgument');
    expect(await codeOf(run(path, '--tls-cert', cert, '--tls-key', `${key}s`))).toBe('Io');
    expect(await codeOf(run(path, '--tls-psk', key))).toBe('InvalidArgument');
    const [ca, psk] = [file('ca', CA), file('psk', 'alice:0011223344556677\n')];
    const tls = ['--tls-cert', cert, '--tls-key', key, '--tls-ca', ca, '--tls-psk', psk];
    const running = run(path, '--host', '0.0.0.0', '--port', '0', ...tls, '--json', '--quiet');
    await announced();
    const { address } = JSON.parse(out) as { address: { port: number } };
    const line = await NbdSocket.connect({ host: '127.0.0.1', port: address.port });
    await greet(line);
    expect((await ask(line, NBD.LIST))[0]!.type).toBe(NBD.ERR_TLS_REQD);
    await ask(line, NBD.STARTTLS);
    const secured = await line.secure({ ca: CA, host: 'localhost', ...CLIENT });
    expect((await NbdClient.open(secured, 'secret.vdo')).size).toBe(256 * MiB);
    process.emit('SIGTERM');
    await running;
    expect(err).toBe('');
  });

  test('refuses what it cannot do, before it touches a volume', async () => {
    const path = await volumeAt('a.vdo');
    for (const argv of [
      ['--host', '0.0.0.0'],
      ['--host', '127.0.0.1', '--socket', 's'],
      ['--tls-optional'],
      ['--once', '--persistent'],
      ['--memory', '1M'],
      ['--log', 'loud'],
      ['--http', '127.0.0.1:80'],
      ['--port', 'x'],
      ['--index', 'best'],
      [path],
      ['--export', 'x', join(directory.path, 'b.vdo')],
    ]) {
      expect(await codeOf(run(path, ...argv)), argv.join(' ')).toBe('InvalidArgument');
    }
    expect(readdirSync(directory.path)).toEqual(['a.vdo']);
    const volume = await openVolume(path, { index: 'off' });
    const socket = join(directory.path, 's');
    await expect(run(path, '--socket', socket)).rejects.toBeInstanceOf(VdoError);
    expect(await codeOf(run(path, '--socket', socket))).toBe('Busy');
    await volume.close();
    expect(out).toBe('');
    expect(process.listenerCount('SIGHUP')).toBe(0);
  });
});
