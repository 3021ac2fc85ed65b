import { describe, expect, test } from 'vitest';
import {
  fullnessHint,
  readSummaryEntry,
  setSummaryEntry,
  SUMMARY_ZONE_SIZE,
} from '../../../src/format/slab-summary.ts';
import { hex } from './support.ts';

describe('slab summary', () => {
  test('entries are the bytes that dm-vdo wrote', () => {
    const bytes = hex('05 65 00 3e');
    const used = { tailOffset: 5, fullnessHint: 37, loadCounts: true, dirty: false };
    const fresh = { tailOffset: 0, fullnessHint: 62, loadCounts: false, dirty: false };
    expect([readSummaryEntry(bytes, 0), readSummaryEntry(bytes, 1)]).toEqual([used, fresh]);
    const back = new Uint8Array(4);
    setSummaryEntry(back, 0, used);
    setSummaryEntry(back, 1, fresh);
    expect(back).toEqual(bytes);
  });

  test('all 65536 entries round trip', () => {
    const bytes = new Uint8Array(2);
    const back = new Uint8Array(2);
    for (let bits = 0; bits < 65536; bits++) {
      bytes[0] = bits;
      bytes[1] = bits >>> 8;
      setSummaryEntry(back, 0, readSummaryEntry(bytes, 0));
      if (back[0] !== bytes[0] || back[1] !== bytes[1]) throw new Error(`entry ${bits}`);
    }
    expect(SUMMARY_ZONE_SIZE).toBe(4 * 4096);
  });

  test('hints: 0 only when full, else free space in 64ths', () => {
    expect(fullnessHint(0, 13)).toBe(0);
    expect(fullnessHint(1, 13)).toBe(1);
    expect(fullnessHint(7966, 13)).toBe(62);
    expect(fullnessHint(2 ** 23 - 1, 23)).toBe(63);
    expect(fullnessHint(20, 5)).toBe(20);
  });
});
