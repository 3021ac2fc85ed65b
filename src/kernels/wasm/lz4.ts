/**
 * LZ4 blocks of 4096 bytes, written from the published description of the block format. The twin in
 * plain TypeScript, src/kernels/lz4.ts, says what is done and why; here is the same, byte for byte, with
 * what makes it quick:
 *
 * - Copies are of 16 bytes and may run past their end: what lies there is written later, or is the rest
 *   of the row. Loads may run past a block too; what they find there never decides anything.
 * - Matches are lengthened eight bytes at a time, the first unequal byte found by counting zeros.
 * - Nothing is copied from outside of the fragment, nor written outside of the 4096 bytes, whatever the
 *   bytes of the fragment are.
 */

const BLOCK_SIZE: usize = 4096;
const HASH_BITS: u32 = 12;
const SKIP_SHIFT: u32 = 6;
const LAST_MATCH: usize = BLOCK_SIZE - 12;
const MATCH_END: usize = BLOCK_SIZE - 5;
const MIN_MATCH: usize = 4;
/** 4059, less what one sequence takes at most besides its literals. */
const SEQUENCE_LIMIT: usize = 4059 - 36;
const END_LIMIT: usize = 4059 - 20;
const MAX_DISTANCE_COPY: usize = 16;
/** What the quick way of the decoder may touch beyond its position, on either side. */
const QUICK_SOURCE: usize = 18;
const QUICK_TARGET: usize = 32;

const SLOTS: i32 = 14;
const HEADER_SIZE: usize = 36;
const SIZES_AT: usize = 8;
const DATA_SIZE: u32 = 4060;

/** The place in the table of the first five bytes of `word`. */
function slotOf(table: usize, word: u64): usize {
  return table + ((<usize>(((word << 24) * 0x9e3779b185ebca87) >> (64 - HASH_BITS))) << 1);
}

function putLength(op: usize, rest: usize): usize {
  while (rest >= 255) {
    store<u8>(op++, 255);
    rest -= 255;
  }
  store<u8>(op++, <u8>rest);
  return op;
}

/** How many bytes from `p` and `q` on are equal; looks no further than `end`, but for the last eight. */
function equalFrom(p: usize, q: usize, end: usize): usize {
  const start = p;
  for (; p < end; p += 8, q += 8) {
    const difference = load<u64>(p) ^ load<u64>(q);
    if (difference != 0) return p + <usize>(ctz<u64>(difference) >> 3) - start;
  }
  return p - start;
}

/** Size of the fragment made of the block, or 0 where it would exceed 4059 bytes. */
export function compress(block: usize, out: usize, table: usize): u32 {
  memory.fill(table, 0, 2 << HASH_BITS);
  const last = block + LAST_MATCH;
  const matchEnd = block + MATCH_END;
  let anchor = block;
  let at = block + 1;
  let op = out;
  while (true) {
    let match: usize = 0;
    let found = false;
    let misses: u32 = 1 << SKIP_SHIFT;
    while (at <= last) {
      const word = load<u64>(at);
      const slot = slotOf(table, word);
      match = block + <usize>load<u16>(slot);
      store<u16>(slot, <u16>(at - block));
      if (load<u32>(match) == <u32>word) {
        found = true;
        break;
      }
      at += <usize>(misses >> SKIP_SHIFT);
      misses++;
    }
    if (!found) break;
    const distance = at - match;
    const before = <usize>(clz<u64>(load<u64>(at - 8) ^ load<u64>(match - 8)) >> 3);
    const back = min(before, min(at - anchor, match - block));
    const end = min(
      at + MIN_MATCH + equalFrom(at + MIN_MATCH, match + MIN_MATCH, matchEnd),
      matchEnd,
    );
    at -= back;
    const literals = at - anchor;
    const length = end - at - MIN_MATCH;
    if (op - out + literals > SEQUENCE_LIMIT) return 0;
    const token = op++;
    if (literals < 15) {
      v128.store(op, v128.load(anchor));
      op += literals;
      store<u16>(op, <u16>distance);
      op += 2;
      if (length < 15) {
        store<u8>(token, <u8>((literals << 4) | length));
      } else {
        store<u8>(token, <u8>((literals << 4) | 15));
        op = putLength(op, length - 15);
      }
    } else {
      op = putLength(op, literals - 15);
      const stop = op + literals;
      for (; op < stop; op += 16, anchor += 16) v128.store(op, v128.load(anchor));
      op = stop;
      store<u16>(op, <u16>distance);
      op += 2;
      if (length < 15) {
        store<u8>(token, <u8>(0xf0 | length));
      } else {
        store<u8>(token, 0xff);
        op = putLength(op, length - 15);
      }
    }
    at = end;
    anchor = end;
    store<u16>(slotOf(table, load<u64>(end - 2)), <u16>(end - 2 - block));
  }
  op = putLast(out, op, anchor, block + BLOCK_SIZE - anchor);
  return op == 0 ? 0 : <u32>(op - out);
}

