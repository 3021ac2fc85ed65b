/**
 * Volumes that the kernel was killed on, under load: uvdo recovers one copy, the kernel another, and both
 * are the same volume, down to every count. docs/TESTING.md, "Interop".
 *
 * `UVDO_RECOVER_ROUNDS` sets the number of kills (default 3), `UVDO_POWER_ROUNDS` of power losses
 * (default 2), `UVDO_CRASH_SEED` the first seed.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Allowed } from './allowed.ts';
import { content, generator } from './content.mjs';
import {
  available,
  copySparse,
  inKernel,
  makeFixtures,
  skipReason,
  unpackFixture,
  vdoaudit,
  withFolder,
} from './harness.ts';
import { kernelRecovers } from './kernel-recovers.ts';
import { TINY_TABLE, tiny } from './kernel-volume.ts';
import { differences } from './same-volume.ts';
import { built, uvdo } from './uvdo.ts';
import { sha256 } from './workload.ts';

const { skip, note } = skipReason(available().uml, available().tools, built());
const ROUNDS = Number(process.env['UVDO_RECOVER_ROUNDS'] ?? 3);
const SEED = Number(process.env['UVDO_CRASH_SEED'] ?? Date.now() % 100_000);
const POWER_ROUNDS = Number(process.env['UVDO_POWER_ROUNDS'] ?? 2);
/** Writers at a time, each with blocks of its own. */
const WRITERS = 3;
const WRITES = 500;

interface Configuration {
  readonly name: string;
  readonly make: (path: string) => Promise<unknown>;
  readonly table: string;
  readonly env: Readonly<Record<string, string>>;
  readonly blocks: number;
}

const CONFIGURATIONS: readonly Configuration[] = [
  {
    name: 'tiny journals, two zones',
    make: async (path) => tiny({ slabs: 12, logicalBlocks: 8192 }).save(path),
    table: 'compression on ack 1 bio 1 cpu 1 hash 1 logical 2 physical 2',
    env: { ...TINY_TABLE, VDO_CACHE: '8192' },
    blocks: 6000,
  },
  {
    name: 'ordinary journals, compression',
    make: (path) =>
      uvdo(['format', path, '--size', '512M', '--logical-size', '64M', '--slab-size', '32M', '--no-index']), // prettier-ignore
    table: 'compression on',
    env: {},
    blocks: 16_000,
  },
  {
    name: 'tiny journals, one zone',
    make: async (path) => tiny({ slabs: 6, logicalBlocks: 8192 }).save(path),
    table: '',
    env: TINY_TABLE,
    blocks: 3000,
  },
];

/** One writer's plan: lines for the guest, their data, and the log as if all of it had happened. */
function plan(seed: number, writer: number, blocks: number) {
  const random = generator(seed * 10 + writer);
  const share = Math.floor(blocks / WRITERS);
  const lines: string[] = [];
  const log: string[] = [];
  const data: Uint8Array[] = [];
  let place = 0;
  for (let version = 1; version <= WRITES; version++) {
    const count = 1 + (random() % (random() % 4 === 0 ? 64 : 8));
    const lbn = writer * share + (random() % (share - count));
    const isDiscard = random() % 12 === 0;
    log.push(`w ${version} ${lbn} ${count} ${isDiscard ? 1 : 0}`, `a ${version}`);
    if (isDiscard) lines.push(`d 0 ${lbn} ${count}`);
    else {
      lines.push(`w ${place} ${lbn} ${count}`);
      for (let i = 0; i < count; i++) data.push(content(lbn + i, version));
      place += count;
    }
    if (random() % 10 !== 0) continue;
    lines.push(`s ${version} 0 0`);
    log.push(`f ${version}`, `F ${version}`);
  }
  return { lines, log, data };
}

const GUEST = `
write_plan() {
  local what a b c
  while read -r what a b c; do
    case $what in
      w) dd if=/mnt/data-$1 of=$VOLUME bs=$((c * 4096)) count=1 skip=$((a * 4096)) seek=$((b * 4096)) \\
           iflag=skip_bytes,fullblock oflag=direct,seek_bytes conv=notrunc status=none ;;
      d) blkdiscard -f -o $((b * 4096)) -l $((c * 4096)) $VOLUME >/dev/null 2>&1 ;;
      s) sync $VOLUME; echo "FLUSHED $1 $a"; : >/run/flushed ;;
    esac
  done </mnt/plan-$1
}
`;

/**
 * Kills the kernel while it writes; what the volume may hold then. With `power`, in QEMU, what no flush or FUA
 * made durable is lost, as if the power had gone.
 */
