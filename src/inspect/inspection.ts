/**
 * A volume as `dump` sees it: read-only, and readable as far as it goes. Where a label is damaged its
 * fields are read all the same; everything that is wrong is collected in words.
 *
 * - Nothing is ever written, and no journal is replayed: what is shown is what lies on disk.
 * - A block that cannot be read is a problem of the volume, not an exception.
 */
import { BLOCK_SIZE } from '../base/constants.ts';
import { VdoError } from '../base/errors.ts';
import { componentHeader } from '../format/component.ts';
import {
  decodeGeometryBlock,
  geometryBody4,
  geometryBody5,
  hasGeometryMagic,
  type GeometryBlock,
} from '../format/geometry-block.ts';
import {
  CLEAN,
  decodeSuperBlock,
  NEW,
  stateName,
  SUPER_BLOCK_PARTS,
  type SuperBlock,
} from '../format/super-block.ts';
import type { Storage } from '../storage/storage.ts';
import { checkLabels } from '../volume/labels.ts';

/** Fields of a structure as read, for people: no promise that they make sense. */
export type RawFields = Readonly<Record<string, unknown>>;

const GEOMETRY_HEADER_AT = 8;

export class Inspection {
  readonly storage: Storage;
  /** The labels, where they decode. */
  geometry: GeometryBlock | undefined;
  superBlock: SuperBlock | undefined;
  /** Their fields as read, where they do not. */
  rawGeometry: RawFields | undefined;
  rawSuperBlock: RawFields | undefined;
  /** What is wrong, in words, in the order it was found. */
  readonly problems: string[] = [];
  #geometryError: VdoError | undefined;
  #superBlockError: VdoError | undefined;

  private constructor(storage: Storage) {
    this.storage = storage;
  }

  /** Reads the labels. Fails with `NotVdo` if block 0 shows no trace of a volume. */
  static async open(storage: Storage): Promise<Inspection> {
    const inspection = new Inspection(storage);
    const dataBlock = await inspection.#readGeometry();
    if (dataBlock !== undefined) await inspection.#readSuperBlock(dataBlock);
    inspection.#crossCheck();
    return inspection;
  }

  /** The super block. Fails with what is wrong with it, where it does not decode. */
  needSuperBlock(): SuperBlock {
    if (this.superBlock !== undefined) return this.superBlock;
    throw this.#superBlockError ?? this.#geometryError ?? new VdoError('Corrupt', 'no super block');
  }

  /** The geometry block, likewise. */
  needGeometry(): GeometryBlock {
    if (this.geometry !== undefined) return this.geometry;
    throw this.#geometryError ?? new VdoError('Corrupt', 'no geometry block');
  }

  /** Notes a problem. */
  note(problem: string): void {
    this.problems.push(problem);
  }

  /** Physical blocks from `pbn` on; `undefined`, and a problem, where they cannot be read. */
  async blocks(pbn: number, count: number): Promise<Uint8Array | undefined> {
    const bytes = new Uint8Array(count * BLOCK_SIZE);
    const offset = (pbn - (this.geometry?.bioOffset ?? 0)) * BLOCK_SIZE;
    const what = count === 1 ? `block ${pbn}` : `blocks ${pbn} … ${pbn + count - 1}`;
    if (offset < 0 || offset + bytes.length > this.storage.size) {
      this.note(`${what}: past the end of the file`);
      return undefined;
    }
    try {
      await this.storage.read([{ offset, bytes }]);
    } catch (error) {
      if (!(error instanceof VdoError)) throw error;
      this.note(`${what}: ${error.message}`);
      return undefined;
    }
    return bytes;
  }

  /** How many blocks there are from `pbn` to the end of the file. */
  blocksFrom(pbn: number): number {
    const end = Math.floor(this.storage.size / BLOCK_SIZE) + (this.geometry?.bioOffset ?? 0);
    return Math.max(0, end - pbn);
  }

  block(pbn: number): Promise<Uint8Array | undefined> {
    return this.blocks(pbn, 1);
  }

  /** Whether the journal may hold newer mappings and counts than what lies in their places. */
  get mayNeedRecovery(): boolean {
    const state = this.superBlock?.state;
    return state !== undefined && state !== CLEAN && state !== NEW;
  }

  /** Returns the device block of the super block, where it can be told. */
  async #readGeometry(): Promise<number | undefined> {
    if (this.storage.size < BLOCK_SIZE) {
      throw new VdoError('NotVdo', `no dm-vdo volume here: only ${this.storage.size} bytes`);
    }
    const bytes = await this.blocks(0, 1);
    if (bytes === undefined) return undefined;
    try {
      this.geometry = decodeGeometryBlock(bytes);
      return this.geometry.dataStart - this.geometry.bioOffset;
    } catch (error) {
      if (!(error instanceof VdoError) || !hasGeometryMagic(bytes)) throw error;
      this.#geometryError = error;
      this.note(error.message);
    }
    const { major } = componentHeader.read(bytes, GEOMETRY_HEADER_AT);
    const body = major === 4 ? geometryBody4 : geometryBody5;
    const raw = body.read(bytes, GEOMETRY_HEADER_AT + componentHeader.size);
    this.rawGeometry = { formatVersion: major, ...raw };
    const bioOffset = 'bioOffset' in raw ? Number(raw.bioOffset) : 0;
    const dataBlock = raw.dataStart - bioOffset;
    return dataBlock >= 1 && (dataBlock + 1) * BLOCK_SIZE <= this.storage.size
      ? dataBlock
      : undefined;
  }

  async #readSuperBlock(dataBlock: number): Promise<void> {
    const bytes = await this.blocks(dataBlock + (this.geometry?.bioOffset ?? 0), 1);
    if (bytes === undefined) return;
    try {
      this.superBlock = decodeSuperBlock(bytes);
      return;
    } catch (error) {
      if (!(error instanceof VdoError)) throw error;
      this.#superBlockError = error;
      this.note(error.message);
    }
    this.rawSuperBlock = Object.assign(
      {},
      ...SUPER_BLOCK_PARTS.map((part) => part.struct.read(bytes, part.at)),
    ) as RawFields;
  }

  #crossCheck(): void {
    const { geometry, superBlock } = this;
    if (superBlock === undefined) return;
    if (geometry !== undefined) {
      try {
        checkLabels({ geometry, superBlock });
      } catch (error) {
        if (!(error instanceof VdoError)) throw error;
        this.note(error.message);
      }
    }
    const size = superBlock.physicalBlocks * BLOCK_SIZE;
    if (this.storage.size < size) {
      this.note(`the file has ${this.storage.size} bytes, the volume ${size}`);
    }
  }
}

/** What a dump of derived structures must say about a volume that was not closed. */
export function recoveryNote(inspection: Inspection): string | undefined {
  if (!inspection.mayNeedRecovery) return undefined;
  const state = stateName(inspection.needSuperBlock().state);
  return `the volume is ${state}: its journals may hold newer entries than are shown here`;
}
