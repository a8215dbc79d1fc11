import { SpkvError } from '../errors.js';
import { JobThread } from '../jobs.js';
import type { TextModel } from '../text-model.js';
import type { ChatMessage } from '../text/chat-template.js';
import type { Tokenizer } from '../text/tokenizer.js';

/** Texts of more characters are encoded in a thread of their own: about 10 ms of work, which others need not wait for. */
const LONG = 10_000;

export interface EncodeJob {
  text: string;
  addSpecialTokens: boolean;
}

/** Turns prompts into tokens without holding up the event loop. */
export class Encoder implements AsyncDisposable {
  readonly #model: TextModel;
  readonly #thread: JobThread<EncodeJob, Uint32Array>;

  constructor(model: TextModel) {
    this.#model = model;
    this.#thread = new JobThread({
      module: new URL('./encode-worker.js', import.meta.url),
      setup: model.checkpoint.dir,
      purpose: 'encodes long prompts',
      farewell: 'The server has been closed',
    });
  }

  /** Tokens of a text, with the special tokens of a prompt unless told otherwise. Errors: UNSUPPORTED, FILE, DISPOSED. */
  async text(text: string, addSpecialTokens = true): Promise<number[]> {
    const { tokenizer } = this.#model;
    if (!tokenizer) throw new SpkvError('UNSUPPORTED', 'The model has no tokenizer.json: give token ids instead of text');
    return this.#encode(tokenizer, text, addSpecialTokens);
  }

  /** Tokens of a conversation, up to where the answer begins. Errors: UNSUPPORTED, INVALID_ARGUMENT, FILE, DISPOSED. */
  async chat(messages: readonly ChatMessage[]): Promise<number[]> {
    const { chatTemplate, tokenizer } = this.#model;
    if (!chatTemplate || !tokenizer) throw new SpkvError('UNSUPPORTED', 'The model has no chat template; /v1/completions continues a text with it');
    const text = chatTemplate.apply(messages);
    return this.#encode(tokenizer, text, false);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#thread[Symbol.asyncDispose]();
  }

  async #encode(tokenizer: Tokenizer, text: string, addSpecialTokens: boolean): Promise<number[]> {
    if (text.length <= LONG || !this.#thread.available) return tokenizer.encode(text, { addSpecialTokens });
    return Array.from(await this.#thread.run({ text, addSpecialTokens }));
  }
}
