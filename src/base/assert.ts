/** Assertions: a failed one is a bug of uvdo, never a fault of the volume or its user. */

export class AssertionError extends Error {
  override name = 'AssertionError';
}

/** Throws an `AssertionError` unless `condition` holds. Nobody catches it. */
export function assert(condition: unknown, message = 'assertion failed'): asserts condition {
  if (!condition) throw new AssertionError(message);
}
