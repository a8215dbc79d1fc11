import type { TextModel } from '../text-model.js';
import { ApiError } from './api-error.js';
import type { ResolvedServerOptions } from './options.js';

/** How long texts may become. */
export class Limits {
  readonly #positions: number;
  readonly #options: ResolvedServerOptions;

  constructor(model: TextModel, options: ResolvedServerOptions) {
    this.#positions = model.config.maxPositions;
    this.#options = options;
  }

  /** The longest text of which prompt and answer have room. */
  get contextLength(): number {
    return this.#positions;
  }

  /** Most tokens for the answer to a prompt: what was asked for, if there is room; else the default, as far as there is. */
  maxTokens(prompt: readonly number[], asked: { value: number; param: string } | undefined, otherwise: number, promptParam: string): number {
    const { maxPromptTokens, maxTokens } = this.#options;
    if (prompt.length === 0) throw new ApiError(400, `Expected a prompt of at least one token for ${promptParam}`, { param: promptParam, code: 'invalid_value' });
    const most = Math.min(maxPromptTokens, this.#positions);
    if (prompt.length > most) {
      const message = `The prompt has ${prompt.length} tokens; this server takes at most ${most}`;
      throw new ApiError(400, message, { param: promptParam, code: 'context_length_exceeded' });
    }
    // The last token of an answer is written, but not read.
    const room = this.#positions - prompt.length + 1;
    if (!asked) return Math.min(otherwise, room, maxTokens);
    const { value, param } = asked;
    if (value > maxTokens) throw new ApiError(400, `Expected at most ${maxTokens} for ${param} but received ${value}`, { param, code: 'invalid_value' });
    if (value > room) {
      const message = `The model has ${this.#positions} positions; the prompt takes ${prompt.length} of them, and ${value} more were asked for`;
      throw new ApiError(400, message, { param, code: 'context_length_exceeded' });
    }
    return value;
  }
}
