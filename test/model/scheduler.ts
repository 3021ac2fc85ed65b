/**
 * Runs the model's concurrent activities (batches, commits, checkpoints, flushes) one step at a time
 * in an order drawn from the seed. An activity is a generator that yields a disk operation it waits
 * for, or a condition.
 */
import type { Random } from '../sim/random.ts';
import type { FaultyDisk, Ticket } from '../sim/disk.ts';

export type Wait = { readonly ticket: Ticket } | { readonly until: () => boolean };
export type Task = Generator<Wait, void, void>;

interface Running {
  readonly task: Task;
  readonly background: boolean;
  wait: Wait | undefined;
  /** Its chance of being next, against the others': some operations take very long. */
  weight: number;
}

const MAX_STEPS = 1_000_000;

export class Scheduler {
  readonly #disk: FaultyDisk;
  readonly #random: Random;
  #running: Running[] = [];

  constructor(disk: FaultyDisk, random: Random) {
    this.#disk = disk;
    this.#random = random;
  }

  /** Starts an activity; `background` ones do not keep `run` going. */
  spawn(task: Task, background = false): void {
    this.#running.push({ task, background, wait: undefined, weight: 1 });
  }

  /** Runs until every activity in the foreground has ended. */
  run(): void {
    for (let steps = 0; steps < MAX_STEPS; steps++) {
      if (!this.#running.some(({ background }) => !background)) return;
      // Asked twice: a condition may, by being asked, call for work that fulfils another one.
      let ready = this.#ready();
      if (ready.length === 0) ready = this.#ready();
      if (ready.length === 0) throw new Error('deadlock: every activity waits for another');
      this.#step(this.#choose(ready));
    }
    throw new Error('livelock: the activities never end');
  }

  #ready(): Running[] {
    return this.#running.filter(({ wait }) => !wait || 'ticket' in wait || wait.until());
  }

  #choose(ready: readonly Running[]): Running {
    let total = 0;
    for (const { weight } of ready) total += weight;
    let left = (this.#random.next() / 2 ** 32) * total;
    for (const running of ready) {
      left -= running.weight;
      if (left < 0) return running;
    }
    return ready.at(-1)!;
  }

  #step(running: Running): void {
    const { task, wait } = running;
    let next: IteratorResult<Wait, void>;
    try {
      if (wait && 'ticket' in wait) this.#disk.complete(wait.ticket);
      next = task.next();
    } catch (error) {
      next = task.throw(error);
    }
    running.wait = next.done ? undefined : next.value;
    running.weight = this.#random.chance(0.2) ? 0.02 : 1;
    if (next.done) this.#running.splice(this.#running.indexOf(running), 1);
  }
}
