/**
 * Read-only mode: the one function that enters it.
 *
 * A metadata error that cannot be undone (a failed write or fdatasync, damaged metadata) stops all
 * further metadata writes for the rest of the run: nothing is retried, since a failed fdatasync may
 * have lost pages that a later one reports as written (docs/COMMIT.md, rule 11). Reads go on.
 * The super block stays DIRTY, so the next start recovers everything that was committed.
 */
import { VdoError } from '../base/errors.ts';

export class Health {
  #failure: VdoError | null = null;

  /** Why the volume is read-only, or null. */
  get failure(): VdoError | null {
    return this.#failure;
  }

  /** Enters read-only mode, once, and returns the error that every later write gets. */
  fail(error: unknown): VdoError {
    this.#failure ??= new VdoError(
      'Io',
      `the volume is read-only since an error: ${error instanceof Error ? error.message : String(error)}`,
      error instanceof VdoError ? error.where : {},
      error,
    );
    return this.#failure;
  }

  /** Throws once the volume is read-only. */
  check(): void {
    if (this.#failure !== null) throw this.#failure;
  }
}
