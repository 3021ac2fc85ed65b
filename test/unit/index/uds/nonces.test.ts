import { expect, test } from 'vitest';
import { primaryNonce, saveNonce, volumeNonce } from '../../../../src/index/uds/nonces.ts';
import { hex } from '../../format/support.ts';

const littleEndian = (digits: string): Uint8Array => hex(digits).reverse();

test('nonces are those that dm-vdo computes', () => {
  const unit = '5320f2e7cb04eb183d62909b';
  const info = hex((unit + unit + unit).slice(0, 64));
  const primary = primaryNonce(info);
  expect(primary).toEqual(littleEndian('cbeadf8589cbde97'));
  const volume = volumeNonce(primary, 3);
  expect(volume).toEqual(littleEndian('20b7df62ea0759c0'));
  const save = saveNonce(volume, 1795534153077, 573451);
  expect(save).toEqual(littleEndian(18264476077077247857n.toString(16).padStart(16, '0')));
});

test('another nonce info gives other nonces', () => {
  const primary = primaryNonce(Uint8Array.from({ length: 32 }, (_, i) => i));
  expect(primary).toEqual(littleEndian('993626944abbc835'));
  expect(volumeNonce(primary, 3)).toEqual(littleEndian('91826c7a885fc1b4'));
});
