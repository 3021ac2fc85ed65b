/**
 * How long it takes to open a volume of 1 TiB physical and 10 TiB logical size that is nearly empty,
 * and how much memory it takes: `node dist/bench/open.js`.
 */
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { MiB, TiB } from '../src/base/constants.ts';
import { formatVolume } from '../src/volume/format.ts';
import { openVolume } from '../src/volume/open.ts';

const PIECES = 100;
const PIECE_BYTES = 64 * 1024;

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'uvdo-open-'));
try {
  const file = path.join(folder, 'large.vdo');
  await formatVolume(file, { size: TiB, logicalSize: 10 * TiB });
  const filling = await openVolume(file);
  for (let piece = 0; piece < PIECES; piece++) {
    const bytes = Buffer.alloc(PIECE_BYTES, `piece ${piece} `);
    const offset = Math.floor(((piece / PIECES) * 10 * TiB) / PIECE_BYTES) * PIECE_BYTES;
    await filling.write(offset, bytes);
  }
  await filling.close();
  const began = performance.now();
  const volume = await openVolume(file);
  const milliseconds = performance.now() - began;
  const resident = process.memoryUsage().rss / MiB;
  await volume.close();
  const { blocks } = fs.statSync(file);
  console.log(
    `open of 1 TiB physical, 10 TiB logical: ${milliseconds.toFixed(0)} ms, ` +
      `${resident.toFixed(0)} MiB resident, ${((blocks * 512) / MiB).toFixed(1)} MiB on disk`,
  );
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}
