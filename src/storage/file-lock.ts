/**
 * One writer at a time, across processes. The system itself holds the lock and drops it with the
 * process that took it, however that ends: there is no lock file to go stale.
 *
 * - Linux: a listening Unix socket with an abstract name made of device and inode, so that every
 *   path to the file finds it. Whoever connects is told the holder's process number. Abstract names
 *   belong to a network namespace: two containers with separate networks that share a file do not
 *   see each other's locks.
 * - Windows: a named pipe, likewise.
 * - macOS and the BSDs: the file is opened with O_EXLOCK, which is flock() in one call.
 *
 * What is no file, an export of a server, is locked by its name, in the same ways: against processes
 * of this machine, not of others.
 */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { VdoError } from '../base/errors.ts';
import { wrapError } from './open-file.ts';

/** How long a holder has to say who it is. */
const ANSWER_MS = 500;
/** From the BSDs' <fcntl.h>; Node names no constant for it. */
const O_EXLOCK = 0x20;

export interface FileLock {
  release(): Promise<void>;
}

/** Locks that this process holds: an unreachable one must not be collected and so be lost. */
const held = new Set<FileLock>();

/** Takes the file's lock, or fails with `Busy` at once. The file must exist. */
export async function lockFile(path: string): Promise<FileLock> {
  if (process.platform === 'linux' || process.platform === 'android') {
    return lockBySocket(path, '\0');
  }
  if (process.platform === 'win32') return lockBySocket(path, '\\\\.\\pipe\\');
  return lockByOpening(path);
}

/**
 * Takes the lock of something that is no file: `name` is the same for all who mean the same, `what` is
 * what messages call it. Fails with `Busy` at once.
 */
export async function lockName(name: string, what: string): Promise<FileLock> {
  const hash = createHash('sha256').update(name).digest('hex').slice(0, 32);
  if (process.platform === 'linux' || process.platform === 'android') {
    return lockByListening(`\0uvdo-name-${hash}`, what, () => undefined);
  }
  if (process.platform === 'win32') {
    return lockByListening(`\\\\.\\pipe\\uvdo-name-${hash}`, what, () => undefined);
  }
  const path = join(tmpdir(), `uvdo-${hash}.lock`);
  fs.closeSync(fs.openSync(path, 'a', 0o666));
  return lockByOpening(path);
}

/** The file stays open with its lock, so that no other file can inherit its inode meanwhile. */
async function lockBySocket(path: string, prefix: string): Promise<FileLock> {
  const fd = openToLock(path, 0);
  const address = prefix + nameOf(fs.fstatSync(fd));
  return lockByListening(address, path, () => fs.closeSync(fd));
}

/** `drop` is called when the lock is given back, or cannot be had. */
async function lockByListening(address: string, what: string, drop: () => void): Promise<FileLock> {
  const server = net.createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.end(String(process.pid));
  });
  server.unref();
  const failure = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
    server.once('error', resolve);
    server.listen({ path: address, exclusive: true }, () => resolve(undefined));
  });
  if (failure === undefined) {
    server.on('error', () => undefined);
    return hold(async () => {
      await new Promise<void>((resolve) => server.close(() => resolve()));
      drop();
    });
  }
  drop();
  if (failure.code !== 'EADDRINUSE') throw wrapError('lock', what, failure);
  throw busy(what, await holderOf(address));
}

/**
 * A block device has one number and perhaps many nodes; a file has device and inode. An inode above
 * 2^53 loses its low bits here: the worst of that is a refusal.
 */
function nameOf(stats: fs.Stats): string {
  return stats.isBlockDevice() ? `uvdo-block-${stats.rdev}` : `uvdo-${stats.dev}-${stats.ino}`;
}

/** The process number that the holder tells, if it does. */
async function holderOf(address: string): Promise<number | undefined> {
  const text = await new Promise<string>((resolve) => {
    let received = '';
    const socket = net.connect(address);
    socket.setEncoding('ascii');
    socket.setTimeout(ANSWER_MS, () => socket.destroy());
    socket.on('data', (chunk: string) => {
      received += chunk;
      if (received.length > 16) socket.destroy();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(received));
  });
  return /^[1-9]\d{0,9}$/.test(text) ? Number(text) : undefined;
}

function lockByOpening(path: string): FileLock {
  const fd = openToLock(path, O_EXLOCK);
  return hold(async () => fs.closeSync(fd));
}

function openToLock(path: string, flags: number): number {
  try {
    return fs.openSync(path, fs.constants.O_RDONLY | (fs.constants.O_NONBLOCK ?? 0) | flags);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'EAGAIN' || code === 'EWOULDBLOCK') throw busy(path, undefined);
    throw wrapError('lock', path, error);
  }
}

function hold(drop: () => Promise<void>): FileLock {
  const lock: FileLock = {
    async release() {
      if (held.delete(lock)) await drop();
    },
  };
  held.add(lock);
  return lock;
}

function busy(path: string, pid: number | undefined): VdoError {
  const who = pid === undefined ? 'another process' : `process ${pid}`;
  const own = pid === process.pid ? ' (this one)' : '';
  return new VdoError(
    'Busy',
    `${path} is in use by ${who}${own}: one process at a time may write to a volume`,
    pid === undefined ? { path } : { path, pid },
  );
}
