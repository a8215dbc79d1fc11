import { existsSync } from 'node:fs';
import { parentPort, type Transferable, Worker } from 'node:worker_threads';
import { type ErrorCode, SpkvError } from './errors.js';

type Reply<Answer> = { number: number } & ({ answer: Answer } | { error: string; code: ErrorCode | undefined });

export interface JobThreadOptions {
  /** What the thread runs; it calls {@link answerJobs}. */
  module: URL;
  /** Its `workerData`. */
  setup: unknown;
  /** What it does, for the message when it is lost: "makes constraints". */
  purpose: string;
  /** Told with DISPOSED to those who wait, or come, when the owner goes: "The model has been disposed". */
  farewell: string;
}

/**
 * Work that is done in a thread of its own, so that the event loop need not wait. The thread starts with the first job,
 * and again with the first one after it was lost. While jobs wait, and only then, it keeps the process alive.
 */
export class JobThread<Job, Answer> implements AsyncDisposable {
  readonly #options: JobThreadOptions;
  readonly #waiting = new Map<number, { resolve: (answer: Answer) => void; reject: (error: Error) => void }>();
  #thread: Worker | undefined;
  #jobs = 0;
  #disposed = false;

  constructor(options: JobThreadOptions) {
    this.#options = options;
  }

  /** False where the sources are run uncompiled: there is no module that a thread could run then. */
  get available(): boolean {
    return existsSync(this.#options.module);
  }

  /** Jobs that have no answer yet. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** Errors: DISPOSED; INTERNAL when the thread is lost; those of the job, with their codes. */
  async run(job: Job): Promise<Answer> {
    if (this.#disposed) throw this.#farewell();
    const thread = (this.#thread ??= this.#start());
    const number = this.#jobs++;
    thread.postMessage({ number, job });
    thread.ref();
    return new Promise((resolve, reject) => this.#waiting.set(number, { resolve, reject }));
  }

  /** Ends the thread. Who waits is told DISPOSED. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    await this.#thread?.terminate();
  }

  #start(): Worker {
    const { module, setup, purpose } = this.#options;
    const thread = new Worker(module, { workerData: setup });
    thread.on('message', ({ number, ...reply }: Reply<Answer>) => {
      const { resolve, reject } = this.#waiting.get(number)!;
      this.#waiting.delete(number);
      if (this.#waiting.size === 0) thread.unref();
      if ('answer' in reply) resolve(reply.answer);
      else reject(new SpkvError(reply.code ?? 'INTERNAL', reply.error));
    });
    const lost = (reason: string): void => {
      if (this.#thread !== thread) return; // an error has told it already, and others may wait for the next thread
      this.#thread = undefined;
      const error = this.#disposed ? this.#farewell() : new SpkvError('INTERNAL', `The thread that ${purpose} has ended: ${reason}`);
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    };
    thread.on('error', (error) => lost(error.message));
    thread.on('exit', (code) => lost(`exit code ${code}`));
    return thread;
  }

  #farewell(): SpkvError {
    return new SpkvError('DISPOSED', this.#options.farewell);
  }
}

/** In the thread: answers the jobs of a {@link JobThread} one after another. `moved` names what need not be copied. */
export function answerJobs<Job, Answer>(work: (job: Job) => Answer, moved: (answer: Answer) => Transferable[] = () => []): void {
  const port = parentPort!;
  port.on('message', ({ number, job }: { number: number; job: Job }) => {
    let reply: Reply<Answer>;
    try {
      reply = { number, answer: work(job) };
    } catch (error) {
      reply = { number, error: (error as Error).message, code: error instanceof SpkvError ? error.code : undefined };
    }
    port.postMessage(reply, 'answer' in reply ? moved(reply.answer) : []);
  });
}
