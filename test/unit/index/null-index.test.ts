import { expect, it } from 'vitest';
import { createNullIndex } from '../../../src/index/null-index.ts';
import { hashIndexContract } from './contract.ts';

hashIndexContract('the null index', createNullIndex, { remembers: false });

it('the null index is called off and takes no memory', () => {
  const index = createNullIndex();
  expect(index.kind).toBe('off');
  expect(index.statistics().memoryBytes).toBe(0);
});
