/**
 * The kernels of an arena: in WebAssembly where the compiled module is found, else the reference in
 * TypeScript, which gives the same answers at a twentieth of the speed. Synchronous: a call costs 10
 * to 20 ns beside its work.
 */
import { asBuffer, isZero } from '../base/bytes.ts';
import { assert } from '../base/assert.ts';
import { BLOCK_SIZE, RECORD_NAME_SEED, RECORD_NAME_SIZE } from '../base/constants.ts';
import type { Arena } from './arena.ts';
import { murmur3 } from './murmur3.ts';
import { isCompressible } from './probe.ts';
import { wasmModule } from './wasm-module.ts';

export interface Kernels {
  readonly kind: 'wasm' | 'typescript';
  /** Fills names and zero flags of rows `first` … `end` − 1. About 0.4 µs a block. */
  hash(first: number, end: number): void;
  /** Whether block `row` equals block `verifyRow` of the verify region. About 0.1 µs. */
  equalsVerify(row: number, verifyRow: number): boolean;
  /** Whether two rows hold the same block. */
  rowsEqual(a: number, b: number): boolean;
  /**
   * Whether LZ4 may make a fragment of the block in `row`. A no costs 1 µs and saves LZ4's 4 to 13; a
   * yes costs 0.2.
   */
  isCompressible(row: number): boolean;
}

/** What kernels.wasm exports: addresses and rows in, see wasm/kernels.ts. */
interface WasmExports {
  hash(blocks: number, names: number, zero: number, first: number, end: number): void;
  blocksEqual(a: number, b: number): number;
  isCompressible(block: number, table: number): number;
}

/** The fastest kernels there are for this arena. Each thread has a number of its own. */
export function createKernels(arena: Arena, thread = 0): Kernels {
  const module = wasmModule('kernels');
  return module === null ? referenceKernels(arena) : wasmKernels(arena, module, thread);
}

function wasmKernels(arena: Arena, module: WebAssembly.Module, thread: number): Kernels {
  const instance = new WebAssembly.Instance(module, { env: { memory: arena.memory } });
  const wasm = instance.exports as unknown as WasmExports;
  assert(typeof wasm.isCompressible === 'function', 'kernels.wasm is out of date: npm run build');
  const { rows } = arena;
  const blocks = arena.blocks.byteOffset;
  const verify = arena.verify.byteOffset;
  const names = arena.names.byteOffset;
  const zero = arena.zero.byteOffset;
  const scratch = arena.scratchOf(thread);
  return {
    kind: 'wasm',
    hash(first, end) {
      assert(first >= 0 && first <= end && end <= rows, 'rows to hash');
      wasm.hash(blocks, names, zero, first, end);
    },
    equalsVerify(row, verifyRow) {
      assert(row >= 0 && row < rows && verifyRow >= 0 && verifyRow < rows, 'rows to compare');
      return wasm.blocksEqual(blocks + row * BLOCK_SIZE, verify + verifyRow * BLOCK_SIZE) !== 0;
    },
    rowsEqual(a, b) {
      assert(a >= 0 && a < rows && b >= 0 && b < rows, 'rows to compare');
      return wasm.blocksEqual(blocks + a * BLOCK_SIZE, blocks + b * BLOCK_SIZE) !== 0;
    },
    isCompressible(row) {
      assert(row >= 0 && row < rows, 'row to probe');
      return wasm.isCompressible(blocks + row * BLOCK_SIZE, scratch) !== 0;
    },
  };
}

/** The same in TypeScript: for tests, and for a checkout that was not built. */
export function referenceKernels(arena: Arena): Kernels {
  const { rows } = arena;
  const blockOf = (region: Uint8Array, row: number): Buffer => {
    assert(row >= 0 && row < rows, 'row of a block');
    return asBuffer(region.subarray(row * BLOCK_SIZE, (row + 1) * BLOCK_SIZE));
  };
  return {
    kind: 'typescript',
    hash(first, end) {
      assert(first >= 0 && first <= end && end <= rows, 'rows to hash');
      for (let row = first; row < end; row++) {
        const block = blockOf(arena.blocks, row);
        arena.zero[row] = isZero(block) ? 1 : 0;
        murmur3(block, RECORD_NAME_SEED, arena.names, row * RECORD_NAME_SIZE);
      }
    },
    equalsVerify: (row, verifyRow) =>
      blockOf(arena.blocks, row).equals(blockOf(arena.verify, verifyRow)),
    rowsEqual: (a, b) => blockOf(arena.blocks, a).equals(blockOf(arena.blocks, b)),
    isCompressible: (row) => isCompressible(blockOf(arena.blocks, row)),
  };
}
