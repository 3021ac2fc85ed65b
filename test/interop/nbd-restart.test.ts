/**
 * The server is killed under load, again and again: after every restart each client finds all that it
 * flushed, and clients that know how to reconnect (nbdkit's retry filter, QEMU) go on.
 *
 * `UVDO_NBD_KILLS`: how often (default 6); `UVDO_SEED`: of the load.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Random } from '../sim/random.ts';
import { NbdClient } from '../support/nbd-client.ts';
import { hasProgram, skipReason, withFolder } from './harness.ts';
import { built, endOf, serve, uvdo, type Server } from './uvdo.ts';

const KILLS = Number(process.env['UVDO_NBD_KILLS'] ?? 6);
const SEED = Number(process.env['UVDO_SEED'] ?? 1);
const CLIENTS = 6;
const BLOCK = 4096;
const BLOCKS = 512;

/** What one client knows of its own blocks: which versions a read may show. */
class Recorder {
  readonly #first: number;
  readonly #random: Random;
  /** Flushed, by block. */
  readonly #durable = new Array<number>(BLOCKS).fill(0);
  /** Written since, answered or not. */
  readonly #later: number[][] = Array.from({ length: BLOCKS }, () => []);
  #version = 0;
  flushed = 0;

  constructor(who: number) {
    this.#first = who * BLOCKS;
    this.#random = new Random(SEED * 1000 + who);
  }

