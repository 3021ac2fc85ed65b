// nbd-server.mjs LIBRARY VOLUME OPTIONS: serves VOLUME as `disk`, and again as `frozen`, read-only, with
// `serve` of the library (dist/src/index.js) and its options as JSON. Prints where, and saves at SIGTERM.
const [library, path, options] = process.argv.slice(2);
const { openVolume, serve } = await import(library);
const volume = await openVolume(path, { index: 'memory' });
const { tls, ...rest } = JSON.parse(options);
const psk = tls?.psk && new Map(tls.psk.map(([user, hex]) => [user, Buffer.from(hex, 'hex')]));
const server = await serve(
  [
    { name: 'disk', volume },
    { name: 'frozen', volume, readOnly: true, description: 'the same, read-only' },
  ],
  { ...rest, ...(tls ? { tls: { ...tls, ...(psk ? { psk } : {}) } } : {}) },
);
process.once('SIGTERM', async () => {
  await server.close();
  await volume.close();
});
console.log(JSON.stringify(server.address));
