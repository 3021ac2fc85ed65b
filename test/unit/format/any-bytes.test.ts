/** Every decoder survives any bytes: it returns a value or fails with a `VdoError`, nothing else. */
import { describe, expect, test } from 'vitest';
import * as page from '../../../src/format/block-map-page.ts';
import * as compressed from '../../../src/format/compressed-block.ts';
import * as geometry from '../../../src/format/geometry-block.ts';
import * as recovery from '../../../src/format/recovery-block.ts';
import * as reference from '../../../src/format/reference-block.ts';
import * as slabJournal from '../../../src/format/slab-journal-block.ts';
import * as summary from '../../../src/format/slab-summary.ts';
import * as superBlock from '../../../src/format/super-block.ts';
import { codeOf, GEOMETRY, NONCE, random, randomBytes, reseal, SUPER_BLOCK } from './support.ts';

function fragments(bytes: Uint8Array): void {
  for (let slot = 0; slot < 16; slot++) {
    const size = compressed.fragmentSize(bytes, slot);
    if (size === 0) continue;
    const offset = compressed.fragmentOffset(bytes, slot);
    if (offset < 36 || offset + size > 4096) throw new Error(`fragment at ${offset} + ${size}`);
  }
}

function recoveryEntries(bytes: Uint8Array): void {
  recovery.readRecoveryHeader(bytes);
  if (recovery.usableEntryCount(bytes) > 217) throw new Error('too many entries');
  for (let i = 0; i < 217; i++) {
    const { slot, newPbn } = recovery.readRecoveryEntry(bytes, i);
    if (slot > 1023 || !(newPbn < 2 ** 36)) throw new Error(`entry ${i}`);
  }
}

function slabJournalEntries(bytes: Uint8Array): void {
  const { hasBlockMapIncrements } = slabJournal.readSlabJournalHeader(bytes);
  const count = slabJournal.slabJournalCapacity(hasBlockMapIncrements);
  for (let i = 0; i < count; i++) {
    if (slabJournal.readSlabJournalEntry(bytes, i).sbn >= 2 ** 23) throw new Error(`entry ${i}`);
  }
}

function entries(bytes: Uint8Array): void {
  page.pageValidity(bytes, NONCE, 5);
  for (let slot = 0; slot < 812; slot++) {
    page.isLegalMapping(page.entryPbn(bytes, slot), page.entryState(bytes, slot));
  }
}

const DECODERS: Record<string, (bytes: Uint8Array) => void> = {
  geometry: geometry.decodeGeometryBlock,
  superBlock: superBlock.decodeSuperBlock,
  page: entries,
  recovery: recoveryEntries,
  slabJournal: slabJournalEntries,
  reference: (bytes) => reference.decodeReferenceBlock(bytes, new Uint8Array(4032), 0),
  points: (bytes) => [0, 7].map((sector) => reference.readCommitPoint(bytes, sector)),
  summary: (bytes) => [0, 2047].map((index) => summary.readSummaryEntry(bytes, index)),
  compressed: fragments,
};

describe('any bytes', () => {
  test('random blocks', () => {
    const next = random(42);
    const tally = new Map<string, number>();
    for (let round = 0; round < 300; round++) {
      const bytes = randomBytes(next, 4096);
      // Some rounds look right at first sight.
      if (round % 3 === 0) bytes.set([1, 0, 0, 0, 0, 0, 0, 0]);
      if (round % 3 === 1) bytes.set([4, 0, 0, 0, 1, 0, 0, 0]);
      for (const [name, decode] of Object.entries(DECODERS)) {
        const key = `${name} ${codeOf(() => decode(bytes))}`;
        tally.set(key, (tally.get(key) ?? 0) + 1);
      }
    }
    expect(tally.get('geometry NotVdo')).toBe(300);
    expect(tally.get('page none')).toBe(300);
  });

  test('mutated labels, resealed so that the mutation is seen', () => {
    const next = random(43);
    const images: [string, Uint8Array, number, number][] = [
      ['geometry', geometry.encodeGeometryBlock(GEOMETRY), 97, 101],
      ['superBlock', superBlock.encodeSuperBlock(SUPER_BLOCK), 434, 438],
    ];
    for (const [name, image, crcAt, size] of images) {
      const codes = new Set<string>();
      for (let round = 0; round < 4000; round++) {
        const bytes = image.slice();
        for (let n = 1 + next(4); n > 0; n--) bytes[next(size)] = next(3) === 0 ? 0xff : next(256);
        reseal(bytes, crcAt);
        codes.add(codeOf(() => DECODERS[name]!(bytes)));
      }
      expect(codes).toContain('Corrupt');
      expect(codes).toContain('UnsupportedVersion');
      expect(codes).toContain('none');
    }
  });

  test('short input fails the labels cleanly', () => {
    for (const size of [0, 1, 8, 93, 101, 438, 4095]) {
      const image = geometry.encodeGeometryBlock(GEOMETRY).subarray(0, size);
      expect(codeOf(() => geometry.decodeGeometryBlock(image))).toBe('NotVdo');
      const block = superBlock.encodeSuperBlock(SUPER_BLOCK).subarray(0, size);
      expect(codeOf(() => superBlock.decodeSuperBlock(block))).toBe('Corrupt');
    }
  });
});
