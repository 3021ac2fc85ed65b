// The victim of the kill test: opens a volume by the built library and writes until it is killed.
//
//   node crash-writer.mjs DIST VOLUME LOG SEED FIRST_VERSION OPTIONS
//
// LOG gets a line before and after each request, by a synchronous write, so that it outlives the
// process: `w VERSION LBN COUNT KIND` before, `a VERSION` when acknowledged, `f N` before a flush, `F N`
// when it is done. KIND: 0 data, 1 discard, 2 zeros. Contents follow from lbn and version: see content.mjs.
import { openSync, writeSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { BLOCK, content, generator } from './content.mjs';

const [dist, path, logPath, seed, firstVersion, optionsText] = process.argv.slice(2);
const { openVolume, VdoError } = await import(pathToFileURL(`${dist}/src/index.js`).href);
const { parallel, blocks, full, ...options } = JSON.parse(optionsText);
const log = openSync(logPath, 'a');
const say = (line) => writeSync(log, `${line}\n`);
const random = generator(Number(seed));

let version = Number(firstVersion);
let flushes = 0;
const busy = new Set(); // lbns in flight: the order of two writes to one must be certain

const volume = await openVolume(path, options);
const logicalBlocks = Math.min(blocks, volume.size / BLOCK);
process.stdout.write('open\n');

function choose() {
  const count = 1 + (random() % (random() % 4 === 0 ? 64 : 8));
  for (let tries = 0; tries < 100; tries++) {
    const lbn = random() % (logicalBlocks - count);
    let isFree = true;
    for (let i = 0; i < count; i++) isFree &&= !busy.has(lbn + i);
    if (isFree) return { lbn, count };
  }
  return undefined;
}

async function request() {
  const place = choose();
  if (place === undefined) return;
  const { lbn, count } = place;
  const v = version++;
  const dice = random() % 16;
  const kind = dice === 0 ? 1 : dice === 1 ? 2 : 0;
  for (let i = 0; i < count; i++) busy.add(lbn + i);
  say(`w ${v} ${lbn} ${count} ${kind}`);
  try {
    if (kind === 1) await volume.discard(lbn * BLOCK, count * BLOCK);
    else if (kind === 2) await volume.writeZeroes(lbn * BLOCK, count * BLOCK);
    else {
      const bytes = new Uint8Array(count * BLOCK);
      for (let i = 0; i < count; i++) bytes.set(content(lbn + i, v), i * BLOCK);
      await volume.write(lbn * BLOCK, bytes);
    }
    say(`a ${v}`);
  } catch (error) {
    // A full volume says so; the blocks of such a write may be old or new.
    if (!(full && error instanceof VdoError && error.code === 'NoSpace')) throw error;
    say(`n ${v}`);
  } finally {
    for (let i = 0; i < count; i++) busy.delete(lbn + i);
  }
}

async function flush() {
  const n = flushes++;
  say(`f ${n}`);
  await volume.flush();
  say(`F ${n}`);
}

async function stream() {
  for (;;) {
    if (random() % 40 === 0) await flush();
    else await request();
  }
}

await Promise.all(Array.from({ length: parallel }, stream));
