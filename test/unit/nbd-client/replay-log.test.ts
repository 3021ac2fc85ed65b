import { expect, it } from 'vitest';
import { ReplayLog } from '../../../src/nbd-client/replay-log.ts';
import { Request } from '../../../src/nbd-client/request.ts';
import { Random } from '../../sim/random.ts';

const MiB = 1 << 20;

it('replays what a flush has not covered, as it was, in order, through chunks that go round', () => {
  const log = new ReplayLog(64 * MiB);
  const random = new Random(1);
  /** Every change since the last flush: mark, offset, fill, length. */
  let expected: { mark: number; offset: number; fill: number; length: number }[] = [];
  for (let round = 0; round < 400; round++) {
    const offset = random.below(1000);
    const fill = random.below(256);
    const pieces = Array.from({ length: 1 + random.below(3) }, () => 1 + random.below(300_000));
    if (fill === 0) log.addZeros(offset, pieces[0]!);
    else log.addWrite(offset, pieces.map((length) => new Uint8Array(length).fill(fill))); // prettier-ignore
    const length = fill === 0 ? pieces[0]! : pieces.reduce((a, b) => a + b);
    expected.push({ mark: log.mark, offset, fill, length });
    if (random.chance(0.1)) {
      const upTo = log.mark - random.below(3);
      log.forget(upTo);
      expected = expected.filter(({ mark }) => mark > upTo);
      expect(log.isClean).toBe(expected.length === 0);
    }
    let at = 0;
    for (const one of expected) {
      for (let done = 0; done < one.length; at++) {
        const change = log.changes[at]!;
        expect(change.offset).toBe(one.offset + done);
        if (one.fill === 0) expect(change.bytes).toBeUndefined();
        else if (change.bytes![0] !== one.fill || change.bytes!.at(-1) !== one.fill) {
          expect(change.bytes).toBe(one.fill);
        }
        done += change.length;
      }
    }
    expect(log.changes).toHaveLength(at);
  }
  log.clear();
  expect([log.bytes, log.isClean]).toEqual([0, true]);
});

it('is full before it exceeds its limit, and never while it is empty', () => {
  const log = new ReplayLog(MiB);
  expect(log.isFull(0, 8 * MiB)).toBe(false);
  log.addWrite(0, [new Uint8Array(MiB / 2)]);
  expect(log.isFull(0, MiB / 4)).toBe(false);
  expect(log.isFull(0, MiB / 2)).toBe(true);
  log.touch();
  log.forget(1);
  expect([log.bytes, log.isClean]).toEqual([0, false]);
  // Changes without bytes are bounded, too.
  let count = 0;
  for (; !log.isFull(0, 0); count++) log.addZeros(0, 4096);
  expect(count).toBeLessThan(20_000);
});

it('a read counts its pieces, in any order, and no byte twice', () => {
  const random = new Random(4);
  const nobody = { ended: () => undefined };
  for (let round = 0; round < 300; round++) {
    const length = 1 + random.below(60);
    const request = new Request(0, 0, length, [], nobody);
    const seen = new Set<number>();
    for (let tries = 0; tries < 40; tries++) {
      const start = random.below(length + 4) - 2;
      const end = start + random.below(12) - 1;
      const bytes = Array.from({ length: Math.max(0, end - start) }, (_, i) => start + i);
      const legal =
        start >= 0 && end > start && end <= length && bytes.every((byte) => !seen.has(byte));
      if (!legal && random.chance(0.9)) continue;
      const before = request.isComplete;
      expect(request.arrive(start, end)).toBe(legal);
      if (!legal) {
        expect(request.isComplete).toBe(before);
        break;
      }
      for (const byte of bytes) seen.add(byte);
      expect(request.isComplete).toBe(seen.size === length);
    }
  }
});
