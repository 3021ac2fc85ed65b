import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { HashIndex } from '../../../src/index/hash-index.ts';
import { openLevelIndex } from '../../../src/index/level-index.ts';
import { columns, hashIndexContract, locationsOf, namesOf } from './contract.ts';

const root = mkdtempSync(join(tmpdir(), 'uvdo-level-'));
afterAll(() => rmSync(root, { recursive: true }));

let directories = 0;
const newDirectory = (): string => join(root, `index-${directories++}`);
const NONCE = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
const COUNT = 5000;

hashIndexContract('the level index', () => openLevelIndex(newDirectory(), { nonce: NONCE }), {
  remembers: true,
});

const fill = async (index: HashIndex): Promise<void> => {
  for (let batch = 0; batch < 3; batch++) {
    await index.update(namesOf(COUNT, batch), COUNT, locationsOf(COUNT, batch));
  }
};

/** How many of the names of `fill` it finds; a wrong location fails. */
async function known(index: HashIndex): Promise<number> {
  let found = 0;
  for (let batch = 0; batch < 3; batch++) {
    const advice = columns(COUNT);
    const expected = locationsOf(COUNT, batch);
    await index.lookup(namesOf(COUNT, batch), COUNT, advice);
    for (let i = 0; i < COUNT; i++) {
      if (advice.pbn[i] === 0) continue;
      if (advice.pbn[i] !== expected.pbn[i] || advice.state[i] !== expected.state[i]) {
        expect.fail(`name ${i} of batch ${batch} got another's location`);
      }
      found++;
    }
  }
  return found;
}

describe('the level index', () => {
  it('remembers over a restart, deletions too', async () => {
    const directory = newDirectory();
    const first = await openLevelIndex(directory, { nonce: NONCE });
    expect(first.warning).toBeNull();
    await fill(first);
    await first.update(namesOf(1, 0), 1, columns(1));
    await first.close();
    const second = await openLevelIndex(directory, { nonce: NONCE });
    expect(second.warning).toBeNull();
    expect(await known(second)).toBe(3 * COUNT - 1);
    expect(second.statistics().entriesIndexed).toBeGreaterThanOrEqual(3 * COUNT);
    await second.close();
  });

  it('begins anew for another volume, and says so', async () => {
    const directory = newDirectory();
    const first = await openLevelIndex(directory, { nonce: NONCE });
    await fill(first);
    await first.close();
    const other = await openLevelIndex(directory, { nonce: NONCE.map((byte) => byte + 1) });
    expect(other.warning?.message).toContain("another volume's");
    expect(await known(other)).toBe(0);
    expect(other.statistics().entriesIndexed).toBe(0);
    await other.close();
  });

  it('survives a kill: what it still knows is right', async () => {
    const directory = newDirectory();
    const copy = newDirectory();
    const index = await openLevelIndex(directory, { nonce: NONCE });
    await fill(index);
    // A kill leaves what the files hold at that moment.
    cpSync(directory, copy, { recursive: true });
    await index.close();
    const killed = await openLevelIndex(copy, { nonce: NONCE });
    expect(killed.warning).toBeNull();
    await known(killed);
    await fill(killed);
    expect(await known(killed)).toBe(3 * COUNT);
    await killed.close();
  });

  it('lets one process in at a time', async () => {
    const directory = newDirectory();
    const index = await openLevelIndex(directory, { nonce: NONCE });
    await expect(openLevelIndex(directory, { nonce: NONCE })).rejects.toMatchObject({
      code: 'Busy',
    });
    await fill(index);
    expect(await known(index)).toBe(3 * COUNT);
    await index.close();
  });

  it('says so where it cannot be', async () => {
    const file = newDirectory();
    writeFileSync(file, 'a file');
    await expect(openLevelIndex(file, { nonce: NONCE })).rejects.toMatchObject({ code: 'Io' });
    expect(readFileSync(file, 'utf8')).toBe('a file');
  });

  it('leaves foreign files in its directory alone', async () => {
    const directory = newDirectory();
    mkdirSync(directory);
    writeFileSync(join(directory, 'CURRENT'), 'nonsense');
    writeFileSync(join(directory, 'notes.txt'), 'mine');
    const index = await openLevelIndex(directory, { nonce: NONCE });
    expect(index.warning?.message).toContain('damaged');
    await index.close();
    expect(readFileSync(join(directory, 'notes.txt'), 'utf8')).toBe('mine');
  });

  it('is never the end of a volume, whichever of its files is damaged', async () => {
    const whole = newDirectory();
    const index = await openLevelIndex(whole, { nonce: NONCE });
    await fill(index);
    await index.close();
    for (const file of readdirSync(whole)) {
      for (const damage of ['cut', 'noise', 'gone'] as const) {
        const directory = newDirectory();
        cpSync(whole, directory, { recursive: true });
        const path = join(directory, file);
        const { length } = readFileSync(path);
        if (damage === 'cut') truncateSync(path, length >> 1);
        else if (damage === 'noise') writeFileSync(path, namesOf((length >> 4) + 1, 99));
        else rmSync(path);
        const damaged = await openLevelIndex(directory, { nonce: NONCE });
        await damaged.lookup(namesOf(COUNT, 1), COUNT, columns(COUNT));
        await fill(damaged);
        await damaged.close();
        // What was found to be unusable is gone with the next start, at the latest.
        const next = await openLevelIndex(directory, { nonce: NONCE });
        await fill(next);
        expect([file, damage, await known(next)]).toEqual([file, damage, 3 * COUNT]);
        await next.close();
      }
    }
  });
});
