/**
 * What the kernel does at run time where the format leaves a choice or an error a way out: the
 * packer's bins, stale bytes under a fresh tree page, a stop amid scrubbing, failing devices.
 * docs/TESTING.md, "What we checked on the real kernel".
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { available, inKernel, runInKernel, skipReason, vdoaudit, withFolder } from './harness.ts';
import { judge, makeVolume, tiny, TINY, TINY_TABLE } from './kernel-volume.ts';
import { BLOCK, State, VdoImage } from './vdo-image.ts';
import { sha256, shrinksTo, Workload } from './workload.ts';
import { random } from '../support/volumes.ts';

const { skip, note } = skipReason(available().uml, available().tools);

describe.skipIf(skip)(`the kernel's packer${note}`, () => {
  const SPACE = 4060;

  interface Policy {
    readonly bins: number;
    readonly fullestFirst: boolean;
  }

  /** Bins in the policy's order; what it writes is a list of bins of lbns, newest first. */
  function model(sizes: readonly number[], policy: Policy): number[][] {
    const sign = policy.fullestFirst ? 1 : -1;
    let bins: { lbns: number[]; free: number }[] = Array.from({ length: policy.bins }, () => ({
      lbns: [],
      free: SPACE,
    }));
    const packed: number[][] = [];
    const write = (bin: { lbns: number[]; free: number }): void => {
      if (bin.lbns.length > 1) packed.push(bin.lbns);
      bin.lbns = [];
      bin.free = SPACE;
    };
    sizes.forEach((size, lbn) => {
      let bin = bins.find(({ free }) => free >= size);
      if (bin === undefined) {
        const fullest = bins.reduce((a, b) => (b.free < a.free ? b : a));
        if (size >= SPACE - fullest.free) return; // it is stored alone
        write(fullest);
        bin = fullest;
      }
      bin.lbns.unshift(lbn);
      bin.free -= size;
      if (bin.lbns.length === 14 || bin.free === 0) write(bin);
      bins = bins.toSorted((a, b) => sign * (a.free - b.free));
    });
    for (const bin of bins) write(bin);
    return packed;
  }

  it('puts each fragment into the fullest of 16 bins that still fits it', async () => {
    const next = random(16);
    const wanted = Array.from({ length: 240 }, () => 150 + Math.floor(next() * 3300));
    const { image, expected } = await makeVolume(
      tiny(),
      (workload) => {
        workload.random(TINY.logicalBlocks - 1, 1).flush(); // the tree first
        workload.write(0, Buffer.concat(wanted.map(shrinksTo))).flush();
      },
      { end: 'stop', table: 'compression on cpu 1' },
    );
    expect(sha256(expected)).not.toBe('');
    // What is stored tells the sizes; one by one they then go through the model.
    const found = wanted.map((_, lbn) => image.mapping(lbn));
    const sizeOf = wanted.map((size, lbn) => {
      const { pbn, state } = found[lbn]!;
      return state >= 2 ? (image.fragmentSizes(pbn)[state - 2] ?? 0) : size + 30;
    });
    const groups = new Map<number, number[]>();
    found.forEach(({ pbn, state }, lbn) => {
      if (state < 2) return;
      const group = groups.get(pbn) ?? [];
      group[state - 2] = lbn;
      groups.set(pbn, group);
    });
    const key = (lbns: readonly number[]): string => lbns.join();
    const real = new Set([...groups.values()].map(key));
    expect(real.size).toBeGreaterThan(60);
    const agreement = (bins: number, fullestFirst: boolean): number =>
      model(sizeOf, { bins, fullestFirst }).filter((lbns) => real.has(key(lbns))).length /
      real.size;
    // The kernel's threads may let fragments arrive out of order, and one such changes several bins
    // (0.84 to 1 was seen; the others stay below 0.7): the policy is the one that agrees best.
    const others = [agreement(8, true), agreement(32, true), agreement(16, false)];
    const agreed = agreement(16, true);
    expect(agreed).toBeGreaterThan(0.6);
    expect(agreed).toBeGreaterThan(Math.max(...others));
  });
});

