/**
 * Every number of dm-vdo's on-disk format that more than one file needs, under dm-vdo's own names.
 * docs/FORMAT.md gives each its place.
 */

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;
export const TiB = 1024 * GiB;
export const PiB = 1024 * TiB;

/** The unit of everything: blocks of 4 KiB, written whole. */
export const BLOCK_SIZE = 4096;
/** What a device writes without tearing. */
export const SECTOR_SIZE = 512;
export const SECTORS_PER_BLOCK = BLOCK_SIZE / SECTOR_SIZE;

export const MAX_PHYSICAL_BLOCKS = 2 ** 36;
export const MAX_LOGICAL_BLOCKS = 2 ** 40;
export const MAX_SLABS = 8192;
export const MAX_SLAB_BITS = 23;

// Block map
export const BLOCK_MAP_ENTRIES_PER_PAGE = 812;
export const BLOCK_MAP_ROOT_COUNT = 60;
/** Levels of a tree on disk: the root has height 4, a leaf height 0. */
export const BLOCK_MAP_TREE_HEIGHT = 5;

// Recovery journal
export const RECOVERY_JOURNAL_DEFAULT_BLOCKS = 32768;
export const RECOVERY_ENTRIES_PER_SECTOR = 31;
export const RECOVERY_ENTRIES_PER_BLOCK = 217;
/** Blocks of the journal that are never filled, so that a recovery always finds its end. */
export const RECOVERY_JOURNAL_RESERVED_BLOCKS = 11;

// Slabs
export const SLAB_JOURNAL_DEFAULT_BLOCKS = 224;
export const SLAB_JOURNAL_PLAIN_ENTRIES = 1353;
export const SLAB_JOURNAL_FULL_ENTRIES = 1299;
export const COUNTS_PER_SECTOR = 504;
export const COUNTS_PER_BLOCK = COUNTS_PER_SECTOR * SECTORS_PER_BLOCK;
/** A stored block carries at most this many references; also the count of every block map page. */
export const MAXIMUM_REFERENCE_COUNT = 254;
/** Allocated, not yet referenced by a journaled mapping; read from disk it means free. */
export const PROVISIONAL_REFERENCE_COUNT = 255;
export const SLAB_SUMMARY_BLOCKS_PER_ZONE = 4;
export const SLAB_SUMMARY_ENTRIES_PER_BLOCK = 2048;
export const MAX_PHYSICAL_ZONES = 16;
export const SLAB_SUMMARY_BLOCKS = SLAB_SUMMARY_BLOCKS_PER_ZONE * MAX_PHYSICAL_ZONES;

// Compressed blocks
export const COMPRESSION_SLOTS = 14;
export const COMPRESSED_BLOCK_HEADER_SIZE = 36;
export const COMPRESSED_BLOCK_DATA_SIZE = BLOCK_SIZE - COMPRESSED_BLOCK_HEADER_SIZE;
/** A block whose LZ4 form is larger is not worth packing. */
export const MAX_FRAGMENT_SIZE = COMPRESSED_BLOCK_DATA_SIZE - 1;

// Mapping states of a block map entry
export const UNMAPPED = 0;
export const UNCOMPRESSED = 1;
/** State of slot k of a compressed block is `COMPRESSED_BASE + k`. */
export const COMPRESSED_BASE = 2;
/** With state `UNCOMPRESSED`: a block written as zeros. */
export const ZERO_BLOCK = 0;

/** Requests in flight at most: the rows of one batch. */
export const MAX_VIOS = 2048;
/** Bytes of a record name: the MurmurHash3-x64-128 of a block. */
export const RECORD_NAME_SIZE = 16;
export const RECORD_NAME_SEED = 0x62ea60be;
