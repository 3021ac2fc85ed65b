import { expect, test } from 'vitest';
import {
  chapterAddress,
  chapterList,
  isHook,
  volumeAddress,
  volumeList,
} from '../../../../src/index/uds/record-name.ts';

test.each([
  [
    '81a3ec86657ee7844a63fd811c8008b7',
    26199,
    550487,
    976772,
    1014,
    4086,
    72832,
    false,
    42583,
    9815,
  ],
  [
    'f46566456b026c21d8b71fda4b402bdb',
    22192,
    284336,
    158753,
    127,
    3199,
    1723200,
    false,
    1712,
    5808,
  ],
  [
    '0c5de5da992f407cd7f59dc08d5d5900',
    108946,
    895378,
    999548,
    631,
    1655,
    36189,
    true,
    43410,
    10642,
  ],
])('%s', (hex, quarter, one, address, page, pageOne, pageAddress, hook, nonHookList, hookList) => {
  const names = Buffer.concat([Buffer.alloc(16, 0xee), Buffer.from(hex, 'hex')]);
  expect(volumeList(names, 16, 262144)).toBe(quarter);
  expect(volumeList(names, 16, 1048576)).toBe(one);
  expect(volumeAddress(names, 16)).toBe(address);
  expect(chapterList(names, 16, 10)).toBe(page);
  expect(chapterList(names, 16, 12)).toBe(pageOne);
  expect(chapterAddress(names, 16)).toBe(pageAddress);
  expect(isHook(names, 16)).toBe(hook);
  expect(volumeList(names, 16, 126976)).toBe(nonHookList);
  expect(volumeList(names, 16, 81920)).toBe(hookList);
});
