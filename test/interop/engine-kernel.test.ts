/**
 * One format, two engines: what uvdo formats, writes and closes the kernel starts, checks, changes
 * and stops, and the other way round. docs/TESTING.md, "Interop".
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  available,
  copySparse,
  inKernel,
  makeFixtures,
  run,
  skipReason,
  unpackFixture,
  vdoaudit,
  withFolder,
  type Engine,
  type FixtureName,
  type ManifestExtent,
} from './harness.ts';
import { built, library, uvdo } from './uvdo.ts';
import { judge, makeVolume, tiny } from './kernel-volume.ts';
import { BLOCK, VdoImage } from './vdo-image.ts';
import { sha256, shrinksTo, Workload } from './workload.ts';

const here = available();
const MiB = 2 ** 20;

/** Index settings that a volume may have, and the table arguments that go with them. */
const INDEXES = [
  { name: 'index 0.25', options: ['--index-memory', '0.25'], hasIndex: true },
  { name: 'no index', options: ['--no-index'], hasIndex: false },
] as const;

async function expectAuditClean(path: string): Promise<void> {
  const audit = await vdoaudit(path);
  expect(audit.clean, audit.output).toBe(true);
}

/** Lets the kernel compare the whole logical space, make a workload, compare again, and stop. */
async function kernelWrites(
  engine: Engine,
  path: string,
  before: Buffer,
  hasIndex: boolean,
  fill: (workload: Workload) => void,
): Promise<Buffer> {
  return withFolder(async (folder) => {
    const workload = new Workload(folder, before.length / BLOCK, before);
    fill(workload);
    const sum = `drop_caches; dd if=/dev/mapper/v bs=1M iflag=count_bytes count=${before.length} status=none | sha256sum`;
    const out = await inKernel({
      engine,
      disks: [path],
      share: folder,
      timeoutSeconds: 300,
      script: `set -e
vdo_start \${DISKS[0]} v compression on
${hasIndex ? 'vdo_wait_index v' : ''}
vdo_status v mode
${sum}
${workload.script()}
sync /dev/mapper/v
${sum}
vdo_status v mode
vdo_stop v
vdo_config \${DISKS[0]} state`,
    });
    const lines = out.trim().split('\n');
    expect(lines, out).toEqual([
      'normal',
      `${sha256(before)}  -`,
      `${sha256(workload.expected)}  -`,
      'normal',
      'clean',
    ]);
    return workload.expected;
  });
}

/** Text, noise, halves, repeats: something for every path. */
function mixture(workload: Workload): void {
  const repeated = randomBytes(BLOCK);
  workload
    .write(3000, Buffer.concat(Array.from({ length: 64 }, () => shrinksTo(700))))
    .random(3500, 64)
    .write(3600, workload.expected.subarray(0, 64 * BLOCK))
    .write(3700, Buffer.concat(Array.from({ length: 300 }, () => repeated)))
    .zeros(3510, 10)
    .discard(3520, 20);
}

{
  const { skip, note } = skipReason(here.uml, here.tools, built());
  describe.skipIf(skip)(`uvdo formats, the kernel writes${note}`, () => {
    it.each(INDEXES)('with $name', async ({ options, hasIndex }) => {
      await withFolder(async (folder) => {
        const path = join(folder, 'volume.vdo');
        const size = hasIndex ? '3G' : '512M';
        await uvdo([
          ...['format', path, '--size', size, '--logical-size', '64M', '--slab-size', '32M'],
          ...options,
        ]);
        const empty = Buffer.alloc(64 * MiB);
        const expected = await kernelWrites('uml', path, empty, hasIndex, mixture);
        await expectAuditClean(path);
        const copy = join(folder, 'copy');
        await uvdo(['export', path, copy]);
        expect(sha256(readFileSync(copy))).toBe(sha256(expected));
        await expectAuditClean(path);
      });
    });
  });
}

/** Two ext4 images of the same tree, the second changed: 2 × 48 MiB. */
async function makeImages(folder: string): Promise<[string, string]> {
  const tree = join(folder, 'tree');
  const [first, second] = [join(folder, 'a.img'), join(folder, 'b.img')];
  const sources = ['src', 'docs', 'test', 'node_modules/prettier', 'package-lock.json'];
  await run('mkdir', [tree]);
  await run('cp', ['-r', ...sources, tree]);
  const make = async (image: string): Promise<void> => {
    const made = await run('mke2fs', ['-q', '-t', 'ext4', '-b', '4096', '-d', tree, image, '48M']);
    expect(made.status, made.stderr).toBe(0);
  };
  await make(first);
  writeFileSync(join(tree, 'changed'), randomBytes(300_000));
  await make(second);
  return [first, second];
}

