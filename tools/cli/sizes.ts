/** Sizes and numbers as people type and read them. */
import { VdoError } from '../../src/base/errors.ts';

const SUFFIXES = ['', 'K', 'M', 'G', 'T', 'P'] as const;
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;
const SIZE = /^(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:iB)?$/i;

/**
 * Bytes of `8G`, `1.5T`, `4096`: suffixes are powers of 1024. Fails with `InvalidArgument`, naming
 * `what`.
 */
export function parseSize(text: string, what = 'size'): number {
  const match = SIZE.exec(text.trim());
  const suffix = match?.[2]?.toUpperCase() ?? '';
  const power = (SUFFIXES as readonly string[]).indexOf(suffix);
  const bytes = Number(match?.[1]) * 1024 ** power;
  if (match === null || !Number.isSafeInteger(bytes)) {
    throw new VdoError(
      'InvalidArgument',
      `${what} '${text}': give bytes, or a number with K M G T P`,
    );
  }
  return bytes;
}

/** The whole number `text`. Fails with `InvalidArgument`, naming `what`. */
export function parseCount(text: string, what: string): number {
  const count = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!Number.isSafeInteger(count)) {
    throw new VdoError('InvalidArgument', `${what} '${text}': give a whole number`);
  }
  return count;
}

/** `5.0 GiB`: at most four digits, exact multiples without a fraction. */
export function formatSize(bytes: number): string {
  let power = 0;
  while (power < UNITS.length - 1 && Math.abs(bytes) >= 1024 ** (power + 1)) power++;
  const value = bytes / 1024 ** power;
  const text = Number.isInteger(value) ? String(value) : value.toFixed(value < 100 ? 1 : 0);
  return `${text} ${UNITS[power]}`;
}

/** `5.0 GiB (5368709120 bytes)`. */
export function formatExactSize(bytes: number): string {
  return bytes < 1024 ? `${bytes} bytes` : `${formatSize(bytes)} (${bytes} bytes)`;
}

/** `0:42`, `1:02:03`. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const two = (n: number): string => String(n).padStart(2, '0');
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const tail = two(whole % 60);
  return hours > 0 ? `${hours}:${two(minutes)}:${tail}` : `${minutes}:${tail}`;
}
