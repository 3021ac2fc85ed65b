/**
 * The volume index of 0.25 GB, filled chapter by chapter with new names as a write of unique data does:
 * lookup, then put. CPU is that of the thread, making the names not included.
 */
import { indexGeometry } from '../src/index/uds/index-geometry.ts';
import { loadVolumeIndex, saveVolumeIndex } from '../src/index/uds/volume-index-save.ts';
import { createVolumeIndex } from '../src/index/uds/volume-index.ts';
import type { VolumeIndex } from '../src/index/uds/volume-index.ts';
import { ADD } from '../src/index/uds/zone.ts';
import { randomFill } from './data.ts';
import { percentile, type Row } from './table.ts';

const ROWS = 2048;
const NONCE = new Uint8Array(8);
/** Chapters in front of each mark that are measured. */
const MEASURED = 4;

interface Times {
  readonly batches: number[];
  cpu: number;
}

const noTimes = (): Times => ({ batches: [], cpu: 0 });

function timed(times: Times, work: () => void): void {
  const cpu = process.cpuUsage();
  const start = performance.now();
  work();
  times.batches.push(performance.now() - start);
  const { user, system } = process.cpuUsage(cpu);
  times.cpu += user + system;
}

function rowOf(name: string, { batches, cpu }: Times, remark: string): Row {
  const sorted = Float64Array.from(batches).sort();
  return {
    name,
    cpuMicroseconds: cpu / batches.length / ROWS,
    p50Microseconds: (percentile(sorted, 0.5) * 1000) / ROWS,
    p99Microseconds: (percentile(sorted, 0.99) * 1000) / ROWS,
    remark,
  };
}

async function saveRows(index: VolumeIndex): Promise<Row[]> {
  const chunks: Buffer[] = [];
  const save = noTimes();
  timed(save, () => {
    for (const chunk of saveVolumeIndex(index, NONCE)) chunks.push(Buffer.from(chunk));
  });
  const stream = Buffer.concat(chunks);
  const { records } = index.statistics();
  const fresh = createVolumeIndex(index.geometry);
  const start = performance.now();
  const cpu = process.cpuUsage();
  const source = { read: (at: number, size: number) => stream.subarray(at, at + size) };
  await loadVolumeIndex(fresh, [source], NONCE);
  const milliseconds = performance.now() - start;
  const { user, system } = process.cpuUsage(cpu);
  const megabytes = (stream.length / 1e6).toFixed(0);
  const each = (total: number): number => total / records;
  const row = (name: string, microseconds: number, ms: number): Row => ({
    name,
    megabytesPerSecond: stream.length / ms / 1000,
    cpuMicroseconds: each(microseconds),
    p50Microseconds: each(ms * 1000),
    p99Microseconds: each(ms * 1000),
    remark: `${megabytes} MB, ${ms.toFixed(0)} ms`,
  });
  return [
    row('volume index, save', save.cpu, save.batches[0]!),
    row('volume index, load', user + system, milliseconds),
  ];
}

/** Rows for an index that has seen so many chapters (ascending; 1024 fill it, more wrap it). */
export async function volumeIndexRows(marks: readonly number[]): Promise<Row[]> {
  const rows: Row[] = [];
  const geometry = indexGeometry(-256, false);
  const index = createVolumeIndex(geometry);
  const names = new Uint8Array(ROWS * 16);
  const found = { entry: new Uint8Array(ROWS), chapter: new Float64Array(ROWS) };
  const action = new Uint8Array(ROWS).fill(ADD);
  const result = new Uint8Array(ROWS);
  let [lookups, puts] = [noTimes(), noTimes()];
  let seed = 0;
  const last = marks.at(-1)!;
  for (let chapter = 0; chapter < last; chapter++) {
    index.openChapter(chapter);
    const mark = marks.find((value) => value > chapter)!;
    if (chapter === Math.max(0, mark - MEASURED)) [lookups, puts] = [noTimes(), noTimes()];
    for (let row = 0; row < geometry.recordsPerChapter; row += ROWS) {
      randomFill(names, ++seed);
      timed(lookups, () => index.lookup(names, ROWS, found));
      timed(puts, () => index.put(names, ROWS, action, chapter, result));
    }
    if (chapter + 1 !== mark) continue;
    const { records, bits, residentBytes } = index.statistics();
    const remark = `${mark} chapters; ${(records / 1e6).toFixed(1)} M records of ${(bits / records).toFixed(1)} bits; ${(residentBytes / 1e6).toFixed(0)} MB, ${(residentBytes / records).toFixed(1)} bytes each`;
    rows.push(rowOf('volume index, lookup of a new name', lookups, remark));
    rows.push(rowOf('volume index, put of it', puts, remark));
  }
  rows.push(...(await saveRows(index)));
  return rows;
}
