/**
 * Vectors of extents as the calls that a device takes: what touches travels together, what is long is
 * split. Vectors that are not in order are sorted first, which is cheap beside the calls it saves.
 */
import type { Extent } from './storage.ts';

/** Bytes that lie one after another on the device. */
export interface Run {
  offset: number;
  length: number;
  buffers: Uint8Array[];
}

/** The extents in order of offset, as runs of at most `maxBytes` and `maxBuffers`. */
export function runsOf(extents: readonly Extent[], maxBytes: number, maxBuffers: number): Run[] {
  const runs: Run[] = [];
  let run: Run | undefined;
  let end = -1;
  for (const { offset, bytes } of inOrder(extents)) {
    for (let done = 0; done < bytes.length;) {
      const length = Math.min(bytes.length - done, maxBytes);
      const buffer = length === bytes.length ? bytes : bytes.subarray(done, done + length);
      if (
        run !== undefined &&
        end === offset + done &&
        run.buffers.length < maxBuffers &&
        run.length + length <= maxBytes
      ) {
        run.buffers.push(buffer);
        run.length += length;
      } else {
        run = { offset: offset + done, length, buffers: [buffer] };
        runs.push(run);
      }
      done += length;
      end = offset + done;
    }
  }
  return runs;
}

function inOrder(extents: readonly Extent[]): readonly Extent[] {
  for (let i = 1; i < extents.length; i++) {
    if (extents[i]!.offset < extents[i - 1]!.offset) {
      return extents.slice().sort((a, b) => a.offset - b.offset);
    }
  }
  return extents;
}
