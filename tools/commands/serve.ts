/**
 * `uvdo serve`: volumes over NBD until told to stop. SIGTERM, SIGINT and SIGHUP stop cleanly: requests
 * in flight end, everything is flushed, every volume is closed; a further signal changes nothing.
 */
import { basename } from 'node:path';
import { isNbdUri, parseNbdUri } from '../../src/nbd-client/uri.ts';
import { serve, type NbdServer } from '../../src/nbd/server.ts';
import { openVolume } from '../../src/volume/open.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { wrongUsage, type Arguments, type Command } from '../cli/args.ts';
import { openControl, type ControlSocket } from '../cli/control.ts';
import { printJson, printLines, remark } from '../cli/json.ts';
import { Log, LOG_OPTION } from '../cli/log.ts';
import { LISTEN_OPTIONS, listenOptionsOf, writePidFile } from '../cli/serve-options.ts';
import { formatSize } from '../cli/sizes.ts';
import { INDEX_OPTION, indexOptions, keptIndex, tellNotice, warnOfIndex } from '../cli/transfer.ts';

const STOP_SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

interface Served {
  readonly name: string;
  readonly path: string;
  readonly volume: Volume;
}

export const command: Command = {
  name: 'serve',
  summary: 'serve volumes over NBD on a Unix socket or a TCP port',
  usage: 'FILE…',
  example:
    'uvdo serve disk.vdo                                  nbd://127.0.0.1:10809/disk.vdo\n' +
    'uvdo serve a.vdo b.vdo --socket /run/uvdo.sock       several exports, the first is the default\n' +
    'uvdo serve a.vdo --host :: --tls-cert c.pem --tls-key k.pem --tls-ca clients.pem',
  options: {
    ...LISTEN_OPTIONS,
    export: {
      value: 'NAME',
      help: 'name of the export; default: the name of the file (or export)',
    },
    'read-only': { help: 'open for reading only; never writes to the volume' },
    index: INDEX_OPTION,
    'no-compression': { help: 'store blocks as they are' },
    once: { help: 'stop when the last client leaves' },
    persistent: { help: 'go on when the last client leaves (default)' },
    'pid-file': { value: 'F', help: 'write the process number there while clients may connect' },
    log: LOG_OPTION,
    http: { value: 'H:N', help: 'not available in this version' },
  },
  arguments: [1, 1000],

  async run(args) {
    const options = optionsOf(args);
    const names = namesOf(args);
    const log = Log.of(args, 'uvdo serve');
    const stop = new StopRequest();
    const served: Served[] = [];
    try {
      for (const [i, path] of args.positionals.entries()) {
        if (stop.requested) return;
        const volume = await openVolume(path, {
          ...indexOptions(args, keptIndex(path)),
          compression: !args.flag('no-compression'),
          readOnly: args.flag('read-only'),
        });
        served.push({ name: names[i]!, path, volume });
        tellNotice(volume, 'serve', path, args);
        warnOfIndex(volume, args);
      }
      const server = await serve(served, {
        ...options,
        report: (message) => log.print('error', message),
        trace: (message) => log.print('debug', message),
        onIdle: () => args.flag('once') && stop.stop(),
      });
      let release: () => Promise<void> = () => Promise.resolve();
      try {
        release = await becomeKnown(args, server, served, log);
        announce(args, server, served);
        for (const one of served) watch(one, log);
        await stop.whenRequested;
        log.print('info', 'stopping; saving');
      } finally {
        await server.close();
        await release();
      }
    } finally {
      try {
        await closeAll(served);
      } finally {
        stop.end();
      }
    }
    log.print('info', 'saved');
  },
};

/** Tells what happens to a volume while it is served. */
function watch({ path, volume }: Served, log: Log): void {
  void volume.failed().then(({ message }) => {
    log.print('error', `${path}: ${message}; reads go on. Stop it, then: uvdo rebuild ${path}`);
  });
  const { chapters, done } = volume.indexRebuild();
  if (chapters === 0) return;
  log.print('info', `${path}: the index is being rebuilt, from ${chapters} chapters`);
  const stopped = (): boolean => volume.indexRebuild().chapters > 0;
  void done.then(() => stopped() || log.print('info', `${path}: the index is rebuilt`));
}

