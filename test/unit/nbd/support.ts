/** A server over memory devices, and clients that are gone when the test is over. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach } from 'vitest';
import type { ExportOptions } from '../../../src/nbd/export.ts';
import { serve, type NbdServer, type ServeOptions } from '../../../src/nbd/server.ts';
import { NbdClient, NbdSocket, type ConnectOptions } from '../../support/nbd-client.ts';

export class World {
  readonly directory = fs.mkdtempSync(join(tmpdir(), 'uvdo-nbd-'));
  readonly address = { socket: join(this.directory, 's') };
  readonly #clients: { destroy(): void }[] = [];
  #server: NbdServer | undefined;

  /** Registers the clean-up; call it inside `describe`. */
  static each(): { current: World } {
    const holder = { current: undefined as unknown as World };
    afterEach(async () => {
      await holder.current.end();
    });
    return holder;
  }

  async serve(
    exports: readonly ExportOptions[],
    reports: string[] = [],
    options: ServeOptions = {},
  ): Promise<NbdServer> {
    this.#server = await serve(exports, {
      ...options,
      socket: this.address.socket,
      report: (message) => reports.push(message),
    });
    return this.#server;
  }

  get memory(): NbdServer['memory'] {
    return this.#server!.memory;
  }

  async client(exportName = '', options: ConnectOptions = {}): Promise<NbdClient> {
    const client = await NbdClient.connect(this.address, exportName, options);
    this.#clients.push(client);
    return client;
  }

  async line(): Promise<NbdSocket> {
    const line = await NbdSocket.connect(this.address);
    this.#clients.push(line);
    return line;
  }

  async end(): Promise<void> {
    for (const client of this.#clients) client.destroy();
    await this.#server?.close();
    fs.rmSync(this.directory, { recursive: true, force: true });
  }
}
