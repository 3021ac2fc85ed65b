/** Runs seeds one after another and says how to run a failed one again. */

/** The seeds of a test: `count` of them, or the one that the environment variable SEED names. */
export function seeds(count: number): number[] {
  const wanted = process.env['SEED'];
  return wanted ? [Number(wanted)] : Array.from({ length: count }, (_, i) => i + 1);
}

/**
 * Runs `story` for each seed: `wanted` of them, or those given. A failure carries the command that repeats
 * it.
 */
export async function eachSeed<T>(
  file: string,
  wanted: number | readonly number[],
  story: (seed: number) => T | Promise<T>,
): Promise<T[]> {
  const results: T[] = [];
  for (const seed of typeof wanted === 'number' ? seeds(wanted) : wanted) {
    try {
      results.push(await story(seed));
    } catch (error) {
      const command = `SEED=${seed} npx vitest run ${file}`;
      throw new Error(`seed=${seed}: ${String(error)}\nrepeat with: ${command}`, { cause: error });
    }
  }
  return results;
}
