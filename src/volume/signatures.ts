/**
 * Recognises what already lives on a device by its signature, so that formatting does not destroy it
 * unasked: volumes, file systems, partition tables, disk images. A table of magic numbers and their
 * places; nothing is interpreted any further.
 */
import { BLOCK_SIZE, SECTOR_SIZE } from '../base/constants.ts';
import type { Storage } from '../storage/storage.ts';

interface Signature {
  readonly name: string;
  /** Byte offsets where the magic may lie; negative ones count from the end, rounded as said. */
  readonly at: readonly number[];
  /** Latin-1 text of the magic. */
  readonly magic: string;
}

const KB = 1024;

/** `count` offsets from `first`, `step` apart. */
function every(first: number, step: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i * step);
}

/** More telling signatures first: a boot sector says least. */
const SIGNATURES: readonly Signature[] = [
  { name: 'a dm-vdo volume', at: [0], magic: 'dmvdo001' },
  { name: 'a LUKS volume', at: [0], magic: 'LUKS\xba\xbe' },
  { name: 'a LUKS volume', at: every(16 * KB, 16 * KB, 4), magic: 'SKUL\xba\xbe' },
  { name: 'an LVM physical volume', at: every(0, SECTOR_SIZE, 4), magic: 'LABELONE' },
  { name: 'an XFS file system', at: [0], magic: 'XFSB' },
  { name: 'an ext2, ext3 or ext4 file system', at: [1080], magic: '\x53\xef' },
  { name: 'a btrfs file system', at: [64 * KB + 64], magic: '_BHRfS_M' },
  { name: 'a bcache or bcachefs device', at: [4096 + 24], magic: '\xc6\x85\x73\xf6' },
  { name: 'an F2FS file system', at: [1024], magic: '\x10\x20\xf5\xf2' },
  { name: 'an EROFS file system', at: [1024], magic: '\xe2\xe1\xf5\xe0' },
  { name: 'a SquashFS file system', at: [0], magic: 'hsqs' },
  { name: 'a SquashFS file system', at: [0], magic: 'sqsh' },
  { name: 'a ReiserFS file system', at: [64 * KB + 52], magic: 'ReIsEr' },
  { name: 'a JFS file system', at: [32 * KB], magic: 'JFS1' },
  { name: 'an HFS+ file system', at: [1024], magic: 'H+\x00\x04' },
  { name: 'an APFS container', at: [32], magic: 'NXSB' },
  { name: 'an ISO 9660 file system', at: [32 * KB + 1], magic: 'CD001' },
  { name: 'a UDF file system', at: [32 * KB + 1, 34 * KB + 1], magic: 'BEA01' },
  { name: 'a ZFS member', at: every(128 * KB, KB, 128), magic: '\x0c\xb1\xba\x00\x00\x00\x00\x00' },
  { name: 'a ZFS member', at: every(128 * KB, KB, 128), magic: '\x00\x00\x00\x00\x00\xba\xb1\x0c' },
  { name: 'swap space', at: [4, 8, 16, 64].map((k) => k * KB - 10), magic: 'SWAPSPACE2' },
  { name: 'swap space', at: [4, 8, 16, 64].map((k) => k * KB - 10), magic: 'SWAP-SPACE' },
  { name: 'a suspended system image', at: [4 * KB - 10], magic: 'S1SUSPEND' },
  { name: 'a Linux RAID member', at: [0, 4096, -8 * KB, -64 * KB], magic: '\xfc\x4e\x2b\xa9' },
  { name: 'a Stratis device', at: [516, 4612], magic: '!Stra0tis\x86\xff\x02^Arh' },
  { name: 'a Ceph BlueStore device', at: [0], magic: 'bluestore block device' },
  { name: 'a dm-integrity device', at: [0], magic: 'integrt\0' },
  { name: 'a dm-verity device', at: [0], magic: 'verity\0\0' },
  { name: 'a device-mapper snapshot', at: [0], magic: 'SnAp' },
  { name: 'a qcow2 image', at: [0], magic: 'QFI\xfb' },
  { name: 'a VMDK image', at: [0], magic: 'KDMV' },
  { name: 'a VDI image', at: [64], magic: '\x7f\x10\xda\xbe' },
  { name: 'a VHD image', at: [0, -SECTOR_SIZE], magic: 'conectix' },
  { name: 'a VHDX image', at: [0], magic: 'vhdxfile' },
  { name: 'an NTFS file system', at: [3], magic: 'NTFS    ' },
  { name: 'an exFAT file system', at: [3], magic: 'EXFAT   ' },
  { name: 'a FAT file system', at: [54, 82], magic: 'FAT' },
  { name: 'a GPT partition table', at: [512, 4096, -SECTOR_SIZE, -4096], magic: 'EFI PART' },
  { name: 'a partition table or boot sector', at: [510], magic: '\x55\xaa' },
];

/** The longest stretch a signature spans from the start; also read from the end. */
const PROBED_BYTES = 260 * KB;
/** Blocks from the start that may hold a signature. */
export const SIGNATURE_BLOCKS = PROBED_BYTES / BLOCK_SIZE;

/** Byte on a storage of `size` bytes that an offset of the table means. */
function place(offset: number, size: number): number {
  if (offset >= 0) return offset;
  // RAID superblocks lie on a multiple of their distance from the end, but not in the last of them.
  const grain = offset <= -64 * KB ? 64 * KB : offset <= -8 * KB ? 4 * KB : SECTOR_SIZE;
  return Math.floor(size / grain) * grain + offset;
}

/** What the storage holds, in words, or `undefined` when no signature is known. Reads at most 520 KiB. */
export async function findSignature(storage: Storage): Promise<string | undefined> {
  const { size } = storage;
  const head = new Uint8Array(Math.min(PROBED_BYTES, size));
  const tail = new Uint8Array(Math.min(PROBED_BYTES, size));
  if (size === 0) return undefined;
  await storage.read([
    { offset: 0, bytes: head },
    { offset: size - tail.length, bytes: tail },
  ]);
  const matches = (at: number, magic: string): boolean => {
    const from = at - (size - tail.length);
    if (at < 0 || at + magic.length > size) return false;
    const source = at + magic.length <= head.length ? head.subarray(at) : tail.subarray(from);
    if (at + magic.length > head.length && from < 0) return false;
    for (let i = 0; i < magic.length; i++) if (source[i] !== magic.charCodeAt(i)) return false;
    return true;
  };
  const found = SIGNATURES.find(({ at, magic }) =>
    at.some((offset) => matches(place(offset, size), magic)),
  );
  return found?.name;
}
