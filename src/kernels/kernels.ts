/**
 * The kernels of an arena: in WebAssembly where the compiled module is found, else the reference in
 * TypeScript, which gives the same answers at a twentieth of the speed. Synchronous: a call costs 10
 * to 20 ns beside its work.
 */
import { asBuffer, isZero } from '../base/bytes.ts';
import { assert } from '../base/assert.ts';
import { BLOCK_SIZE, RECORD_NAME_SEED, RECORD_NAME_SIZE } from '../base/constants.ts';
import { fragmentOffset, fragmentSize } from '../format/compressed-block.ts';
import type { Arena } from './arena.ts';
import { compressBlock, decompressBlock } from './lz4.ts';
import { murmur3 } from './murmur3.ts';
import { wasmModule } from './wasm-module.ts';

export interface Kernels {
  readonly kind: 'wasm' | 'typescript';
  /** Fills names and zero flags of rows `first` … `end` − 1. About 0.4 µs a block. */
  hash(first: number, end: number): void;
  /** Fills fragments and their sizes for rows `rowList[first]` … `rowList[end − 1]`. 1 to 8 µs a block. */
  compress(first: number, end: number): void;
  /** Whether the blocks at two addresses are equal. About 0.1 µs. */
  equal(a: number, b: number): boolean;
  /** Copies `size` bytes. A tenth of what a typed array takes for a name, a half for a block. */
  copy(from: number, to: number, size: number): void;
  /**
   * Expands slot `slot` of the compressed block at address `block` into 4096 bytes at `into`; false where
   * there is no such slot, or it is damaged. About 2 µs.
   */
  expand(block: number, slot: number, into: number): boolean;
  /** The same for a fragment of `size` bytes at `source`. */
  decompress(source: number, size: number, into: number): boolean;
}

/** What kernels.wasm exports: addresses and rows in, see wasm/kernels.ts. */
interface WasmExports {
  hash(blocks: number, names: number, zero: number, first: number, end: number): void;
  blocksEqual(a: number, b: number): number;
  compressRows(
    blocks: number,
    fragments: number,
    sizes: number,
    rowList: number,
    first: number,
    end: number,
    table: number,
  ): void;
  copy(from: number, to: number, size: number): void;
  expandSlot(block: number, slot: number, into: number): number;
  decompress(source: number, size: number, into: number): number;
}

/** The fastest kernels there are for this arena. Each thread has a number of its own. */
export function createKernels(arena: Arena, thread = 0): Kernels {
  const module = wasmModule('kernels');
  return module === null ? referenceKernels(arena) : wasmKernels(arena, module, thread);
}

/** Checks addresses and rows: the compiled kernels believe them. */
class Bounds {
  readonly #arena: Arena;

  constructor(arena: Arena) {
    this.#arena = arena;
  }

  rows(first: number, end: number): void {
    assert(first >= 0 && first <= end && end <= this.#arena.rows, 'rows of a kernel');
  }

  places(first: number, end: number): void {
    const { rowList, rows } = this.#arena;
    assert(first >= 0 && first <= end && end <= rowList.length, 'places of a kernel');
    for (let i = first; i < end; i++) {
      assert(rowList[i]! >= 0 && rowList[i]! < rows, 'row of a kernel');
    }
  }

  bytes(at: number, size = BLOCK_SIZE): void {
    assert(at >= BLOCK_SIZE && size >= 0 && at + size <= this.#arena.size, 'address of a kernel');
  }
}

function wasmKernels(arena: Arena, module: WebAssembly.Module, thread: number): Kernels {
  const instance = new WebAssembly.Instance(module, { env: { memory: arena.memory } });
  const wasm = instance.exports as unknown as WasmExports;
  assert(typeof wasm.compressRows === 'function', 'kernels.wasm is out of date: npm run build');
  const bounds = new Bounds(arena);
  const blocks = arena.blocks.byteOffset;
  const names = arena.names.byteOffset;
  const zero = arena.zero.byteOffset;
  const fragments = arena.fragments.byteOffset;
  const sizes = arena.fragmentSizes.byteOffset;
  const rowList = arena.rowList.byteOffset;
  const scratch = arena.scratchOf(thread);
  return {
    kind: 'wasm',
    hash(first, end) {
      bounds.rows(first, end);
      wasm.hash(blocks, names, zero, first, end);
    },
    compress(first, end) {
      bounds.places(first, end);
      wasm.compressRows(blocks, fragments, sizes, rowList, first, end, scratch);
    },
    equal(a, b) {
      bounds.bytes(a);
      bounds.bytes(b);
      return wasm.blocksEqual(a, b) !== 0;
    },
    copy(from, to, size) {
      bounds.bytes(from, size);
      bounds.bytes(to, size);
      wasm.copy(from, to, size);
    },
    expand(block, slot, into) {
      bounds.bytes(block);
      bounds.bytes(into);
      return wasm.expandSlot(block, slot, into) !== 0;
    },
    decompress(source, size, into) {
      bounds.bytes(source, size);
      bounds.bytes(into);
      return wasm.decompress(source, size, into) !== 0;
    },
  };
}

/** The same in TypeScript: for tests, and for a checkout that was not built. */
export function referenceKernels(arena: Arena): Kernels {
  const bounds = new Bounds(arena);
  const memory = asBuffer(new Uint8Array(arena.memory.buffer));
  const bytesAt = (at: number, size = BLOCK_SIZE): Buffer => {
    bounds.bytes(at, size);
    return memory.subarray(at, at + size);
  };
  const blockOf = (region: Uint8Array, row: number): Buffer =>
    bytesAt(region.byteOffset + row * BLOCK_SIZE);
  return {
    kind: 'typescript',
    hash(first, end) {
      bounds.rows(first, end);
      for (let row = first; row < end; row++) {
        const block = blockOf(arena.blocks, row);
        arena.zero[row] = isZero(block) ? 1 : 0;
        murmur3(block, RECORD_NAME_SEED, arena.names, row * RECORD_NAME_SIZE);
      }
    },
    compress(first, end) {
      bounds.places(first, end);
      for (let i = first; i < end; i++) {
        const row = arena.rowList[i]!;
        const size = compressBlock(blockOf(arena.blocks, row), blockOf(arena.fragments, row));
        arena.fragmentSizes[row] = size;
      }
    },
    equal: (a, b) => bytesAt(a).equals(bytesAt(b)),
    copy(from, to, size) {
      bytesAt(to, size).set(bytesAt(from, size));
    },
    expand(block, slot, into) {
      const size = fragmentSize(bytesAt(block), slot);
      if (size === 0) return false;
      const at = block + fragmentOffset(bytesAt(block), slot);
      return decompressBlock(bytesAt(at, size), bytesAt(into));
    },
    decompress: (source, size, into) => decompressBlock(bytesAt(source, size), bytesAt(into)),
  };
}
