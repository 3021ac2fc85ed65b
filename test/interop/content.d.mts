export const BLOCK: number;
export function generator(seed: number): () => number;
export function content(lbn: number, version: number): Uint8Array;
