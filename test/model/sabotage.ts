/**
 * Every rule of the commit protocol, broken on purpose: the model (test/model/model.ts) behaves so when
 * told to, and the simulator must notice. docs/COMMIT.md tells what each one shows.
 */
export const SABOTAGES = {
  'skip-data-flush': 'journal blocks are written without flushing the data before',
  'answer-before-commit': 'a flush is answered before the second fdatasync of its commit',
  'entries-before-data': 'entries are appended while their data blocks are still being written',
  'write-back-before-commit': 'a checkpoint writes before its epoch is committed',
  'live-pages': 'map pages are written as they stand at the write, not as copied at the close',
  'live-counts': 'reference blocks are written as they stand at the write',
  'point-ahead': 'a reference block carries a commit point ahead of its contents',
  'point-behind': 'a reference block carries the commit point of the checkpoint before',
  'new-block-after-partial': 'an epoch starts a new journal block although the last is not full',
  'heads-early': 'journal heads move after the first barrier of a checkpoint',
  'heads-at-copy': 'journal heads move to what is not checkpointed yet: the tail in memory',
  'slot-reuse': 'a journal slot is overwritten before heads beyond it are durable',
  'journal-overrun': 'journal blocks are opened without asking whether there is room',
  'head-beyond-last': 'heads pass the last committed block when that block is full',
  'slab-overrun': 'the slab journal is not counted: more than J blocks since the durable tail',
  'unload-overrun': 'the tighter limit of a slab that was never written (load 0) is ignored',
  'entries-after-seal': 'a sealed partial slab journal block takes further entries',
  'tail-in-memory': 'the summary names the slab journal tail in memory, not the copied one',
  'one-barrier': 'summaries are written together with what they describe',
  'hints-beside-counts': 'fullness hints are written in the same barrier as the counts',
  'counts-left-out': 'the summary is made clean although the reference blocks were not written',
  'reuse-freed': 'a freed block is allocated again before the freeing epoch is committed',
  'hold-not-moved': 'a block that is revived and freed again keeps its first hold',
  'uninitialized-once': 'a page found uninitialized is written once, as initialized',
  'second-image-early': 'both images of an uninitialized page are written in the same barrier',
  'no-fresh-image': 'a new tree page gets no image of its own before it is named',
  'fresh-image-late': 'the image of a new tree page is written after the entry that names it',
  'load-early':
    'load becomes 1 though only the changed reference blocks of a new slab were written',
  'retry-flush': 'a failed fdatasync is tried again and believed',
  'believe-flush': 'a flush that succeeds is believed although another one failed beside it',
  'clean-early': 'the super block says CLEAN before the last checkpoint is durable',
  'dirty-mark-dropped': 'a finished page write also drops the mark of changes made since the copy',
  'beyond-254': 'references are shared without counting claims up to 254',
  'super-before-summary':
    'the super block with zone count 1 is written before the combined summary',
  'zone-count-kept': 'the super block keeps an old zone count while only copy 0 is maintained',
  'one-commit-in-flight': 'an epoch commits while the one before has not finished',
} as const;

/** Rules that this protocol does not need: broken, they change nothing. */
export const HARMLESS = {
  'first-copy-only': 'a volume of several zones is opened with only copy 0 of the summary written',
} as const;

export type Sabotage = keyof typeof SABOTAGES | keyof typeof HARMLESS;
