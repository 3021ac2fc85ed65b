/** NBD servers of others as child processes: nbdkit and qemu-nbd, on a Unix socket, started and killed. */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { endOf } from './uvdo.ts';

const START_MS = 20_000;

export class ForeignServer {
  readonly socket: string;
  readonly #file: string;
  readonly #args: readonly string[];
  #child: ChildProcess | undefined;
  #complaints = '';

  private constructor(file: string, args: readonly string[], socket: string) {
    this.#file = file;
    this.#args = args;
    this.socket = socket;
  }

  /** `nbdkit ARGUMENTS…` */
  static async nbdkit(folder: string, ...args: string[]): Promise<ForeignServer> {
    const socket = join(folder, `nbdkit-${args.length}-${Date.now() % 1e7}`);
    const server = new ForeignServer('nbdkit', ['-f', '-U', socket, ...args], socket);
    await server.start();
    return server;
  }

  /** `qemu-nbd ARGUMENTS…`, which outlives its clients; of the programs in `bin`, if that is said. */
  static async qemu(folder: string, ...args: string[]): Promise<ForeignServer> {
    return ForeignServer.qemuOf('', folder, ...args);
  }

  static async qemuOf(bin: string, folder: string, ...args: string[]): Promise<ForeignServer> {
    const socket = join(folder, `qemu-${Date.now() % 1e7}`);
    const server = new ForeignServer(join(bin, 'qemu-nbd'), ['-t', '-k', socket, ...args], socket);
    await server.start();
    return server;
  }

  /** What it wrote to its standard error. */
  get complaints(): string {
    return this.#complaints;
  }

  get uri(): string {
    return `nbd+unix:///?socket=${this.socket}`;
  }

  /** (Re)starts it, and waits until it listens. */
  async start(): Promise<void> {
    rmSync(this.socket, { force: true });
    const child = spawn(this.#file, this.#args, { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#child = child;
    child.stderr?.on('data', (text: Buffer) => (this.#complaints += text.toString()));
    for (const end = Date.now() + START_MS; !existsSync(this.socket); await pause(20)) {
      if (child.exitCode !== null || Date.now() > end) {
        child.kill('SIGKILL');
        throw new Error(`${this.#file} ${this.#args.join(' ')}: ${this.#complaints}`);
      }
    }
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = endOf(child);
    child.kill(signal);
    await ended;
  }
}
