/**
 * Hosts that let a volume down: the file is cut short, removed, replaced or moved under it, its file
 * system is full or read-only, the device fails or is slower than the clients. Every call ends, says
 * clearly what happened, and what was flushed before stays.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bytesEqual } from '../../../src/base/bytes.ts';
import { BLOCK_SIZE } from '../../../src/base/constants.ts';
import { VdoError } from '../../../src/base/errors.ts';
import { auditVolume } from '../../../src/inspect/audit.ts';
import { openFileStorage } from '../../../src/storage/file-storage.ts';
import { formatVolume } from '../../../src/volume/format.ts';
import { openVolume } from '../../../src/volume/open.ts';
import { rebuildVolumeOn } from '../../../src/volume/rebuild-volume.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { auditNow } from '../../model/audit.ts';
import { STATE } from '../../model/layout.ts';
import { readLbns } from '../../model/read.ts';
import { recoverNow } from '../../model/recover.ts';
import { runNow } from '../../model/steps.ts';
import { Image, ImageStorage, imageOf } from '../../support/image.ts';
import {
  noise,
  noiseRun,
  QUIET,
  TINY_BLOCKS,
  TINY_FORMAT,
  tinyVolume,
} from '../../support/volumes.ts';

const PLAIN = { ...QUIET, compression: false } as const;

let directory = '';
let path = '';
beforeEach(() => {
  directory = fs.mkdtempSync(join(tmpdir(), 'uvdo-host-'));
  path = join(directory, 'disk.vdo');
});
afterEach(() => {
  try {
    execFileSync('umount', ['-q', directory], { stdio: 'ignore' });
  } catch {
    // Nothing was mounted.
  }
  fs.rmSync(directory, { recursive: true, force: true });
});

/** A volume in a file, open, with ten blocks flushed at 0. */
async function fileVolume(): Promise<Volume> {
  await formatVolume(path, { ...TINY_FORMAT, size: TINY_BLOCKS * BLOCK_SIZE });
  const volume = await openVolume(path, PLAIN);
  await volume.write(0, noiseRun(1, 10));
  await volume.flush();
  return volume;
}

/** Everything that a client can ask for ends in an error that matches. */
async function expectRefused(volume: Volume, error: object): Promise<void> {
  await expect(volume.write(0, noise(1)).then(() => volume.flush())).rejects.toMatchObject(error);
  await expect(volume.write(0, noise(1))).rejects.toBeInstanceOf(VdoError);
  await expect(volume.discard(0, BLOCK_SIZE)).rejects.toBeInstanceOf(VdoError);
  await expect(volume.flush()).rejects.toMatchObject(error);
  expect(volume.statistics().mode).toBe('read-only');
}

describe('a file', () => {
  it('cut short while open: the next flush fails, the lost part cannot be read', async () => {
    const volume = await fileVolume();
    fs.truncateSync(path, 80 * BLOCK_SIZE);
    await volume.write(100 * BLOCK_SIZE, noiseRun(2, 40));
    const message = expect.stringMatching(/disk\.vdo was cut short while it was open: it has \d+/);
    await expectRefused(volume, { code: 'Io', message });
    await expect(volume.close()).rejects.toMatchObject({ message });
    await expect(openVolume(path, QUIET)).rejects.toMatchObject({ code: 'Truncated' });
  });

  it('cut short and only read: reads of what is gone fail, others go on', async () => {
    const volume = await fileVolume();
    await volume.close();
    const reader = await openVolume(path, { ...QUIET, readOnly: true });
    fs.truncateSync(path, 70 * BLOCK_SIZE);
    const outcomes = await Promise.allSettled(
      Array.from({ length: 10 }, (_, lbn) => reader.read(lbn * BLOCK_SIZE, BLOCK_SIZE)),
    );
    expect(new Set(outcomes.map(({ status }) => status))).toEqual(new Set(['fulfilled', 'rejected'])); // prettier-ignore
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected')
        expect(outcome.reason).toMatchObject({ code: 'Truncated' });
    }
    await reader.close();
  });

  it.each(['removed', 'replaced'])('%s while open: the next flush fails', async (how) => {
    const volume = await fileVolume();
    const other = Buffer.from('something else');
    if (how === 'removed') fs.unlinkSync(path);
    else {
      fs.writeFileSync(`${path}.new`, other);
      fs.renameSync(`${path}.new`, path);
    }
    const message = expect.stringContaining('disk.vdo was removed or replaced while it was open');
    await expectRefused(volume, { code: 'Io', message });
    // What is there can still be saved elsewhere.
    const rest = await volume.read(BLOCK_SIZE, 9 * BLOCK_SIZE);
    expect(bytesEqual(rest, noiseRun(1, 10).subarray(BLOCK_SIZE))).toBe(true);
    await expect(volume.close()).rejects.toMatchObject({ message });
    if (how === 'replaced') expect(fs.readFileSync(path).equals(other)).toBe(true);
  });

  it('moved while open: goes on under its new name', async () => {
    const volume = await fileVolume();
    fs.renameSync(path, `${path}.moved`);
    await volume.write(0, noiseRun(3, 10));
    await volume.close();
    const storage = await openFileStorage(`${path}.moved`, { readOnly: true });
    expect(await auditVolume(storage)).toMatchObject({ clean: true, logicalBlocksUsed: 10 });
    await storage.close();
  });
});

