/**
 * What each logical block may hold after a crash: the version of the last answered flush or any later
 * one. Before any write that is zeros.
 */
export interface Version {
  readonly content: number;
  /** When it was acknowledged, in operations of the oracle. */
  acknowledged: number;
}

const FIRST: Version = { content: 0, acknowledged: 0 };

export class Oracle {
  #now = 0;
  readonly #versions = new Map<number, Version[]>();

  /** A later version may be found from now on, although it is not acknowledged. */
  submitted(lbn: number, content: number): Version {
    const versions = this.#versions.get(lbn) ?? [FIRST];
    const version = { content, acknowledged: Infinity };
    versions.push(version);
    this.#versions.set(lbn, versions);
    return version;
  }

  acknowledged(version: Version): void {
    version.acknowledged = ++this.#now;
  }

  /** A later version exists from now on. */
  wrote(lbn: number, content: number): void {
    this.acknowledged(this.submitted(lbn, content));
  }

  /** A point in time that a flush asked now will cover. */
  mark(): number {
    return this.#now;
  }

  /** The flush asked at `mark` was answered: older versions are gone for good. */
  flushed(mark: number): void {
    for (const versions of this.#versions.values()) {
      let keep = 0;
      versions.forEach(({ acknowledged }, i) => {
        if (acknowledged <= mark) keep = i;
      });
      if (keep > 0) versions.splice(0, keep);
    }
  }

  /** One version is durable on its own: a write with FUA was answered. */
  durable(lbn: number, version: Version): void {
    const versions = this.#versions.get(lbn);
    const at = versions?.indexOf(version) ?? -1;
    if (at > 0) versions!.splice(0, at);
  }

  /** Contents that a read after a crash may return, oldest first. */
  allowed(lbn: number): readonly number[] {
    return (this.#versions.get(lbn) ?? [FIRST]).map(({ content }) => content);
  }

  get lbns(): IterableIterator<number> {
    return this.#versions.keys();
  }

  /** A crash has decided: this is what the block holds now. */
  settle(lbn: number, content: number): void {
    this.#versions.set(lbn, [{ content, acknowledged: ++this.#now }]);
  }
}
