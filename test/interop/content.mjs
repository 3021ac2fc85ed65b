// What the kill test writes: contents that follow from logical block and version, so that a block
// read back tells whether it is one that may be there. Both the victim and the test import it.

export const BLOCK = 4096;

/** Whole random numbers below 2^32 from a seed (xorshift). */
export function generator(seed) {
  let state = (seed * 2654435761 + 1) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
}

/**
 * Version `version` of block `lbn`: one in four noise of its own, one compressible text of its own, one of
 * sixteen noises that many blocks share, one of sixteen compressible ones.
 */
export function content(lbn, version) {
  const kind = version % 4;
  const isShared = kind >= 2;
  const random = generator(isShared ? 1000 + (version % 64) : version * 65536 + lbn);
  const words = new Uint32Array(BLOCK / 4);
  const noise = kind % 2 === 0 ? words.length : 200;
  for (let i = 0; i < noise; i++) words[i] = random();
  words.fill(0x61616161, noise);
  if (!isShared) {
    words[0] = lbn;
    words[1] = version;
  }
  return new Uint8Array(words.buffer);
}
