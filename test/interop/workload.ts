/**
 * Writes for the kernel to make, and what the logical space must hold after them. A workload is a
 * list of steps; `script` is bash for them, its data lies in the shared folder.
 */
import { randomBytes } from 'node:crypto';
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BLOCK } from './vdo-image.ts';

const MIB = 2 ** 20;

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** An image of at least 13 MiB: holes, noise, the same noise again at another place, text. */
export function makeImage(size: number): Buffer {
  const image = Buffer.alloc(size);
  randomBytes(3 * MIB).copy(image, MIB);
  image.copy(image, 7 * MIB, MIB, 3 * MIB);
  image.fill('all work and no play ', 11 * MIB, 12 * MIB + 5);
  return image;
}

export class Workload {
  /** The logical space as it must read once all steps are flushed. */
  readonly expected: Buffer;
  readonly #share: string;
  readonly #steps: string[] = [];
  #files = 0;

  constructor(share: string, logicalBlocks: number, before?: Buffer) {
    this.#share = share;
    this.expected = Buffer.alloc(logicalBlocks * BLOCK);
    before?.copy(this.expected);
  }

  /** Writes blocks from `lbn` on, one request each. */
  write(lbn: number, bytes: Uint8Array): this {
    const name = `data-${this.#files++}`;
    writeFileSync(join(this.#share, name), bytes);
    this.expected.set(bytes, lbn * BLOCK);
    return this.step(`put /mnt/${name} $VOLUME ${lbn * BLOCK}`);
  }

  random(lbn: number, blocks: number): this {
    return this.write(lbn, randomBytes(blocks * BLOCK));
  }

  zeros(lbn: number, blocks: number): this {
    return this.write(lbn, Buffer.alloc(blocks * BLOCK));
  }

  discard(lbn: number, blocks: number): this {
    this.expected.fill(0, lbn * BLOCK, (lbn + blocks) * BLOCK);
    return this.step(
      `blkdiscard -f -o ${lbn * BLOCK} -l ${blocks * BLOCK} $VOLUME >/dev/null 2>&1`,
    );
  }

  flush(): this {
    return this.step('sync $VOLUME');
  }

  step(line: string): this {
    this.#steps.push(line);
    return this;
  }

  /** Bash that makes the steps on the volume called `name`. */
  script(name = 'v'): string {
    return `VOLUME=/dev/mapper/${name}\n${this.#steps.join('\n')}\n`;
  }
}

/** A block that LZ4 shrinks to about `size` bytes: that much noise, then one letter. */
export function shrinksTo(size: number): Buffer {
  const block = Buffer.alloc(BLOCK, 'a');
  randomBytes(size).copy(block);
  return block;
}
