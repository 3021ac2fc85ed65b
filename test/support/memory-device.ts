/**
 * A block device that is one array: the model that servers and clients are tried on. Calls complete
 * after a turn of the event loop, in an order of the seed's choosing where one is given, and can be
 * held back, failed and counted.
 */
import { VdoError } from '../../src/base/errors.ts';
import {
  Mapping,
  type BlockDevice,
  type DeviceExtent,
  type ExtentOptions,
  type WriteOptions,
} from '../../src/device/block-device.ts';
import type { Random } from '../sim/random.ts';

const ZEROS = Buffer.alloc(4096);

export type DeviceCall = 'read' | 'write' | 'discard' | 'writeZeroes' | 'flush';

export class MemoryDevice implements BlockDevice {
  readonly bytes: Uint8Array;
  readonly readOnly: boolean;
  /** Calls that have begun, and those of them with FUA. */
  readonly calls: Record<DeviceCall, number> = {
    read: 0,
    write: 0,
    discard: 0,
    writeZeroes: 0,
    flush: 0,
  };
  fuaCalls = 0;
  /** Of the calls of `writeNow` that took something: what each took. */
  readonly takenNow: { readonly offset: number; readonly length: number }[] = [];
  /** There where the device may write at once. */
  readonly writeNow?: (offset: number, bytes: Uint8Array) => number;
  inFlight = 0;
  mostInFlight = 0;
  bytesInFlight = 0;
  /** Throws to make a call fail. */
  beforeCall:
    ((call: DeviceCall, offset: number, length: number) => void | Promise<void>) | undefined;
  readonly #random: Random | undefined;

  /** With `takesNow`, the device writes at once, as many bytes as that returns for each call. */
  constructor(
    size: number,
    options: { readOnly?: boolean; random?: Random; takesNow?: () => number } = {},
  ) {
    this.bytes = new Uint8Array(size);
    this.readOnly = options.readOnly ?? false;
    this.#random = options.random;
    const { takesNow } = options;
    if (takesNow === undefined) return;
    this.writeNow = (offset, bytes) => {
      const length = Math.min(bytes.length, takesNow());
      this.bytes.set(bytes.subarray(0, length), offset);
      if (length > 0) this.takenNow.push({ offset, length });
      return length;
    };
  }

  get size(): number {
    return this.bytes.length;
  }

  async read(offset: number, length: number, into = new Uint8Array(length)): Promise<Uint8Array> {
    return this.#call('read', offset, length, undefined, () => {
      into.set(this.bytes.subarray(offset, offset + length));
      return into;
    });
  }

  async write(offset: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    await this.#call('write', offset, bytes.length, options, () => this.bytes.set(bytes, offset));
  }

  async discard(offset: number, length: number, options?: WriteOptions): Promise<void> {
    await this.#call('discard', offset, length, options, () => this.#zero(offset, length));
  }

  async writeZeroes(offset: number, length: number, options?: WriteOptions): Promise<void> {
    await this.#call('writeZeroes', offset, length, options, () => this.#zero(offset, length));
  }

  async flush(): Promise<void> {
    await this.#call('flush', 0, 0, undefined, () => undefined);
  }

  /** Blocks of 4 KiB that hold nothing but zeros are holes. */
  async extents(
    offset: number,
    length: number,
    { maxExtents = Infinity, mapping = false }: ExtentOptions = {},
  ): Promise<DeviceExtent[]> {
    const found: { offset: number; length: number; kind: DeviceExtent['kind'] }[] = [];
    const end = offset + length;
    for (let at = offset; at < end;) {
      const next = Math.min(end, (Math.floor(at / 4096) + 1) * 4096);
      const block = this.bytes.subarray(Math.floor(at / 4096) * 4096, next);
      const kind = ZEROS.subarray(0, block.length).equals(block) ? 'hole' : 'data';
      const last = found.at(-1);
      if (last?.kind === kind) last.length += next - at;
      else if (found.length === maxExtents) break;
      else found.push({ offset: at, length: next - at, kind });
      at = next;
    }
    if (!mapping) return found;
    return found.map((run) => ({ ...run, mapping: run.kind === 'data' ? Mapping.stored : 0 }));
  }

  async close(): Promise<void> {}

  #zero(offset: number, length: number): void {
    this.bytes.fill(0, offset, offset + length);
  }

  async #call<T>(
    call: DeviceCall,
    offset: number,
    length: number,
    options: WriteOptions | undefined,
    work: () => T,
  ): Promise<T> {
    if (offset < 0 || offset + length > this.size) {
      throw new VdoError('OutOfRange', `${call} of ${length} bytes at ${offset}`);
    }
    this.calls[call]++;
    if (options?.fua === true) this.fuaCalls++;
    this.inFlight++;
    this.bytesInFlight += length;
    this.mostInFlight = Math.max(this.mostInFlight, this.inFlight);
    try {
      const turns = this.#random?.below(4) ?? 0;
      for (let i = 0; i < turns; i++) await new Promise(setImmediate);
      await this.beforeCall?.(call, offset, length);
      return work();
    } finally {
      this.inFlight--;
      this.bytesInFlight -= length;
    }
  }
}