for (const engine of ['uml', 'qemu'] as const) {
  const { skip, note } = skipReason(here[engine], here.tools, built());
  describe.skipIf(skip)(`uvdo creates, the kernel (${engine}) goes on, uvdo again${note}`, () => {
    it.each(INDEXES)('with $name', async ({ options, hasIndex }) => {
      await withFolder(async (folder) => {
        const path = join(folder, 'volume.vdo');
        const images = await makeImages(folder);
        const room = hasIndex ? [] : ['--size', '700M'];
        await uvdo(['create', path, ...images, '--slab-size', '32M', ...room, ...options]);
        await expectAuditClean(path);
        const before = Buffer.concat(images.map((image) => readFileSync(image)));
        const expected = await kernelWrites(engine, path, before, hasIndex, mixture);
        await expectAuditClean(path);

        // uvdo again, by the library: reads all, writes here and there, closes.
        const { openVolume } = await library();
        const volume = await openVolume(path, { index: 'memory' });
        const got = await volume.read(0, expected.length);
        expect(sha256(got)).toBe(sha256(expected));
        const more = randomBytes(3 * MiB + 777);
        await volume.write(5 * MiB + 123, more);
        expected.set(more, 5 * MiB + 123);
        await volume.discard(9 * MiB + 5, 2 * MiB);
        expected.fill(0, 9 * MiB + 5, 11 * MiB + 5);
        await volume.writeZeroes(20 * MiB, MiB);
        expected.fill(0, 20 * MiB, 21 * MiB);
        await volume.flush();
        await volume.close();
        await expectAuditClean(path);
        await kernelWrites(engine, path, expected, hasIndex, (workload) => workload.random(1, 9));
        await expectAuditClean(path);
      });
    });
  });
}

{
  const { skip, note } = skipReason(here.uml, here.tools, built());
  describe.skipIf(skip)(`volumes that the kernel stopped${note}`, () => {
    beforeAll(() => makeFixtures());
    const names: FixtureName[] = [
      'fresh',
      'clean',
      'nocompress',
      'rebuilt',
      'grown-logical',
      'grown-physical',
    ];

    async function sumOf(path: string, { offset, length }: ManifestExtent): Promise<string> {
      const file = await open(path);
      try {
        const bytes = Buffer.alloc(length);
        await file.read(bytes, 0, length, offset);
        return createHash('sha256').update(bytes).digest('hex');
      } finally {
        await file.close();
      }
    }

    it.each(names)('%s: export, more writes by uvdo, the kernel again', async (name) => {
      await withFolder(async (folder) => {
        const { path, manifest } = await unpackFixture(name, folder);
        const copy = join(folder, 'copy');
        await uvdo(['export', path, copy]);
        for (const extent of manifest.extents) {
          expect(await sumOf(copy, extent), extent.name).toBe(extent.sha256);
        }
        await run('rm', [copy]);

        const more = Buffer.concat([
          randomBytes(100 * BLOCK),
          ...Array.from({ length: 100 }, () => shrinksTo(900)),
        ]);
        const source = join(folder, 'more');
        writeFileSync(source, Buffer.concat([more, more]));
        const offset = 700 * MiB;
        await uvdo(['import', path, source, '--at', String(offset), '--index', 'memory']);
        await expectAuditClean(path);

        const extents = [
          ...manifest.extents,
          { name: 'import', offset, length: more.length, sha256: sha256(more) },
          {
            name: 'again',
            offset: offset + more.length,
            length: more.length,
            sha256: sha256(more),
          },
        ];
        writeFileSync(join(folder, 'now.json'), JSON.stringify({ ...manifest, extents }));
        await inKernel({
          engine: 'uml',
          disks: [path],
          share: folder,
          timeoutSeconds: 200,
          script: `set -e
vdo_start \${DISKS[0]} v compression on
vdo_wait_index v
verify_manifest /dev/mapper/v /mnt/now.json
put /mnt/more /dev/mapper/v $((800 << 20))
sync /dev/mapper/v
verify_manifest /dev/mapper/v /mnt/now.json
vdo_status v mode | grep normal
vdo_stop v`,
        });
        await expectAuditClean(path);
      });
    });

    it('a clean volume whose summary says dirty, as the kernel leaves it now and then', async () => {
      const { image, expected } = await makeVolume(
        tiny(),
        (workload) => workload.random(0, 500).random(100, 200).flush(),
        { end: 'stop' },
      );
      for (let slab = 0; slab < image.slabs; slab++) {
        const entry = image.summary(slab);
        if (entry.load) image.setSummary(slab, { ...entry, dirty: true });
      }
      await withFolder(async (folder) => {
        const path = join(folder, 'volume');
        const copy = join(folder, 'copy');
        image.save(path);
        await uvdo(['export', path, copy]);
        expect(sha256(readFileSync(copy))).toBe(sha256(expected));
        const source = join(folder, 'source');
        const more = randomBytes(300 * BLOCK);
        writeFileSync(source, more);
        await uvdo(['import', path, source, '--at', String(200 * BLOCK), '--index', 'memory']);
        expected.set(more, 200 * BLOCK);
        await expectAuditClean(path);
        const verdict = await judge(VdoImage.load(path), expected);
        expect(verdict, verdict.messages).toMatchObject({ right: true, auditClean: true });
      });
    });

    it.each(['readonly', 'forced'] as const)('%s: not without attention', async (name) => {
      await withFolder(async (folder) => {
        const { path } = await unpackFixture(name, folder);
        const untouched = join(folder, 'untouched');
        await copySparse(path, untouched);
        const { stderr } = await uvdo(['import', path, join(folder, `${name}.json`)], 3);
        expect(stderr.trim().split('\n')).toHaveLength(1);
        const raw = ['-f', 'raw', '-F', 'raw'];
        expect((await run('qemu-img', ['compare', ...raw, path, untouched])).status).toBe(0);
      });
    });
  });
}
