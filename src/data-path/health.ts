/**
 * Read-only mode: the one function that enters it.
 *
 * A metadata error that cannot be undone (a failed write or fdatasync, damaged metadata) stops all
 * further metadata writes for the rest of the run: nothing is retried, since a failed fdatasync may
 * have lost pages that a later one reports as written (docs/COMMIT.md, rule 11). Reads go on.
 *
 * The one thing that is still written is the state READ_ONLY in the super block, as dm-vdo does: the
 * volume takes no writes until it is rebuilt. Where that write fails too, the volume stays DIRTY, and
 * the next start recovers what was committed.
 */
import { VdoError, type VdoCode } from '../base/errors.ts';

/** Damage keeps its own code; what the device or the program did wrong is an `Io`. */
const DAMAGE: readonly VdoCode[] = ['Corrupt', 'ChecksumMismatch', 'BadMapping'];

export class Health {
  #failure: VdoError | null = null;
  #store: () => Promise<void> = () => Promise.resolve();
  #stored: Promise<void> = Promise.resolve();
  readonly #failed: Promise<VdoError>;
  #tell!: (failure: VdoError) => void;

  constructor() {
    this.#failed = new Promise((resolve) => (this.#tell = resolve));
  }

  /** Why the volume is read-only, or null. */
  get failure(): VdoError | null {
    return this.#failure;
  }

  /** Resolves with why, once the volume is read-only. */
  failed(): Promise<VdoError> {
    return this.#failed;
  }

  /** Sets what makes the state READ_ONLY durable from now on: called once, and may fail. */
  storeBy(store: () => Promise<void>): void {
    this.#store = store;
  }

  /** Enters read-only mode, once, and returns the error that every later write gets. */
  fail(error: unknown): VdoError {
    if (this.#failure !== null) return this.#failure;
    const known = error instanceof VdoError ? error : null;
    const message = error instanceof Error ? error.message : String(error);
    this.#failure = new VdoError(
      known !== null && DAMAGE.includes(known.code) ? known.code : 'Io',
      `the volume is read-only since an error: ${message}`,
      known?.where ?? {},
      error,
    );
    this.#stored = this.#store().catch(() => undefined);
    this.#tell(this.#failure);
    return this.#failure;
  }

  /** Throws once the volume is read-only. */
  check(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** Resolves when the state is stored, as far as it can be. Never fails. */
  settle(): Promise<void> {
    return this.#stored;
  }
}
