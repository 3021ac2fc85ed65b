/**
 * What each block may hold after a crash, by the log of who wrote: `w VERSION LBN COUNT KIND` before a
 * request, `a VERSION` when it was acknowledged, `f N` before a flush, `F N` when that is done. KIND 0 is
 * data (test/interop/content.mjs), anything else zeros.
 */
import { BLOCK, content } from './content.mjs';

/** The version that stands for no write of ours. */
const ZEROS = 0;

/** What the log of a killed writer lets a block be: versions, oldest first. */
export class Allowed {
  readonly #versions = new Map<number, number[]>();
  /** The next version to give out. */
  next = 1;

  of(lbn: number): readonly number[] {
    return this.#versions.get(lbn) ?? [ZEROS];
  }

  /** Reads the log of one round, after which `settle` says what the blocks are. */
  addRound(log: string): { writes: number; flushes: number; acknowledged: number } {
    interface Write {
      readonly version: number;
      readonly value: number;
      acknowledged: boolean;
    }
    const history = new Map<number, Write[]>();
    const writes = new Map<number, Write>();
    const snapshots = new Map<number, Set<Write>>();
    const acknowledged = new Set<Write>();
    const flushed = new Set<Write>();
    let flushes = 0;
    for (const line of log.split('\n')) {
      const [what, a = 0, lbn = 0, count = 0, kind = 0] = line
        .split(' ')
        .map((word, i) => (i === 0 ? word : Number(word))) as [string, ...number[]];
      if (what === 'w') {
        const write = { version: a, value: kind === 0 ? a : ZEROS, acknowledged: false };
        writes.set(a, write);
        for (let i = 0; i < count; i++) {
          history.set(lbn + i, [...(history.get(lbn + i) ?? []), write]);
        }
        this.next = Math.max(this.next, a + 1);
      } else if (what === 'a') acknowledged.add(writes.get(a)!);
      else if (what === 'f') snapshots.set(a, new Set(acknowledged));
      else if (what === 'F') {
        flushes++;
        for (const write of snapshots.get(a) ?? []) flushed.add(write);
      }
    }
    for (const [lbn, list] of history) {
      const last = list.findLastIndex((write) => flushed.has(write));
      const values = list.slice(Math.max(0, last)).map((write) => write.value);
      this.#versions.set(lbn, last < 0 ? [...this.of(lbn), ...values] : values);
    }
    return { writes: writes.size, flushes, acknowledged: acknowledged.size };
  }

  /** Compares a dump of the logical space, and takes it for what is there. Wrong blocks. */
  settle(dump: Buffer): string[] {
    const wrong: string[] = [];
    const zeros = Buffer.alloc(BLOCK);
    for (const [lbn, versions] of this.#versions) {
      const block = dump.subarray(lbn * BLOCK, (lbn + 1) * BLOCK);
      const found = versions.findLast((version) =>
        block.equals(version === ZEROS ? zeros : content(lbn, version)),
      );
      if (found === undefined) {
        const words = [block.readUInt32LE(0), block.readUInt32LE(4)];
        wrong.push(`lbn ${lbn}: ${words.join(',')} is none of ${versions.join()}`);
      } else this.#versions.set(lbn, [found]);
    }
    return wrong;
  }
}
