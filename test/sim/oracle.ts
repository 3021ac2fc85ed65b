/**
 * What each logical block may hold after a crash: the version of the last answered flush or any later
 * one. Before any write that is zeros.
 */
export interface Version {
  readonly content: number;
  /** When it became visible, in operations of the oracle. */
  readonly at: number;
}

export class Oracle {
  #now = 0;
  readonly #versions = new Map<number, Version[]>();

  /** A later version exists from now on. */
  wrote(lbn: number, content: number): void {
    const versions = this.#versions.get(lbn) ?? [{ content: 0, at: 0 }];
    versions.push({ content, at: ++this.#now });
    this.#versions.set(lbn, versions);
  }

  /** A point in time that a flush asked now will cover. */
  mark(): number {
    return this.#now;
  }

  /** The flush asked at `mark` was answered: older versions are gone for good. */
  flushed(mark: number): void {
    for (const versions of this.#versions.values()) {
      let keep = 0;
      while (keep + 1 < versions.length && versions[keep + 1]!.at <= mark) keep++;
      if (keep > 0) versions.splice(0, keep);
    }
  }

  /** Contents that a read after a crash may return, oldest first. */
  allowed(lbn: number): readonly number[] {
    return (this.#versions.get(lbn) ?? [{ content: 0, at: 0 }]).map(({ content }) => content);
  }

  get lbns(): IterableIterator<number> {
    return this.#versions.keys();
  }

  /** A crash has decided: this is what the block holds now. */
  settle(lbn: number, content: number): void {
    this.#versions.set(lbn, [{ content, at: ++this.#now }]);
  }
}