/** Mounts a small file system in memory, where the system lets us. */
function mountTiny(options: string): boolean {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', directory], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** The flushed blocks are there once the volume is rebuilt, or recovered where it could not say why. */
async function expectRecoverable(image: Image, expected: Uint8Array): Promise<void> {
  const storage = new ImageStorage(image.bytes);
  if (image.layout.state === STATE.READ_ONLY) {
    expect(await rebuildVolumeOn(storage)).toMatchObject({ removed: 0 });
  } else expect(recoverNow(storage).outcome).toBe('recovered');
  expect(auditNow(storage).errors.filter((error) => !/^state/.test(error))).toEqual([]);
  const lbns = Array.from({ length: expected.length / BLOCK_SIZE }, (_, lbn) => lbn);
  expect(Buffer.concat(runNow(readLbns(lbns), storage)).equals(expected)).toBe(true);
}

describe('a full host', () => {
  it('of a real file system: read-only with the reason, nothing flushed is lost', async (context) => {
    if (!mountTiny('size=1500k')) return context.skip('this system lets us mount nothing');
    const volume = await fileVolume();
    const message = expect.stringContaining('no space is left on its file system');
    const failure = await (async () => {
      for (let lbn = 10; lbn < 900; lbn += 10) {
        await volume.write(lbn * BLOCK_SIZE, noiseRun(lbn, 10));
        await volume.flush();
      }
    })().catch((error: unknown) => error);
    expect(failure).toMatchObject({ message });
    await expectRefused(volume, { message });
    expect(bytesEqual(await volume.read(0, 10 * BLOCK_SIZE), noiseRun(1, 10))).toBe(true);
    await expect(volume.close()).rejects.toMatchObject({ message });
    await expectRecoverable(new Image(fs.readFileSync(path)), noiseRun(1, 10));
  });

  it.each(Array.from({ length: 12 }, (_, i) => i + 1))('at write call %i', async (nth) => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, noiseRun(1, 10));
    await volume.flush();
    let writes = 0;
    storage.before = ({ kind }) => {
      if (kind !== 'write' || ++writes < nth) return;
      throw new VdoError('NoSpace', 'cannot write x: no space is left on its file system');
    };
    const failure = await (async () => {
      for (let lbn = 10; lbn < 500; lbn += 50) {
        await volume.write(lbn * BLOCK_SIZE, noiseRun(lbn, 50));
        await volume.flush();
      }
    })().catch((error: unknown) => error);
    const message = expect.stringContaining('no space is left on its file system');
    expect(failure).toMatchObject({ message });
    await expectRefused(volume, { message });
    await expect(volume.close()).rejects.toMatchObject({ message });
    await expectRecoverable(imageOf(storage.below), noiseRun(1, 10));
  });
});

