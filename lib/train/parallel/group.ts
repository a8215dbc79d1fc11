import { SpkvError } from '../../errors.js';
import { show } from '../../json.js';

/** The processes that train together. Small things go through it, and the news that one of them has failed. */
export interface Group {
  readonly rank: number;
  readonly size: number;
  /** What ended the group before its time, if anything has. */
  readonly failure: SpkvError | undefined;
  /**
   * Resolves with every rank's value, in their order, when all ranks have called it for the same `topic`. The values
   * are sent as JSON. Errors: RANK where one is missing, has ended, or is at another topic; what it has failed with.
   */
  exchange<T>(topic: string, value: T): Promise<T[]>;
  /** Tells all ranks that this one has failed: their exchanges fail too. */
  fail(error: Error): void;
  /** Calls back, once, when the group has failed. */
  onFailure(callback: () => void): void;
  /** Leaves; all ranks should be done. */
  close(): Promise<void>;
}

/** A process by itself. */
export class Alone implements Group {
  readonly rank = 0;
  readonly size = 1;
  readonly failure = undefined;

  async exchange<T>(_: string, value: T): Promise<T[]> {
    return [value];
  }

  fail(): void {}

  onFailure(): void {}

  async close(): Promise<void> {}
}

/** Makes sure that all ranks have the same. Errors: RANK, naming the first that differs, and in what. */
export async function agree(group: Group, topic: string, facts: Readonly<Record<string, unknown>>): Promise<void> {
  const all = await group.exchange(topic, facts);
  for (const [rank, own] of all.entries()) {
    const name = Object.keys({ ...all[0], ...own }).find((key) => JSON.stringify(own[key]) !== JSON.stringify(all[0]![key]));
    if (name === undefined) continue;
    throw new SpkvError('RANK', `Expected the same ${name} on all ranks, found ${show(all[0]![name])} on rank 0 and ${show(own[name])} on rank ${rank}: they must be started alike, for one run`);
  }
}
