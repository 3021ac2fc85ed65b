/** Runs tasks 0 … `count` − 1, `depth` at a time, each lane with its number. */
export async function inLanes(
  count: number,
  depth: number,
  task: (i: number, lane: number) => Promise<unknown>,
): Promise<void> {
  let next = 0;
  const run = async (_: unknown, lane: number): Promise<void> => {
    while (next < count) await task(next++, lane);
  };
  await Promise.all(Array.from({ length: depth }, run));
}
