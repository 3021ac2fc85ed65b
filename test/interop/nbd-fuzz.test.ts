/**
 * Hostile clients against the built server, with a real volume each for them and for a well-behaved
 * client beside them: no crash, no effect on the good one, no memory that stays.
 *
 * `UVDO_FUZZ_MESSAGES`: how many messages (default 20,000); `UVDO_FUZZ_SEED`: where to begin.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { NbdClient } from '../support/nbd-client.ts';
import { attack } from '../support/nbd-fuzz.ts';
import { Random } from '../sim/random.ts';
import { skipReason, withFolder } from './harness.ts';
import { built, serve, uvdo } from './uvdo.ts';

const MESSAGES = Number(process.env['UVDO_FUZZ_MESSAGES'] ?? 20_000);
const FIRST_SEED = Number(process.env['UVDO_FUZZ_SEED'] ?? 1);
const ATTACKERS = 8;
const GOOD_BYTES = 1 << 20;

const residentMiB = (pid: number): number => {
  const [, kib] = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))!;
  return Math.round(Number(kib) / 1024);
};

const { skip, note } = skipReason(process.platform === 'linux' || 'needs /proc', built());
describe.skipIf(skip)(`uvdo serve among hostile clients${note}`, () => {
  it(
    `takes ${MESSAGES} messages`,
    () =>
      withFolder(async (folder) => {
        const volumes = ['evil', 'good'].map((name) => join(folder, name));
        for (const path of volumes) {
          await uvdo(['format', path, '--size', '256M', '--logical-size', '4M', '--slab-size', '32M', '--no-index']); // prettier-ignore
        }
        const server = await serve(volumes, folder, ['--index', 'off', '--log', 'error']);
        const address = { socket: server.socket };
        const random = new Random(99);
        const expected = Buffer.alloc(GOOD_BYTES);
        const good = await NbdClient.connect(address, 'good', { form: 'extended' });
        let seed = FIRST_SEED;
        let messages = 0;
        const resident: number[] = [];
        const attackers = Array.from({ length: ATTACKERS }, async () => {
          while (messages < MESSAGES) messages += await attack(address, new Random(seed++), 1000);
        });
        const startMs = performance.now();
        for (let round = 0; messages < MESSAGES; round++) {
          const length = 1 + random.below(50_000);
          const offset = random.below(GOOD_BYTES - length);
          expected.fill(random.below(256), offset, offset + length);
          await good.write(offset, expected.subarray(offset, offset + length));
          if (round % 10 === 0) await good.flush();
          const isRight = (await good.read(0, GOOD_BYTES)).equals(expected);
          expect(isRight, `seeds ${FIRST_SEED} to ${seed}`).toBe(true);
          if (messages >= (resident.length * MESSAGES) / 10) resident.push(residentMiB(server.pid));
        }
        await Promise.all(attackers);
        const seconds = Math.round((performance.now() - startMs) / 1000);
        console.log(`${messages} messages, ${seed - FIRST_SEED} connections, ${seconds} s; resident MiB ${resident.join(' ')}`); // prettier-ignore
        // What one attack leaves behind would add up: the second half needs no more than the first.
        const half = Math.floor(resident.length / 2);
        expect(Math.max(...resident.slice(half))).toBeLessThan(
          Math.max(...resident.slice(0, half)) * 1.25 + 50,
        );
        await good.disconnect();
        expect(await server.stop()).toBe(0);
        const audit = await uvdo(['audit', volumes[0]!, '--json']);
        expect((JSON.parse(audit.stdout) as { clean: boolean }).clean).toBe(true);
      }),
    3_600_000,
  );
});
