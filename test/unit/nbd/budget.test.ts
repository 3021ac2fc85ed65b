import { describe, expect, it } from 'vitest';
import { Account, Budget } from '../../../src/nbd/budget.ts';
import { Random } from '../../sim/random.ts';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('Budget', () => {
  it('never exceeds its limit, and is empty when all have given back', () => {
    for (let seed = 0; seed < 50; seed++) {
      const random = new Random(seed);
      const budget = new Budget(10_000);
      const accounts = Array.from({ length: 1 + random.below(8) }, () => new Account(budget, 6000));
      const taken: [Account, number][] = [];
      for (let step = 0; step < 500; step++) {
        const account = random.pick(accounts);
        const bytes = random.below(4000);
        if (random.chance(0.6)) {
          if (account.take(bytes)) taken.push([account, bytes]);
        } else if (taken.length > 0) {
          const [[who, size]] = taken.splice(random.below(taken.length), 1) as [[Account, number]];
          who.give(size);
        }
        const sum = taken.reduce((total, [, size]) => total + size, 0);
        if (budget.usedBytes !== sum || sum > 10_000) throw new Error(`seed ${seed} step ${step}`);
      }
      for (const account of accounts) account.close();
      expect(budget.usedBytes).toBe(0);
    }
  });

  it('lets no one take more than is left, but the first request only has to fit', () => {
    const budget = new Budget(1000);
    const [greedy, other] = [new Account(budget, 900), new Account(budget, 900)];
    let held = 0;
    while (greedy.take(10)) held += 10;
    expect(held).toBe(500);
    expect(other.take(500)).toBe(true);
    expect(other.take(1)).toBe(false);
    other.give(500);
    expect(other.take(250)).toBe(true);
    expect(other.take(10)).toBe(false);
  });

  it('one request is always within the limit of its client', () => {
    const account = new Account(new Budget(1000), 100);
    expect(account.take(400)).toBe(true);
    expect(account.take(1)).toBe(false);
  });

  it('wakes those who wait, in order, once something is given back', async () => {
    const budget = new Budget(1000);
    const [holder, first, second] = [0, 1, 2].map(() => new Account(budget, 1000)) as [
      Account,
      Account,
      Account,
    ];
    holder.take(1000);
    const woken: string[] = [];
    for (const [name, account] of [
      ['first', first],
      ['second', second],
    ] as const) {
      // prettier-ignore
      expect(account.take(600)).toBe(false);
      account.waitForOthers(() => {
        woken.push(name);
        if (account.take(600)) account.leave();
      });
    }
    expect(budget.isShort).toBe(true);
    holder.give(1000);
    await turn();
    expect(woken).toEqual(['first', 'second']);
    expect([first.heldBytes, second.heldBytes]).toEqual([600, 0]);
    first.close();
    await turn();
    expect(second.heldBytes).toBe(600);
    expect(budget.isShort).toBe(false);
  });

  it('keeps a large request from starving among small ones', async () => {
    const budget = new Budget(1000);
    const small = Array.from({ length: 10 }, () => new Account(budget, 1000));
    const large = new Account(budget, 1000);
    let got = false;
    for (const account of small) account.take(90);
    expect(large.take(900)).toBe(false);
    large.waitForOthers(() => {
      if (!large.take(900)) return;
      got = true;
      large.leave();
    });
    const endMs = performance.now() + 2000;
    while (!got && performance.now() < endMs) {
      for (const account of small) {
        if (account.heldBytes > 0) account.give(90);
        await turn();
        account.take(90);
      }
    }
    expect(got).toBe(true);
  });
});
