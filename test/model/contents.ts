/**
 * What the model's clients write. A content is a number; its bytes follow from it: a stamp repeated
 * through the block, so that every sector tells where it came from, or the image of a block map page,
 * which a careless volume would take for one of its own.
 */
import { setU64 } from './layout.ts';
import { formatPage, setMapping, slotAt, SLOTS } from './records.ts';
import { BLOCK } from './steps.ts';

/** Contents from here on are images of tree pages that claim to be page `content − PAGE_LIKE`. */
const PAGE_LIKE = 1_000_000_000;

export const ZEROS = 0;

export const pageLike = (pbn: number): number => PAGE_LIKE + pbn;
export const isPageLike = (content: number): boolean => content >= PAGE_LIKE;

function stampOf(content: number): Buffer {
  const stamp = Buffer.alloc(16);
  setU64(stamp, 0, content);
  stamp.writeUInt32LE(Math.imul(content, 0x9e3779b1) >>> 0, 8);
  stamp.writeUInt32LE(0xc0117e27, 12);
  return stamp;
}

/** A valid, initialized page for `pbn` whose entries name blocks near it. */
export function deceptivePage(pbn: number, nonce: Buffer): Buffer {
  const page = formatPage(pbn, nonce);
  page[32] = 1;
  for (let slot = 0; slot < SLOTS; slot++)
    setMapping(page, slotAt(slot), { state: 1, pbn: pbn + (slot % 7) });
  return page;
}

/** The bytes of contents, remembered. */
export class Contents {
  readonly #nonce: Buffer;
  readonly #known = new Map<number, Buffer>();

  constructor(nonce: Buffer) {
    this.#nonce = nonce;
  }

  bytesOf(content: number): Buffer {
    let bytes = this.#known.get(content);
    if (bytes) return bytes;
    if (content === ZEROS) bytes = Buffer.alloc(BLOCK);
    else if (isPageLike(content)) bytes = deceptivePage(content - PAGE_LIKE, this.#nonce);
    else bytes = Buffer.alloc(BLOCK).fill(stampOf(content));
    if (this.#known.size > 4096) this.#known.clear();
    this.#known.set(content, bytes);
    return bytes;
  }

  /** A compressed block with these contents in slots 0, 1, … */
  packed(contents: readonly number[]): Buffer {
    const block = Buffer.alloc(BLOCK);
    block.writeUInt32LE(1, 0);
    let at = 36;
    contents.forEach((content, slot) => {
      const fragment = compressStamp(stampOf(content));
      block.writeUInt16LE(fragment.length, 8 + 2 * slot);
      fragment.copy(block, at);
      at += fragment.length;
    });
    return block;
  }
}

/** LZ4 of 4096 bytes of a repeated 16-byte stamp: literals, one long match, twelve literals. */
function compressStamp(stamp: Buffer): Buffer {
  const matchBytes = BLOCK - 16 - 12;
  const rest = matchBytes - 4 - 15;
  const longs = Math.floor(rest / 255);
  return Buffer.concat([
    Buffer.of(0xff, 1),
    stamp,
    Buffer.of(16, 0),
    Buffer.alloc(longs, 255),
    Buffer.of(rest % 255, 0xc0),
    stamp.subarray(4),
  ]);
}
