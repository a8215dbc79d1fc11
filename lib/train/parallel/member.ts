import { type ErrorCode, SpkvError } from '../../errors.js';
import type { Group } from './group.js';
import type { Message } from './wire.js';

interface Waiting {
  topic: string;
  resolve: (values: unknown[]) => void;
  reject: (error: SpkvError) => void;
}

/** What the group looks like from any rank: one exchange at a time, and one failure. */
export abstract class Member implements Group {
  failure: SpkvError | undefined;
  #waiting: Waiting | undefined;
  #callbacks: (() => void)[] = [];

  constructor(readonly rank: number, readonly size: number) {}

  /** Whether an exchange is under way. */
  protected get waits(): boolean {
    return this.#waiting !== undefined;
  }

  async exchange<T>(topic: string, value: T): Promise<T[]> {
    if (this.failure) throw this.failure;
    if (this.#waiting) throw new SpkvError('INTERNAL', `The ranks exchange "${this.#waiting.topic}" already, and cannot exchange "${topic}" beside it`);
    return new Promise<unknown[]>((resolve, reject) => {
      this.#waiting = { topic, resolve, reject };
      this.contribute(topic, value);
    }) as Promise<T[]>;
  }

  fail(error: Error): void {
    if (this.failure) return;
    const code = error instanceof SpkvError ? error.code : 'INTERNAL';
    this.broadcast({ kind: 'failure', code, message: `Rank ${this.rank}: ${error.message}` });
    this.end(error instanceof SpkvError ? error : new SpkvError('INTERNAL', error.message, { cause: error }));
  }

  onFailure(callback: () => void): void {
    if (this.failure) callback();
    else this.#callbacks.push(callback);
  }

  abstract close(): Promise<void>;
  protected abstract contribute(topic: string, value: unknown): void;
  /** To all other ranks, or to the one that passes it on. */
  protected abstract broadcast(message: Message): void;

  protected answer(topic: string, values: unknown[]): void {
    const waiting = this.#waiting;
    if (waiting?.topic !== topic) return this.fail(new SpkvError('RANK', `The ranks are at "${topic}" and this one is at "${waiting?.topic ?? 'nothing'}"`));
    this.#waiting = undefined;
    waiting.resolve(values);
  }

  /** Another rank, or the connection to it, has failed. */
  protected end(error: SpkvError): void {
    if (this.failure) return;
    this.failure = error;
    this.#waiting?.reject(error);
    this.#waiting = undefined;
    for (const callback of this.#callbacks.splice(0)) callback();
  }

  protected failed({ code, message }: { code: string; message: string }): SpkvError {
    return new SpkvError(code as ErrorCode, message);
  }
}
