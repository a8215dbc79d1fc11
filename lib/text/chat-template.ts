import { join } from 'node:path';
import { Template } from '@huggingface/jinja';
import { boolean, invalid, options as checkOptions } from '../check.js';
import { SpkvError } from '../errors.js';
import { fileError, mismatch, readOptionalText } from '../files.js';
import { isObject, show } from '../json.js';
import { readTokenizerConfig, type TokenizerConfig } from './tokenizer-config.js';

export interface ChatMessage {
  /** Who says it: 'user', 'assistant' and, for most models, 'system'. */
  role: string;
  content: string;
}

export interface ChatTemplateOptions {
  /** End with what begins the model's answer. Defaults to true. */
  addGenerationPrompt?: boolean;
  /** More variables for the template, by name, such as `enable_thinking`. Defaults to none. */
  extra?: Readonly<Record<string, unknown>>;
}

/**
 * Loads the chat template of a checkpoint directory: chat_template.jinja or, in its absence, the one in
 * tokenizer_config.json (of several, the one named "default"). Undefined where there is none. The template is
 * parsed when it is first used, so that a checkpoint whose template is of no use can still complete text.
 * Errors: FILE.
 */
export async function loadChatTemplate(dir: string): Promise<ChatTemplate | undefined> {
  const config = await readTokenizerConfig(dir);
  const path = join(dir, 'chat_template.jinja');
  const text = await readOptionalText(path);
  if (text !== undefined) return new ChatTemplate(text, path, config);
  const source = defaultTemplate(config);
  return source === undefined ? undefined : new ChatTemplate(source, config.path, config);
}

function defaultTemplate({ fields, path }: TokenizerConfig): string | undefined {
  const given = fields.chat_template ?? undefined;
  if (given === undefined || typeof given === 'string') return given;
  if (!Array.isArray(given)) throw mismatch(path, 'chat_template', 'a template or a list of them', show(given));
  let found: string | undefined;
  for (const [index, item] of given.entries()) {
    if (!isObject(item) || typeof item.name !== 'string' || typeof item.template !== 'string') {
      throw mismatch(path, `chat_template[${index}]`, 'a name and a template', show(item));
    }
    if (item.name === 'default') found = item.template;
  }
  return found;
}

/** Writes a conversation as the text that a model was trained on. */
export class ChatTemplate {
  /** The template, in the Jinja language. */
  readonly source: string;
  /** The file that it stands in. */
  readonly path: string;
  readonly #tokens: Readonly<Record<string, unknown>>;
  #template: Template | undefined;

  /** @internal Use {@link loadChatTemplate}. */
  constructor(source: string, path: string, config: TokenizerConfig) {
    this.source = source;
    this.path = path;
    const { tokens, additionalTokens } = config;
    this.#tokens = { ...tokens, ...(additionalTokens.length > 0 ? { additional_special_tokens: additionalTokens } : {}) };
  }

  /**
   * The text of a conversation, special tokens included: encode it with `addSpecialTokens: false`.
   *
   * Errors: FILE for a template that cannot be parsed; INVALID_ARGUMENT for messages that the template refuses.
   */
  apply(messages: readonly ChatMessage[], options?: ChatTemplateOptions): string {
    const { addGenerationPrompt = true, extra = {} } = checkOptions(options, 'chat template options', ['addGenerationPrompt', 'extra']);
    boolean(addGenerationPrompt, 'addGenerationPrompt');
    if (!isObject(extra)) throw invalid('an object', 'extra', extra);
    for (const name of ['messages', 'add_generation_prompt']) {
      if (Object.hasOwn(extra, name)) throw new SpkvError('INVALID_ARGUMENT', `extra cannot hold ${name}: it is given by itself`);
    }
    checkMessages(messages);
    const template = (this.#template ??= this.#parse());
    try {
      return template.render({
        ...this.#tokens,
        // As in transformers: templates ask whether these are none, not whether they are defined.
        tools: null,
        documents: null,
        ...extra,
        messages: messages.map((message) => ({ ...message })),
        add_generation_prompt: addGenerationPrompt,
      });
    } catch (error) {
      const message = `The chat template of ${this.path} cannot be applied to these messages (${reason(error)})`;
      throw new SpkvError('INVALID_ARGUMENT', message, { cause: error });
    }
  }

  #parse(): Template {
    try {
      return new Template(this.source);
    } catch (error) {
      throw fileError(this.path, `expected a chat template in the Jinja language, found a syntax error (${reason(error)})`, error);
    }
  }
}

function checkMessages(messages: readonly ChatMessage[]): void {
  if (!Array.isArray(messages) || messages.length === 0) throw invalid('an array of at least one message', 'messages', messages);
  for (const [index, message] of messages.entries()) {
    if (!isObject(message)) throw invalid('an object with role and content', `messages[${index}]`, message);
    if (typeof message.role !== 'string') throw invalid('a string', `messages[${index}].role`, message.role);
    if (typeof message.content !== 'string') throw invalid('a string', `messages[${index}].content`, message.content);
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
