import { afterEach, describe, expect, it } from 'vitest';
import { VdoError } from '../../../src/base/errors.ts';
import { openNbdStorage, type NbdStorage, type NbdStorageOptions } from '../../../src/nbd-client/nbd-storage.ts'; // prettier-ignore
import { Random } from '../../sim/random.ts';
import {
  FakeServer,
  numbers,
  optionReply,
  simpleReply,
  type FakeOptions,
  type FakeRequest,
  type Form,
} from '../../support/nbd-fake-server.ts';

const LENGTH = 65_536;
const QUICK: NbdStorageOptions = { timeoutMs: 500, openMs: 10_000, giveUpMs: 300 };

let server: FakeServer;
let storage: NbdStorage | undefined;
afterEach(async () => {
  await storage?.close();
  storage = undefined;
  await server.stop();
});

const open = async (options: FakeOptions = {}, how = QUICK): Promise<NbdStorage> => {
  server = await FakeServer.start(options);
  return (storage = await openNbdStorage(server.uri, how));
};
const read = (one: NbdStorage, length = LENGTH): Promise<void> =>
  one.read([{ offset: 4096, bytes: new Uint8Array(length) }]);

describe('in the negotiation', () => {
  const opening = async (
    prepare: () => void,
    options: FakeOptions = {},
    openMs = QUICK.openMs,
  ): Promise<unknown> => {
    server = await FakeServer.start(options);
    prepare();
    return openNbdStorage(server.uri, { ...QUICK, openMs: openMs! }).then(
      (opened) => (storage = opened),
      (error: unknown) => error,
    );
  };
  const junk = Buffer.from('SSH-2.0-OpenSSH_9.2p1 and more of it\r\n');
  const cases: [name: string, prepare: () => void, words: RegExp][] = [
    ['another protocol', () => (server.greeting = junk), /greeting is not that of an NBD server/],
    ['nothing', () => (server.greeting = Buffer.alloc(0)), /did not open the export within 0.3 s/],
    ['silence to an option', () => (server.onOption = () => Buffer.alloc(0)), /within 0.3 s/],
    ['no option reply', () => (server.onOption = () => junk), /no reply where one to an option/],
    ['a reply to another option', () => (server.onOption = () => optionReply(99, 1)), /that was not sent/],
    ['4 GiB of reply', () => (server.onOption = (option) => numbers([64, 0x0003e889045565a9n], [32, option], [32, 3], [32, 0xffffffff])), /a reply of 4294967295 bytes/],
    ['a flood', () => (server.onOption = () => Buffer.alloc(3 << 20)), /more bytes than anybody asked for|no reply/],
    ['endless replies', () => (server.onOption = (option) => Buffer.concat(Array.from({ length: 16_500 }, () => optionReply(option, 3)))), /without end/],
    ['GO without a size', () => (server.onOption = (option) => (option === 7 ? optionReply(7, 1) : undefined)), /without telling its size/],
    ['a short description', () => (server.onOption = (option) => (option === 7 ? optionReply(7, 3, numbers([16, 0], [32, 1])) : undefined)), /./],
    ['a refusal in words', () => (server.onOption = (option) => (option === 7 ? optionReply(7, 0x80000002, Buffer.from('go\n\u001b[31m away')) : undefined)), /configuration forbids it \(it says: go \[31m away\)/],
    ['a demand for TLS', () => (server.onOption = (option) => optionReply(option, 0x80000005)), /demands TLS: use nbds/],
  ]; // prettier-ignore

  it.each(cases)('%s', async (_name, prepare, words) => {
    const silent = words.source.includes('within') || words.source === '.';
    const error = await opening(prepare, {}, silent ? 300 : 10_000);
    expect(error).toBeInstanceOf(VdoError);
    expect((error as VdoError).message).toMatch(words);
    expect((error as VdoError).code).toBe('Io');
  });

  it.each([0, 3, 131_072, 0xffffffff])('blocks of %d bytes', async (minimumBlock) => {
    const error = await opening(() => undefined, { minimumBlock });
    expect((error as VdoError).message).toMatch(/breaks the NBD protocol: blocks of/);
  });

  it('an export of 2^63 bytes', async () => {
    const facts = numbers([16, 0], [64, 2n ** 63n], [16, 1]);
    const reply = Buffer.concat([optionReply(7, 3, facts), optionReply(7, 1)]);
    const error = await opening(() => {
      server.onOption = (option) => (option === 7 ? reply : undefined);
    });
    expect((error as VdoError).message).toMatch(/more than 2\^53 bytes/);
  });

  it('EXPORT_NAME of a missing export: the server just closes', async () => {
    server = await FakeServer.start({ go: false, exportName: 'x' });
    await expect(openNbdStorage(server.uri.replace('/x?', '/y?'), QUICK)).rejects.toThrow(
      /did not open the export "y"/,
    );
  });

  it('bytes in the clear behind the start of TLS', async () => {
    server = await FakeServer.start();
    server.onOption = (option) => Buffer.concat([optionReply(option, 1), Buffer.from('injected')]);
    await expect(openNbdStorage(server.uri.replace('nbd+', 'nbds+'), QUICK)).rejects.toThrow(
      /bytes in the clear after the start of TLS/,
    );
  });
});

describe('in answer to a read', () => {
  const cases: [name: string, form: Form, says: (request: FakeRequest) => Buffer, words: RegExp][] = [
    ['garbage', 'simple', () => Buffer.from('what is this, a server for ants?'), /no reply where one/],
    ['a wrong cookie', 'simple', ({ cookie }) => simpleReply(cookie + 1n), /not in flight/],
    ['a huge cookie', 'structured', () => simpleReply(2n ** 64n - 1n), /not in flight/],
    ['a simple reply', 'structured', ({ cookie }) => simpleReply(cookie), /simple reply to a read/],
    ['no data', 'structured', (r) => server.chunk(r, 'structured', 0, 1), /an incomplete read/],
    ['half of the data', 'structured', (r) => server.chunk(r, 'structured', 1, 1, Buffer.concat([numbers([64, r.offset]), Buffer.alloc(r.length / 2)])), /an incomplete read/],
    ['data outside', 'structured', (r) => server.chunk(r, 'structured', 1, 1, Buffer.concat([numbers([64, r.offset + 1]), Buffer.alloc(r.length)])), /outside of its read/],
    ['data before', 'extended', (r) => server.chunk(r, 'extended', 1, 1, Buffer.concat([numbers([64, r.offset - 1]), Buffer.alloc(9)])), /outside of its read/],
    ['data twice', 'structured', (r) => { const one = server.chunk(r, 'structured', 1, 0, Buffer.concat([numbers([64, r.offset]), Buffer.alloc(r.length)])); return Buffer.concat([one, one]); }, /sent twice/],
    ['a hole of 4 GiB', 'structured', (r) => server.chunk(r, 'structured', 2, 1, numbers([64, r.offset], [32, 0xffffffff])), /outside of its read/],
    ['a hole of a wrong size', 'structured', (r) => server.chunk(r, 'structured', 2, 1, numbers([64, r.offset])), /malformed hole/],
    ['an empty piece', 'structured', (r) => server.chunk(r, 'structured', 1, 1, numbers([64, r.offset])), /an empty piece/],
    ['a piece for each second byte', 'structured', (r) => Buffer.concat(Array.from({ length: 3000 }, (_, i) => server.chunk(r, 'structured', 1, 0, Buffer.concat([numbers([64, r.offset + 2 * i]), Buffer.alloc(1)])))), /too many pieces/],
    ['an unknown chunk', 'structured', (r) => server.chunk(r, 'structured', 77, 1), /a chunk of type 77/],
    ['a block status', 'structured', (r) => server.chunk(r, 'structured', 5, 1, numbers([32, 7], [32, 1], [32, 0])), /a chunk of type 5/],
    ['an error of no kind', 'structured', (r) => server.chunk(r, 'structured', 0x8001, 1, numbers([32, 0], [16, 0])), /malformed error/],
    ['an error text past its end', 'structured', (r) => server.chunk(r, 'structured', 0x8001, 1, numbers([32, 5], [16, 99])), /malformed error/],
    ['an error of 4 GiB', 'structured', (r) => Buffer.concat([numbers([32, 0x668e33ef], [16, 1], [16, 0x8001], [64, r.cookie], [32, 0xffffffff])]), /malformed error/],
    ['another offset', 'extended', (r) => server.chunk({ ...r, offset: 0 }, 'extended', 0, 1), /another offset/],
    ['a compact chunk', 'extended', (r) => Buffer.concat([server.chunk(r, 'structured', 0, 1), Buffer.alloc(32)]), /no reply where one/],
    ['2^63 bytes', 'extended', (r) => numbers([32, 0x6e8a278c], [16, 1], [16, 1], [64, r.cookie], [64, r.offset], [64, 2n ** 63n]), /outside of its read/],
  ]; // prettier-ignore

  it.each(cases)('%s', async (_name, form, says, words) => {
    const one = await open({ form });
    server.onRequest = says;
    await expect(read(one)).rejects.toThrow(words);
    // Nothing of it sticks: the next connection works, and for reads that is enough.
    server.onRequest = undefined;
    await read(one);
    await expect(one.write([{ offset: 0, bytes: new Uint8Array(1) }])).rejects.toThrow(
      /may be lost/,
    );
  });

  it.each(['simple', 'structured', 'extended'] as const)('half replies, %s', async (form) => {
    const one = await open({ form, size: 1 << 20 }, { ...QUICK, giveUpMs: 5000 });
    server.cache.fill(0x5a);
    const random = new Random(3);
    let broken = 0;
    server.onRequest = (request) => {
      if (broken === 5) return undefined;
      broken++;
      server.onRequest = undefined;
      const whole = form === 'simple' ? Buffer.concat([simpleReply(request.cookie), Buffer.alloc(request.length)]) : server.chunk(request, form, 1, 0, Buffer.concat([numbers([64, request.offset]), Buffer.alloc(request.length)])); // prettier-ignore
      setTimeout(() => {
        server.onRequest = undefined;
        server.disconnect();
      }, 5);
      return whole.subarray(0, 1 + random.below(whole.length - 1));
    };
    const bytes = new Uint8Array(LENGTH);
    await one.read([{ offset: 4096, bytes }]);
    expect(bytes.every((byte) => byte === 0x5a)).toBe(true);
  });

  it('the right reply in single bytes', async () => {
    const one = await open({ form: 'structured', random: new Random(8) });
    server.cache.fill(0x77, 4096, 8192);
    let sent: Promise<void> | undefined;
    server.onRequest = (request) => {
      const data = server.cache.subarray(request.offset, request.offset + request.length);
      const reply = server.chunk(request, 'structured', 1, 1, Buffer.concat([numbers([64, request.offset]), data])); // prettier-ignore
      sent = server.dribble(reply);
      return Buffer.alloc(0);
    };
    const bytes = new Uint8Array(600);
    await one.read([{ offset: 4096, bytes }]);
    await sent;
    expect(bytes.every((byte) => byte === 0x77)).toBe(true);
  });
});

describe('in answer to a block status', () => {
  const ask = (one: NbdStorage): Promise<unknown> => one.extents(0, LENGTH);
  it.each([
    ['no extent', (r: FakeRequest) => server.chunk(r, 'structured', 5, 1, numbers([32, 7])), /malformed block status/],
    ['an extent of nothing', (r: FakeRequest) => server.chunk(r, 'structured', 5, 1, numbers([32, 7], [32, 0], [32, 0])), /an extent of no bytes/],
    ['another context only', (r: FakeRequest) => server.chunk(r, 'structured', 5, 1, numbers([32, 9], [32, 8], [32, 0])), /tells nothing/],
    ['2^28 extents', (r: FakeRequest) => numbers([32, 0x668e33ef], [16, 1], [16, 5], [64, r.cookie], [32, 0x80000004]), /malformed block status/],
    ['nothing at all', (r: FakeRequest) => simpleReply(r.cookie), /without a chunk/],
  ])('%s', async (_name, says, words) => {
    const one = await open({ form: 'structured' });
    server.onRequest = says;
    await expect(ask(one)).rejects.toThrow(words);
  }); // prettier-ignore
});

describe('noise', () => {
  it('in place of any reply never does more than fail', async () => {
    const random = new Random(42);
    for (let round = 0; round < 150; round++) {
      const form = (['simple', 'structured', 'extended'] as const)[round % 3]!;
      const one = await open({ form }, { ...QUICK, timeoutMs: 20, giveUpMs: 10 });
      server.onRequest = (request) => {
        const right = form === 'simple' ? simpleReply(request.cookie) : server.chunk(request, form, random.below(7), random.below(2), Buffer.alloc(random.below(40))); // prettier-ignore
        for (let i = 0; i < 1 + random.below(4); i++) right[random.below(right.length)] = random.next(); // prettier-ignore
        return Buffer.concat([right, Buffer.alloc(random.below(100), random.next())]);
      };
      const outcome = await read(one, 512).catch((error: unknown) => error);
      if (outcome !== undefined) expect(outcome).toBeInstanceOf(VdoError);
      await one.close();
      await server.stop();
    }
  });
});
