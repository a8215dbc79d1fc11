import type { ChatMessage, GenerationResult, TextModel } from '../index.js';

/**
 * A conversation as token ids. Answers stay in it as the tokens that the model wrote, not as their text would be
 * tokenised again, so that every prompt continues what the cache has read.
 */
export class Conversation {
  readonly #model: Pick<TextModel, 'chatTemplate' | 'tokenizer' | 'encodeChat' | 'config'>;
  readonly #system: readonly ChatMessage[];
  #messages: ChatMessage[] = [];
  /** What the model has read and written so far, as text and as ids; empty where the two are not known to agree. */
  #text = '';
  #ids: number[] = [];

  constructor(model: Pick<TextModel, 'chatTemplate' | 'tokenizer' | 'encodeChat' | 'config'>, system?: string) {
    this.#model = model;
    this.#system = system === undefined ? [] : [{ role: 'system', content: system }];
    this.reset();
  }

  /** Turns of the user so far. */
  get turns(): number {
    return this.#messages.filter(({ role }) => role === 'user').length;
  }

  /** Asks: resolves the prompt for the next answer. {@link answered} or {@link takeBack} must follow. */
  ask(content: string): number[] {
    this.#messages.push({ role: 'user', content });
    const text = this.#render(true);
    if (this.#text === '' || !text.startsWith(this.#text)) return this.#model.encodeChat(this.#messages);
    const rest = text.slice(this.#text.length);
    return [...this.#ids, ...this.#model.tokenizer!.encode(rest, { addSpecialTokens: false })];
  }

  /** Notes the answer to `prompt`. */
  answered(prompt: readonly number[], { text, ids }: Pick<GenerationResult, 'text' | 'ids'>): void {
    const before = this.#render(true);
    this.#messages.push({ role: 'assistant', content: text });
    // The end-of-text token is left to the template, which writes it before the next turn.
    const written = this.#model.config.eosTokenIds.includes(ids.at(-1) ?? -1) ? ids.slice(0, -1) : ids;
    const agree = this.#model.tokenizer!.decode(written) === text;
    this.#text = agree ? before + text : '';
    this.#ids = agree ? [...prompt, ...written] : [];
  }

  /** Forgets the last question, which could not be answered. */
  takeBack(): void {
    this.#messages.pop();
  }

  reset(): void {
    this.#messages = [...this.#system];
    this.#text = '';
    this.#ids = [];
  }

  #render(addGenerationPrompt: boolean): string {
    return this.#model.chatTemplate!.apply(this.#messages, { addGenerationPrompt });
  }
}
