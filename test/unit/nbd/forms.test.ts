import { beforeEach, describe, expect, it } from 'vitest';
import { MemoryDevice } from '../../support/memory-device.ts';
import {
  extendedHeader,
  greet,
  ask,
  infoPayload,
  metaContextPayload,
  NBD,
  type Form,
  type NbdClient,
} from '../../support/nbd-client.ts';
import { Random } from '../../sim/random.ts';
import { World } from './support.ts';

const MiB = 1 << 20;
const SIZE = 8 * MiB;
const [EINVAL, ENOSPC, EOVERFLOW] = [22, 28, 75];
const [ALLOCATION, MAPPING] = ['base:allocation', 'x-uvdo:mapping'];
const contexts = [ALLOCATION, MAPPING];
const LAST = 2n ** 64n - 1n;

const noise = (length: number, seed: number): Buffer => {
  const random = new Random(seed);
  const some = Uint8Array.from({ length: Math.min(length, 4001) }, () => 1 + random.below(255));
  return Buffer.alloc(length, some);
};

const errnoOf = async (work: Promise<unknown>): Promise<number> =>
  work.then(
    () => 0,
    (error: { errno?: number }) => error.errno ?? -1,
  );

const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
};

describe.each<Form>(['structured', 'extended'])('with %s replies', (form) => {
  const world = World.each();
  let device: MemoryDevice;
  let client: NbdClient;

  beforeEach(async () => {
    world.current = new World();
    device = new MemoryDevice(SIZE, { random: new Random(5) });
    await world.current.serve([
      { name: 'disk', volume: device },
      { name: 'other', volume: new MemoryDevice(MiB) },
    ]);
    client = await world.current.client('disk', { form, contexts });
  });

  it('reads data and holes, in one chunk each', async () => {
    const bytes = noise(100_000, 1);
    await client.write(50_000, bytes, { fua: true });
    expect((await client.read(40_000, 120_000)).subarray(10_000, 110_000).equals(bytes)).toBe(true);
    const into = Buffer.alloc(65_536, 1);
    const chunks = async (offset: number, length: number, flags = 0): Promise<number[]> =>
      (await client.request(NBD.READ, offset, length, flags, undefined, into)).chunks;
    expect(await chunks(0, 4096)).toEqual([2]);
    expect(await chunks(0, 50_000)).toEqual([2]);
    expect(await chunks(0, 4096, NBD.DF)).toEqual([1]);
    expect(await chunks(16_384, 65_536, NBD.DF)).toEqual([1]);
    expect(into.subarray(50_000 - 16_384).equals(bytes.subarray(0, 65_536 - 33_616))).toBe(true);
    expect(await chunks(0, 0)).toEqual([0]);
    expect(await errnoOf(client.request(NBD.READ, 0, 1 << 30, NBD.DF))).toBe(EOVERFLOW);
    expect(await errnoOf(client.request(NBD.READ, 0, 1 << 30))).toBe(EINVAL);
  });

  it('tells errors with a number and a text', async () => {
    await expect(client.read(SIZE, 1)).rejects.toThrow('beyond the end of the export');
    for (const offset of [BigInt(SIZE) - 10n, LAST - 4095n, LAST]) {
      expect(await errnoOf(client.read(offset, 4096))).toBe(EINVAL);
      expect(await errnoOf(client.write(offset, Buffer.alloc(4096)))).toBe(ENOSPC);
      expect(await errnoOf(client.request(NBD.CACHE, offset, 4096))).toBe(EINVAL);
      expect(await errnoOf(client.request(NBD.BLOCK_STATUS, offset, 4096))).toBe(EINVAL);
    }
    expect(await errnoOf(client.request(99, 0, 0))).toBe(EINVAL);
    device.beforeCall = () => {
      throw new Error('secret path');
    };
    await expect(client.read(0, 1)).rejects.toThrow('the device failed');
    device.beforeCall = undefined;
  });

  it('knows holes from data, by any range, and with one run only if asked', async () => {
    await client.write(MiB, noise(8192, 2));
    await client.write(3 * MiB, noise(4096, 3));
    const whole = [
      [MiB, 3],
      [8192, 0],
      [2 * MiB - 8192, 3],
      [4096, 0],
      [5 * MiB - 4096, 3],
    ];
    expect(await client.status(0, SIZE)).toEqual(whole);
    const mapping = whole.map(([length, flags]) => [length, flags === 0 ? 2 : 0]);
    expect(await client.status(0, SIZE, MAPPING)).toEqual(mapping);
    expect(await client.status(0, SIZE, ALLOCATION, NBD.REQ_ONE)).toEqual([[MiB, 3]]);
    expect(await client.status(MiB + 100, 5000)).toEqual([[5000, 0]]);
    expect(await client.status(MiB - 1, 2)).toEqual([[1, 3], [1, 0]]); // prettier-ignore
    expect(await errnoOf(client.request(NBD.BLOCK_STATUS, 0, 0))).toBe(EINVAL);
    expect(await errnoOf(client.request(NBD.BLOCK_STATUS, 0, 4096, NBD.DF))).toBe(EINVAL);
  });

  it('answers block status with as many runs as fit, and goes on from there', async () => {
    const many = new MemoryDevice(40 * MiB);
    for (let block = 0; block < many.size / 4096; block += 2) many.bytes[block * 4096] = 1;
    const other = new World();
    await other.serve([{ name: '', volume: many }]);
    const asking = await other.client('', { form, contexts: [ALLOCATION] });
    let at = 0;
    while (at < many.size) {
      const runs = await asking.status(at, many.size - at);
      expect(runs.length).toBeLessThanOrEqual(8192);
      const wrong = runs.findIndex(
        ([length, flags], i) => length !== 4096 || flags !== ((at / 4096 + i) % 2 === 0 ? 0 : 3),
      );
      expect(wrong).toBe(-1);
      at += runs.length * 4096;
    }
    await other.end();
  });

  it('answers status only for the export whose contexts were selected last', async () => {
    const line = await world.current.line();
    await greet(line);
    await ask(line, form === 'extended' ? NBD.EXTENDED_HEADERS : NBD.STRUCTURED_REPLY);
    await ask(line, NBD.SET_META_CONTEXT, metaContextPayload('disk', contexts));
    await ask(line, NBD.SET_META_CONTEXT, metaContextPayload('other', [ALLOCATION]));
    await ask(line, NBD.SET_META_CONTEXT, metaContextPayload('none', [ALLOCATION]));
    const [info] = await ask(line, NBD.GO, infoPayload('other'));
    expect(info!.payload.readUInt16BE(10) & (1 << 12)).toBe(0);
    const none = await world.current.client('other', { form });
    expect(await errnoOf(none.request(NBD.BLOCK_STATUS, 0, 4096))).toBe(EINVAL);
  });

  it('accepts the largest trim and zero there can be', async () => {
    await client.write(0, noise(4096, 9));
    await client.trim(0, SIZE);
    expect(device.bytes[0]).toBe(0);
    expect(await errnoOf(client.trim(0, 2 ** 32 - 1))).toBe(EINVAL);
    expect(await errnoOf(client.zero(0, 2 ** 32 - 1))).toBe(ENOSPC);
  });
});