async function crash(
  path: string,
  folder: string,
  seed: number,
  how: Configuration,
  { power = false, early = false },
) {
  const plans = Array.from({ length: WRITERS }, (_, writer) => plan(seed, writer, how.blocks));
  plans.forEach(({ lines, data }, writer) => {
    writeFileSync(join(folder, `plan-${writer}`), `${lines.join('\n')}\n`);
    writeFileSync(join(folder, `data-${writer}`), Buffer.concat(data));
  });
  // Behind the first flush, however slow the guest is: some of it must not be lost. Or when nothing may be flushed yet.
  const seconds = early ? 0.3 : (generator(seed)() % 2500) / 1000;
  const wait = early ? ':' : 'until [ -e /run/flushed ]; do sleep 0.1; done';
  const out = await inKernel({
    engine: power ? 'qemu' : 'uml',
    disks: [path],
    share: folder,
    env: how.env,
    crash: true,
    lose: power,
    script: `set -e
${GUEST}
vdo_start \${DISKS[0]} v ${how.table}
VOLUME=/dev/mapper/v
(${wait}; sleep ${seconds}; echo CRASH-NOW) &
for ((w = 0; w < ${WRITERS}; w++)); do write_plan $w & done
wait; sleep 5`,
  });
  const reported = new Set(out.split('\n').map((line) => line.trim()));
  const allowed = new Allowed();
  let flushes = 0;
  plans.forEach(({ log }, writer) => {
    // Only flushes that were reported count as done; any write may have happened.
    const seen = log.filter((line) => {
      if (!line.startsWith('F ')) return true;
      return reported.has(`FLUSHED ${writer} ${line.slice(2)}`);
    });
    flushes += seen.filter((line) => line.startsWith('F ')).length;
    allowed.addRound(seen.join('\n'));
  });
  return { allowed, flushes };
}

/** Both recover a copy of the same crash; the same must come out, and something unless it `mayBeEmpty`. */
async function compare(
  path: string,
  folder: string,
  where: string,
  {
    env = {},
    mayBeEmpty = false,
  }: { env?: Readonly<Record<string, string>>; mayBeEmpty?: boolean },
): Promise<Buffer> {
  const theirs = join(folder, 'theirs.vdo');
  const image = join(folder, 'image');
  await copySparse(path, theirs);
  const dump = await kernelRecovers(theirs, folder, where, env);
  const isEmpty = dump.equals(Buffer.alloc(dump.length));
  expect(isEmpty && !mayBeEmpty, `${where}: nothing to compare`).toBe(false);
  // Reading without recovering finds the same, and leaves the volume alone.
  await uvdo(['export', path, image, '--quiet']);
  expect(readFileSync(image).equals(dump), `${where}: export of the crashed volume`).toBe(true);
  const { stdout } = await uvdo(['recover', path, '--json']);
  expect(JSON.parse(stdout), where).toMatchObject({ recovered: true, state: 'clean' });
  await uvdo(['export', path, image, '--quiet']);
  expect(readFileSync(image).equals(dump), `${where}: export of the recovered volume`).toBe(true);
  expect(await differences(path, theirs), where).toEqual([]);
  const audit = await vdoaudit(path);
  expect(audit.clean, `${where}: ${audit.output}`).toBe(true);
  return dump;
}

/** One crash of the kernel, recovered twice; how many flushes it had reported. */
async function round(
  seed: number,
  how: Configuration,
  { power = false, early = false },
): Promise<number> {
  const where = `${how.name}, seed ${seed}${power ? ', power lost' : ''}`;
  return withFolder(async (folder) => {
    const path = join(folder, 'volume.vdo');
    await how.make(path);
    const crashed = await crash(path, folder, seed, how, { power, early });
    const dump = await compare(path, folder, where, { env: how.env, mayBeEmpty: early });
    expect(crashed.allowed.settle(dump), where).toEqual([]);
    return crashed.flushes;
  });
}

describe.skipIf(skip)(`uvdo recovers what the kernel crashed on${note}`, () => {
  it('as the kernel itself does, whatever it was doing', async () => {
    let flushes = 0;
    for (let i = 0; i < ROUNDS; i++) {
      flushes += await round(SEED + i, CONFIGURATIONS[i % CONFIGURATIONS.length]!, {});
    }
    await round(SEED + ROUNDS, CONFIGURATIONS[SEED % CONFIGURATIONS.length]!, { early: true });
    if (process.env['UVDO_CRASH_VERBOSE'] !== undefined) console.error(SEED, { ROUNDS, flushes });
    expect(flushes).toBeGreaterThanOrEqual(ROUNDS);
  });

  it.skipIf(available().qemu !== true)('as it does when the power went away below it', async () => {
    let flushes = 0;
    for (let i = 0; i < POWER_ROUNDS; i++) {
      flushes += await round(SEED + i, CONFIGURATIONS[i % CONFIGURATIONS.length]!, { power: true });
    }
    if (process.env['UVDO_CRASH_VERBOSE'] !== undefined) {
      console.error(SEED, { POWER_ROUNDS, flushes });
    }
    expect(flushes).toBeGreaterThan(0);
  });

  it.each(['dirty', 'dirty-unsynced'] as const)('the reference volume %s', async (name) => {
    makeFixtures();
    await withFolder(async (folder) => {
      const { path, manifest } = await unpackFixture(name, folder);
      const dump = await compare(path, folder, name, {});
      for (const { name: what, offset, length, sha256: sum } of manifest.extents) {
        expect(sha256(dump.subarray(offset, offset + length)), what).toBe(sum);
      }
    });
  });
});