  /** Content that tells block and version; a third compresses, a third is the same for many blocks. */
  #bytes(block: number, version: number): Buffer {
    if (version === 0) return Buffer.alloc(BLOCK);
    const seed = version % 3 === 0 ? version * 7919 : version * 104_729 + block;
    const random = new Random(seed);
    const bytes = Buffer.alloc(BLOCK);
    const filled = version % 3 === 1 ? BLOCK : 1000;
    for (let at = 0; at < filled; at += 4) bytes.writeUInt32LE((random.next() | 1) >>> 0, at);
    bytes.writeUInt32LE(version, BLOCK - 8);
    return bytes;
  }

  /** Writes and flushes until the server is gone. */
  async work(client: NbdClient, isKilled: () => boolean): Promise<void> {
    try {
      for (;;) {
        // Of two writes to one block at the same time nobody says which comes last.
        const count = 1 + this.#random.below(16);
        const blocks = new Set(Array.from({ length: count }, () => this.#random.below(BLOCKS)));
        const writes = Array.from(blocks, async (block) => {
          const version = ++this.#version;
          this.#later[block]!.push(version);
          const fua = this.#random.chance(0.05);
          await client.write((this.#first + block) * BLOCK, this.#bytes(block, version), { fua });
        });
        await Promise.all(writes);
        if (!this.#random.chance(0.2)) continue;
        const seen = this.#later.map((versions) => versions.length);
        await client.flush();
        this.flushed++;
        seen.forEach((count, block) => this.#settle(block, count));
      }
    } catch (error) {
      if (!isKilled()) throw error;
    }
  }

  /** The last of the first `count` later versions is durable. */
  #settle(block: number, count: number): void {
    if (count === 0) return;
    this.#durable[block] = this.#later[block]![count - 1]!;
    this.#later[block]!.splice(0, count);
  }

  /** Reads everything back; what is there now is durable. */
  async check(client: NbdClient): Promise<void> {
    const bytes = await client.read(this.#first * BLOCK, BLOCKS * BLOCK);
    for (let block = 0; block < BLOCKS; block++) {
      const found = bytes.subarray(block * BLOCK, (block + 1) * BLOCK);
      const legal = [this.#durable[block]!, ...this.#later[block]!];
      const version = legal.find((one) => found.equals(this.#bytes(block, one)));
      if (version === undefined) {
        const shown = found.readUInt32LE(BLOCK - 8);
        throw new Error(
          `block ${this.#first + block} shows ${shown}, not one of ${legal.join(' ')}`,
        );
      }
      this.#durable[block] = version;
      this.#later[block]!.length = 0;
    }
  }
}

async function volumeIn(folder: string): Promise<string> {
  const path = join(folder, 'volume.vdo');
  await uvdo(['format', path, '--size', '512M', '--logical-size', '64M', '--slab-size', '32M', '--no-index']); // prettier-ignore
  return path;
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const OPTIONS = ['--index', 'memory', '--log', 'error'];

{
  const { skip, note } = skipReason(built());
  describe.skipIf(skip)(`uvdo serve, killed${note}`, () => {
    it(
      `${KILLS} times under the load of ${CLIENTS} clients: all that was flushed is there`,
      () =>
        withFolder(async (folder) => {
          const path = await volumeIn(folder);
          const random = new Random(SEED);
          const recorders = Array.from({ length: CLIENTS }, (_, who) => new Recorder(who));
          for (let kill = 0; kill <= KILLS; kill++) {
            const server = await serve(path, folder, OPTIONS);
            const address = { socket: server.socket };
            const forms = ['simple', 'structured', 'extended'] as const;
            const clients = await Promise.all(
              recorders.map((_, who) =>
                NbdClient.connect(address, 'disk', { form: forms[who % 3]! }),
              ),
            );
            await Promise.all(recorders.map((one, who) => one.check(clients[who]!)));
            if (kill === KILLS) {
              await Promise.all(clients.map((client) => client.disconnect()));
              expect(await server.stop()).toBe(0);
              break;
            }
            let isKilled = false;
            const working = recorders.map((one, who) => one.work(clients[who]!, () => isKilled));
            await pause(200 + random.below(800));
            isKilled = true;
            await server.kill();
            await Promise.all(working);
          }
          console.log(`${recorders.reduce((sum, { flushed }) => sum + flushed, 0)} flushes kept through ${KILLS} kills`); // prettier-ignore
          const { stdout } = await uvdo(['audit', path, '--json']);
          expect((JSON.parse(stdout) as { clean: boolean }).clean).toBe(true);
        }),
      3_600_000,
    );
  });
}

{
  const { skip, note } = skipReason(
    hasProgram('nbdkit') || 'missing nbdkit',
    hasProgram('qemu-io') || 'missing qemu-io',
    built(),
  );
  describe.skipIf(skip)(`clients that reconnect to uvdo serve${note}`, () => {
    /** Kills the server and starts it again on the same socket. */
    const restart = async (server: Server, path: string, folder: string): Promise<Server> => {
      await server.kill();
      await pause(300);
      return serve(path, folder, OPTIONS, server.socket);
    };

    it("behind nbdkit's retry filter a client notices nothing", () =>
      withFolder(async (folder) => {
        const path = await volumeIn(folder);
        let server = await serve(path, folder, OPTIONS);
        const socket = join(folder, 'nbdkit');
        const child = spawn(
          'nbdkit',
          ['-f', '-U', socket, '--filter=retry', 'nbd', `uri=${server.uri}`, 'retries=30', 'retry-delay=1', 'retry-exponential=no'], // prettier-ignore
          { stdio: 'ignore' },
        );
        try {
          while (!existsSync(socket)) await pause(20);
          const client = await NbdClient.connect({ socket });
          let stopped = false;
          let writes = 0;
          const working = (async () => {
            for (; !stopped; writes++) {
              const at = (writes % 256) * BLOCK;
              await client.write(at, Buffer.alloc(BLOCK, `write ${writes} `), { fua: true });
            }
          })();
          for (let kill = 0; kill < 2; kill++) {
            await pause(500);
            const before = writes;
            server = await restart(server, path, folder);
            while (writes < before + 20) await pause(20);
          }
          stopped = true;
          await working;
          for (let write = Math.max(0, writes - 256); write < writes; write++) {
            const back = await client.read((write % 256) * BLOCK, BLOCK);
            expect(back.equals(Buffer.alloc(BLOCK, `write ${write} `)), `write ${write}`).toBe(
              true,
            );
          }
          await client.disconnect();
        } finally {
          child.kill('SIGTERM');
          await endOf(child);
          await server.stop();
        }
      }));

    it('with reconnect-delay QEMU goes on', () =>
      withFolder(async (folder) => {
        const path = await volumeIn(folder);
        let server = await serve(path, folder, OPTIONS);
        const image = `driver=nbd,server.type=unix,server.path=${server.socket},export=disk,reconnect-delay=60`; // prettier-ignore
        const commands = ['write -f -P 1 0 64k', 'sleep 3000', 'write -f -P 2 64k 64k', 'read -P 1 0 64k', 'read -P 2 64k 64k']; // prettier-ignore
        const child = spawn('qemu-io', ['--image-opts', ...commands.flatMap((one) => ['-c', one]), image]); // prettier-ignore
        let out = '';
        for (const stream of [child.stdout, child.stderr]) {
          stream.on('data', (text: Buffer) => (out += text.toString()));
        }
        const ended = endOf(child);
        await pause(1000);
        server = await restart(server, path, folder);
        expect(await ended, out).toBe(0);
        expect(out).not.toMatch(/fail|error/i);
        expect(await server.stop()).toBe(0);
      }));
  });
}
