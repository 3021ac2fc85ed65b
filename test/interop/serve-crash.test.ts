/**
 * `uvdo serve` killed again and again while clients write: started again it recovers by itself, and
 * every block is the one last flushed or one written since. Now and then a copy is recovered, closed
 * and audited. Needs no kernel, and `vdoaudit` only for its verdict. docs/TESTING.md, "Interop".
 *
 * `UVDO_KILL_ROUNDS` sets the number of kills (default 20), `UVDO_CRASH_SEED` the seed.
 */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openFileStorage } from '../../src/storage/file-storage.ts';
import { auditVolume } from '../model/audit.ts';
import { NbdClient } from '../support/nbd-client.ts';
import { Allowed } from './allowed.ts';
import { BLOCK, content, generator } from './content.mjs';
import { available, copySparse, skipReason, vdoaudit, withFolder } from './harness.ts';
import { tiny } from './kernel-volume.ts';
import { built, serve, uvdo, type Server } from './uvdo.ts';

const { skip, note } = skipReason(built());
const hasAudit = available().tools === true;
const ROUNDS = Number(process.env['UVDO_KILL_ROUNDS'] ?? 20);
const SEED = Number(process.env['UVDO_CRASH_SEED'] ?? Date.now() % 100_000);
/** Rounds from one audit of a recovered copy to the next. */
const AUDIT_EVERY = 10;
const CLIENTS = 3;

const VOLUMES = [
  {
    name: 'tiny journals',
    blocks: 6000,
    make: async (path: string) => tiny({ slabs: 12, logicalBlocks: 8192 }).save(path),
  },
  {
    name: 'ordinary journals',
    blocks: 16_000,
    make: (path: string) =>
      uvdo(['format', path, '--size', '512M', '--logical-size', '64M', '--slab-size', '32M', '--no-index']), // prettier-ignore
  },
] as const;

/** A client that writes to blocks of its own until the server is gone; its log is in `log`. */
class Load {
  readonly log: string[] = [];
  readonly #random: () => number;
  readonly #first: number;
  readonly #blocks: number;
  #version: number;
  #flushes = 0;

  constructor(seed: number, first: number, blocks: number, version: number) {
    this.#random = generator(seed);
    this.#first = first;
    this.#blocks = blocks;
    this.#version = version;
  }

  /** Ends when the line breaks. */
  async run(client: NbdClient): Promise<void> {
    try {
      for (;;) await this.#step(client);
    } catch {
      client.destroy();
    }
  }

  /** Some writes at once, to blocks that do not overlap, and now and then a flush beside them. */
  async #step(client: NbdClient): Promise<void> {
    const random = this.#random;
    const running: Promise<void>[] = [];
    const part = Math.floor(this.#blocks / 4);
    for (let i = 0; i < 4; i++) {
      const count = 1 + (random() % (random() % 4 === 0 ? 64 : 8));
      const lbn = this.#first + i * part + (random() % (part - count));
      running.push(this.#write(client, lbn, count, random() % 12));
    }
    if (random() % 4 === 0) running.push(this.#flush(client));
    await Promise.all(running);
  }

  async #write(client: NbdClient, lbn: number, count: number, dice: number): Promise<void> {
    const version = this.#version++;
    this.log.push(`w ${version} ${lbn} ${count} ${dice < 2 ? 1 : 0}`);
    const [at, length] = [lbn * BLOCK, count * BLOCK];
    if (dice === 0) await client.trim(at, length);
    else if (dice === 1) await client.zero(at, length);
    else {
      const bytes = Buffer.alloc(length);
      for (let i = 0; i < count; i++) bytes.set(content(lbn + i, version), i * BLOCK);
      await client.write(at, bytes);
    }
    this.log.push(`a ${version}`);
  }

  async #flush(client: NbdClient): Promise<void> {
    const number = ++this.#flushes;
    this.log.push(`f ${number}`);
    await client.flush();
    this.log.push(`F ${number}`);
  }
}

function connected(server: Server): Promise<NbdClient> {
  return NbdClient.connect({ socket: server.socket }, 'disk');
}

async function dumpOf(server: Server, blocks: number): Promise<Buffer> {
  const client = await connected(server);
  const parts: Buffer[] = [];
  for (let lbn = 0; lbn < blocks; lbn += 1024) {
    parts.push(await client.read(lbn * BLOCK, Math.min(1024, blocks - lbn) * BLOCK));
  }
  await client.disconnect();
  return Buffer.concat(parts);
}

/** A copy of the killed volume, recovered and closed, has nothing that an auditor finds. */
async function auditCopy(path: string, copy: string, where: string): Promise<void> {
  await copySparse(path, copy);
  await uvdo(['recover', copy, '--quiet']);
  const storage = await openFileStorage(copy, { readOnly: true });
  expect((await auditVolume(storage)).errors, where).toEqual([]);
  await storage.close();
  if (!hasAudit) return;
  const audit = await vdoaudit(copy);
  expect(audit.clean, `${where}: ${audit.output}`).toBe(true);
}

describe.skipIf(skip)(`uvdo serve is killed${note}`, () => {
  it.each(VOLUMES)('and finds every flushed block again: $name', async ({ make, blocks }) => {
    await withFolder(async (folder) => {
      const path = join(folder, 'volume.vdo');
      await make(path);
      const allowed = new Allowed();
      const random = generator(SEED);
      const share = Math.floor(blocks / CLIENTS);
      const total = { flushes: 0, acknowledged: 0 };
      let slowestMs = 0;
      let server = await serve(path, folder);
      for (let round = 0; round < ROUNDS / VOLUMES.length; round++) {
        const where = `seed ${SEED}, round ${round}`;
        const loads = Array.from(
          { length: CLIENTS },
          (_, i) => new Load(SEED + round * CLIENTS + i, i * share, share, allowed.next),
        );
        const clients = await Promise.all(loads.map(() => connected(server)));
        const running = Promise.all(loads.map((load, i) => load.run(clients[i]!)));
        await new Promise((resolve) => setTimeout(resolve, 60 + (random() % 900)));
        await server.kill();
        await running;
        for (const { log } of loads) {
          const did = allowed.addRound(log.join('\n'));
          total.flushes += did.flushes;
          total.acknowledged += did.acknowledged;
        }
        if (round % AUDIT_EVERY === 0) await auditCopy(path, join(folder, 'copy.vdo'), where);
        const startMs = performance.now();
        server = await serve(path, folder);
        slowestMs = Math.max(slowestMs, performance.now() - startMs);
        expect(allowed.settle(await dumpOf(server, blocks)), where).toEqual([]);
      }
      if (process.env['UVDO_CRASH_VERBOSE'] !== undefined)
        console.error({ SEED, ...total, slowestMs });
      expect(await server.stop()).toBe(0);
      await auditCopy(path, join(folder, 'copy.vdo'), 'stopped');
      expect(total.flushes).toBeGreaterThan(0);
    });
  });
});
