/**
 * As much of WebAssembly's interface as uvdo uses: Node 20 has it, but its types leave it to the
 * browser library.
 */
declare namespace WebAssembly {
  class Memory {
    constructor(limits: { initial: number; maximum: number; shared?: boolean });
    /** A `SharedArrayBuffer` where the memory is shared. */
    readonly buffer: ArrayBufferLike;
  }
  class Module {
    constructor(bytes: Uint8Array<ArrayBuffer>);
  }
  class Instance {
    constructor(module: Module, imports: { env: { memory: Memory } });
    readonly exports: Readonly<Record<string, unknown>>;
  }
}