/** Process number and control sockets; returns what takes them away again. */
async function becomeKnown(
  args: Arguments,
  server: NbdServer,
  served: readonly Served[],
  log: Log,
): Promise<() => Promise<void>> {
  const removePidFile = writePidFile(args.text('pid-file'));
  const controls: ControlSocket[] = [];
  for (const { path, volume } of served) {
    // Readers hold no lock: another server may have the same volume, and the socket, already.
    if (volume.readOnly) continue;
    const stats = (): unknown => ({
      ...volume.statistics(),
      server: { pid: process.pid, clients: server.clients, memory: server.memory },
    });
    try {
      controls.push(await openControl(path, { stats }));
    } catch (error) {
      log.print('warn', `uvdo stats ${path} will find nobody to ask: ${(error as Error).message}`);
    }
  }
  return async () => {
    await Promise.all(controls.map((control) => control.close()));
    removePidFile();
  };
}

/** Catches the signals that ask for a stop. */
class StopRequest {
  requested = false;
  readonly whenRequested: Promise<void>;
  readonly #listener: () => void;
  #resolve: () => void = () => undefined;

  constructor() {
    this.whenRequested = new Promise((resolve) => (this.#resolve = resolve));
    this.#listener = () => {
      if (this.requested) remark('uvdo serve: still saving; killing it now would cost a recovery');
      this.stop();
    };
    for (const signal of STOP_SIGNALS) process.on(signal, this.#listener);
  }

  stop(): void {
    this.requested = true;
    this.#resolve();
  }

  end(): void {
    for (const signal of STOP_SIGNALS) process.off(signal, this.#listener);
  }
}

function optionsOf(args: Arguments) {
  if (args.text('http') !== undefined) throw wrongUsage('--http: not available in this version');
  if (args.flag('once') && args.flag('persistent')) {
    throw wrongUsage('--once and --persistent exclude each other');
  }
  return listenOptionsOf(args);
}

/** What a volume is called: the name of its file, or that of the export it lives on. */
function nameOf(path: string): string {
  return basename(isNbdUri(path) ? parseNbdUri(path).exportName : path);
}

/** One export name a file. */
function namesOf(args: Arguments): readonly string[] {
  const name = args.text('export');
  const paths = args.positionals;
  if (name !== undefined) {
    if (paths.length > 1) throw wrongUsage('--export names one volume, and there are several');
    return [name];
  }
  const names = paths.map(nameOf);
  const twice = names.find((one, i) => names.indexOf(one) !== i);
  if (twice !== undefined) {
    throw wrongUsage(`two volumes are called '${twice}': link one under another name`);
  }
  return names;
}

/** Says what is served: clients may connect once this is printed. */
function announce(args: Arguments, server: NbdServer, served: readonly Served[]): void {
  const exports = served.map(({ name, path, volume }) => ({
    name,
    path,
    uri: server.uri(name),
    size: volume.size,
    readOnly: volume.readOnly,
  }));
  if (args.json) printJson({ address: server.address, pid: process.pid, exports });
  else {
    printLines(
      exports.map(
        ({ path, uri, size, readOnly }) =>
          `${path}: ${formatSize(size)}${readOnly ? ', read-only' : ''}, ${uri}`,
      ),
    );
  }
}

/** Closes every volume, and then fails if one of them did. */
async function closeAll(served: readonly Served[]): Promise<void> {
  const results = await Promise.allSettled(served.map(({ volume }) => volume.close()));
  const failures = results.flatMap((result, i) =>
    result.status === 'rejected'
      ? [{ path: served[i]!.path, reason: result.reason as unknown }]
      : [],
  );
  for (const { path, reason } of failures.slice(1)) {
    remark(`uvdo serve: ${path}: ${reason instanceof Error ? reason.message : String(reason)}`);
  }
  if (failures.length > 0) throw failures[0]!.reason;
}