describe('a read-only host', () => {
  it('is told apart at open; reading and auditing need no writing', async (context) => {
    if (!mountTiny('size=20m')) return context.skip('this system lets us mount nothing');
    await (await fileVolume()).close();
    execFileSync('mount', ['-o', 'remount,ro', directory]);
    await expect(openVolume(path, QUIET)).rejects.toMatchObject({
      code: 'ReadOnly',
      message: expect.stringContaining('the file system is read-only'),
    });
    const volume = await openVolume(path, { ...QUIET, readOnly: true });
    expect(bytesEqual(await volume.read(0, 10 * BLOCK_SIZE), noiseRun(1, 10))).toBe(true);
    await volume.close();
    const storage = await openFileStorage(path, { readOnly: true });
    expect(await auditVolume(storage)).toMatchObject({ clean: true });
    await storage.close();
  });
});

describe('a failing device', () => {
  it('a block that cannot be read fails its readers only', async () => {
    const { volume, storage } = await tinyVolume(PLAIN);
    await volume.write(0, noiseRun(1, 20));
    await volume.flush();
    const bad = imageOf(storage.below).bytes.indexOf(noise(100_005)) / BLOCK_SIZE;
    expect(bad).toBeGreaterThan(60);
    storage.before = ({ kind, extents }) => {
      const at = bad * BLOCK_SIZE;
      const isHit = extents.some(({ offset, bytes }) => offset <= at && offset + bytes.length > at);
      if (kind === 'read' && isHit) throw new VdoError('Io', `cannot read x at byte ${at}: EIO`);
    };
    const outcomes = await Promise.allSettled(
      Array.from({ length: 20 }, (_, lbn) => volume.read(lbn * BLOCK_SIZE, BLOCK_SIZE)),
    );
    const failed = outcomes.flatMap(({ status }, lbn) => (status === 'rejected' ? [lbn] : []));
    expect(failed).toEqual([5]);
    expect(outcomes[5]).toMatchObject({ reason: { code: 'Io' } });
    await volume.write(5 * BLOCK_SIZE, noise(7));
    await volume.flush();
    expect(bytesEqual(await volume.read(5 * BLOCK_SIZE, BLOCK_SIZE), noise(7))).toBe(true);
    await volume.close();
    expect(auditNow(storage.below).errors).toEqual([]);
  });
});

describe('a device slower than its clients', () => {
  it('holds clients back, in bounded memory, and answers all of them', async () => {
    const { volume, storage } = await tinyVolume({ ...PLAIN, batchBlocks: 128 }, {}, 9000);
    let inFlight = 0;
    let most = 0;
    storage.before = async ({ extents }) => {
      inFlight += extents.reduce((sum, { bytes }) => sum + bytes.length, 0);
      most = Math.max(most, inFlight);
      await new Promise((resolve) => setTimeout(resolve, 2));
      inFlight -= extents.reduce((sum, { bytes }) => sum + bytes.length, 0);
    };
    // Clients share their buffers, so that what grows is the volume's.
    const buffers = Array.from({ length: 8 }, (_, i) => noiseRun(i + 1, 16));
    global.gc?.();
    const before = process.memoryUsage().arrayBuffers;
    let peak = before;
    let waiting = 0;
    let mostWaiting = 0;
    const clients = Array.from({ length: 240 }, async (_, i) => {
      waiting++;
      mostWaiting = Math.max(mostWaiting, waiting);
      await volume.write(i * 16 * BLOCK_SIZE, buffers[i % 8]!);
      waiting--;
      peak = Math.max(peak, process.memoryUsage().arrayBuffers);
      if (i % 16 === 0) await volume.flush();
    });
    await Promise.all(clients);
    // Acknowledged were two batches at most; all others waited for room.
    expect(mostWaiting).toBeGreaterThan(200);
    expect(most).toBeLessThanOrEqual(4 * 128 * BLOCK_SIZE);
    expect(peak - before).toBeLessThan(32 * 1024 * 1024);
    storage.before = () => undefined;
    for (let i = 0; i < 240; i++) {
      const read = await volume.read(i * 16 * BLOCK_SIZE, 16 * BLOCK_SIZE);
      expect(bytesEqual(read, buffers[i % 8]!)).toBe(true);
    }
    await volume.close();
  });
});
