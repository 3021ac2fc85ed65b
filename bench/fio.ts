/** What fio is told to write. */
export const UNIQUE: readonly string[] = [
  '--refill_buffers',
  '--buffer_compress_percentage=50',
  '--buffer_compress_chunk=4k',
];
/** 97 of 100 blocks are duplicates, of a fiftieth of the file. */
export const DUPLICATE: readonly string[] = [
  '--dedupe_percentage=97',
  '--dedupe_mode=working_set',
  '--dedupe_working_set_percentage=2',
];
