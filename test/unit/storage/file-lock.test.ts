import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { lockFile } from '../../../src/storage/file-lock.ts';
import { codeOf } from '../../contract/storage.ts';
import { bundle, start, type Bundle } from '../../support/child.ts';

const HOLDER = `
  import { lockFile } from '${fileURLToPath(new URL('../../../src/storage/file-lock.ts', import.meta.url))}';
  setInterval(() => {}, 1000);
  try {
    await lockFile(process.argv[2]);
    console.log('locked');
  } catch (error) {
    console.log(error.code + ': ' + error.message);
    process.exit();
  }
`;

describe('lockFile', () => {
  let bundled: Bundle;
  let script = '';
  let directory = '';
  let path = '';
  const children: ChildProcess[] = [];

  beforeAll(async () => {
    bundled = await bundle(HOLDER);
    script = bundled.script;
  });
  afterAll(() => bundled[Symbol.asyncDispose]());

  beforeEach(() => {
    directory = fs.mkdtempSync(join(tmpdir(), 'uvdo-lock-'));
    path = join(directory, 'volume');
    fs.writeFileSync(path, 'x');
  });
  afterEach(async () => {
    for (const child of children.splice(0)) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    }
    fs.rmSync(directory, { recursive: true });
  });

  /** Another process that takes the lock and keeps it; the first line it says. */
  const hold = async (file: string): Promise<{ child: ChildProcess; says: string }> => {
    const child = start(script, [file]);
    children.push(child);
    const [line] = (await once(child.stdout!, 'data')) as [Buffer];
    return { child, says: line.toString().trim() };
  };

  it('is held once in a process, and again after its release', async () => {
    const lock = await lockFile(path);
    await expect(lockFile(path)).rejects.toMatchObject({
      code: 'Busy',
      message: expect.stringContaining(`${path} is in use by process ${process.pid} (this one)`),
    });
    await lock.release();
    await lock.release();
    await (await lockFile(path)).release();
  });

  it('is refused to a second process, which learns who holds it', async () => {
    const { child, says } = await hold(path);
    expect(says).toBe('locked');
    await expect(lockFile(path)).rejects.toMatchObject({
      code: 'Busy',
      where: { path, pid: child.pid },
    });
    const second = await hold(path);
    expect(second.says).toContain(`Busy: ${path} is in use by process ${child.pid}`);
  });

  it('follows the file, not its name', async () => {
    const link = join(directory, 'link');
    fs.symlinkSync(path, link);
    fs.linkSync(path, join(directory, 'hard'));
    const lock = await lockFile(link);
    expect(await codeOf(lockFile(join(directory, 'hard')))).toBe('Busy');
    fs.renameSync(path, join(directory, 'moved'));
    expect(await codeOf(lockFile(join(directory, 'moved')))).toBe('Busy');
    fs.writeFileSync(path, 'another');
    const other = await lockFile(path);
    await other.release();
    await lock.release();
  });

  it('ends with a process that is killed', async () => {
    const { child } = await hold(path);
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
    await (await lockFile(path)).release();
  });

  it('is refused at once by a holder that is stopped and cannot answer', async () => {
    const { child } = await hold(path);
    child.kill('SIGSTOP');
    const startMs = performance.now();
    expect(await codeOf(lockFile(path))).toBe('Busy');
    expect(performance.now() - startMs).toBeLessThan(3000);
  });

  it('needs a file', async () => {
    expect(await codeOf(lockFile(join(directory, 'none')))).toBe('Io');
  });
});
