/**
 * Runs scripts inside the real kernel, with its dm-vdo, from a test: in QEMU (Debian's own kernel)
 * or as User Mode Linux (the same source as a process). The scripts of `lab/` do the work; this
 * wraps them, and says why where they cannot run. docs/TESTING.md, "Interop".
 */
import { execFile, execFileSync } from 'node:child_process';
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { copyFile, writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export type Engine = 'qemu' | 'uml';

const LAB = fileURLToPath(new URL('./lab/', import.meta.url));
const CACHE = process.env['UVDO_LAB_CACHE'] ?? join(homedir(), '.cache', 'uvdo-lab');
const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;

/** For each engine `true`, or the reason why it cannot run here. */
export interface Availability {
  readonly qemu: true | string;
  readonly uml: true | string;
  /** The tools outside the kernel: `vdoaudit` and its kin. */
  readonly tools: true | string;
}

export function hasProgram(name: string): boolean {
  return (process.env['PATH'] ?? '').split(':').some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** What can run here. `lab/setup` and `lab/uml-setup` (as root) make all of it available. */
export function available(): Availability {
  const root = process.getuid?.() === 0;
  const tools = ['vdoaudit', 'vdoformat', 'jq', 'dmsetup'].filter((name) => !hasProgram(name));
  const missing = !root
    ? 'needs root'
    : tools.length > 0
      ? `missing ${tools.join(', ')}: run test/interop/lab/setup`
      : undefined;
  const qemuMissing =
    missing ??
    (hasProgram('qemu-system-x86_64') && existsSync(join(CACHE, 'initrd'))
      ? undefined
      : 'no kernel for QEMU: run test/interop/lab/setup');
  const umlMissing =
    missing ??
    (existsSync(join(CACHE, 'uml', 'linux'))
      ? undefined
      : 'no User Mode Linux: run test/interop/lab/uml-setup');
  return { qemu: qemuMissing ?? true, uml: umlMissing ?? true, tools: missing ?? true };
}

/** Where the image tools of a new QEMU are, and `true`, or why there are none. */
export function newQemu(): { readonly folder: string; readonly state: true | string } {
  const folder = join(CACHE, 'qemu-new', 'usr', 'bin');
  const isThere = existsSync(join(folder, 'qemu-nbd'));
  return { folder, state: isThere || 'no new QEMU: run test/interop/lab/qemu-new' };
}

/** What `describe.skipIf` and a title need: whether to skip, and the reason for people to read. */
export function skipReason(...wanted: (true | string)[]): { skip: boolean; note: string } {
  const reason = wanted.find((state) => state !== true);
  return { skip: reason !== undefined, note: reason === undefined ? '' : ` (skipped: ${reason})` };
}

export interface KernelRun {
  readonly engine: Engine;
  /** Bash, run as root in the kernel with lab/guest-lib.sh; `DISKS` holds its devices. */
  readonly script: string;
  /** Raw files; for QEMU also NBD URIs. */
  readonly disks?: readonly string[];
  /** A folder of this machine that the script sees, writable, as /mnt. */
  readonly share?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly timeoutSeconds?: number;
  /** Certificates for disks that are `nbds://` URIs, named as GnuTLS' tools name them. */
  readonly tls?: string;
  /** Kill the kernel when the script prints CRASH-NOW. */
  readonly crash?: boolean;
  /** QEMU only, with `crash`: unflushed writes are lost. */
  readonly lose?: boolean;
}

export interface KernelResult {
  /** The script's exit status; 124 out of time, 125 the kernel died. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandResult {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end; a failure is a status, not an exception. */
export function run(
  file: string,
  args: readonly string[],
  options: { timeoutSeconds?: number; env?: Readonly<Record<string, string>> } = {},
): Promise<CommandResult> {
  return new Promise((resolve) => {
    execFile(
      file,
      args,
      {
        maxBuffer: MAX_OUTPUT_BYTES,
        timeout: (options.timeoutSeconds ?? 300) * 1000,
        killSignal: 'SIGKILL',
        env: { ...process.env, ...options.env },
      },
      (error, stdout, stderr) => {
        const status = error === null ? 0 : typeof error.code === 'number' ? error.code : 124;
        resolve({ status, stdout, stderr: stderr === '' && error ? error.message : stderr });
      },
    );
  });
}

/** Runs a script inside the kernel. */
export async function runInKernel(what: KernelRun): Promise<KernelResult> {
  const folder = temporaryFolder();
  const limit = what.timeoutSeconds ?? 120;
  try {
    const script = join(folder, 'script');
    await writeFile(script, what.script);
    const args = ['-t', String(limit)];
    for (const [name, value] of Object.entries(what.env ?? {})) args.push('-e', `${name}=${value}`);
    if (what.share !== undefined) args.push('-s', what.share);
    if (what.crash === true) args.push('--crash');
    if (what.lose === true) args.push('--lose');
    const file = join(LAB, what.engine === 'uml' ? 'uml-vdo' : 'kernel-vdo');
    return await run(file, [...args, script, ...(what.disks ?? [])], {
      timeoutSeconds: limit + 30,
      env: { UVDO_LAB_CACHE: CACHE, ...(what.tls === undefined ? {} : { NBD_TLS: what.tls }) },
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** As `runInKernel`, for scripts that must succeed: the output, or an error that shows it. */
export async function inKernel(what: KernelRun): Promise<string> {
  const { status, stdout, stderr } = await runInKernel(what);
  if (status !== 0) throw new Error(`in the kernel: exit status ${status}\n${stdout}\n${stderr}`);
  return stdout;
}

/** The real tool's verdict on a cleanly stopped volume. */
export async function vdoaudit(path: string): Promise<{ clean: boolean; output: string }> {
  const { status, stdout, stderr } = await run('vdoaudit', ['--summary', path]);
  return { clean: status === 0, output: stdout + stderr };
}

/** A new folder for one test's files; the caller removes it (or `withFolder` does). */
export function temporaryFolder(): string {
  return mkdtempSync(join(process.env['TMPDIR'] ?? tmpdir(), 'uvdo-interop-'));
}

export async function withFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = temporaryFolder();
  try {
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export interface ManifestExtent {
  readonly name?: string;
  readonly offset: number;
  readonly length: number;
  readonly sha256: string;
}

/** What a reference volume holds for sure. */
export interface Manifest {
  readonly name: string;
  readonly logicalSize: number;
  readonly extents: readonly ManifestExtent[];
}

export const FIXTURES = [
  'fresh',
  'clean',
  'nocompress',
  'dirty',
  'dirty-unsynced',
  'readonly',
  'forced',
  'rebuilt',
  'grown-logical',
  'grown-physical',
] as const;
export type FixtureName = (typeof FIXTURES)[number];

/** Makes the reference volumes with the real tools unless the cache has them. */
export function makeFixtures(): void {
  execFileSync(join(LAB, 'make-fixtures'), {
    env: { ...process.env, UVDO_LAB_CACHE: CACHE },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

/** A copy of a reference volume in `folder`, and its manifest. */
export async function unpackFixture(
  name: FixtureName,
  folder: string,
): Promise<{ path: string; manifest: Manifest; manifestPath: string }> {
  const from = join(CACHE, 'fixtures', name);
  const path = join(folder, `${name}.img`);
  const manifestPath = join(folder, `${name}.json`);
  await copySparse(`${from}.img`, path);
  await copyFile(`${from}.json`, manifestPath);
  const manifest = JSON.parse(readFileSync(manifestPath, 'utf8')) as Manifest;
  return { path, manifest, manifestPath };
}

/** Copies a file and keeps its holes. */
export async function copySparse(from: string, to: string): Promise<void> {
  const { status, stderr } = await run('cp', ['--sparse=always', '--reflink=auto', from, to]);
  if (status !== 0) throw new Error(`cp ${from} ${to}: ${stderr}`);
}
