/**
 * Hostile NBD clients, seeded: well-formed sequences with strange values, damaged messages, and plain
 * noise, at every state of the protocol and in every form.
 */
import {
  extendedHeader,
  infoPayload,
  metaContextPayload,
  NBD,
  NbdSocket,
  optionRequest,
  requestHeader,
  type Form,
  type NbdAddress,
} from './nbd-client.ts';
import type { Random } from '../sim/random.ts';

const MiB = 1 << 20;
/** Where requests that make sense lie. */
export const EVIL_BYTES = 4 * MiB;

const bytesOf = (random: Random, length: number): Buffer => {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at++) bytes[at] = random.below(256);
  return bytes;
};

const strangeNumber = (random: Random): number =>
  random.pick([0, 1, 4095, 4096, 65_535, 65_537, 1 << 20, 33 << 20, 0x7fffffff, 0xffffffff, random.next()]); // prettier-ignore

const name = (random: Random): string =>
  random.pick(['evil', 'evil', '', 'none', 'x'.repeat(5000), 'a\0b', '\u{1f4a9}']);

function option(random: Random): Buffer {
  const payload = random.pick([
    () => Buffer.alloc(0),
    () => infoPayload(name(random), [random.below(6), 3, random.below(65_536)]),
    () =>
      metaContextPayload(name(random), ['base:allocation', 'base:', 'x-uvdo:mapping', '::', '']),
    () =>
      metaContextPayload(
        'evil',
        Array.from({ length: random.below(500) }, () => 'q:'),
      ),
    () => bytesOf(random, random.below(200)),
  ])();
  const bytes = optionRequest(
    // Those that end the handshake or the connection are rare.
    random.chance(0.05) ? random.below(12) : random.pick([3, 6, 8, 9, 10, 11, random.next()]),
    payload,
  );
  if (random.chance(0.05)) bytes.writeUInt32BE(strangeNumber(random), 12);
  return bytes;
}

function request(random: Random, form: Form): Buffer {
  const command = random.pick([0, 1, 1, 3, 4, 5, 6, 7, 7, 0, 0, random.below(65_536)]);
  const length = random.chance(0.9) ? random.below(20_000) : strangeNumber(random);
  const offset = random.chance(0.9)
    ? random.below(EVIL_BYTES)
    : BigInt(random.next()) * BigInt(random.next());
  const carries = command === NBD.WRITE || (form === 'extended' && random.chance(0.1));
  let flags = random.chance(0.9) ? 0 : random.below(65_536);
  if (form === 'extended' && carries && random.chance(0.95)) flags |= NBD.PAYLOAD_LEN;
  const header = (form === 'extended' ? extendedHeader : requestHeader)(
    command,
    offset,
    length,
    flags,
    random.next(),
  );
  if (!carries || length > 50_000) return header;
  return Buffer.concat([header, Buffer.alloc(length, random.below(256))]);
}

function damage(random: Random, bytes: Buffer): Buffer {
  if (random.chance(0.97) || bytes.length === 0) return bytes;
  if (random.chance(0.3)) return bytes.subarray(0, random.below(bytes.length));
  const copy = Buffer.from(bytes);
  for (let i = random.below(4); i >= 0; i--) {
    copy[random.below(Math.min(copy.length, 64))] = random.below(256);
  }
  return copy;
}

/** The messages of one connection. */
function script(random: Random, requests: number): Buffer[] {
  const messages: Buffer[] = [];
  if (random.chance(0.05)) return [bytesOf(random, random.below(2000))];
  messages.push(Buffer.from([0, 0, 0, random.chance(0.97) ? 3 : random.below(256)]));
  for (let i = random.below(6); i > 0; i--) messages.push(damage(random, option(random)));
  const form = random.pick<Form>(['simple', 'structured', 'extended']);
  if (form === 'structured') messages.push(optionRequest(NBD.STRUCTURED_REPLY));
  if (form === 'extended') messages.push(optionRequest(NBD.EXTENDED_HEADERS));
  if (random.chance(0.7)) {
    const queries = ['base:allocation', 'x-uvdo:mapping'];
    messages.push(optionRequest(NBD.SET_META_CONTEXT, metaContextPayload('evil', queries)));
  }
  if (random.chance(0.95)) messages.push(optionRequest(NBD.GO, infoPayload('evil')));
  for (let i = random.below(requests); i > 0; i--) {
    messages.push(damage(random, request(random, form)));
  }
  if (random.chance(0.1)) messages.push(bytesOf(random, random.below(1000)));
  return messages;
}

/** One hostile connection from beginning to end. Returns the messages it sent. */
export async function attack(address: NbdAddress, random: Random, requests = 200): Promise<number> {
  const line = await NbdSocket.connect(address);
  const isDeaf = random.chance(0.1);
  if (isDeaf) line.socket.pause();
  const messages = script(random, requests);
  let sent = 0;
  for (const message of messages) {
    if (line.socket.destroyed) break;
    line.send(message);
    sent++;
    if (line.socket.writableLength > MiB) {
      if (isDeaf) break;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    if (random.chance(0.02)) await new Promise(setImmediate);
  }
  if (random.chance(0.5)) line.socket.end();
  if (random.chance(0.5)) {
    await Promise.race([line.untilClosed(), new Promise((r) => setTimeout(r, 20))]);
  }
  line.destroy();
  return sent;
}