/** The literals at the end of a block; returns where they end, or 0 where they do not fit. */
function putLast(out: usize, op: usize, anchor: usize, literals: usize): usize {
  if (op - out + literals > END_LIMIT) return 0;
  if (literals < 15) {
    store<u8>(op++, <u8>(literals << 4));
  } else {
    store<u8>(op++, 0xf0);
    op = putLength(op, literals - 15);
  }
  memory.copy(op, anchor, literals);
  return op + literals;
}

/** Whether the `size` bytes at `source` are a fragment; then its 4096 bytes are at `into`. */
export function decompress(source: usize, size: u32, into: usize): bool {
  const sourceEnd = source + <usize>size;
  const end = into + BLOCK_SIZE;
  let ip = source;
  let op = into;
  while (ip < sourceEnd) {
    const token = <usize>load<u8>(ip++);
    let literals = token >> 4;
    let length = token & 15;
    if (
      literals < 15 &&
      length < 15 &&
      ip + QUICK_SOURCE <= sourceEnd &&
      op + literals + QUICK_TARGET <= end
    ) {
      v128.store(op, v128.load(ip));
      ip += literals;
      op += literals;
      const distance = <usize>load<u16>(ip);
      if (distance >= MAX_DISTANCE_COPY) {
        const from = op - distance;
        if (from < into) return false;
        ip += 2;
        v128.store(op, v128.load(from));
        store<u16>(op, load<u16>(from, 16), 16);
        op += length + MIN_MATCH;
        continue;
      }
    } else {
      if (literals == 15) {
        let more: usize;
        do {
          if (ip >= sourceEnd) return false;
          more = <usize>load<u8>(ip++);
          literals += more;
        } while (more == 255);
      }
      if (literals > sourceEnd - ip || literals > end - op) return false;
      const stop = op + literals;
      if (stop + 16 <= end && ip + literals + 16 <= sourceEnd) {
        let from = ip;
        for (; op < stop; op += 16, from += 16) v128.store(op, v128.load(from));
      } else memory.copy(op, ip, literals);
      ip += literals;
      op = stop;
      if (ip == sourceEnd) return op == end;
    }
    if (ip + 2 > sourceEnd) return false;
    const distance = <usize>load<u16>(ip);
    ip += 2;
    if (distance == 0 || distance > op - into) return false;
    if (length == 15) {
      let more: usize;
      do {
        if (ip >= sourceEnd) return false;
        more = <usize>load<u8>(ip++);
        length += more;
      } while (more == 255);
    }
    length += MIN_MATCH;
    if (length > end - op) return false;
    op = copyMatch(op, distance, length, end);
  }
  return false;
}

/** Copies `length` bytes from `distance` before `op`, which may overlap; returns their end. */
function copyMatch(op: usize, distance: usize, length: usize, end: usize): usize {
  const stop = op + length;
  let from = op - distance;
  if (distance >= 16 && stop + 16 <= end) {
    for (; op < stop; op += 16, from += 16) v128.store(op, v128.load(from));
    return stop;
  }
  if (distance == 1) {
    memory.fill(op, load<u8>(from), length);
    return stop;
  }
  if (distance >= 8 && stop + 8 <= end) {
    for (; op < stop; op += 8, from += 8) store<u64>(op, load<u64>(from));
    return stop;
  }
  for (; op < stop; op++, from++) store<u8>(op, load<u8>(from));
  return stop;
}

/** Expands slot `slot` of the compressed block at `block`; false where it is damaged, or none. */
export function expandSlot(block: usize, slot: i32, into: usize): bool {
  if (load<u32>(block) != 1 || load<u32>(block, 4) != 0) return false;
  if (slot < 0 || slot >= SLOTS) return false;
  let offset: u32 = 0;
  for (let k: usize = 0; k < <usize>slot; k++) offset += <u32>load<u16>(block + SIZES_AT + 2 * k);
  const size = <u32>load<u16>(block + SIZES_AT + 2 * <usize>slot);
  if (size == 0 || offset + size > DATA_SIZE) return false;
  return decompress(block + HEADER_SIZE + <usize>offset, size, into);
}