describe.skipIf(skip)(`stale bytes where the kernel makes a tree page${note}`, () => {
  // The first write takes four blocks from slab 0 in order: heights 3, 2, 1, and the leaf.
  const page = (image: VdoImage, height: number): number => image.firstBlock + 3 - height;

  it('a valid page of another place stops it', async () => {
    const image = tiny();
    image.writePage(page(image, 0), { pbn: 3000, initialized: true });
    const verdict = await judge(image, Buffer.alloc(TINY.logicalBlocks * BLOCK), '', true);
    expect(verdict.after.state, verdict.messages).toBe(State.readOnly);
  });

  it('an empty image made in advance, or anything not initialized, does not', async () => {
    const image = tiny();
    image.writePage(page(image, 0), { pbn: page(image, 0), initialized: false });
    image.writePage(page(image, 1), { pbn: 3000, initialized: false });
    randomBytes(BLOCK).copy(image.block(page(image, 2)));
    image.writePage(page(image, 3), { pbn: 3000, initialized: true }); // interior: logged only
    const verdict = await judge(image, Buffer.alloc(TINY.logicalBlocks * BLOCK), '', true);
    expect(verdict, verdict.messages).toMatchObject({ right: true, auditClean: true });
    expect(verdict.after.leafPbn(0)).toBe(page(image, 0));
  });

  it('after a crash too: a valid page of another place under a leaf being replayed', async () => {
    const { image, expected } = await makeVolume(tiny(), (w) => w.random(0, 50).flush(), {
      end: 'crash',
    });
    const good = await judge(image.clone(), expected);
    expect(good, good.messages).toMatchObject({ mode: 'normal', right: true, auditClean: true });
    image.writePage(page(image, 0), { pbn: 3000, initialized: true });
    const verdict = await judge(image, expected, '', false);
    expect(verdict.mode, verdict.messages).not.toBe('normal');
  });
});

describe.skipIf(skip)(`a stop amid scrubbing${note}`, () => {
  it('saves state RECOVERING, and the next start goes on without replaying', async () => {
    await withFolder(async (folder) => {
      const slabs = 24;
      const logicalBlocks = 16_384;
      const { image, expected } = await makeVolume(
        tiny({ slabs, logicalBlocks }),
        (workload) => workload.random(0, 9000).flush(),
        { end: 'crash', logicalBlocks },
      );
      const path = join(folder, 'volume');
      image.save(path);
      const copy = join(folder, 'stopped');
      const out = await inKernel({
        engine: 'uml',
        disks: [path],
        share: folder,
        env: TINY_TABLE,
        script: `set -e
D=\${DISKS[0]}
dmsetup create slow --table "0 $(blockdev --getsz $D) delay $D 0 200 $D 0 0"
VDO_ON=/dev/mapper/slow vdo_start $D v
vdo_stop v
dmsetup remove --retry slow
vdo_config $D state
dd if=$D of=/mnt/stopped bs=1M status=none
vdo_start $D v
vdo_wait_recovery v
vdo_status v mode
sha256sum < /dev/mapper/v
vdo_stop v`,
      });
      const lines = out.split('\n');
      expect(lines[0], out).toBe('recovering');
      expect(lines[1], out).toBe('normal');
      expect(lines[2], out).toContain(sha256(expected));
      const stopped = VdoImage.load(copy);
      expect(stopped.state).toBe(State.recovering);
      const after = VdoImage.load(path);
      expect(after.state).toBe(State.clean);
      expect(after.completeRecoveries).toBe(stopped.completeRecoveries);
      expect((await vdoaudit(path)).clean).toBe(true);
    });
  });
});

