/**
 * The one piece of memory that blocks live in while uvdo works on them: a shared `WebAssembly.Memory`
 * cut into regions when it is made and never grown. The WebAssembly kernels and every worker thread
 * see the same bytes, so nothing is copied to be hashed, compared or compressed.
 *
 * Row r of the regions up to `verify` belongs to one request:
 *
 *     control    4 KiB              words that the pool and its workers share
 *     scratch    16 × 8 KiB         tables of the kernels, one per thread
 *     expanded   16 × 4 KiB         a block expanded, one per thread; the first is that of the state
 *     rowList    rows × 4           rows that the thread of the state compresses
 *     tasks      2 × 1024 × 80      what the pool and its workers do (workers/protocol.ts)
 *     names      rows × 16          record names
 *     sizes      rows × 2           sizes of fragments
 *     zero       rows × 1           1 = the block is all zeros
 *     checks     rows × 12          what is to be compared or expanded: see `ComputePool`
 *     blocks     rows × 4096        block r at 4096·r, aligned to 4096
 *     fragments  rows × 4096        raw LZ4 blocks
 *     verify     rows × 4096        blocks read back to be compared, or expanded
 *     bins       bins × 4096        compressed blocks under construction
 *     staging    staging × 4096     blocks on their way out, in the order of their places
 *
 * Pages that were never touched take no memory. All regions start at multiples of 4096. Kernels may
 * read up to 16 bytes before and behind a row.
 */
import { assert } from '../base/assert.ts';
import { BLOCK_SIZE, RECORD_NAME_SIZE } from '../base/constants.ts';

const WASM_PAGE_SIZE = 65536;
/** The first page is left to the WebAssembly module (it has no static data today). */
const FIRST_REGION = WASM_PAGE_SIZE;
const CONTROL_SIZE = 4096;
/** Threads that can run kernels at once: the caller and its workers. */
export const MAX_THREADS = 16;
const SCRATCH_SIZE = 8192;
/** Rings of tasks, tasks in each, a power of two, and words of one. */
export const RINGS = 2;
export const TASKS = 1024;
export const TASK_WORDS = 20;
/** Words of a check. */
export const CHECK_WORDS = 3;
/** Keeps all offsets below 2^31. */
const MAX_ROWS = 65536;

export class Arena {
  readonly rows: number;
  /** Bytes of address space, resident only where touched. */
  readonly size: number;
  readonly binCount: number;
  readonly stagingCount: number;
  readonly memory: WebAssembly.Memory;
  readonly control: Int32Array;
  /** Rows by place; the tasks lie behind the first `rows` places. */
  readonly rowList: Int32Array;
  readonly tasks: Int32Array;
  /** Place in the row list of the first word of `tasks`. */
  readonly tasksPlace: number;
  readonly blocks: Uint8Array;
  readonly names: Uint8Array;
  /** The same, four words each. */
  readonly nameWords: Uint32Array;
  readonly zero: Uint8Array;
  readonly checks: Int32Array;
  readonly fragments: Uint8Array;
  /** 0 = the block does not fit in 4059 bytes. */
  readonly fragmentSizes: Uint16Array;
  readonly verify: Uint8Array;
  readonly expanded: Uint8Array;
  readonly bins: Uint8Array;
  readonly staging: Uint8Array;
  readonly #scratch: number;

  /**
   * An arena with bins has staging blocks for all of them and all rows. With `memory`, a view of an arena of
   * the same numbers made by another thread.
   */
  constructor(rows: number, binCount = 0, memory?: WebAssembly.Memory) {
    assert(Number.isInteger(rows) && rows > 0 && rows <= MAX_ROWS, 'rows of an arena');
    assert(Number.isInteger(binCount) && binCount >= 0 && binCount <= MAX_ROWS, 'bins of an arena');
    this.stagingCount = binCount === 0 ? 0 : binCount + rows;
    let end = FIRST_REGION;
    const region = (size: number): number => {
      const start = end;
      end += Math.ceil(size / BLOCK_SIZE) * BLOCK_SIZE;
      return start;
    };
    const control = region(CONTROL_SIZE);
    this.#scratch = region(MAX_THREADS * SCRATCH_SIZE);
    const expanded = region(MAX_THREADS * BLOCK_SIZE);
    const rowList = region((rows + RINGS * TASKS * TASK_WORDS) * 4);
    const names = region(rows * RECORD_NAME_SIZE);
    const sizes = region(rows * 2);
    const zero = region(rows);
    const checks = region(rows * CHECK_WORDS * 4);
    const blocks = region(rows * BLOCK_SIZE);
    const fragments = region(rows * BLOCK_SIZE);
    const verify = region(rows * BLOCK_SIZE);
    const bins = region(binCount * BLOCK_SIZE);
    const staging = region(this.stagingCount * BLOCK_SIZE);
    // One byte more than all regions: what kernels read behind the last one is in the memory too.
    const pages = Math.ceil((end + 1) / WASM_PAGE_SIZE);
    this.rows = rows;
    this.binCount = binCount;
    this.memory =
      memory ?? new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    const { buffer } = this.memory;
    assert(buffer.byteLength === pages * WASM_PAGE_SIZE, 'size of the arena');
    this.size = buffer.byteLength;
    this.control = new Int32Array(buffer, control, CONTROL_SIZE / 4);
    this.expanded = new Uint8Array(buffer, expanded, BLOCK_SIZE);
    this.rowList = new Int32Array(buffer, rowList, rows + RINGS * TASKS * TASK_WORDS);
    this.tasks = this.rowList.subarray(rows);
    this.tasksPlace = rows;
    this.names = new Uint8Array(buffer, names, rows * RECORD_NAME_SIZE);
    this.nameWords = new Uint32Array(buffer, names, (rows * RECORD_NAME_SIZE) / 4);
    this.fragmentSizes = new Uint16Array(buffer, sizes, rows);
    this.zero = new Uint8Array(buffer, zero, rows);
    this.checks = new Int32Array(buffer, checks, rows * CHECK_WORDS);
    this.blocks = new Uint8Array(buffer, blocks, rows * BLOCK_SIZE);
    this.fragments = new Uint8Array(buffer, fragments, rows * BLOCK_SIZE);
    this.verify = new Uint8Array(buffer, verify, rows * BLOCK_SIZE);
    this.bins = new Uint8Array(buffer, bins, binCount * BLOCK_SIZE);
    this.staging = new Uint8Array(buffer, staging, this.stagingCount * BLOCK_SIZE);
  }

  /** Offset in the memory of the block that one thread expands into. */
  expandedOf(thread: number): number {
    assert(thread >= 0 && thread < MAX_THREADS, 'thread of an expanded block');
    return this.expanded.byteOffset + thread * BLOCK_SIZE;
  }

  /** Offset in the memory of the kernels' table for one thread. */
  scratchOf(thread: number): number {
    assert(thread >= 0 && thread < MAX_THREADS, 'thread of a scratch table');
    return this.#scratch + thread * SCRATCH_SIZE;
  }
}