describe('with extended headers', () => {
  const world = World.each();
  let client: NbdClient;

  beforeEach(async () => {
    world.current = new World();
    const disk = new MemoryDevice(SIZE);
    disk.bytes.fill(7, 0, 8192);
    await world.current.serve([{ name: 'disk', volume: disk }]);
    client = await world.current.client('disk', { form: 'extended', contexts });
  });

  it('takes the contexts and the length of a status from its payload', async () => {
    const [allocation, mapping] = contexts.map((name) => client.contexts.get(name)!);
    const ask = (length: number | bigint, ...ids: number[]) =>
      client.request(
        NBD.BLOCK_STATUS,
        4096,
        0,
        0,
        Buffer.concat([
          u64(length),
          ...ids.map((id) => Buffer.from([id >>> 24, id >>> 16, id >>> 8, id])),
        ]),
      );
    const { runs } = await ask(8192, mapping!);
    expect([...runs]).toEqual([[mapping, [[4096, 2], [4096, 0]]]]); // prettier-ignore
    expect((await ask(8192, mapping!, allocation!)).runs.size).toBe(2);
    for (const bad of [
      ask(8192),
      ask(8192, 99),
      ask(8192, mapping!, mapping!),
      ask(0, mapping!),
      ask(SIZE, mapping!),
      ask(LAST, mapping!),
      client.request(NBD.BLOCK_STATUS, 0, 0, 0, Buffer.alloc(7)),
      client.request(NBD.BLOCK_STATUS, 0, 0, 0, Buffer.alloc(100_000)),
    ]) {
      expect(await errnoOf(bad)).toBe(EINVAL);
    }
    expect((await client.read(0, 10)).every((byte) => byte === 7)).toBe(true);
  });

  it('consumes a payload that no command wants, and takes a write without its flag', async () => {
    for (const command of [NBD.READ, NBD.FLUSH, NBD.TRIM, 77]) {
      expect(await errnoOf(client.request(command, 0, 0, 0, Buffer.alloc(50_000)))).toBe(EINVAL);
    }
    expect((await client.read(0, 10)).every((byte) => byte === 7)).toBe(true);
    const line = await world.current.line();
    await greet(line);
    await ask(line, NBD.EXTENDED_HEADERS);
    await ask(line, NBD.GO, infoPayload('disk'));
    line.send(extendedHeader(NBD.WRITE, 0, 5), Buffer.from('plain'));
    expect((await line.receive(32)).readUInt16BE(6)).toBe(0);
    expect((await client.read(0, 5)).toString()).toBe('plain');
  });

  it('ends the connection for a payload beyond all sense, and for a compact request', async () => {
    const line = async () => {
      const raw = await world.current.line();
      await greet(raw);
      await ask(raw, NBD.EXTENDED_HEADERS);
      await ask(raw, NBD.GO, infoPayload('disk'));
      return raw;
    };
    const huge = await line();
    huge.send(extendedHeader(NBD.WRITE, 0, LAST, NBD.PAYLOAD_LEN));
    expect((await huge.untilClosed()).length).toBe(0);
    const compact = await line();
    compact.send(Buffer.from('25609513'.padEnd(64, '0'), 'hex'));
    expect((await compact.untilClosed()).length).toBe(0);
  });
});