describe.skipIf(skip)(`a device that fails below the kernel${note}`, () => {
  interface Failure {
    readonly status: string;
    readonly write: string;
    readonly read: string;
    readonly image: VdoImage;
    readonly messages: string;
  }

  /** Lets all access to some blocks fail while the volume runs, then writes and stops. */
  async function fail(
    from: (image: VdoImage) => number,
    count: (image: VdoImage) => number,
    then: string,
  ): Promise<Failure> {
    return withFolder(async (folder) => {
      const path = join(folder, 'volume');
      const image = tiny();
      image.save(path);
      const workload = new Workload(folder, TINY.logicalBlocks).random(0, 400).flush();
      const start = from(image) * 8;
      const length = count(image) * 8;
      const end = start + length;
      const rest = image.bytes.length / 512 - end;
      const { stdout } = await runInKernel({
        engine: 'uml',
        disks: [path],
        share: folder,
        env: TINY_TABLE,
        script: `D=\${DISKS[0]}; S=$(blockdev --getsz $D)
dmsetup create base --table "0 $S linear $D 0"
VDO_ON=/dev/mapper/base vdo_start $D v
${workload.script()}
dmsetup suspend --noflush base
dmsetup reload base <<END
0 ${start} linear $D 0
${start} ${length} error
${rest > 0 ? `${end} ${rest} linear $D ${end}` : ''}
END
dmsetup resume base
${then}
cmp -s -n $((400 * 4096)) /mnt/data-0 /dev/mapper/v && echo same > /mnt/read || echo differs > /mnt/read
dmsetup status v > /mnt/status
dmsetup remove v; dmsetup remove --retry base
dmesg | grep -E 'vdo' > /mnt/messages`,
      });
      const file = (name: string): string => readFileSync(join(folder, name), 'utf8').trim();
      return {
        status: file('status'),
        write: stdout,
        read: file('read'),
        image: VdoImage.load(path),
        messages: `${stdout}\n${file('messages')}`,
      };
    });
  }

  const more = `for i in 1 2 3 4 5; do put /mnt/data-0 $VOLUME $((i * 400 * 4096)) || break; done
sync $VOLUME && echo flushed || echo not flushed`;

  it('recovery journal: read-only, stored so, reads go on; a flush even succeeds', async () => {
    const failure = await fail(
      (i) => i.journalPbn(0),
      (i) => i.journalSize,
      more,
    );
    expect(failure.status, failure.messages).toContain('read-only');
    expect(failure.write).toContain('Input/output error');
    expect(failure.write).toMatch(/^flushed$/m);
    expect(failure.read).toBe('same');
    expect(failure.image.state).toBe(State.readOnly);
  });

  it('slab summary: read-only at the latest at the stop', async () => {
    const failure = await fail(
      (i) => i.journalPbn(0) + i.journalSize,
      () => 64,
      more,
    );
    expect(failure.read).toBe('same');
    expect(failure.image.state, failure.messages).toBe(State.readOnly);
  });

  it('reference blocks: read-only at the stop', async () => {
    const failure = await fail(
      (i) => i.referencePbn(0),
      () => 1,
      more,
    );
    expect(failure.read).toBe('same');
    expect(failure.image.state, failure.messages).toBe(State.readOnly);
  });

  it('the super block: stays DIRTY on disk', async () => {
    const failure = await fail(
      () => 1,
      () => 1,
      'sync $VOLUME',
    );
    expect(failure.read).toBe('same');
    expect(failure.image.state, failure.messages).toBe(State.dirty);
  });

  it('data blocks only: a failed write of acknowledged data makes it read-only too', async () => {
    // Behind the 404 blocks that are in use, all of slab 0 that can hold data.
    const failure = await fail(
      (i) => i.firstBlock + 420,
      (i) => i.dataBlocks - 420,
      more,
    );
    expect(failure.read).toBe('same');
    expect(failure.status, failure.messages).toContain('read-only');
    expect(failure.image.state).toBe(State.readOnly);
  });
});
