/**
 * `uvdo serve`: volumes over NBD until told to stop. SIGTERM, SIGINT and SIGHUP stop cleanly: requests
 * in flight end, everything is flushed, every volume is closed; a further signal changes nothing.
 */
import { basename } from 'node:path';
import { checkOptions, serve, type NbdServer, type ServeOptions } from '../../src/nbd/server.ts';
import { openVolume } from '../../src/volume/open.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { wrongUsage, type Arguments, type Command } from '../cli/args.ts';
import { printJson, printLines, remark } from '../cli/json.ts';
import { formatSize } from '../cli/sizes.ts';
import { INDEX_OPTION, indexOf, warnOfIndex } from '../cli/transfer.ts';

const STOP_SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;
/** Lines about failing devices that are printed in a second. */
const REPORTS_PER_SECOND = 10;

interface Served {
  readonly name: string;
  readonly path: string;
  readonly volume: Volume;
}

export const command: Command = {
  name: 'serve',
  summary: 'serve volumes over NBD on a Unix socket or a loopback port',
  usage: 'FILE…',
  example:
    'uvdo serve disk.vdo                                  nbd://127.0.0.1:10809/disk.vdo\n' +
    'uvdo serve a.vdo b.vdo --socket /run/uvdo.sock       several exports, the first is the default',
  options: {
    socket: { value: 'PATH', help: 'listen on a Unix socket' },
    host: { value: 'H', help: 'listen on this loopback address; default 127.0.0.1' },
    port: { value: 'N', help: 'and this port; default 10809, 0 picks a free one' },
    export: { value: 'NAME', help: 'name of the export; default: the name of the file' },
    'read-only': { help: 'open for reading only; never writes to the volume' },
    index: INDEX_OPTION,
    'no-compression': { help: 'store blocks as they are' },
    'tls-cert': { value: 'F', help: 'not available in this version' },
    'tls-key': { value: 'F', help: 'not available in this version' },
    'tls-ca': { value: 'F', help: 'not available in this version' },
    http: { value: 'H:N', help: 'not available in this version' },
  },
  arguments: [1, 1000],

  async run(args) {
    const options = addressOf(args);
    const names = namesOf(args);
    const stop = new StopRequest();
    const served: Served[] = [];
    try {
      for (const [i, path] of args.positionals.entries()) {
        if (stop.requested) return;
        const volume = await openVolume(path, {
          index: indexOf(args, 'level'),
          compression: !args.flag('no-compression'),
          readOnly: args.flag('read-only'),
        });
        served.push({ name: names[i]!, path, volume });
        warnOfIndex(volume, args);
      }
      const server = await serve(served, { ...options, report: limited() });
      try {
        announce(args, server, served);
        await stop.whenRequested;
        if (!args.quiet) remark('uvdo serve: stopping; saving');
      } finally {
        await server.close();
      }
    } finally {
      await closeAll(served);
      stop.end();
    }
    if (!args.quiet) remark('uvdo serve: saved');
  },
};

/** Catches the signals that ask for a stop. */
class StopRequest {
  requested = false;
  readonly whenRequested: Promise<void>;
  readonly #listener: () => void;

  constructor() {
    let stop: () => void = () => undefined;
    this.whenRequested = new Promise((resolve) => (stop = resolve));
    this.#listener = () => {
      if (this.requested) remark('uvdo serve: still saving; killing it now would cost a recovery');
      this.requested = true;
      stop();
    };
    for (const signal of STOP_SIGNALS) process.on(signal, this.#listener);
  }

  end(): void {
    for (const signal of STOP_SIGNALS) process.off(signal, this.#listener);
  }
}

function addressOf(args: Arguments): ServeOptions {
  for (const name of ['tls-cert', 'tls-key', 'tls-ca', 'http']) {
    if (args.text(name) !== undefined) throw wrongUsage(`--${name}: not available in this version`);
  }
  const [socket, host, port] = [args.text('socket'), args.text('host'), args.number('port')];
  if (socket !== undefined && (host !== undefined || port !== undefined)) {
    throw wrongUsage('give either --socket or --host and --port');
  }
  const options = {
    ...(socket === undefined ? {} : { socket }),
    ...(host === undefined ? {} : { host }),
    ...(port === undefined ? {} : { port }),
  };
  checkOptions(options);
  return options;
}

/** One export name a file. */
function namesOf(args: Arguments): readonly string[] {
  const name = args.text('export');
  const paths = args.positionals;
  if (name !== undefined) {
    if (paths.length > 1) throw wrongUsage('--export names one volume, and there are several');
    return [name];
  }
  const names = paths.map((path) => basename(path));
  const twice = names.find((one, i) => names.indexOf(one) !== i);
  if (twice !== undefined) {
    throw wrongUsage(`two volumes are called ${twice}: link one under another name`);
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

/** Prints what the server reports, a client that hits a broken device ever again notwithstanding. */
function limited(): (message: string) => void {
  let secondEndsMs = 0;
  let count = 0;
  return (message) => {
    const nowMs = performance.now();
    if (nowMs > secondEndsMs) {
      secondEndsMs = nowMs + 1000;
      count = 0;
    }
    if (count++ < REPORTS_PER_SECOND) remark(`uvdo serve: ${message}`);
  };
}
