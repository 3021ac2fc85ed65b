/** What the server offers: exports by name, and the flags that tell a client what each can do. */
import { VdoError } from '../base/errors.ts';
import type { BlockDevice } from '../device/block-device.ts';
import type { Form } from './messages.ts';
import { MAX_STRING_BYTES, TransmissionFlag } from './protocol.ts';

/** One export, as the caller of `serve` names it. */
export interface ExportOptions {
  readonly name: string;
  readonly volume: BlockDevice;
  /** Text for a person. */
  readonly description?: string;
  /** Refuse writes even where the volume takes them. */
  readonly readOnly?: boolean;
}

export interface Export {
  readonly name: string;
  readonly device: BlockDevice;
  readonly description: string;
  readonly readOnly: boolean;
}

/** Checks the exports' names. Fails with `InvalidArgument`. The first is the default export. */
export function makeExports(options: readonly ExportOptions[]): readonly Export[] {
  const exports = options.map(({ name, volume, description = '', readOnly = false }) => {
    const bytes = Buffer.byteLength(name);
    if (bytes > MAX_STRING_BYTES || name.includes('\0')) {
      throw new VdoError('InvalidArgument', `no export can have the name ${JSON.stringify(name)}`);
    }
    if (Buffer.byteLength(description) > MAX_STRING_BYTES) {
      throw new VdoError('InvalidArgument', `the description of export ${name} is too long`);
    }
    const fixed = readOnly || volume.readOnly;
    return { name, device: volume, description, readOnly: fixed };
  });
  if (exports.length === 0) throw new VdoError('InvalidArgument', 'there is nothing to serve');
  const names = new Set(exports.map(({ name }) => name));
  if (names.size !== exports.length) {
    throw new VdoError('InvalidArgument', 'two exports cannot have the same name');
  }
  return exports;
}

/** The export of that name; the empty name means the first, unless one is called so. */
export function findExport(exports: readonly Export[], name: string): Export | undefined {
  return (
    exports.find((candidate) => candidate.name === name) ?? (name === '' ? exports[0] : undefined)
  );
}

/**
 * Transmission flags of an export, for a client that negotiated `form` and perhaps a context.
 * `canMultiConn` is true of one process that serves one device to all of its clients: a flush covers
 * what was answered on any connection.
 */
export function flagsOf({ readOnly }: Export, form: Form, hasContexts: boolean): number {
  let flags =
    TransmissionFlag.hasFlags |
    TransmissionFlag.sendFlush |
    TransmissionFlag.sendFua |
    TransmissionFlag.canMultiConn |
    TransmissionFlag.sendCache;
  if (form !== 'simple') flags |= TransmissionFlag.sendDf;
  if (form === 'extended' && hasContexts) flags |= TransmissionFlag.blockStatusPayload;
  if (readOnly) return flags | TransmissionFlag.readOnly;
  return (
    flags |
    TransmissionFlag.sendTrim |
    TransmissionFlag.sendWriteZeroes |
    TransmissionFlag.sendFastZero
  );
}
