import { beforeEach, describe, expect, it } from 'vitest';
import { MemoryDevice } from '../../support/memory-device.ts';
import {
  ask,
  greet,
  infoPayload,
  metaContextPayload,
  NBD,
  optionRequest,
  receiveOptionReply,
  requestHeader,
  type NbdSocket,
} from '../../support/nbd-client.ts';
import { World } from './support.ts';

const MiB = 1 << 20;

describe('the NBD handshake', () => {
  const world = World.each();
  let line: NbdSocket;

  beforeEach(async () => {
    world.current = new World();
    await world.current.serve([
      { name: 'first', volume: new MemoryDevice(3 * MiB), description: 'a description' },
      { name: 'zweites, größer', volume: new MemoryDevice(5 * MiB), readOnly: true },
      { name: 'x'.repeat(4096), volume: new MemoryDevice(4096) },
    ]);
    line = await world.current.line();
  });

  const types = async (option: number, payload?: Uint8Array): Promise<number[]> =>
    (await ask(line, option, payload)).map(({ type }) => type);

  it('offers fixed newstyle without zeroes', async () => {
    expect(await greet(line)).toBe(3);
  });

  it('refuses unknown options, whatever they carry, and stays in step', async () => {
    await greet(line);
    for (const option of [4, 12, 99, 0, 0xffffffff]) {
      const [answer] = await ask(line, option, Buffer.from('some payload'));
      expect(answer).toMatchObject({ option, type: NBD.ERR_UNSUP });
    }
    expect((await types(NBD.LIST)).at(-1)).toBe(NBD.ACK);
  });

  it('lists every export, and refuses a list with a payload', async () => {
    await greet(line);
    expect(await types(NBD.LIST, Buffer.from('x'))).toEqual([NBD.ERR_INVALID]);
    const answers = await ask(line, NBD.LIST);
    expect(answers.map(({ type }) => type)).toEqual([2, 2, 2, 1]);
    const listed = answers.slice(0, 3).map(({ payload }) => {
      const length = payload.readUInt32BE(0);
      return [payload.toString('utf8', 4, 4 + length), payload.toString('utf8', 4 + length)];
    });
    expect(listed).toEqual([
      ['first', 'a description'],
      ['zweites, größer', ''],
      ['x'.repeat(4096), ''],
    ]);
  });

  it('tells INFO and GO the same facts, and goes on after a failed GO', async () => {
    await greet(line);
    expect(await types(NBD.GO, infoPayload('none'))).toEqual([NBD.ERR_UNKNOWN]);
    const payload = infoPayload('first', [3, 1, 2, 77, 1]);
    const info = await ask(line, NBD.INFO, payload);
    const go = await ask(line, NBD.GO, payload);
    const facts = (answers: typeof info): string[] =>
      answers.map(({ type, payload: bytes }) => `${type} ${bytes.toString('hex')}`);
    expect(facts(go)).toEqual(facts(info));
    const of = (type: number): Buffer =>
      info.find(
        (answer) => answer.type === NBD.INFO_REPLY && answer.payload.readUInt16BE(0) === type,
      )!.payload;
    expect(of(0).readBigUInt64BE(2)).toBe(3n * 1024n * 1024n);
    // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, CACHE, FAST_ZERO; nothing else.
    expect(of(0).readUInt16BE(10)).toBe(0b1101_0110_1101);
    expect(of(1).toString('utf8', 2)).toBe('first');
    expect(of(2).toString('utf8', 2)).toBe('a description');
    expect([2, 6, 10].map((at) => of(3).readUInt32BE(at))).toEqual([1, 4096, 32 * MiB]);
    line.send(requestHeader(NBD.READ, 0, 1));
    expect((await line.receive(17)).readUInt32BE(4)).toBe(0);
  });

  it('opens the first export for the empty name, and marks a read-only one', async () => {
    const first = await world.current.client('');
    expect(first.size).toBe(3 * MiB);
    const second = await world.current.client('zweites, größer');
    expect(second.size).toBe(5 * MiB);
    // HAS_FLAGS, READ_ONLY, FLUSH, FUA, MULTI_CONN, CACHE.
    expect(second.flags).toBe(0b101_0000_1111);
  });

  it('refuses malformed INFO payloads', async () => {
    await greet(line);
    const good = infoPayload('first', [1]);
    const nul = infoPayload('a\0b');
    const broken = infoPayload('aa');
    broken[4] = 0xff;
    const past = Buffer.from(good);
    past.writeUInt32BE(good.length - 5, 0);
    const huge = Buffer.from(good);
    huge.writeUInt32BE(0xffffffff, 0);
    const count = Buffer.from(good);
    count.writeUInt16BE(2, 9);
    for (const bad of [
      good.subarray(0, 0),
      good.subarray(0, 3),
      good.subarray(0, 5),
      good.subarray(0, good.length - 1),
      Buffer.concat([good, Buffer.from('x')]),
      nul,
      broken,
      past,
      huge,
      count,
    ]) {
      expect(await types(NBD.INFO, bad)).toEqual([NBD.ERR_INVALID]);
      expect(await types(NBD.GO, bad)).toEqual([NBD.ERR_INVALID]);
    }
    expect((await types(NBD.GO, good)).at(-1)).toBe(NBD.ACK);
  });

  it('takes names of 4096 bytes and none of 4097', async () => {
    await greet(line);
    expect((await types(NBD.INFO, infoPayload('x'.repeat(4096)))).at(-1)).toBe(NBD.ACK);
    expect(await types(NBD.INFO, infoPayload('x'.repeat(4097)))).toEqual([NBD.ERR_INVALID]);
    expect(await types(NBD.INFO, infoPayload('y'.repeat(4096)))).toEqual([NBD.ERR_UNKNOWN]);
  });

  it('skips an option that is too long', async () => {
    await greet(line);
    expect(await types(NBD.INFO, Buffer.alloc(65_537))).toEqual([NBD.ERR_TOO_BIG]);
    expect(await types(99, Buffer.alloc(3 * MiB))).toEqual([NBD.ERR_TOO_BIG]);
    expect((await types(NBD.LIST)).at(-1)).toBe(NBD.ACK);
  });

  it('closes on flags that were not offered', async () => {
    await greet(line, 4 | 3);
    expect((await line.untilClosed()).length).toBe(0);
  });

  it('answers EXPORT_NAME with 10 bytes or, for those who want zeroes, 134', async () => {
    for (const [flags, length] of [
      [3, 10],
      [1, 134],
      [0, 134],
    ] as const) {
      const client = await world.current.line();
      await greet(client, flags);
      client.send(
        optionRequest(NBD.EXPORT_NAME, Buffer.from('first')),
        requestHeader(NBD.READ, 0, 4),
      );
      const answer = await client.receive(length + 20);
      expect(answer.readBigUInt64BE(0)).toBe(3n * 1024n * 1024n);
      expect(answer.readUInt16BE(8)).toBe(0b1101_0110_1101);
      expect(answer.subarray(10, length).every((byte) => byte === 0)).toBe(true);
      expect(answer.readUInt32BE(length)).toBe(0x67446698);
    }
  });

  it('closes on an EXPORT_NAME of nothing', async () => {
    await greet(line);
    line.send(optionRequest(NBD.EXPORT_NAME, Buffer.from('none')));
    expect((await line.untilClosed()).length).toBe(0);
  });

  it('acknowledges ABORT and closes; survives a client that does not wait for it', async () => {
    await greet(line);
    line.send(optionRequest(NBD.ABORT, Buffer.from('why not')));
    expect((await receiveOptionReply(line)).type).toBe(NBD.ACK);
    expect((await line.untilClosed()).length).toBe(0);
    const rude = await world.current.line();
    await greet(rude);
    rude.send(optionRequest(NBD.ABORT));
    rude.destroy();
    expect((await world.current.client()).size).toBe(3 * MiB);
  });

  it('closes on garbage, on an absurd length, and after too many options', async () => {
    await greet(line);
    line.send(Buffer.alloc(64, 0x41));
    await line.untilClosed();
    const long = await world.current.line();
    await greet(long);
    const header = optionRequest(99);
    header.writeUInt32BE(0xffffffff, 12);
    long.send(header);
    await long.untilClosed();
    const many = await world.current.line();
    await greet(many);
    for (let i = 0; i < 300; i++) many.send(optionRequest(99));
    const replies = await many.untilClosed();
    expect(replies.length).toBeLessThan(300 * 70);
  });

  it('understands messages that arrive byte by byte', async () => {
    await line.receive(18);
    const bytes = Buffer.concat([
      Buffer.from([0, 0, 0, 3]),
      optionRequest(NBD.GO, infoPayload('first')),
      requestHeader(NBD.WRITE, 5, 3),
      Buffer.from('abc'),
      requestHeader(NBD.READ, 4, 5),
    ]);
    for (const byte of bytes) {
      line.send(Uint8Array.of(byte));
      await new Promise(setImmediate);
    }
    while ((await receiveOptionReply(line)).type !== NBD.ACK);
    const replies = await line.receive(16 + 16 + 5);
    expect(replies.subarray(32).toString('latin1')).toBe('\0abc\0');
  });

  describe('with structured replies and metadata contexts', () => {
    const set = NBD.SET_META_CONTEXT;
    const contexts = async (option: number, name: string, queries: string[]) =>
      (await ask(line, option, metaContextPayload(name, queries))).map(({ type, payload }) =>
        type === NBD.META_CONTEXT
          ? `${payload.readUInt32BE(0) === 0 ? 'listed' : 'set'} ${payload.toString('utf8', 4)}`
          : type,
      );
    const [allocation, mapping] = ['base:allocation', 'x-uvdo:mapping'];

    it('takes the options that have no payload only without one', async () => {
      await greet(line);
      for (const option of [NBD.STRUCTURED_REPLY, NBD.EXTENDED_HEADERS, NBD.STARTTLS]) {
        expect(await types(option, Buffer.from('x'))).toEqual([NBD.ERR_INVALID]);
      }
      expect(await types(NBD.STARTTLS)).toEqual([NBD.ERR_POLICY]);
      expect(await types(NBD.STRUCTURED_REPLY)).toEqual([NBD.ACK]);
      expect(await types(NBD.STRUCTURED_REPLY)).toEqual([NBD.ACK]);
      expect(await types(NBD.EXTENDED_HEADERS)).toEqual([NBD.ACK]);
      expect(await types(NBD.EXTENDED_HEADERS)).toEqual([NBD.ERR_INVALID]);
      expect(await types(NBD.STRUCTURED_REPLY)).toEqual([NBD.ERR_EXT_HEADER_REQD]);
      line.send(optionRequest(NBD.EXPORT_NAME, Buffer.from('first')));
      expect((await line.untilClosed()).length).toBe(0);
    });

    it('knows contexts only once chunks are negotiated', async () => {
      await greet(line);
      for (const option of [NBD.LIST_META_CONTEXT, set]) {
        expect(await contexts(option, 'first', [])).toEqual([NBD.ERR_INVALID]);
      }
      await ask(line, NBD.STRUCTURED_REPLY);
      expect(await contexts(NBD.LIST_META_CONTEXT, 'first', [])).toEqual([
        `listed ${allocation}`,
        `listed ${mapping}`,
        NBD.ACK,
      ]);
    });

    it('lists by namespace, and selects by the whole name only', async () => {
      await greet(line);
      await ask(line, NBD.STRUCTURED_REPLY);
      const list = (...queries: string[]) => contexts(NBD.LIST_META_CONTEXT, 'first', queries);
      expect(await list('base:')).toEqual([`listed ${allocation}`, NBD.ACK]);
      expect(await list('x-uvdo:', 'other:', 'base:none')).toEqual([`listed ${mapping}`, NBD.ACK]);
      const select = (...queries: string[]) => contexts(set, 'first', queries);
      expect(await select('base:')).toEqual([NBD.ACK]);
      expect(await select()).toEqual([NBD.ACK]);
      expect(await select(mapping, 'qemu:dirty-bitmap:x', allocation, allocation)).toEqual([
        `set ${allocation}`,
        `set ${mapping}`,
        NBD.ACK,
      ]);
      expect(await contexts(set, 'none', [allocation])).toEqual([NBD.ERR_UNKNOWN]);
    });

    it('refuses malformed queries', async () => {
      await greet(line);
      await ask(line, NBD.STRUCTURED_REPLY);
      const good = metaContextPayload('first', [allocation]);
      const past = Buffer.from(good);
      past.writeUInt32BE(100, 4 + 5 + 4);
      const many = Buffer.from(good);
      many.writeUInt32BE(0xffffffff, 9);
      const bad = [good.subarray(0, 0), good.subarray(0, 12), good.subarray(0, 20), past, many];
      for (const payload of [...bad, Buffer.concat([good, Buffer.from('x')])]) {
        expect(await types(set, payload)).toEqual([NBD.ERR_INVALID]);
        expect(await types(NBD.LIST_META_CONTEXT, payload)).toEqual([NBD.ERR_INVALID]);
      }
      expect(await types(set, good)).toEqual([NBD.META_CONTEXT, NBD.ACK]);
    });

    it('offers flags as negotiated: DF with chunks, payloads of status with contexts', async () => {
      const flags = async (form: 'structured' | 'extended', contextNames: string[]) =>
        (await world.current.client('first', { form, contexts: contextNames })).flags;
      expect(await flags('structured', [allocation])).toBe(0b1101_1110_1101);
      expect(await flags('extended', [])).toBe(0b1101_1110_1101);
      expect(await flags('extended', [mapping])).toBe(0b1_1101_1110_1101);
    });
  });
});
