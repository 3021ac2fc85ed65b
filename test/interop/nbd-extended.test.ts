/**
 * Extended headers with somebody else at the other end: QEMU of Debian's backports (`lab/qemu-new`), which
 * speaks them (since 8.2), as client of our server and as server of our client. Its own trace says what was agreed.
 */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { newQemu, run, skipReason, withFolder } from './harness.ts';
import { ForeignServer } from './nbd-servers.ts';
import { built, serve, uvdo, type Server } from './uvdo.ts';
import { makeImage, sha256 } from './workload.ts';

const MiB = 2 ** 20;
const TiB = 2 ** 40;
const qemu = newQemu();
const { skip, note } = skipReason(qemu.state, built());

interface Request {
  readonly from: number;
  readonly length: number;
  readonly type: string;
}

/** The requests that a trace of QEMU's client shows. */
const requestsOf = (trace: string): Request[] =>
  [
    ...trace.matchAll(
      /nbd_send_request .*\.from = (\d+), \.len = (\d+), .*type = \d+ \(([^)]*)\)/g,
    ),
  ].map(([, from, length, type]) => ({ from: Number(from), length: Number(length), type: type! }));

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
    await uvdo(['audit', path]);
  });
}

/** Runs a tool of the new QEMU with its trace of NBD; returns all that it said. */
async function traced(tool: string, ...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await run(join(qemu.folder, tool), ['--trace', 'nbd_*', ...args]); // prettier-ignore
  expect(status, `${tool} ${args.join(' ')}\n${stdout}\n${stderr}`).toBe(0);
  const said = `${stdout}\n${stderr}`;
  expect(said).toMatch(/Received option reply 11 \(extended headers\), type 1 \(ack\)/);
  return said;
}

describe.skipIf(skip)(`extended headers${note}`, () => {
  it("QEMU's client: more than 4 GiB in one request, and reads and writes beside", async () =>
    served('100T', async ({ uri }) => {
      const commands = ['write -P 7 1G 3M', 'write -f -P 9 25G 64k', 'write -z -n -u 1M 20G'];
      const after = ['read -P 0 1G 3M', 'read -P 9 25G 64k', 'read -P 0 99T 1M', 'discard 25G 1G'];
      const args = [...commands, ...after, 'flush', 'read -P 0 25G 64k'].flatMap((one) => ['-c', one]);
      const requests = requestsOf(await traced('qemu-io', '-f', 'raw', ...args, uri));
      const zeros = requests.filter(({ type }) => type.includes('zero'));
      expect(zeros).toEqual([{ from: MiB, length: 20 * 2 ** 30, type: zeros[0]!.type }]);
      expect(requests.filter(({ type }) => type.includes('write') && !type.includes('zero'))).toHaveLength(2);
    })); // prettier-ignore

  it("QEMU's client: the map of 100 TiB in a few requests", async () =>
    served('100T', async ({ uri }) => {
      await traced('qemu-io', '-f', 'raw', '-c', 'write -P 3 50T 1M', '-c', 'write -P 4 99T 4k', uri);
      const said = await traced('qemu-img', 'map', '--output=json', '-f', 'raw', uri);
      const asked = requestsOf(said).filter(({ type }) => type.includes('block status'));
      expect(asked.length).toBeLessThan(20);
      expect(Math.max(...asked.map(({ length }) => length))).toBeGreaterThan(2 ** 32);
      const map = JSON.parse(said.slice(said.indexOf('[{'), said.lastIndexOf('}]') + 2)) as {
        start: number;
        length: number;
        data: boolean;
      }[];
      const data = map.filter((run) => run.data).map(({ start, length }) => [start, length]);
      expect(data).toEqual([
        [50 * TiB, MiB],
        [99 * TiB, 4096],
      ]);
      expect(map.reduce((sum, { length }) => sum + length, 0)).toBe(100 * TiB);
    })); // prettier-ignore

  it("QEMU's client copies an image in and out", async () =>
    served('64M', async ({ uri }, folder) => {
      const image = makeImage(64 * MiB);
      const [source, back] = [join(folder, 'source'), join(folder, 'back')];
      writeFileSync(source, image);
      await traced('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', source, uri);
      await traced('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', source, uri);
      await traced('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', uri, back);
      expect(sha256(readFileSync(back))).toBe(sha256(image));
    }));

  it("our client, of QEMU's server: a volume there, and images that go there and back", async () =>
    withFolder(async (folder) => {
      const disk = join(folder, 'disk');
      writeFileSync(disk, '');
      truncateSync(disk, 512 * MiB);
      const server = await ForeignServer.qemuOf(qemu.folder, folder, '--trace', 'nbd_*', '-f', 'raw', '--discard=unmap', '-e', '4', disk); // prettier-ignore
      try {
        const image = makeImage(16 * MiB);
        const [source, back] = [join(folder, 'source'), join(folder, 'back')];
        writeFileSync(source, image);
        await uvdo(['create', server.uri, source, '--no-index', '--quiet']);
        await uvdo(['import', server.uri, source, '--quiet', '--index', 'memory']);
        await uvdo(['export', server.uri, back, '--quiet']);
        expect(sha256(readFileSync(back))).toBe(sha256(image));
        await uvdo(['audit', server.uri]);
      } finally {
        await server.stop();
      }
      expect(server.complaints).toMatch(/Reply opt=11 \(extended headers\), type=1 \(ack\)/);
      const types = new Set(
        [
          ...server.complaints.matchAll(
            /Got request: \{ magic = (0x\w+), .flags = 0x\w+, .type = (0x\w+)/g,
          ),
        ].map(([, magic, type]) => `${magic} ${type}`),
      );
      // Reads, writes, flushes at least, and each with the magic of an extended request.
      for (const type of ['0x0', '0x1', '0x3']) expect(types).toContain(`0x21e41c71 ${type}`);
      expect([...types].every((type) => type.startsWith('0x21e41c71 '))).toBe(true);
    }));
});
