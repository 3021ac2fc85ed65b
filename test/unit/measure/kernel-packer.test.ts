/** dm-vdo's packer by sizes: which bins, when they leave, what a second write of a content does. */
import { describe, expect, test } from 'vitest';
import { KernelPacker, keyOf } from '../../../src/measure/kernel-packer.ts';
import { random } from '../../support/volumes.ts';

describe("the kernel's packer", () => {
  test('stores what does not shrink at once, and fills the fullest bin that has room', () => {
    const packer = new KernelPacker();
    packer.add(0, 1);
    expect(packer.storedBlocks).toBe(1);
    packer.add(3000, 2);
    packer.add(2000, 3);
    packer.add(1060, 4);
    // 3000 + 1060 fill a bin to the last byte: it left; 2000 waits.
    expect(packer.storedBlocks).toBe(3);
    expect(packer.state().storedBlocks).toBe(2);
    for (let key = 10; key < 24; key++) packer.add(100, key);
    // Fourteen with the 2000: the bin is out of slots, and one fragment waits in another.
    expect(packer.state().storedBlocks).toBe(3);
    expect(packer.storedBlocks).toBe(4);
  });

  test('empties the fullest bin where none has room, unless the block itself is the larger loss', () => {
    const packer = new KernelPacker(2);
    packer.add(2500, 1);
    packer.add(2600, 2);
    packer.add(2700, 3);
    expect(packer.state().storedBlocks).toBe(1);
    expect(packer.state().bins.flat()).toHaveLength(2);
    packer.add(2550, 4);
    expect(packer.state().storedBlocks).toBe(2);
  });

  test('lets go of a content that is written again while it waits', () => {
    const packer = new KernelPacker();
    packer.add(1000, 7);
    packer.add(1000, 8);
    packer.meet(9);
    expect(packer.storedBlocks).toBe(1);
    packer.meet(7);
    packer.meet(7);
    expect(packer.storedBlocks).toBe(2);
    packer.meet(8);
    expect(packer.storedBlocks).toBe(2);
  });

  test('goes on from the state of another', () => {
    const next = random(5);
    const sizes = Array.from({ length: 3000 }, () => Math.floor(next() * 4059));
    const whole = new KernelPacker();
    sizes.forEach((size, key) => whole.add(size, key));
    const first = new KernelPacker();
    sizes.slice(0, 1234).forEach((size, key) => first.add(size, key));
    const second = new KernelPacker();
    second.restore(JSON.parse(JSON.stringify(first.state())));
    sizes.slice(1234).forEach((size, key) => second.add(size, 1234 + key));
    expect(second.storedBlocks).toBe(whole.storedBlocks);
    expect(keyOf(0xffffffff, 0xffffffff)).toBe(2 ** 53 - 1);
  });
});
