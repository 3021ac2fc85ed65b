/** An index whose advice the test writes; names and counts of blocks; what is free; the auditor. */
import { expect } from 'vitest';
import { BLOCK_SIZE, RECORD_NAME_SEED, RECORD_NAME_SIZE } from '../../../src/base/constants.ts';
import type { Advice, HashIndex } from '../../../src/index/hash-index.ts';
import { murmur3 } from '../../../src/kernels/murmur3.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { auditVolume } from '../../model/audit.ts';
import { TINY_FORMAT, type WatchedStorage } from '../../support/volumes.ts';

/** Bytes that clients of a tiny volume see. */
export const TINY_SIZE = TINY_FORMAT.logicalSize;
/** First block of slab 0 of a tiny volume without an index. */
export const FIRST = 62;
/** Data blocks of one of its slabs. */
export const SLAB_DATA = 1007;

export interface Place {
  readonly pbn: number;
  readonly state: number;
}

export function nameOf(block: Uint8Array): string {
  const name = new Uint8Array(RECORD_NAME_SIZE);
  murmur3(block, RECORD_NAME_SEED, name, 0);
  return Buffer.from(name).toString('hex');
}

/** Answers what the test has written into `advice`; remembers what it was told in `told`. */
export class ScriptedIndex implements HashIndex {
  readonly kind = 'scripted';
  readonly advice = new Map<string, Place>();
  readonly told = new Map<string, Place>();
  lookups = 0;
  closes = 0;

  advise(block: Uint8Array, pbn: number, state = 1): void {
    this.advice.set(nameOf(block), { pbn, state });
  }

  /** Where it was told that `block` lies. */
  placeOf(block: Uint8Array): Place | undefined {
    return this.told.get(nameOf(block));
  }

  lookup(names: Uint8Array, count: number, advice: Advice): void {
    this.lookups += count;
    for (let i = 0; i < count; i++) {
      const place = this.advice.get(this.#name(names, i));
      advice.pbn[i] = place?.pbn ?? 0;
      advice.state[i] = place?.state ?? 0;
    }
  }

  update(names: Uint8Array, count: number, locations: Advice): void {
    for (let i = 0; i < count; i++) {
      const place = { pbn: locations.pbn[i]!, state: locations.state[i]! };
      this.told.set(this.#name(names, i), place);
    }
  }

  statistics() {
    const counts = { queriesFound: 0, queriesNotFound: 0, updatesFound: 0, updatesNotFound: 0 };
    return { entriesIndexed: this.told.size, ...counts, entriesDiscarded: 0, memoryBytes: 0 };
  }

  close(): Promise<void> {
    this.closes++;
    return Promise.resolve();
  }

  #name(names: Uint8Array, i: number): string {
    const at = i * RECORD_NAME_SIZE;
    return Buffer.from(names.subarray(at, at + RECORD_NAME_SIZE)).toString('hex');
  }
}

/** A statistic by its dotted name. */
export function statistic(volume: Volume, name: string): number {
  let value: unknown = volume.statistics();
  for (const part of name.split('.')) value = (value as Record<string, unknown>)[part];
  return value as number;
}

/** Blocks of the slabs that nothing refers to. */
export function freeBlocks(volume: Volume): number {
  const used = statistic(volume, 'dataBlocksUsed') + statistic(volume, 'overheadBlocksUsed');
  return statistic(volume, 'physicalBlocks') - used;
}

export async function readBlock(volume: Volume, lbn: number): Promise<Buffer> {
  return Buffer.from(await volume.read(lbn * BLOCK_SIZE, BLOCK_SIZE));
}

/** Whether logical block `lbn` holds `block`. */
export async function expectBlock(volume: Volume, lbn: number, block: Uint8Array): Promise<void> {
  const found = await readBlock(volume, lbn);
  expect(Buffer.compare(found, block), `content of logical block ${lbn}`).toBe(0);
}

/** Closes the volume and has the independent auditor look at what is left. */
export async function closeAndAudit(volume: Volume, storage: WatchedStorage): Promise<void> {
  await volume.close();
  expect((await auditVolume(storage)).errors).toEqual([]);
}

/** Resolves after `turns` turns of the event loop. */
export async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** A volume beside the bytes it should hold. */
export class Twin {
  readonly volume: Volume;
  readonly storage: WatchedStorage;
  readonly bytes = Buffer.alloc(TINY_SIZE);

  constructor({ volume, storage }: { volume: Volume; storage: WatchedStorage }) {
    this.volume = volume;
    this.storage = storage;
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    this.bytes.set(bytes, offset);
    return this.volume.write(offset, bytes);
  }

  /** As `write`, of what the volume takes at once; returns how many bytes. */
  writeNow(offset: number, bytes: Uint8Array): number {
    const taken = this.volume.writeNow(offset, bytes);
    this.bytes.set(bytes.subarray(0, taken), offset);
    return taken;
  }

  discard(offset: number, length: number): Promise<void> {
    this.bytes.fill(0, offset, offset + length);
    return this.volume.discard(offset, length);
  }

  async check(offset: number, length: number): Promise<void> {
    const found = await this.volume.read(offset, length);
    expect(Buffer.compare(found, this.bytes.subarray(offset, offset + length))).toBe(0);
  }

  async end(): Promise<void> {
    await this.check(0, 100 * BLOCK_SIZE);
    await closeAndAudit(this.volume, this.storage);
  }
}
