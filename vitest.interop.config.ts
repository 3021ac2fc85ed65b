import { defineConfig } from 'vitest/config';

/** The suite that needs the real dm-vdo: Debian packages, root, and a few minutes. */
export default defineConfig({
  test: {
    include: ['test/interop/**/*.test.ts'],
    testTimeout: 600_000,
    hookTimeout: 900_000,
    fileParallelism: false,
  },
});
