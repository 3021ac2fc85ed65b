/**
 * The control socket: how other commands ask the server that has a volume open. It belongs to one
 * user: it lies in a folder that only that user can enter (root: /run/uvdo; others: uvdo in
 * XDG_RUNTIME_DIR, or uvdo-UID in the folder for temporary files), named after the volume's file
 * (or export), whatever path leads to it.
 *
 * One connection, one question (a line), one answer (JSON), end.
 */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { VdoError } from '../../src/base/errors.ts';
import { canonicalUri, isNbdUri, parseNbdUri } from '../../src/nbd-client/uri.ts';

const MAX_ASKING = 16;
const MAX_QUESTION_BYTES = 256;
const MAX_ANSWER_BYTES = 16 * 1024 * 1024;
const DEADLINE_MS = 5_000;

/** What a server answers: questions by name. */
export type Answers = Readonly<Record<string, () => unknown>>;

export interface ControlSocket {
  close(): Promise<void>;
}

/** Answers questions about the volume in `file`. Fails with `Io` where no socket can be made. */
export async function openControl(file: string, answers: Answers): Promise<ControlSocket> {
  const path = controlPath(file);
  if (path === undefined) throw new VdoError('Io', 'no control sockets on this system');
  makeFolder(join(path, '..'));
  const server = net.createServer((socket) => answer(socket, answers));
  server.maxConnections = MAX_ASKING;
  // Whoever has the volume's lock is the only one to answer: what is there is left from before.
  fs.rmSync(path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(new VdoError('Io', error.message, { path }, error)));
    server.listen({ path, exclusive: true }, resolve);
  });
  server.on('error', () => undefined);
  server.unref();
  return {
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/** The answer of the server that has the volume open, or `undefined` where there is none. */
export async function askControl(file: string, question: string): Promise<unknown> {
  const path = controlPath(file);
  if (path === undefined || !fs.existsSync(path)) return undefined;
  const text = await new Promise<string | undefined>((resolve, reject) => {
    const socket = net.connect(path);
    const parts: Buffer[] = [];
    let bytes = 0;
    socket.setTimeout(DEADLINE_MS, () => socket.destroy(new Error('it does not answer')));
    socket.once('connect', () => socket.end(`${question}\n`));
    socket.on('data', (part: Buffer) => {
      bytes += part.length;
      if (bytes > MAX_ANSWER_BYTES) socket.destroy(new Error('its answer never ends'));
      parts.push(part);
    });
    socket.once('end', () => resolve(Buffer.concat(parts).toString()));
    socket.once('error', (error: NodeJS.ErrnoException) => {
      // Nobody listens: the socket is left from a server that was killed.
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(undefined);
      else reject(new VdoError('Io', `the server of ${file}, at ${path}: ${error.message}`));
    });
  });
  if (text === undefined || text === '') return undefined;
  return JSON.parse(text) as unknown;
}

/** Where the control socket of a volume's file is; `undefined` where there can be none. */
function controlPath(file: string): string | undefined {
  const uid = process.getuid?.();
  const name = nameOf(file);
  if (uid === undefined || name === undefined) return undefined;
  const runtime = process.env['XDG_RUNTIME_DIR'];
  const folder =
    uid === 0
      ? '/run/uvdo'
      : runtime !== undefined && runtime !== ''
        ? join(runtime, 'uvdo')
        : join(tmpdir(), `uvdo-${uid}`);
  return join(folder, `${name}.sock`);
}

/** One name for all paths to a file, or all spellings of an export. */
function nameOf(file: string): string | undefined {
  if (isNbdUri(file)) return `nbd-${hashOf(canonicalUri(parseNbdUri(file)))}`;
  const stats = fs.statSync(file, { throwIfNoEntry: false });
  if (stats === undefined) return undefined;
  return stats.isBlockDevice() ? `block-${stats.rdev}` : `${stats.dev}-${stats.ino}`;
}

const hashOf = (text: string): string =>
  createHash('sha256').update(text).digest('hex').slice(0, 32);

/** Makes the folder, or fails with `Io` where others could enter it. */
function makeFolder(path: string): void {
  try {
    fs.mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new VdoError('Io', `cannot make ${path}: ${(error as Error).message}`, { path }, error);
  }
  const stats = fs.lstatSync(path);
  if (!stats.isDirectory() || stats.uid !== process.getuid?.() || (stats.mode & 0o077) !== 0) {
    throw new VdoError('Io', `${path} is not a folder of this user alone (mode 0700)`, { path });
  }
}

function answer(socket: net.Socket, answers: Answers): void {
  let question = '';
  socket.setTimeout(DEADLINE_MS, () => socket.destroy());
  socket.setEncoding('utf8');
  socket.on('error', () => socket.destroy());
  socket.on('data', (part: string) => {
    question += part;
    if (question.length > MAX_QUESTION_BYTES) return void socket.destroy();
    const end = question.indexOf('\n');
    if (end < 0) return;
    const name = question.slice(0, end);
    socket.removeAllListeners('data').resume();
    try {
      socket.end(Object.hasOwn(answers, name) ? JSON.stringify(answers[name]!()) : '');
    } catch {
      socket.destroy();
    }
  });
}
