/** Every command with volumes, sources and destinations on NBD servers. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bytesEqual } from '../../../src/base/bytes.ts';
import { serve, type NbdServer } from '../../../src/nbd/server.ts';
import { openVolume } from '../../../src/volume/open.ts';
import { codeOf } from '../../contract/storage.ts';
import { Random } from '../../sim/random.ts';
import { MemoryDevice } from '../../support/memory-device.ts';
import { FakeServer } from '../../support/nbd-fake-server.ts';
import { temporaryDirectory, uvdo } from './support.ts';

const MiB = 2 ** 20;
const IMAGE = 6 * MiB + 4096;

/** Holes, noise, and the same noise again. */
function makeImage(): Uint8Array {
  const image = new Uint8Array(IMAGE);
  const random = new Random(9);
  for (let at = MiB; at < 2 * MiB; at++) image[at] = random.next();
  image.copyWithin(4 * MiB + 8192, MiB, 2 * MiB);
  image[IMAGE - 1] = 7;
  return image;
}

describe('uvdo over NBD', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let server: NbdServer;
  let source: FakeServer;
  let disk: string;
  const image = makeImage();
  const copy = new MemoryDevice(IMAGE + 8192);

  beforeAll(async () => {
    directory = await temporaryDirectory();
    const volume = new MemoryDevice(256 * MiB);
    server = await serve(
      [
        { name: 'disk', volume },
        { name: 'copy', volume: copy },
        { name: 'small', volume: new MemoryDevice(4096) },
      ],
      { socket: join(directory.path, 's') },
    );
    disk = server.uri('disk');
    source = await FakeServer.start({ size: IMAGE, form: 'structured', exportName: 'an image' });
    source.cache.set(image);
  });
  afterAll(async () => {
    await server.close();
    await source.stop();
    await directory.remove();
  });

  it('creates a volume of an image, and asks for no hole of it', async () => {
    const made = await uvdo('create', disk, source.uri, '--no-index', '--json');
    expect(made.err).toBe('');
    expect(JSON.parse(made.out)).toMatchObject({ bytes: IMAGE, duplicateBlocks: 256 });
    expect(source.counts.reads).toBe(4);
    const again = await uvdo('create', disk, source.uri, '--no-index');
    expect(again).toMatchObject({ status: 1 });
    expect(again.err).toMatch(/dm-vdo.*--force/);
  });

  it('info, stats and dump look at it', async () => {
    const info = JSON.parse((await uvdo('info', disk, '--json')).out) as Record<string, unknown>;
    expect(info).toMatchObject({ path: disk, state: 'clean', logicalSize: IMAGE });
    expect((await uvdo('stats', disk)).out).toContain('logicalBlocksUsed');
    expect((await uvdo('dump', disk, 'super-block')).status).toBe(0);
  });

  it('exports to a file, and to a server that has other things there', async () => {
    const path = join(directory.path, 'image');
    expect((await uvdo('export', disk, path, '--quiet')).status).toBe(0);
    expect(bytesEqual(readFileSync(path), image)).toBe(true);
    copy.bytes.fill(0xaa);
    expect((await uvdo('export', disk, server.uri('copy'), '--quiet')).status).toBe(0);
    expect(bytesEqual(copy.bytes.subarray(0, IMAGE), image)).toBe(true);
    expect(copy.bytes.subarray(IMAGE).every((byte) => byte === 0xaa)).toBe(true);
    expect(copy.calls.writeZeroes).toBeGreaterThan(0);
    expect(copy.calls.flush).toBe(1);
  });

  it('imports over what is there: holes of the source become holes', async () => {
    source.cache.fill(0, MiB, 2 * MiB);
    expect(await uvdo('import', disk, source.uri, '--quiet')).toMatchObject({ status: 0, err: '' });
    const stats = JSON.parse((await uvdo('stats', disk, '--json')).out) as Record<string, number>;
    expect(stats['logicalBlocksUsed']).toBe(257);
  });

  it('has one writer on this machine, under any spelling', async () => {
    const volume = await openVolume(disk);
    const other = disk.replace('/disk', '/%64isk');
    expect(await codeOf(openVolume(other))).toBe('Busy');
    const { status, err } = await uvdo('import', other, source.uri);
    expect(status).toBe(1);
    expect(err).toContain(`in use by process ${process.pid}`);
    expect(await codeOf(openVolume(other, { readOnly: true }))).toBe('Busy');
    await volume.close();
  });

  it('refuses what makes no sense', async () => {
    const wrong = async (status: number, words: RegExp, ...argv: string[]): Promise<void> => {
      const outcome = await uvdo(...argv);
      expect(outcome.err).toMatch(words);
      expect(outcome.status).toBe(status);
    };
    await wrong(2, /volume itself/, 'import', disk, disk);
    await wrong(2, /level index needs a volume in a file/, 'import', disk, source.uri, '--index', 'level'); // prettier-ignore
    await wrong(1, /no export "gone", but "disk", "copy", "small"/, 'info', server.uri('gone'));
    await wrong(1, /no such socket/, 'info', 'nbd+unix:///?socket=/nowhere');
    await wrong(2, /add \?socket=PATH/, 'format', 'nbd+unix:///disk');
    await wrong(2, /size cannot be chosen/, 'format', disk, '--size', '1G', '--force');
    await wrong(1, /has 4096 bytes, fewer than/, 'export', disk, server.uri('small'));
  });
});
