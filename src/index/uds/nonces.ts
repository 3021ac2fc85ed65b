/**
 * The nonces of an index: eight bytes that say which chapters, saves and volume belong together
 * (FORMAT §9.3).
 */
import { getU32, isZero, setU32 } from '../../base/bytes.ts';
import { saveIdentity, volumeIdentity } from '../../format/index-layout.ts';
import { murmur3 } from '../../kernels/murmur3.ts';

const PRIMARY_START = Uint8Array.of(0xfc, 0xe0, 0xb1, 0xa1, 0, 0, 0, 0);
const HASH_SIZE = 16;
const NONCE_SIZE = 8;

/** Hashes `bytes` with a seed made of the eight bytes of `start`. */
function nonceFrom(start: Uint8Array, bytes: Uint8Array): Uint8Array {
  const low = getU32(start, 0);
  const high = getU32(start, 4);
  const seed = (low ^ ((low >>> 27) | (high << 5))) >>> 0;
  const hash = new Uint8Array(HASH_SIZE);
  murmur3(bytes, seed, hash, 0);
  return hash.slice(4, 4 + NONCE_SIZE);
}

/** The nonce as a number, negated if asked, plus one. */
function next(nonce: Uint8Array, negated = false): Uint8Array {
  const result = new Uint8Array(NONCE_SIZE);
  const flip = negated ? 0xffffffff : 0;
  let carry = negated ? 2 : 1;
  for (let at = 0; at < NONCE_SIZE; at += 4) {
    const sum = ((getU32(nonce, at) ^ flip) >>> 0) + carry;
    setU32(result, at, sum | 0);
    carry = sum > 0xffffffff ? 1 : 0;
  }
  return result;
}

export function primaryNonce(nonceInfo: Uint8Array): Uint8Array {
  return nonceFrom(PRIMARY_START, nonceInfo);
}

/** Stamps chapters and saved volume indexes. `start` is the first block of volume and saves. */
export function volumeNonce(primary: Uint8Array, start: number): Uint8Array {
  const nonce = nonceFrom(next(primary), volumeIdentity(start));
  return isZero(nonce) ? nonceFrom(next(primary, true), volumeIdentity(start)) : nonce;
}

/** Of a save made at `timestamp` (milliseconds) whose header is at block `start`. */
export function saveNonce(volume: Uint8Array, timestamp: number, start: number): Uint8Array {
  return nonceFrom(next(volume), saveIdentity(timestamp, start));
}
