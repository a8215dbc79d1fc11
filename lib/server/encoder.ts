import { existsSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { SpkvError } from '../errors.js';
import type { TextModel } from '../text-model.js';
import type { ChatMessage } from '../text/chat-template.js';

/** Texts of more characters are encoded in a thread of their own: about 10 ms of work, which others need not wait for. */
const LONG = 10_000;
const WORKER = new URL('./encode-worker.js', import.meta.url);
/** Where the sources are run uncompiled there is none, and long texts are encoded like others. */
const HAS_WORKER = existsSync(WORKER);

export interface EncodeJob {
  number: number;
  text: string;
  addSpecialTokens: boolean;
}

export type EncodeAnswer = { number: number } & ({ ids: Uint32Array } | { error: string });

/** Turns prompts into tokens without holding up the event loop. */
export class Encoder implements AsyncDisposable {
  readonly #model: TextModel;
  readonly #waiting = new Map<number, { resolve: (ids: number[]) => void; reject: (error: Error) => void }>();
  #worker: Worker | undefined;
  #jobs = 0;

  constructor(model: TextModel) {
    this.#model = model;
  }

  /** Tokens of a text, with the special tokens of a prompt unless told otherwise. Errors: UNSUPPORTED, FILE. */
  async text(text: string, addSpecialTokens = true): Promise<number[]> {
    const { tokenizer } = this.#model;
    if (!tokenizer) throw new SpkvError('UNSUPPORTED', 'The model has no tokenizer.json: give token ids instead of text');
    return isLong(text) ? this.#beside(text, addSpecialTokens) : tokenizer.encode(text, { addSpecialTokens });
  }

  /** Tokens of a conversation, up to where the answer begins. Errors: UNSUPPORTED, INVALID_ARGUMENT, FILE. */
  async chat(messages: readonly ChatMessage[]): Promise<number[]> {
    const { chatTemplate, tokenizer } = this.#model;
    if (!chatTemplate || !tokenizer) throw new SpkvError('UNSUPPORTED', 'The model has no chat template; /v1/completions continues a text with it');
    const text = chatTemplate.apply(messages);
    return isLong(text) ? this.#beside(text, false) : tokenizer.encode(text, { addSpecialTokens: false });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#worker?.terminate();
  }

  #beside(text: string, addSpecialTokens: boolean): Promise<number[]> {
    this.#worker ??= this.#start();
    const number = this.#jobs++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(number, { resolve, reject });
      this.#worker!.postMessage({ number, text, addSpecialTokens } satisfies EncodeJob);
    });
  }

  #start(): Worker {
    const worker = new Worker(WORKER, { workerData: this.#model.checkpoint.dir });
    worker.unref();
    worker.on('message', (answer: EncodeAnswer) => {
      const { resolve, reject } = this.#waiting.get(answer.number)!;
      this.#waiting.delete(answer.number);
      if ('ids' in answer) resolve(Array.from(answer.ids));
      else reject(new SpkvError('INTERNAL', answer.error));
    });
    const lost = (reason: string) => {
      if (this.#worker === worker) this.#worker = undefined;
      for (const { reject } of this.#waiting.values()) reject(new SpkvError('INTERNAL', `The thread that encodes long prompts has ended: ${reason}`));
      this.#waiting.clear();
    };
    worker.on('error', (error) => lost(error.message));
    worker.on('exit', (code) => lost(`exit code ${code}`));
    return worker;
  }
}

function isLong(text: string): boolean {
  return HAS_WORKER && text.length > LONG;
}
