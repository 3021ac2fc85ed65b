/**
 * Bits of a delta list: fields, names and delta codes at any bit, and moving what lies behind them.
 * Bit n is bit n mod 8 of byte n / 8 counted from the least significant, so a field is a shifted
 * little-endian load. `base` is the address of a list's first byte, `bit` counts from there.
 *
 * Loads and stores reach up to 24 bytes past what they are about: 64 bytes behind the last list must
 * exist. What stores touch beside their field is put back unchanged.
 */

/** Fields of at most 57 bits. */
export function readBits(base: usize, bit: u32, width: u32): u64 {
  return (load<u64>(base + (bit >> 3)) >> (bit & 7)) & (((<u64>1) << width) - 1);
}

export function writeBits(base: usize, bit: u32, width: u32, value: u64): void {
  const at = base + (bit >> 3);
  const shift = <u64>(bit & 7);
  const mask = (((<u64>1) << width) - 1) << shift;
  store<u64>(at, (load<u64>(at) & ~mask) | (value << shift));
}

/** Sixty-four bits at any bit. */
function readWord(base: usize, bit: u32): u64 {
  const at = base + (bit >> 3);
  const shift = <u64>(bit & 7);
  // Shifted in two steps: by 64 at once is by none.
  return (load<u64>(at) >> shift) | (((<u64>load<u8>(at, 8)) << 1) << (63 - shift));
}

export function nameEquals(base: usize, bit: u32, name: usize): bool {
  return readWord(base, bit) == load<u64>(name) && readWord(base, bit + 64) == load<u64>(name, 8);
}

export function writeName(base: usize, bit: u32, name: usize): void {
  writeBits(base, bit, 32, load<u32>(name));
  writeBits(base, bit + 32, 32, load<u32>(name, 4));
  writeBits(base, bit + 64, 32, load<u32>(name, 8));
  writeBits(base, bit + 96, 32, load<u32>(name, 12));
}

/** Copies `bytes` bytes that begin `shift` (0 … 7) bits into the byte at `from`. */
export function copyShifted(to: usize, from: usize, bytes: u32, shift: u32): void {
  const behind = load<u64>(to + bytes);
  for (let at: usize = 0; at < bytes; at += 8) {
    store<u64>(to + at, readWord(from + at, shift));
  }
  store<u64>(to + bytes, behind);
}

/** Moves the bits `from` … `end` − 1 behind by `by`. The bits in front of `from` stay. */
export function moveBehind(base: usize, from: u32, end: u32, by: u32): void {
  if (from >= end) return;
  const first = base + (from >> 3);
  const front = load<u8>(first);
  const whole = <usize>(by >> 3);
  const shift = by & 7;
  if (shift == 0) {
    memory.copy(first + whole, first, ((end + 7) >> 3) - (from >> 3));
  } else {
    const last = base + ((end + by - 1) >> 3);
    const behind = v128.load(last + 1);
    const back = 64 - shift;
    let at = first + ((last - whole - first) & ~15);
    for (; at >= first; at -= 16) {
      const high = v128.shl<u64>(v128.load(at), shift);
      v128.store(at + whole, v128.or(high, v128.shr<u64>(v128.load(at - 8), back)));
    }
    v128.store(last + 1, behind);
  }
  const kept = <u8>(((<u32>1) << (from & 7)) - 1);
  store<u8>(first, (load<u8>(first) & ~kept) | (front & kept));
}

/** Moves the bits `from` … `end` − 1 to the front by `by`. The bits in front of them stay. */
export function moveToFront(base: usize, from: u32, end: u32, by: u32): void {
  if (from >= end) return;
  const to = from - by;
  const first = base + (to >> 3);
  const front = load<u8>(first);
  const whole = <usize>(by >> 3);
  const shift = by & 7;
  const last = base + ((end - by - 1) >> 3);
  if (shift == 0) {
    memory.copy(first, first + whole, last + 1 - first);
  } else {
    const behind = v128.load(last + 1);
    const back = 64 - shift;
    for (let at = first; at <= last; at += 16) {
      const low = v128.shr<u64>(v128.load(at + whole), shift);
      v128.store(at, v128.or(low, v128.shl<u64>(v128.load(at + whole + 8), back)));
    }
    // Where the bits went less than sixteen bytes, the loop read what it had not yet written over.
    v128.store(last + 1, behind);
  }
  const kept = <u8>(((<u32>1) << (to & 7)) - 1);
  store<u8>(first, (load<u8>(first) & ~kept) | (front & kept));
}
