/**
 * Entries of the recovery journal as columns: a window of blocks is decoded at once, checked, and
 * then replayed, without an object an entry.
 *
 * Implements docs/FORMAT.md §5.3.
 */
import { assert } from '../base/assert.ts';
import { getU16, getU32 } from '../base/bytes.ts';
import {
  BLOCK_MAP_ENTRIES_PER_PAGE,
  BLOCK_MAP_ROOT_COUNT,
  RECOVERY_ENTRIES_PER_BLOCK,
  RECOVERY_ENTRIES_PER_SECTOR,
  SECTOR_SIZE,
  UNCOMPRESSED,
  UNMAPPED,
} from '../base/constants.ts';
import { isLegalMapping, mappingPbn, mappingState } from '../format/block-map-page.ts';
import {
  BLOCK_MAP_REMAPPING,
  DATA_REMAPPING,
  recoveryEntry,
  recoverySector,
} from '../format/recovery-block.ts';

const ENTRY_SIZE = recoveryEntry.size;
const TWO_32 = 2 ** 32;

export class JournalEntries {
  count = 0;
  readonly operation: Uint8Array;
  /** Block map page that the entry changes, and the slot in it. */
  readonly page: Float64Array;
  readonly slot: Uint16Array;
  readonly newPbn: Float64Array;
  readonly newState: Uint8Array;
  readonly oldPbn: Float64Array;
  readonly oldState: Uint8Array;
  /** Journal block and index in it. */
  readonly sequence: Float64Array;
  readonly index: Uint8Array;

  /** Room for the entries of `blocks` journal blocks: 38 bytes each. */
  constructor(blocks: number) {
    const capacity = blocks * RECOVERY_ENTRIES_PER_BLOCK;
    this.operation = new Uint8Array(capacity);
    this.page = new Float64Array(capacity);
    this.slot = new Uint16Array(capacity);
    this.newPbn = new Float64Array(capacity);
    this.newState = new Uint8Array(capacity);
    this.oldPbn = new Float64Array(capacity);
    this.oldState = new Uint8Array(capacity);
    this.sequence = new Float64Array(capacity);
    this.index = new Uint8Array(capacity);
  }

  /** Adds the first `count` entries of a journal block. */
  add(block: Uint8Array, sequence: number, count: number): void {
    assert(this.count + count <= this.page.length, 'a window of entries overflows');
    for (let index = 0; index < count; index++) this.addOne(block, sequence, index);
  }

  /** Adds entry `index` of a journal block. */
  addOne(block: Uint8Array, sequence: number, index: number): void {
    const sector = Math.floor(index / RECOVERY_ENTRIES_PER_SECTOR);
    const inSector = index - sector * RECOVERY_ENTRIES_PER_SECTOR;
    const at = (sector + 1) * SECTOR_SIZE + recoverySector.offset.entries + inSector * ENTRY_SIZE;
    const i = this.count++;
    const word = getU16(block, at);
    this.operation[i] = word & 3;
    this.slot[i] = (word >>> 2) & 0x3ff;
    this.page[i] = (word >>> 12) * TWO_32 + getU32(block, at + 2);
    this.newPbn[i] = mappingPbn(block, at + 6);
    this.newState[i] = mappingState(block, at + 6);
    this.oldPbn[i] = mappingPbn(block, at + 11);
    this.oldState[i] = mappingState(block, at + 11);
    this.sequence[i] = sequence;
    this.index[i] = index;
  }

  /**
   * Whether entry `i` can be replayed: it changes a page that is one of the roots from `rootOrigin` on
   * or lies in a slab (dm-vdo takes any block of the volume here), and names places that hold data.
   */
  isValid(i: number, rootOrigin: number, isDataBlock: (pbn: number) => boolean): boolean {
    const { operation, newPbn, newState, oldPbn, oldState } = this;
    const page = this.page[i]!;
    const isRoot = page >= rootOrigin && page < rootOrigin + BLOCK_MAP_ROOT_COUNT;
    if (!isRoot && !isDataBlock(page)) return false;
    if (this.slot[i]! >= BLOCK_MAP_ENTRIES_PER_PAGE) return false;
    const isGood = (pbn: number, state: number): boolean =>
      isLegalMapping(pbn, state) && (pbn === 0 || isDataBlock(pbn));
    if (!isGood(newPbn[i]!, newState[i]!) || !isGood(oldPbn[i]!, oldState[i]!)) return false;
    if (operation[i] === DATA_REMAPPING) return true;
    return (
      operation[i] === BLOCK_MAP_REMAPPING &&
      newState[i] === UNCOMPRESSED &&
      newPbn[i] !== 0 &&
      oldPbn[i] === 0 &&
      oldState[i] === UNMAPPED
    );
  }
}
