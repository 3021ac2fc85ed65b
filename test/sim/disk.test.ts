import { describe, expect, it } from 'vitest';
import { VdoError } from '../../src/base/errors.ts';
import { MemoryStorage } from '../../src/storage/memory-storage.ts';
import { FaultyDisk, PowerLoss, type Faults } from './disk.ts';

const BLOCK = 4096;
const filled = (byte: number, length = BLOCK): Uint8Array => new Uint8Array(length).fill(byte);

function disk(faults: Faults = {}, stopAfter = Infinity): FaultyDisk {
  return new FaultyDisk(new MemoryStorage(16 * BLOCK, { chunkBytes: BLOCK }), {
    faults,
    stopAfter,
  });
}

/** The first byte of each sector of a block. */
function sectors(storage: MemoryStorage, block: number): number[] {
  const bytes = new Uint8Array(BLOCK);
  storage.readSync([{ offset: block * BLOCK, bytes }]);
  return Array.from({ length: 8 }, (_, sector) => bytes[sector * 512]!);
}

function outcomes(at: FaultyDisk, block: number): Set<string> {
  return new Set(Array.from({ length: 300 }, (_, seed) => sectors(at.crash(seed), block).join('')));
}

describe('FaultyDisk', () => {
  it('loses nothing that was flushed, and any sectors of the rest', () => {
    const at = disk();
    at.writeSync([{ offset: 0, bytes: filled(1) }]);
    at.flushSync();
    at.writeSync([{ offset: BLOCK, bytes: filled(2) }]);
    expect(outcomes(at, 0)).toEqual(new Set(['11111111']));
    const second = outcomes(at, 1);
    expect(second).toContain('00000000');
    expect(second).toContain('22222222');
    expect(second).toContain('02222222');
    expect(second.size).toBeGreaterThan(20);
  });

  it('may keep a later write without an earlier one, and an old sector beside a new one', () => {
    const at = disk();
    at.writeSync([{ offset: 0, bytes: filled(1) }]);
    at.writeSync([{ offset: BLOCK, bytes: filled(2) }]);
    at.writeSync([{ offset: 0, bytes: filled(3) }]);
    expect(outcomes(at, 0)).toContain('11111111');
    const survivors = Array.from({ length: 300 }, (_, seed) => at.crash(seed));
    expect(survivors.some((one) => sectors(one, 0)[0] === 0 && sectors(one, 1)[0] === 2)).toBe(
      true,
    );
    expect([...outcomes(at, 0)].some((one) => one.includes('1') && one.includes('3'))).toBe(true);
  });

  it('covers by a flush only what had completed when it was issued', () => {
    const at = disk();
    const early = at.issueWrite([{ offset: 0, bytes: filled(1) }]);
    at.complete(early);
    const late = at.issueWrite([{ offset: BLOCK, bytes: filled(2) }]);
    const flush = at.issueFlush();
    at.complete(late);
    at.complete(flush);
    expect(outcomes(at, 0)).toEqual(new Set(['11111111']));
    expect(outcomes(at, 1)).toContain('00000000');
  });

  it('does not let a slow flush undo what a later one made durable', () => {
    const at = disk();
    at.writeSync([{ offset: 0, bytes: filled(1) }]);
    const slow = at.issueFlush();
    at.flushSync();
    at.writeSync([{ offset: 0, bytes: filled(2) }]);
    at.flushSync();
    at.complete(slow);
    expect(outcomes(at, 0)).toEqual(new Set(['22222222']));
  });

  it('never brings back what a failed flush dropped', () => {
    const at = disk({ flushError: (nth) => nth === 1 });
    for (let block = 0; block < 16; block++) {
      at.writeSync([{ offset: block * BLOCK, bytes: filled(1) }]);
    }
    expect(() => at.flushSync()).toThrow(VdoError);
    at.flushSync();
    const lost = Array.from({ length: 16 }, (_, block) => sectors(at.crash(1), block)[0]);
    expect(lost).toContain(0);
    expect(sectors(at.snapshot(), lost.indexOf(0))[0]).toBe(1);
  });

  it('goes dark after the operation it was told, and heals from faults', async () => {
    const dark = disk({}, 2);
    await dark.write([{ offset: 0, bytes: filled(1) }]);
    await expect(dark.flush()).rejects.toThrow(PowerLoss);
    await expect(dark.read([])).rejects.toThrow(PowerLoss);
    const sick = disk({ readError: () => true, flippedBit: { offset: 5, bit: 0 } });
    const bytes = filled(9);
    await expect(sick.read([{ offset: 0, bytes }])).rejects.toThrow('injected read error');
    sick.healed = true;
    await sick.read([{ offset: 0, bytes }]);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });

  it('sees when bytes change while they are written', () => {
    const at = disk();
    const bytes = Buffer.alloc(BLOCK);
    const ticket = at.issueWrite([{ offset: 0, bytes }]);
    bytes[7] = 1;
    expect(() => at.complete(ticket)).toThrow('changed while');
  });

  it('completes in an order that the seed decides', async () => {
    const order = async (seed: number): Promise<string> => {
      const at = new FaultyDisk(new MemoryStorage(16 * BLOCK), { seed });
      const done: number[] = [];
      await Promise.all(
        Array.from({ length: 6 }, (_, i) =>
          at.write([{ offset: i * BLOCK, bytes: filled(1) }]).then(() => done.push(i)),
        ),
      );
      return done.join('');
    };
    expect(await order(3)).toBe(await order(3));
    expect(new Set([await order(1), await order(2), await order(3)]).size).toBeGreaterThan(1);
  });
});
