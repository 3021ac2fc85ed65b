/**
 * The option phase as a client sees it: one option at a time, its replies up to the final one.
 *
 * Lengths are compared with limits before anything of that size is kept: a server may be hostile, too.
 */
import {
  OPTION_HEADER_SIZE,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  OPTION_REPLY_MAGIC_HIGH,
  OPTION_REPLY_MAGIC_LOW,
  OPTION_REPLY_SIZE,
  OptionReply,
} from '../nbd/protocol.ts';
import { printable, violation } from './connection-error.ts';
import type { Line } from './line.ts';

const MAX_REPLY_BYTES = 65_536;
/** Replies to one option; a list of exports may be long. */
const MAX_REPLIES = 16_384;
const FIRST_ERROR = 0x80000000;

export interface Answer {
  /** Type of the final reply: `OptionReply.ack`, or an error. */
  readonly type: number;
  /** What the server says to people about an error. */
  readonly text: string;
  /** The replies before the final one. */
  readonly replies: readonly { readonly type: number; readonly payload: Buffer }[];
}

/** Sends an option and collects its replies. Fails with a `ConnectionError`. */
export async function ask(
  line: Line,
  option: number,
  payload: Buffer = Buffer.alloc(0),
): Promise<Answer> {
  line.write(encodeOption(option, payload));
  const replies: { type: number; payload: Buffer }[] = [];
  for (;;) {
    const head = await line.take(OPTION_REPLY_SIZE);
    const right =
      head.readUInt32BE(0) === OPTION_REPLY_MAGIC_HIGH &&
      head.readUInt32BE(4) === OPTION_REPLY_MAGIC_LOW;
    if (!right) throw violation('no reply where one to an option should be');
    if (head.readUInt32BE(8) !== option) throw violation('a reply to an option that was not sent');
    const type = head.readUInt32BE(12);
    const length = head.readUInt32BE(16);
    if (length > MAX_REPLY_BYTES) throw violation(`a reply of ${length} bytes to an option`);
    const bytes = await line.take(length);
    if (type >= FIRST_ERROR) return { type, text: printable(bytes), replies };
    if (type === OptionReply.ack) return { type, text: '', replies };
    if (replies.length === MAX_REPLIES) throw violation('replies to an option without end');
    replies.push({ type, payload: bytes });
  }
}

/** An option that is not answered by a reply. */
export function encodeOption(option: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(OPTION_HEADER_SIZE);
  head.writeUInt32BE(OPTION_MAGIC_HIGH, 0);
  head.writeUInt32BE(OPTION_MAGIC_LOW, 4);
  head.writeUInt32BE(option, 8);
  head.writeUInt32BE(payload.length, 12);
  return Buffer.concat([head, payload]);
}

/** A string with its length before it. */
export function encodeString(text: string): Buffer {
  const bytes = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}
