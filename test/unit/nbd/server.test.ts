import fs from 'node:fs';
import net from 'node:net';
import { beforeEach, describe, expect, it } from 'vitest';
import { isLoopback } from '../../../src/nbd/listen.ts';
import { serve } from '../../../src/nbd/server.ts';
import { codeOf } from '../../contract/storage.ts';
import { MemoryDevice } from '../../support/memory-device.ts';
import { NbdClient } from '../../support/nbd-client.ts';
import { World } from './support.ts';

const MiB = 1 << 20;

describe('serve', () => {
  const world = World.each();
  let device: MemoryDevice;

  beforeEach(() => {
    world.current = new World();
    device = new MemoryDevice(MiB);
  });

  it('listens on loopback and tells where', async () => {
    const server = await serve([{ name: 'a b', volume: device }], { port: 0 });
    const { address } = server;
    if (!('port' in address)) throw new Error('no port');
    expect(address.host).toBe('127.0.0.1');
    expect(server.uri('a b')).toBe(`nbd://127.0.0.1:${address.port}/a%20b`);
    const client = await NbdClient.connect(address, 'a b');
    await client.write(7, Buffer.from('over TCP'));
    expect((await client.read(7, 8)).toString()).toBe('over TCP');
    expect(server.clients).toBe(1);
    await client.disconnect();
    await server.close();
    expect(await codeOf(serve([{ name: 'a', volume: device }], { port: 70_000 }))).toBe(
      'InvalidArgument',
    );
  });

  it('refuses descriptors that are no sockets, and more than one kind of address', async () => {
    const exports = [{ name: 'a', volume: device }];
    expect(await codeOf(serve(exports, { fds: [3], port: 5 }))).toBe('InvalidArgument');
    expect(await codeOf(serve(exports, { fds: [9999] }))).toBe('Io');
  });

  it('tells the URI of a socket', async () => {
    const server = await world.current.serve([{ name: 'x', volume: device }]);
    expect(server.uri('x')).toBe(`nbd+unix:///x?socket=${world.current.address.socket}`);
    expect(server.address).toEqual(world.current.address);
  });

  it('refuses addresses that others can reach', async () => {
    for (const host of ['0.0.0.0', '::', '192.168.1.1', 'example.org']) {
      expect(isLoopback(host)).toBe(false);
      expect(await codeOf(serve([{ name: 'a', volume: device }], { host, port: 0 }))).toBe(
        'InvalidArgument',
      );
    }
    expect(['localhost', '127.0.0.1', '127.1.2.3', '::1'].map(isLoopback)).not.toContain(false);
  });

  it('refuses exports that make no sense', async () => {
    const options = world.current.address;
    expect(await codeOf(serve([], options))).toBe('InvalidArgument');
    const twice = [
      { name: 'a', volume: device },
      { name: 'a', volume: device },
    ];
    expect(await codeOf(serve(twice, options))).toBe('InvalidArgument');
    for (const name of ['x'.repeat(4097), 'a\0b']) {
      expect(await codeOf(serve([{ name, volume: device }], options))).toBe('InvalidArgument');
    }
    const long = { socket: `/tmp/${'x'.repeat(120)}` };
    expect(await codeOf(serve([{ name: 'a', volume: device }], long))).toBe('InvalidArgument');
    const both = { ...options, port: 1 };
    expect(await codeOf(serve([{ name: 'a', volume: device }], both))).toBe('InvalidArgument');
  });

  it('takes over a stale socket, and neither a live one nor a file', async () => {
    const { socket } = world.current.address;
    await world.current.serve([{ name: 'a', volume: device }]);
    expect(await codeOf(serve([{ name: 'b', volume: device }], { socket }))).toBe('Busy');
    expect((await world.current.client('a')).size).toBe(MiB);

    const stale = `${socket}.stale`;
    const dead = net.createServer().listen(stale);
    await new Promise((resolve) => dead.once('listening', resolve));
    fs.renameSync(stale, `${stale}.kept`);
    await new Promise((resolve) => dead.close(resolve));
    const heir = await serve([{ name: 'a', volume: device }], { socket: `${stale}.kept` });
    await heir.close();
    expect(fs.existsSync(`${stale}.kept`)).toBe(false);

    const file = `${socket}.file`;
    fs.writeFileSync(file, 'precious');
    expect(await codeOf(serve([{ name: 'a', volume: device }], { socket: file }))).toBe('Busy');
    expect(fs.readFileSync(file, 'utf8')).toBe('precious');
  });

  it('serves several clients of several exports at once', async () => {
    const other = new MemoryDevice(2 * MiB);
    await world.current.serve([
      { name: 'one', volume: device },
      { name: 'two', volume: other },
    ]);
    const clients = await Promise.all(
      Array.from({ length: 12 }, (_, i) => world.current.client(i % 2 === 0 ? 'one' : 'two')),
    );
    await Promise.all(
      clients.map(async (client, i) => {
        for (let round = 0; round < 40; round++) {
          const at = (round * 12 + i) * 1024;
          await client.write(at, Buffer.alloc(1024, i * 20 + 1));
        }
      }),
    );
    // A flush on any connection covers what was answered on all: one device behind them.
    await clients[0]!.flush();
    for (const [i, client] of clients.entries()) {
      const back = await clients[(i + 2) % 12]!.read(i * 1024, 1024);
      expect(back.every((byte) => byte === i * 20 + 1)).toBe(true);
      expect(client.size).toBe(i % 2 === 0 ? MiB : 2 * MiB);
    }
  });

  it('finishes what is in flight when it closes, flushes, and refuses the rest', async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    device.beforeCall = (call) => (call === 'write' ? gate : undefined);
    const server = await world.current.serve([{ name: 'a', volume: device }]);
    const client = await world.current.client();
    const idle = await world.current.line();
    const writes = Array.from({ length: 10 }, (_, i) =>
      client.write(i * 4096, Buffer.alloc(4096, 1)),
    );
    while (device.inFlight < 10) await new Promise(setImmediate);
    const closed = server.close();
    expect(server.close()).toBe(closed);
    const late = await client.read(0, 1).then(
      () => 0,
      (error: { errno?: number }) => error.errno,
    );
    expect(late).toBe(108);
    expect(device.calls.flush).toBe(0);
    release();
    await Promise.all(writes);
    await closed;
    await idle.untilClosed();
    expect(device.calls.flush).toBe(1);
    expect(device.bytes.subarray(0, 40_960).every((byte) => byte === 1)).toBe(true);
    await expect(client.read(0, 1)).rejects.toThrow();
    expect(fs.existsSync(world.current.address.socket)).toBe(false);
  });

  it('says so when the last flush fails', async () => {
    device.beforeCall = () => {
      throw new Error('lost');
    };
    const server = await serve([{ name: 'a', volume: device }], world.current.address);
    await expect(server.close()).rejects.toThrow('lost');
  });
});

describe('a server under a flood of connections', () => {
  const world = World.each();

  it('drops those beyond its limit and lives on', async () => {
    world.current = new World();
    const server = await world.current.serve([{ name: 'a', volume: new MemoryDevice(MiB) }]);
    const client = await world.current.client();
    const sockets = Array.from({ length: 600 }, () => net.connect(world.current.address.socket));
    for (const socket of sockets) socket.on('error', () => undefined);
    for (let i = 0; i < 20; i++) await client.write(0, Buffer.from('alive'));
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(server.clients).toBeLessThanOrEqual(256);
    for (const socket of sockets) socket.destroy();
    while (server.clients > 1) await new Promise((resolve) => setTimeout(resolve, 10));
    expect((await world.current.client()).size).toBe(MiB);
  });
});
